"""Which of two streams belong together."""

from __future__ import annotations

from lwseg_ros.points.pairs import KEPT, Pairs

GAP = 50


def take(pairs: Pairs[str, str]) -> tuple[str, str] | None:
    """Return the newest pair, used up."""
    for image, other in pairs.newest(GAP):
        pairs.used(image, other)
        return image, other
    return None


def test_the_newest_pair_wins_and_what_is_older_has_lost_its_turn() -> None:
    pairs: Pairs[str, str] = Pairs(by_image=True)
    for number in range(3):
        pairs.add_image(100 * number, f'image {number}')
        pairs.add_other(100 * number + 30, f'depth {number}')
    assert take(pairs) == ('image 2', 'depth 2')
    assert take(pairs) is None
    assert pairs.unpaired == 2


def test_an_image_waits_for_what_comes_late() -> None:
    pairs: Pairs[str, str] = Pairs(by_image=True)
    pairs.add_image(0, 'image 0')
    pairs.add_image(100, 'image 1')
    assert take(pairs) is None
    pairs.add_other(10, 'depth 0')
    assert take(pairs) == ('image 0', 'depth 0')
    pairs.add_other(110, 'depth 1')
    assert take(pairs) == ('image 1', 'depth 1')
    assert pairs.unpaired == 0


def test_what_is_too_far_apart_is_no_pair() -> None:
    pairs: Pairs[str, str] = Pairs(by_image=True)
    pairs.add_image(0, 'image')
    pairs.add_other(GAP + 1, 'late')
    pairs.add_other(-GAP - 1, 'early')
    assert take(pairs) is None
    assert pairs.nearest_ns() == GAP + 1
    pairs.add_other(-GAP, 'just right')
    assert take(pairs) == ('image', 'just right')


def test_one_image_serves_several_of_the_others() -> None:
    pairs: Pairs[str, str] = Pairs(by_image=False)
    pairs.add_image(0, 'image')
    for stamp in (-40, 0, 40):
        pairs.add_other(stamp, f'cloud {stamp}')
        assert take(pairs) == ('image', f'cloud {stamp}')
    assert pairs.unpaired == 0


def test_memory_is_flat_and_what_falls_out_is_counted() -> None:
    pairs: Pairs[str, str] = Pairs(by_image=True)
    for number in range(KEPT + 5):
        pairs.add_image(1000 * number, f'image {number}')
        pairs.add_other(1000 * number + 500, f'depth {number}')
    assert take(pairs) is None
    assert pairs.unpaired == 5
    pairs.clear()
    assert pairs.nearest_ns() is None


def test_time_may_jump_back() -> None:
    pairs: Pairs[str, str] = Pairs(by_image=True)
    for stamp in (5000, 5100, 0, 100):
        pairs.add_image(stamp, f'image {stamp}')
        pairs.add_other(stamp, f'depth {stamp}')
        assert take(pairs) == (f'image {stamp}', f'depth {stamp}')
