"""The truth of a bag's frames, whatever its classes and however it is coded."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rosbags')

from bags_for_tests import (
    CAMVID,
    by_time,
    camera_rows,
    painted,
    quick_settings,
    raw,
    stamp,
    truth,
    write_ros2,
)
from rich.console import Console

from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.figures import merge
from lwseg_ros.replay.run import RunOptions, evaluate_bags, print_result


def test_classes_that_overlap_with_the_models_are_compared_joined(
    tmp_path: Path, tiny_model: Path
) -> None:
    others = [c.name for c in CAMVID.classes if c.name not in ('road', 'pavement')]
    mapping = {'rest': others, 'car': ['car'], 'road': ['road'], 'bump': ['road']}
    classes = [
        {'id': i, 'name': name, 'color': [i, 0, 0], 'drivable': i > 1}
        for i, name in enumerate(mapping)
    ]
    space = tmp_path / 'campus.yaml'
    space.write_text(
        json.dumps({'name': 'campus', 'classes': classes, 'mappings': {'camvid': mapping}})
    )
    campus = np.full(256, 255, np.uint8)
    campus[[0, 1, 8, 3]] = 0, 0, 1, 2
    with Segmenter.load(tiny_model, precision='fp32') as segmenter:
        answers = [segmenter(painted(i)).labels for i in range(8)]
    rows, right, labelled = [], 0, 0
    for i, answer in enumerate(answers):
        true = campus[truth(i)]
        known = true != 255
        labelled += np.count_nonzero(known)
        right += np.count_nonzero(known & ((true == 2) == (answer == 3)))
        true[80:][true[80:] == 2] = 3
        rows.append(('/labels', stamp(i), raw(true, stamp(i), 'mono8')))
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(8), rows))
    settings = replace(quick_settings(tiny_model), truth_space=str(space))
    result = evaluate_bag(bag, tmp_path / 'out', settings)
    assert list(result['overall']['iou']) == ['rest+car', 'road+bump']
    accuracy = result['overall']['figures']['pixel_accuracy']['value']
    assert accuracy == pytest.approx(right / labelled, abs=1e-6)
    assert merge([result])['overall'] == result['overall']
    output = StringIO()
    print_result(result, Console(file=output, width=200))
    assert 'road+bump is road' in output.getvalue()
    options = RunOptions(report=False, fail_if=('iou.road+bump<0.5',))
    assert not evaluate_bags([bag], tmp_path / 'all', settings, Console(), options).complaints()
