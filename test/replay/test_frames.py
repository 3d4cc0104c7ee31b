"""The frames of a bag are what the node would have seen of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rosbags')

from bags_for_tests import painted, raw, stamp, write_ros2

from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.settings import Settings


def test_dark_pictures_of_a_deep_camera_stay_dark(tiny_model: Path, tmp_path: Path) -> None:
    """A depth that was seen once holds for all pictures after, in however many threads."""
    settings = Settings(str(tiny_model), precision='fp32', mcap=False, video=False)
    grey = [painted(i)[..., 1] // (1 if i == 0 else 4) for i in range(12)]
    results = []
    for name, encoding, pictures in (
        ('eight', 'mono8', grey),
        ('twelve', 'mono16', [np.round(p * (4095 / 255)).astype(np.uint16) for p in grey]),
    ):
        rows = [('/cam', stamp(i), raw(p, stamp(i), encoding)) for i, p in enumerate(pictures)]
        bag = write_ros2(tmp_path / name, rows)
        evaluate_bag(bag, tmp_path / f'{name}_out', settings)
        lines = (tmp_path / f'{name}_out' / 'frames.jsonl').read_text().splitlines()
        results.append(lines)
    assert len(results[0]) == 12
    assert results[0] == results[1]
