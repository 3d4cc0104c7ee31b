"""`lwseg segment`: files in, complete files out, and a sentence for what cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths_for_tests import shared
from pictures_for_tests import with_orientation

from lwseg_ros import LabelSpace, Segmentation, Segmenter
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.segment_files import FileOptions, segment_files

FRAMES = 7


@pytest.fixture(scope='module')
def segmenter(tiny_model: Path) -> Iterator[Segmenter]:
    with Segmenter.load(tiny_model) as segmenter:
        yield segmenter


def picture(seed: int = 0, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """Return large patches of CamVid colours, BGR."""
    ids = np.random.default_rng(seed).integers(0, 11, (3, 4), dtype=np.uint8)
    rgb = LabelSpace.load('camvid').palette[ids]
    return cv2.resize(rgb[..., ::-1].copy(), size[::-1], interpolation=cv2.INTER_NEAREST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / 'images'
    (folder / 'left').mkdir(parents=True)
    cv2.imwrite(str(folder / 'a.png'), picture(0))
    cv2.imwrite(str(folder / 'left' / 'b.jpg'), picture(1))
    (folder / 'notes.txt').write_text('not an image')
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 12, (120, 90))
    for number in range(FRAMES):
        writer.write(picture(number))
    writer.release()
    return path


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob('*') if path.is_file())


def test_folder(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    options = FileOptions(confidence=True, drivable=True)
    summary = segment_files(segmenter, [folder], out, options)
    assert files(out) == [
        'a.png',
        'a_confidence.png',
        'a_drivable.png',
        'a_overlay.jpg',
        'left/b.png',
        'left/b_confidence.png',
        'left/b_drivable.png',
        'left/b_overlay.jpg',
        'segment.json',
    ]
    image = cv2.cvtColor(cv2.imread(str(folder / 'a.png')), cv2.COLOR_BGR2RGB)
    result = segmenter(image)
    for name, wanted in (
        ('a', result.labels),
        ('a_confidence', result.confidence),
        ('a_drivable', result.drivable),
    ):
        assert (cv2.imread(str(out / f'{name}.png'), cv2.IMREAD_UNCHANGED) == wanted).all()
    assert cv2.imread(str(out / 'a_overlay.jpg')).shape == (90, 120, 3)
    assert json.loads((out / 'segment.json').read_text()) == summary
    assert summary['interrupted'] is False
    assert [entry['frames'] for entry in summary['inputs']] == [1, 1]


def test_overlay_is_in_the_label_spaces_colours(
    segmenter: Segmenter, folder: Path, tmp_path: Path
) -> None:
    segment_files(segmenter, [folder / 'a.png'], tmp_path / 'out', FileOptions(alpha=1.0))
    painted = cv2.imread(str(tmp_path / 'out' / 'a_overlay.jpg'))
    difference = cv2.absdiff(painted, cv2.imread(str(folder / 'a.png')))
    assert np.median(difference) <= 2


def test_video(segmenter: Segmenter, video: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    summary = segment_files(segmenter, [video], out, FileOptions(frames=True))
    names = files(out)
    assert 'drive_overlay.mp4' in names
    assert [n for n in names if n.endswith('.png')] == [
        f'drive/{number:06d}.png' for number in range(FRAMES)
    ]
    assert summary['inputs'][0]['frames'] == FRAMES
    written = cv2.VideoCapture(str(out / 'drive_overlay.mp4'))
    assert written.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert written.get(cv2.CAP_PROP_FPS) == pytest.approx(12)


def test_bag(segmenter: Segmenter, tmp_path: Path) -> None:
    pytest.importorskip('rosbags')
    bag = shared('bags/raspicam_ros1.bag')
    summary = segment_files(segmenter, [bag], tmp_path / 'out')
    assert files(tmp_path / 'out') == ['raspicam_ros1_overlay.mp4', 'segment.json']
    assert summary['inputs'][0]['frames'] == summary['inputs'][0]['frames_promised'] == 1
    with pytest.raises(DataError, match='has no topic /nothing'):
        segment_files(segmenter, [bag], tmp_path / 'out', FileOptions(topic='/nothing'))


def test_without_overlay_a_video_still_gives_its_frames(
    segmenter: Segmenter, video: Path, tmp_path: Path
) -> None:
    options = FileOptions(overlay=False, frames=True)
    segment_files(segmenter, [video], tmp_path / 'out', options)
    assert not list((tmp_path / 'out').glob('*.mp4'))
    assert len(list((tmp_path / 'out' / 'drive').glob('*.png'))) == FRAMES


def test_unreadable_files_are_counted_and_the_others_done(
    segmenter: Segmenter, folder: Path, tmp_path: Path
) -> None:
    (folder / 'empty.png').write_bytes(b'')
    (folder / 'text.jpg').write_bytes(b'no picture')
    (folder / 'film.mp4').write_bytes(b'no film')
    out = tmp_path / 'out'
    with pytest.raises(DataError, match=r'3 of 5 inputs .* the others are in .*empty\.png'):
        segment_files(segmenter, [folder], out)
    assert files(out) == [
        'a.png',
        'a_overlay.jpg',
        'left/b.png',
        'left/b_overlay.jpg',
        'segment.json',
    ]
    summary = json.loads((out / 'segment.json').read_text())
    assert len(summary['failures']) == 3


def test_what_a_file_promises_is_there_or_it_is_refused_by_name(
    segmenter: Segmenter, folder: Path, tmp_path: Path
) -> None:
    jpeg = folder / 'left' / 'b.jpg'
    jpeg.write_bytes(jpeg.read_bytes()[: jpeg.stat().st_size // 2])
    with pytest.raises(DataError, match=r'1 of 2 inputs .*b\.jpg is cut off or damaged'):
        segment_files(segmenter, [folder], tmp_path / 'out')


def test_what_systems_leave_in_a_folder_is_passed_over(
    segmenter: Segmenter, folder: Path, tmp_path: Path
) -> None:
    (folder / '._a.png').write_bytes(bytes(100))
    (folder / '.ipynb_checkpoints').mkdir()
    cv2.imwrite(str(folder / '.ipynb_checkpoints' / 'a-checkpoint.png'), picture())
    summary = segment_files(segmenter, [folder], tmp_path / 'out')
    names = [Path(entry['input']).name for entry in summary['inputs']]
    assert sorted(names) == ['a.png', 'b.jpg']


def test_images_are_labelled_as_they_are_stored(
    segmenter: Segmenter, folder: Path, tmp_path: Path
) -> None:
    """EXIF turns nothing, and 12 bits in 16 are not black, in a dark image neither."""
    jpeg = (folder / 'left' / 'b.jpg').read_bytes()
    (folder / 'left' / 'turned.jpg').write_bytes(with_orientation(jpeg, 6))
    for name, image in (('a', picture(0)), ('b', picture(0) // 2)):
        cv2.imwrite(str(folder / f'{name}.png'), image)
        (folder / 'deep').mkdir(exist_ok=True)
        deep = np.round(image.astype(float) * 4095 / 255).astype(np.uint16)
        cv2.imwrite(str(folder / 'deep' / f'{name}.png'), deep)
    out = tmp_path / 'out'
    segment_files(segmenter, [folder], out, FileOptions(overlay=False))
    for one, twin in (('left/turned', 'left/b'), ('deep/a', 'a'), ('deep/b', 'b')):
        labels = [cv2.imread(str(out / f'{name}.png'), -1) for name in (one, twin)]
        np.testing.assert_array_equal(*labels)


def test_where_nothing_could_be_segmented_no_others_are_named(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    text = tmp_path / 'text.jpg'
    text.write_bytes(b'no picture')
    sentence = rf'^1 of 1 inputs could not be segmented; .*{text.name}'
    with pytest.raises(DataError, match=sentence):
        segment_files(segmenter, [text], tmp_path / 'out')


def test_wrong_inputs_stop_before_anything_is_written(
    segmenter: Segmenter, folder: Path, tmp_path: Path
) -> None:
    out, empty = tmp_path / 'out', tmp_path / 'empty'
    empty.mkdir()
    (tmp_path / 'a.bmp').write_bytes((folder / 'a.png').read_bytes())
    for inputs, sentence in (
        ([folder, tmp_path / 'none.png'], 'there is no input'),
        ([folder / 'notes.txt'], 'neither an image'),
        ([empty], 'holds no images'),
        ([folder / 'a.png', tmp_path / 'a.bmp'], 'would both be written'),
        ([], 'nothing to segment'),
    ):
        with pytest.raises(DataError, match=sentence):
            segment_files(segmenter, inputs, out)
    with pytest.raises(DataError, match='would be overwritten'):
        segment_files(segmenter, [folder], folder)
    assert not out.exists()
    assert len(files(folder)) == 3


class Interrupted:
    """A segmenter during which the user presses Ctrl-C after some frames."""

    def __init__(self, segmenter: Segmenter, frames: int) -> None:
        self._segmenter = segmenter
        self._left = frames

    def __getattr__(self, name: str) -> object:
        return getattr(self._segmenter, name)

    def __call__(self, image: np.ndarray) -> Segmentation:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._segmenter(image)


def test_ctrl_c_leaves_only_whole_files(
    segmenter: Segmenter, folder: Path, video: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    with pytest.raises(KeyboardInterrupt):
        segment_files(Interrupted(segmenter, 4), [folder, video], out)  # type: ignore[arg-type]
    assert files(out) == [
        'a.png',
        'a_overlay.jpg',
        'left/b.png',
        'left/b_overlay.jpg',
        'segment.json',
    ]
    assert json.loads((out / 'segment.json').read_text())['interrupted'] is True


def test_out_that_is_a_file_is_refused(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'out').write_text('a file')
    with pytest.raises(LwsegError, match='cannot be made'):
        segment_files(segmenter, [folder], tmp_path / 'out')


def test_a_name_that_is_no_text_does_not_lose_the_summary(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    image = tmp_path / os.fsdecode(b'road_\xff.png')
    image.write_bytes(cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    segment_files(segmenter, [image], tmp_path / 'out')
    summary = json.loads((tmp_path / 'out' / 'segment.json').read_text(encoding='utf-8'))
    assert summary['inputs'][0]['input'] == str(image)


def test_depth_is_written_as_depth_cameras_store_it(
    joint_model: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    with Segmenter.load(joint_model, input_size=(64, 96), depth=True) as segmenter:
        segment_files(segmenter, [folder / 'a.png'], out, FileOptions(depth=True))
        depth = segmenter(picture(0)[..., ::-1].copy()).depth
    assert depth is not None
    stored = cv2.imread(str(out / 'a_depth.png'), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    assert stored.shape == (90, 120)
    np.testing.assert_array_equal(stored, np.round(1000 * depth.clip(0)))
    assert stored.min() > 1000
