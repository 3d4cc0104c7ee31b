"""One and the same label whatever the camera sees is suspect, and is not taken for granted."""

from __future__ import annotations

import numpy as np
import pytest

from lwseg_ros.drivable.suspect import SameAnswer

SIZE = (72, 128)


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def labels(value: int = 1, others: float = 0.0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return labels of one value, with a share of others in the first rows."""
    result = np.full(size, value, np.uint8)
    result.ravel()[: round(others * result.size)] = value ^ 1
    return result


def frames_of(*answers: tuple[np.ndarray, np.ndarray]) -> int:
    same = SameAnswer()
    for answer in answers:
        same.update(*answer)
    return same.frames


def test_pictures_that_differ_are_counted() -> None:
    same = SameAnswer()
    for number in range(1, 6):
        same.update(labels(3), picture(number))
        assert (same.frames, same.label) == (number, 3)
        assert [same.is_suspect(limit) for limit in (0, number, number + 1)] == [
            False,
            True,
            False,
        ]
    same.forget()
    assert not same.is_suspect(1)


def test_pictures_that_do_not_differ_count_once() -> None:
    dark = np.zeros((*SIZE, 3), np.uint8)
    noisy = dark + np.random.default_rng(0).integers(0, 2, dark.shape, dtype=np.uint8)
    again = [(labels(), dark), (labels(), dark.copy()), (labels(), noisy)]
    assert frames_of(*again) == 1
    assert frames_of(*again, (labels(), picture(1)), *again[:2], again[1]) == 3


def test_a_slow_change_is_one_in_the_end() -> None:
    """It is the last counted picture that one is held against, not the one before."""
    slow = [np.full((*SIZE, 3), level // 4, np.uint8) for level in range(16)]
    assert frames_of(*((labels(), image) for image in slow)) == 4


@pytest.mark.parametrize('between', [labels(2), labels(1, others=0.002), labels(1, others=0.5)])
def test_another_answer_ends_it(between: np.ndarray) -> None:
    same = SameAnswer()
    for number in range(5):
        same.update(labels(1), picture(number))
    same.update(between, picture(9))
    assert not same.is_suspect(2)
    same.update(labels(1), picture(10))
    assert same.frames == 1


def test_a_few_other_pixels_change_nothing() -> None:
    assert frames_of(*((labels(1, others=0.0009), picture(n)) for n in range(4))) == 4
    edge = labels(1, size=(2000, 1200))
    edge[:, 0] = 2
    assert frames_of(*((edge, picture(n)) for n in range(4))) == 4


def test_pictures_of_any_size_are_compared() -> None:
    sizes = [SIZE, (1, 1), (720, 1280), (31, 2000)]
    assert frames_of(*((labels(), picture(n, size)) for n, size in enumerate(sizes))) == 4


def test_its_sentence_names_label_and_causes() -> None:
    same = SameAnswer()
    for label, name in ((1, 'road'), (255, 'unlabelled')):
        same.update(labels(label), picture(label))
        sentence = same.sentence(['sky', 'road'])
        assert name in sentence
        assert 'output.kind' in sentence
