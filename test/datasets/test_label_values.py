"""Label pictures in whatever people store them: the same ids as from one channel of 8 bits."""

import cv2
import numpy as np
import pytest
from pictures_for_tests import VOC_PALETTE, png

from lwseg_ros.datasets.dataset import read_labels
from lwseg_ros.datasets.label_values import AS_IDS, Coding, coding_of, ids_of
from lwseg_ros.errors import DataError
from lwseg_ros.label_space import LabelSpace

SPACE = LabelSpace.from_dict(
    {
        'name': 'yard',
        'classes': [
            {'id': 0, 'name': 'path', 'color': [128, 64, 128]},
            {'id': 1, 'name': 'lawn', 'color': [107, 142, 35]},
            {'id': 3, 'name': 'house', 'color': [70, 70, 70]},
        ],
    }
)
CODING = coding_of(SPACE)
IDS = np.array([[0, 1, 3, 255, 1], [3, 3, 0, 1, 255], [0, 1, 1, 3, 0]], np.uint8)


def in_colors(ids):
    return np.where((ids == 255)[..., None], 0, SPACE.palette[ids]).astype(np.uint8)


def only_red(ids):
    return np.stack([ids, 0 * ids, 0 * ids], -1)


def with_alpha(rgb):
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], -1)


def of_type(dtype, void):
    return np.where(IDS == 255, void, IDS.astype(np.int64)).astype(dtype)


VALUES = {
    'one channel': IDS,
    '16 bits': of_type(np.uint16, 255),
    '16 bits with 65535 for void': of_type(np.uint16, 65535),
    '32 bits with -1 for void': of_type(np.int32, -1),
    '32 bits with 255 for void': of_type(np.int32, 255),
    'three equal channels': np.stack([IDS] * 3, -1),
    'three equal channels of 16 bits': np.stack([of_type(np.uint16, 65535)] * 3, -1),
    'three equal channels and alpha': with_alpha(np.stack([IDS] * 3, -1)),
    'red alone': only_red(IDS),
    'red alone and alpha': with_alpha(only_red(IDS)),
    'colours': in_colors(IDS),
    'colours and alpha': with_alpha(in_colors(IDS)),
}


@pytest.mark.parametrize('form', VALUES)
def test_every_form_gives_the_same_ids(form):
    ids = ids_of(VALUES[form], CODING, 'a.png')
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, IDS)


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_few_bits_are_what_is_stored(bits, tmp_path):
    ids = IDS if bits >= 8 else IDS & (1 << bits) - 1
    (tmp_path / 'a.png').write_bytes(png(ids, bits))
    np.testing.assert_array_equal(read_labels(tmp_path / 'a.png', AS_IDS), ids)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_a_palette_in_the_colours_of_the_space_is_read_by_them(bits, tmp_path):
    palette = np.array([(70, 70, 70), (0, 0, 0), (128, 64, 128), (107, 142, 35)], np.uint8)
    index = np.select([IDS == 3, IDS == 255, IDS == 0], [0, 1, 2], 3).astype(np.uint8)
    (tmp_path / 'a.png').write_bytes(png(index, bits, palette))
    np.testing.assert_array_equal(read_labels(tmp_path / 'a.png', CODING), IDS)


@pytest.mark.parametrize('coding', [CODING, AS_IDS, Coding(CODING.ids)])
def test_a_palette_of_others_is_read_by_its_indices(coding, tmp_path):
    (tmp_path / 'a.png').write_bytes(png(IDS, 8, VOC_PALETTE))
    np.testing.assert_array_equal(read_labels(tmp_path / 'a.png', coding), IDS)
    few = IDS[:, :3] & 1
    (tmp_path / 'b.png').write_bytes(png(few, 1, np.array([(0, 0, 0), (255, 255, 255)], np.uint8)))
    np.testing.assert_array_equal(read_labels(tmp_path / 'b.png', coding), few)


def test_what_black_alone_means_is_decided_safely():
    """Black is unlabelled where files are in colours: the class 0 may be drivable."""
    black = np.zeros((2, 2, 3), np.uint8)
    assert (ids_of(black, CODING, 'a.png') == 255).all()
    assert (ids_of(black, Coding(CODING.ids), 'a.png') == 0).all()


@pytest.mark.parametrize(
    ('values', 'coding', 'message'),
    [
        (np.array([[0, 2]], np.uint8), CODING, r'labels \[2\] that stand for no class; .* 0 to 1'),
        (np.array([[0, 7005]], np.uint16), CODING, 'the label 7005, above 255'),
        (np.array([[0, -2]], np.int32), CODING, 'the label -2, below 0'),
        (np.array([[0.0, 1.0]]), CODING, 'values of type float64'),
        (np.stack([IDS * 9] * 3, -1), CODING, r'labels \[9, 27, 247\] that stand for no class'),
        (only_red(IDS * 9), CODING, r'labels \[9, 27, 247\] that stand for no class'),
        (np.stack([IDS, IDS * 7, 0 * IDS], -1), CODING, 'its red channel would do, saved alone'),
        (np.stack([IDS, IDS * 7, 0 * IDS], -1), AS_IDS, 'is a colour image: wanted one channel'),
        (in_colors(IDS)[..., ::-1], CODING, r'colours that stand for no class, such as RGB \('),
    ],
)
def test_what_fits_nothing_is_refused_with_a_hint(values, coding, message):
    with pytest.raises(DataError, match=message) as error:
        ids_of(values, coding, 'mask.png')
    assert str(error.value).startswith('mask.png')


@pytest.mark.parametrize('suffix', ['.tif', '.bmp', '.PNG'])
def test_other_files_of_one_channel_are_read(suffix, tmp_path):
    cv2.imwrite(str(tmp_path / f'a{suffix}'), IDS)
    np.testing.assert_array_equal(read_labels(tmp_path / f'a{suffix}', CODING), IDS)


@pytest.mark.parametrize('suffix', ['.tif', '.bmp'])
@pytest.mark.parametrize('mode', ['1', 'P'])
def test_palettes_of_other_files_are_refused_rather_than_guessed(suffix, mode, tmp_path):
    image = pytest.importorskip('PIL.Image')
    picture = image.fromarray(IDS & 1, 'L').convert(mode)
    if mode == 'P':
        picture.putpalette(VOC_PALETTE.tobytes())
    picture.save(tmp_path / f'a{suffix}')
    with pytest.raises(DataError, match='save it as PNG'):
        read_labels(tmp_path / f'a{suffix}', CODING)
