"""Figures of blocks: intervals by the bootstrap, and results that merge exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rosbags')

from bags_for_tests import by_time, camera_rows, stamp, truth_rows, write_ros2

from lwseg_ros.errors import DataError
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.figures import (
    BlockBuilder,
    Layout,
    empty_counts,
    merge,
    part,
)
from lwseg_ros.replay.result import ACCURACY_FIGURES, FIGURES, Block
from lwseg_ros.replay.settings import Settings


def blocks(shares: list[float], pixels: int = 1000) -> list[Block]:
    """Return blocks of one frame each, whose shares of low confidence are given."""
    layout = Layout(None)
    builder = BlockBuilder('drive', '/cam', 0, 1.0, layout)
    for i, share in enumerate(shares):
        counts = empty_counts()
        counts['frames'], counts['pixels'] = 1, pixels
        counts['low_confidence'] = round(share * pixels)
        vector = layout.vector(counts)
        record = {'stamp_ns': i * 10**9, 'index': i, 'figures': layout.figures(vector)}
        builder.add(record, vector, False)
    return builder.finish()


def test_intervals_hold_what_the_bootstrap_promises() -> None:
    # Of 50 samples of 40 blocks, the interval holds the true mean about 19 times in 20.
    random = np.random.default_rng(1)
    held = 0
    for _ in range(50):
        figure = part(blocks(random.normal(0.5, 0.1, 40).clip(0, 1).tolist()), None)['figures'][
            'low_confidence'
        ]
        assert figure['low'] < figure['value'] < figure['high']
        assert figure['high'] - figure['low'] == pytest.approx(4 * 0.1 / 40**0.5, rel=0.5)
        held += figure['low'] <= 0.5 <= figure['high']
    assert held >= 43


def test_equal_blocks_have_no_spread_and_few_have_no_interval() -> None:
    figure = part(blocks([0.25] * 8), None)['figures']['low_confidence']
    assert figure == {'value': 0.25, 'low': 0.25, 'high': 0.25}
    figure = part(blocks([0.1, 0.2, 0.3, 0.4]), None)['figures']['low_confidence']
    assert figure == {'value': 0.25, 'low': None, 'high': None}
    nothing = part([], None)
    assert nothing['frames'] == 0
    assert {figure['value'] for figure in nothing['figures'].values()} == {None}


def test_blocks_are_seconds_of_one_topic() -> None:
    assert [block['number'] for block in blocks([0.5] * 3)] == [0, 1, 2]
    assert [block['counts']['frames'] for block in blocks([0.5] * 3)] == [1, 1, 1]


@pytest.fixture(scope='module')
def settings(tiny_model: Path) -> Settings:
    return Settings(
        model=str(tiny_model), precision='fp32', mcap=False, video=False, truth_topics=('/labels',)
    )


def test_merged_results_are_those_of_one_drive(tmp_path: Path, settings: Settings) -> None:
    def drive(name: str, first: int, last: int) -> dict:
        images = [row for i, row in enumerate(camera_rows(80)) if first <= i < last]
        bag = write_ros2(tmp_path / name, by_time(images, truth_rows(range(first, last))))
        return evaluate_bag(bag, tmp_path / 'out' / name, settings)

    # Blocks are of two seconds, 20 frames: the drive is cut between two of them.
    first, second, whole = drive('a', 0, 40), drive('b', 40, 80), drive('c', 0, 80)
    merged = merge([first, second])
    assert merge([second, first]) == merged
    assert merge([first]) == first
    assert merged['overall']['frames'] == 80
    for name in ACCURACY_FIGURES:
        one, both = whole['overall']['figures'][name], merged['overall']['figures'][name]
        assert one == both, name
        assert one['low'] is None
    assert merged['overall']['iou'] == whole['overall']['iou']
    assert merged['overall']['confusion'] == whole['overall']['confusion']
    assert merged['overall']['accuracy'] == whole['overall']['accuracy']
    assert [bag['name'] for bag in merged['bags']] == ['a', 'b']
    assert len(merged['blocks']) == len(first['blocks']) + len(second['blocks'])
    read = [json.loads((tmp_path / 'out' / n / 'result.json').read_text()) for n in 'ab']
    assert merge(read) == merged
    with pytest.raises(DataError, match='twice'):
        merge([first, first])
    asked = replace(settings, low_confidence=0.7)
    other = evaluate_bag(tmp_path / 'b', tmp_path / 'other' / 'b', asked)
    with pytest.raises(DataError, match='different configuration cannot be merged'):
        merge([first, other])


def test_every_figure_has_an_interval_on_a_longer_drive(
    tmp_path: Path, settings: Settings
) -> None:
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(60), truth_rows(range(60))))
    asked = replace(settings, block_seconds=0.5, against=settings.model)
    result = evaluate_bag(bag, tmp_path / 'out', asked)
    assert len(result['blocks']) == 12
    assert list(result['overall']['figures']) == list(FIGURES)
    for name, figure in result['overall']['figures'].items():
        assert figure['low'] <= figure['value'] <= figure['high'], name
    for name in ('miou', 'drivable_iou', 'boundary_f1'):
        figure = result['overall']['figures'][name]
        assert figure['low'] < figure['high'], name


def test_look_first_names_the_worst_frames(tmp_path: Path, settings: Settings) -> None:
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(30), truth_rows(range(30))))
    result = evaluate_bag(bag, tmp_path / 'out', replace(settings, block_seconds=0.5))
    lines = [json.loads(line) for line in (tmp_path / 'out' / 'frames.jsonl').open()]
    chosen = [row for row in result['look_first'] if row['reason'] == 'drivable_iou']
    assert len(chosen) == 6
    assert len({(row['stamp_ns'] - stamp(0)) // 500_000_000 for row in chosen}) == 6
    worst = min(line['figures']['drivable_iou'] for line in lines)
    assert chosen[0]['value'] == worst
    assert lines[chosen[0]['index']]['figures']['drivable_iou'] == worst
    assert [row['value'] for row in chosen] == sorted(row['value'] for row in chosen)
    files = {path.name for path in (tmp_path / 'out' / 'look_first').iterdir()}
    stems = {row['picture'].split('/')[1] for row in result['look_first']}
    assert files == {f'{s}_{kind}.jpg' for s in stems for kind in ('input', 'overlay', 'truth')}
