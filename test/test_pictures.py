"""Picture files: whole or refused, as they are stored, and stretched by their depth of bits."""

import cv2
import numpy as np
import pytest
from pictures_for_tests import VOC_PALETTE, png, with_orientation

from lwseg_ros import pictures
from lwseg_ros.errors import DataError
from lwseg_ros.pictures import PICTURE_SUFFIXES, Depth


def scene(height=40, width=60):
    """Return a smooth RGB picture, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return np.stack([200 * x + 20, 180 * y + 40, 120 * (1 - x) + 30], -1).astype(np.uint8)


def encoded(suffix, image=None):
    _, data = cv2.imencode(suffix, scene()[..., ::-1] if image is None else image)
    return data.tobytes()


@pytest.mark.parametrize('suffix', PICTURE_SUFFIXES)
def test_every_kind_of_file_is_read_whole_and_refused_cut_off(suffix):
    data = encoded(suffix, scene()[..., 1] if suffix == '.pgm' else None)
    image = pictures.rgb(data, 'a')
    if suffix != '.pgm':
        assert np.abs(image.astype(int) - scene()).mean() < 5
    for share in (0.02, 0.5, 0.9):
        for read in (pictures.rgb, pictures.stored):
            with pytest.raises(DataError, match=r'^a (is cut off or|cannot be read .*) *damaged'):
                read(data[: int(share * len(data))], 'a')
    with pytest.raises(DataError, match='^a is empty'):
        pictures.rgb(b'', 'a')


def test_a_file_whose_end_was_never_written_is_cut_off():
    """Downloads and cameras that lose power leave zeros behind what they wrote."""
    data = encoded('.jpg')
    with pytest.raises(DataError, match='cut off'):
        pictures.rgb(data[: len(data) // 2] + bytes(len(data) // 2), 'a')


@pytest.mark.parametrize('orientation', range(1, 9))
def test_pixels_are_as_they_are_stored_whatever_exif_asks_for(orientation):
    jpeg = encoded('.jpg')
    turned = with_orientation(jpeg, orientation)
    assert np.array_equal(pictures.rgb(turned, 'a'), pictures.rgb(jpeg, 'a'))
    assert np.array_equal(pictures.stored(turned, 'a').values, pictures.rgb(jpeg, 'a'))
    expected = (60, 40) if orientation > 4 else (40, 60)
    assert pictures.turned_shape(turned) == expected


def test_a_palette_picture_is_in_its_colours_and_its_values_are_the_indices():
    index = (scene()[..., 0] // 30).astype(np.uint8)
    data = png(index, 8, VOC_PALETTE)
    assert np.array_equal(pictures.rgb(data, 'a'), VOC_PALETTE[index])
    values, palette = pictures.stored(data, 'a')
    assert np.array_equal(values, index)
    assert np.array_equal(palette, VOC_PALETTE)


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('bits', [10, 12, 14, 16])
def test_sixteen_bits_are_stretched_by_their_depth(bits, suffix):
    values = np.round(scene()[..., ::-1].astype(float) * ((1 << bits) - 1) / 255)
    data = encoded(suffix, values.astype(np.uint16))
    assert np.array_equal(pictures.rgb(data, 'a'), scene())
    dark = encoded(suffix, (values / 8).astype(np.uint16))
    known = pictures.rgb(dark, 'a', Depth(bits))
    assert np.abs(known.astype(int) - scene() // 8).max() <= 1
