"""Segmenter: any image in, planes of the wanted size out, and a sentence when that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lwseg_ros import LabelSpace, Segmenter
from lwseg_ros.errors import DataError, FrameError, InferenceError, LwsegError, ModelError
from lwseg_ros.inference.segmenter import aligned_size, enlarged, parse_size

CELL = 60


@pytest.fixture(scope='module')
def segmenter(tiny_model: Path) -> Iterator[Segmenter]:
    with Segmenter.load(tiny_model) as segmenter:
        yield segmenter


@pytest.fixture(scope='module')
def labels() -> np.ndarray:
    """Return a picture of large squares of all eleven classes, [180, 240]."""
    ids = (np.arange(12) % 11).astype(np.uint8).reshape(3, 4)
    return ids.repeat(CELL, 0).repeat(CELL, 1)


@pytest.fixture(scope='module')
def image(labels: np.ndarray) -> np.ndarray:
    return LabelSpace.load('camvid').palette[labels]


def inside(plane: np.ndarray) -> np.ndarray:
    """Return the squares of a plane without their edges, [3, 4, n, n]."""
    height, width = plane.shape
    cells = plane.reshape(3, height // 3, 4, width // 4).swapaxes(1, 2)
    edge = height // 3 // 4
    return cells[:, :, edge:-edge, edge:-edge]


def test_answers_at_the_size_of_the_image(
    segmenter: Segmenter, image: np.ndarray, labels: np.ndarray
) -> None:
    result = segmenter(image)
    for plane in (result.labels, result.confidence, result.drivable_score, result.drivable):
        assert plane.dtype == np.uint8
        assert plane.shape == (180, 240)
    assert (inside(result.labels) == inside(labels)).all()
    assert inside(result.confidence).min() > 250
    assert (inside(result.drivable) == np.where(inside(labels) == 3, 255, 0)).all()
    assert set(np.unique(result.drivable)) == {0, 255}
    assert ((result.drivable == 255) == (result.drivable_score >= 128)).all()


def test_for_throughput_many_threads_get_the_same_answers(
    segmenter: Segmenter, image: np.ndarray, tiny_model: Path
) -> None:
    images = [np.roll(image, 10 * i, 1) for i in range(12)]
    with (
        Segmenter.load(tiny_model, backend='openvino', throughput=True) as fast,
        ThreadPoolExecutor(fast.streams + 1) as threads,
    ):
        answers = list(threads.map(fast, images))
    for one, answer in zip(images, answers, strict=True):
        alone = segmenter(one)
        assert np.array_equal(answer.labels, alone.labels)
        assert np.array_equal(answer.confidence, alone.confidence)
        assert np.array_equal(answer.drivable_score, alone.drivable_score)


@pytest.mark.parametrize(
    ('wanted', 'shape'),
    [
        (None, (180, 240)),
        ('source', (180, 240)),
        ('network', (96, 128)),
        ('640x480', (480, 640)),
        ((48, 64), (48, 64)),
    ],
)
def test_output_size(
    segmenter: Segmenter, image: np.ndarray, wanted: Any, shape: tuple[int, int]
) -> None:
    result = segmenter(image, wanted)
    assert result.labels.shape == result.confidence.shape == result.drivable.shape == shape


def test_list_of_images_of_different_sizes(segmenter: Segmenter, image: np.ndarray) -> None:
    results = segmenter([image, image[:101, :77]])
    assert [result.labels.shape for result in results] == [(180, 240), (101, 77)]
    assert (results[0].labels == segmenter(image).labels).all()


def test_results_are_not_overwritten_by_the_next_call(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    first = segmenter(image, 'network')
    copies = [first.labels.copy(), first.confidence.copy(), first.drivable_score.copy()]
    segmenter(255 - image, 'network')
    for plane, copy in zip(
        (first.labels, first.confidence, first.drivable_score), copies, strict=True
    ):
        assert (plane == copy).all()


def test_image_of_network_size_is_not_resized(segmenter: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    wide = np.zeros((96, 256, 3), np.uint8)
    wide[:, ::2] = image
    assert (segmenter(wide[:, ::2]).labels == segmenter(image).labels).all()


def test_views_give_the_same_answer(segmenter: Segmenter, image: np.ndarray) -> None:
    bgr = np.ascontiguousarray(image[..., ::-1])
    assert (segmenter(bgr[..., ::-1]).labels == segmenter(image).labels).all()
    upside_down = segmenter(np.ascontiguousarray(image[::-1]))
    assert (segmenter(image[::-1]).labels == upside_down.labels).all()
    read_only = image.copy()
    read_only.flags.writeable = False
    assert (segmenter(read_only).labels == segmenter(image).labels).all()


@pytest.mark.parametrize(
    'bad',
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 1), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((1, 10, 10, 3), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((10, 10, 3), np.uint16),
        np.zeros((0, 10, 3), np.uint8),
        'image.png',
        None,
    ],
    ids=['grey', 'one channel', 'rgba', 'batch', 'float', 'uint16', 'empty', 'text', 'none'],
)
def test_other_images_are_refused(segmenter: Segmenter, bad: Any) -> None:
    with pytest.raises(FrameError, match=r'uint8 \[H, W, 3\]'):
        segmenter(bad)


def test_drivable_classes_by_name_or_id(tiny_model: Path, image: np.ndarray) -> None:
    labels = Segmenter.load(tiny_model)(image).labels
    with Segmenter.load(tiny_model, drivable_classes=['pavement', 3]) as segmenter:
        result = segmenter(image, 'network')
        assert (result.drivable == np.where(np.isin(result.labels, [3, 4]), 255, 0)).all()
        assert (segmenter(image).labels == labels).all()
    with Segmenter.load(tiny_model, drivable_classes=[]) as segmenter:
        assert not segmenter(image).drivable.any()
    with pytest.raises(DataError, match='has no class'):
        Segmenter.load(tiny_model, drivable_classes=['lava'])


def test_network_size_can_be_chosen(tiny_model: Path, image: np.ndarray) -> None:
    with Segmenter.load(tiny_model, input_size='101x67') as segmenter:
        assert segmenter.input_size == (67, 101)
        assert segmenter(image, 'network').labels.shape == (67, 101)
        assert segmenter.description.endswith('101x67')


def test_network_can_follow_the_source(tiny_model: Path, image: np.ndarray) -> None:
    with Segmenter.load(tiny_model, input_size='source') as segmenter:
        for part in (image, image[:93, :77], image):
            assert segmenter(part).labels.shape == part.shape[:2]
            assert segmenter.input_size == aligned_size(part.shape[:2], segmenter.info.input_size)


def test_aligned_sizes_halve_onto_themselves() -> None:
    for size in ((227, 320), (360, 480), (1024, 2048), (20, 33)):
        aligned = aligned_size(size, (321, 481))
        for extent, of in zip(aligned, size, strict=True):
            assert abs(extent - of) <= 16
            for _ in range(5):
                half = -(-extent // 2)  # as a convolution of stride 2 leaves it
                assert extent == 2 * half - 1
                extent = half


def test_sizes_of_networks_with_centred_cells_halve_without_a_rest() -> None:
    assert aligned_size((227, 320), (480, 640)) == (224, 320)
    assert aligned_size((10, 1000), (480, 640)) == (32, 992)


@pytest.mark.parametrize('size', ['big', '10', '0x10', '99999x10', (10,), (10, -1)])
def test_impossible_sizes_are_refused(size: Any) -> None:
    with pytest.raises(LwsegError, match='size'):
        parse_size(size)


def test_closed_segmenter_says_so(tiny_model: Path, image: np.ndarray) -> None:
    segmenter = Segmenter.load(tiny_model)
    segmenter.warm_up(1)
    segmenter.close()
    segmenter.close()
    with pytest.raises(InferenceError, match='closed'):
        segmenter(image)


def test_info_is_the_models(segmenter: Segmenter) -> None:
    assert segmenter.info.name == 'tiny'
    assert segmenter.label_space.names[3] == 'road'
    assert segmenter.description.endswith('CPU 128x96')


def test_damaged_graph_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_model.read_bytes())
    content[200:1200] = bytes(1000)
    path = tmp_path / 'damaged.onnx'
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r'damaged\.onnx'):
        Segmenter.load(path)


@pytest.mark.parametrize('size', [(720, 1280), (321, 481), (321, 1280), (200, 1501), (7, 5)])
def test_planes_are_resized_as_opencv_does(size: tuple[int, int]) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 321, 481)).astype(np.uint8)
    labels, confidence, drivable = (
        cv2.resize(plane, size[::-1], interpolation=interpolation)
        for plane, interpolation in zip(
            planes,
            (cv2.INTER_NEAREST_EXACT, cv2.INTER_NEAREST_EXACT, cv2.INTER_LINEAR),
            strict=True,
        )
    )
    given = enlarged(planes, size)
    assert np.array_equal(given.labels, labels)
    assert np.array_equal(given.confidence, confidence)
    assert np.array_equal(given.drivable_score, drivable)
