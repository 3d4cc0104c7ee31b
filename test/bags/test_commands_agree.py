"""What one command reads of a recording, all read, and they say the same of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('rosbags')

from bags_for_tests import ROS1, camera_rows, quick_settings, write_ros1, write_ros2
from paths_for_tests import shared

from lwseg_ros.errors import DataError
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.live.frames import BagSource
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.segment_files import FileOptions, segment_files

COUNT = 12


def whole(folder: Path) -> Path:
    return write_ros2(folder / 'drive', camera_rows(COUNT))


def without_metadata(folder: Path) -> Path:
    bag = whole(folder)
    (bag / 'metadata.yaml').unlink()
    return bag


def split_without_metadata(folder: Path) -> Path:
    bag = folder / 'drive'
    bag.mkdir()
    for part in range(3):
        one = write_ros2(folder / f'part{part}', camera_rows(COUNT)[4 * part : 4 * part + 4])
        (one / f'part{part}.mcap').rename(bag / f'drive_{part}.mcap')
    return bag


def cut(folder: Path) -> Path:
    file = whole(folder) / 'drive.mcap'
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 6 // 10])
    return file


def active(folder: Path) -> Path:
    """A ROS 1 bag as a recorder that was killed leaves it: no index."""
    bag = write_ros1(folder / 'drive.bag', camera_rows(COUNT, store=ROS1))
    content = bytearray(bag.read_bytes())
    at = content.index(b'index_pos=') + len(b'index_pos=')
    content[at : at + 8] = bytes(8)
    left = folder / 'drive.bag.active'
    left.write_bytes(content)
    return left


def damaged_message(folder: Path) -> Path:
    rows = camera_rows(COUNT)
    topic, record_ns, (kind, _) = rows[5]
    rows[5] = (topic, record_ns, (kind, bytes(20)))
    return write_ros2(folder / 'drive', rows)


def read_by_all(bag: Path, tiny_model: Path, out: Path) -> list[tuple[int, int, str]]:
    """Return how many frames each command reads, how many it refuses, and what it says."""
    with Segmenter.load(tiny_model) as segmenter:
        (entry,) = segment_files(segmenter, [bag], out / 's', FileOptions(overlay=False))['inputs']
    settings = replace(quick_settings(tiny_model), truth_topics=(), truth_space=None)
    result = evaluate_bag(bag, out / 'e', settings)['bags'][0]
    source = BagSource(bag)
    played = len(list(source))
    return [
        (entry['frames'], entry['frames_refused'], entry['damage']),
        (result['frames'], sum(topic['broken'] for topic in result['topics']), result['damage']),
        (played, source.unreadable, source.damage),
    ]


@pytest.mark.parametrize(
    ('make', 'frames', 'refused', 'words'),
    [
        (whole, COUNT, 0, ''),
        (without_metadata, COUNT, 0, 'has no metadata.yaml'),
        (split_without_metadata, COUNT, 0, 'has no metadata.yaml'),
        (cut, None, 0, 'damaged or cut off'),
        (active, COUNT, 0, 'was read'),
        (damaged_message, COUNT - 1, 1, ''),
    ],
)
def test_all_commands_read_the_same(
    make: Callable[[Path], Path],
    frames: int | None,
    refused: int,
    words: str,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    first, *others = read_by_all(make(tmp_path), tiny_model, tmp_path / 'out')
    assert others == [first, first]
    read, left_out, damage = first
    assert read == frames if frames is not None else 4 <= read < COUNT
    assert left_out == refused
    assert words in damage
    assert bool(damage) == bool(words)


@pytest.mark.parametrize(
    ('name', 'frames', 'damage'),
    [
        ('wal_left_meta', 12, ''),
        ('noMessageIndex.mcap', 12, ''),
        ('noRepeatedChannels.mcap', 12, ''),
        ('ros1_in_mcap.mcap', 12, ''),
        ('cdr_plus_json.mcap', 12, ''),
        ('cdr_plus_protobuf.mcap', 12, ''),
        ('empty_storage_id', 12, ''),
        ('db3_zstd_file_nometa', 12, 'has no metadata.yaml'),
        ('split_nometa', 12, 'has no metadata.yaml'),
        ('true.bag.active', 12, 'it was not closed'),
        ('cut.mcap', 6, 'it ends without its footer'),
    ],
)
def test_all_commands_read_what_recorders_leave(
    name: str, frames: int, damage: str, tiny_model: Path, tmp_path: Path
) -> None:
    first, *others = read_by_all(shared(f'field_cases/bags/{name}'), tiny_model, tmp_path / 'out')
    assert others == [first, first]
    assert first[:2] == (frames, 0)
    assert damage in first[2]
    assert bool(damage) == bool(first[2])


def test_all_commands_refuse_with_the_same_sentence(tiny_model: Path, tmp_path: Path) -> None:
    rows = camera_rows(2)
    bag = write_ros2(tmp_path / 'drive', [('/cam/labels', *row[1:]) for row in rows])
    with pytest.raises(DataError, match='has no camera images') as live:
        BagSource(bag)
    with pytest.raises(DataError) as evaluated:
        evaluate_bag(
            bag,
            tmp_path / 'e',
            replace(quick_settings(tiny_model), truth_topics=(), truth_space=None),
        )
    with Segmenter.load(tiny_model) as segmenter, pytest.raises(DataError) as segmented:
        segment_files(segmenter, [bag], tmp_path / 's')
    assert str(evaluated.value) == str(live.value)
    assert str(live.value) in str(segmented.value)
