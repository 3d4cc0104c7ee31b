"""What continuous integration builds on: conditions on figures, and the comparison of results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rosbags')

from bags_for_tests import (
    by_time,
    camera_rows,
    quick_settings,
    stamp,
    truth_rows,
    write_ros2,
)
from models_for_tests import remake_model, set_weights, tiny_info, weights_of
from rich.console import Console
from typer.testing import CliRunner

from lwseg_ros.cli.commands import app
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.replay.checks import check, parse_conditions
from lwseg_ros.replay.compare import (
    compare,
    compare_live,
    print_comparison,
    read_live_frames,
    read_result,
)
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.run import RunOptions, evaluate_bags
from lwseg_ros.replay.settings import Settings

COUNT = 60


@pytest.fixture(scope='module')
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('bags') / 'drive'
    return write_ros2(folder, by_time(camera_rows(COUNT), truth_rows(range(COUNT))))


@pytest.fixture(scope='module')
def settings(tiny_model: Path) -> Settings:
    return quick_settings(tiny_model, block_seconds=0.5)


@pytest.fixture(scope='module')
def blind_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny model, blind to cars."""

    def change(graph: Any) -> None:
        bias = weights_of(graph, 'network.bias')
        bias[8] = -1000
        set_weights(graph, 'network.bias', bias)

    path = tmp_path_factory.mktemp('models') / 'blind.onnx'
    return remake_model(tiny_model, path, tiny_info('blind'), change)


@pytest.fixture(scope='module')
def results(
    drive: Path, settings: Settings, blind_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    """Return the result of the tiny model, and of the blind one."""
    folder = tmp_path_factory.mktemp('results')
    return (
        evaluate_bag(drive, folder / 'tiny', settings),
        evaluate_bag(drive, folder / 'blind', replace(settings, model=str(blind_model))),
    )


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('drivable_iou', 'no condition'),
        ('drivable_iou=0.9', 'no condition'),
        ('drivable_iou<much', 'no condition'),
        ('<0.5', 'no condition'),
        ('drivable_iou<nan', 'no condition'),
        ('drivable_iuo<0.9', r"no figure 'drivable_iuo', there are .*drivable_iou.*iou\.road"),
        ('iou.moon<0.9', r"no figure 'iou\.moon'"),
        ('p99_ms>80', 'add that'),
    ],
)
def test_a_wrong_condition_is_refused_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(LwsegError, match=words) as caught:
        parse_conditions([text], ['road'], live=False)
    assert '\n' not in str(caught.value)


def test_conditions_are_checked_on_the_figures_over_everything(results: tuple[Any, Any]) -> None:
    result, _ = results
    iou = result['overall']['figures']['drivable_iou']['value']
    live = {'latency_ms': {'p99': 80.5}, 'memory_mb': {'max': 100.0}, 'dropped_share': None}
    expected = {
        f'drivable_iou<{iou + 0.01:.6f}': True,
        f'drivable_iou < {iou:.6f}': False,
        f'drivable_iou<={iou:.6f}': True,
        'iou.road>=0': True,
        'iou.pole<0': True,  # occurs nowhere: no figure, no pass
        'agreement<0.5': True,
        'broken_messages>0': False,
        'p99_ms>80': True,
        'p99_ms>81': False,
        'memory_mb>1e2': False,
        'dropped_share>1': True,
    }
    classes = ['road', 'pole']
    found = check(parse_conditions(expected, classes, live=True), result, live)
    assert [one.failed for one in found] == list(expected.values())
    assert 'agreement is not known' in str(found[5])
    assert str(found[7]) == "p99_ms is 80.5: --fail-if 'p99_ms>80'"


def test_the_shell_fails_with_a_sentence_and_writes_what_it_checked(
    drive: Path, settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    options = RunOptions(fail_if=('miou<2', 'miou<0'), report=False)
    done = evaluate_bags([drive], out, settings, Console(quiet=True), options)
    [sentence] = done.complaints()
    assert sentence.startswith('miou is 0.')
    checks = json.loads((out / 'checks.json').read_text())['checks']
    assert [(one['condition'], one['failed']) for one in checks] == [
        ('miou<2', True),
        ('miou<0', False),
    ]
    options = RunOptions(fail_if=('mio<2',), report=False)
    with pytest.raises(LwsegError, match='no figure'):
        evaluate_bags([drive], tmp_path / 'never', settings, Console(quiet=True), options)
    assert not (tmp_path / 'never').exists()


def test_a_comparison_tells_better_from_worse_from_chance(results: tuple[Any, Any]) -> None:
    tiny, blind = results
    found = compare(tiny, blind)
    assert found['frames'] == [COUNT, COUNT]
    assert found['blocks'] == 12
    assert found['blocks_of_one_only'] == [0, 0]
    figures, iou = found['figures'], found['iou']
    assert figures['miou']['verdict'] == 'worse'
    assert figures['miou']['low'] <= figures['miou']['difference'] <= figures['miou']['high'] < 0
    assert iou['car']['b'] == 0
    assert iou['car']['verdict'] == 'worse'
    assert iou['sky']['verdict'] == 'no clear difference'
    assert figures['agreement']['verdict'] is None
    back = compare(blind, tiny)
    assert back['figures']['miou']['verdict'] == 'better'
    assert back['figures']['miou']['difference'] == -figures['miou']['difference']
    same = compare(tiny, tiny)
    verdicts = {row['verdict'] for row in (*same['figures'].values(), *same['iou'].values())}
    assert verdicts == {None, 'no clear difference'}


def test_a_comparison_is_paired(results: tuple[Any, Any]) -> None:
    """The interval of a difference is narrower than those of the two figures together."""
    tiny, blind = results
    difference = compare(tiny, blind)['iou']['building']
    widths = [side['overall']['iou']['building'] for side in (tiny, blind)]
    apart = sum(width['high'] - width['low'] for width in widths)
    assert difference['high'] - difference['low'] <= apart


def test_only_what_both_have_is_compared(results: tuple[Any, Any]) -> None:
    tiny, blind = results
    shorter = {**blind, 'blocks': blind['blocks'][:8]}
    found = compare(tiny, shorter)
    assert found['blocks'] == 8
    assert found['blocks_of_one_only'] == [4, 0]
    assert found['frames'] == [40, 40]
    few = compare(tiny, {**blind, 'blocks': blind['blocks'][:2]})
    assert few['figures']['miou']['verdict'] == 'too few frames to tell'
    other = {**blind, 'bags': [{**blind['bags'][0], 'sha256': '0'}]}
    with pytest.raises(DataError, match='no frames in common'):
        compare(tiny, other)
    spaces = {**blind['comparison_space'], 'name': 'other'}
    assert 'miou' not in compare(tiny, {**blind, 'comparison_space': spaces})['figures']


def test_live_replays_are_compared_over_the_frames_of_both(
    results: tuple[Any, Any], tmp_path: Path
) -> None:
    tiny = results[0]
    random = np.random.default_rng(0)

    def live(name: str, milliseconds: float, dropped: range) -> dict[tuple[str, str, int], float]:
        folder = tmp_path / name / tiny['bags'][0]['name']
        folder.mkdir(parents=True)
        took = (milliseconds + random.normal(0, 5, COUNT)).tolist()
        rows = [
            {
                'topic': '/cam/image',
                'stamp_ns': stamp(i),
                'latency_ms': None if i in dropped else took[i],
            }
            for i in range(COUNT)
        ]
        lines = ''.join(json.dumps(row) + '\n' for row in rows)
        (folder / 'live_frames.jsonl').write_text(lines)
        return read_live_frames(tmp_path / name, tiny)

    fast, slow = live('fast', 50, range(0)), live('slow', 80, range(0, COUNT, 3))
    found = compare_live(fast, slow, 0.5)
    assert found['p50_ms']['verdict'] == found['dropped_share']['verdict'] == 'worse'
    assert found['p50_ms']['low'] < 30 < found['p50_ms']['high']
    assert found['p50_ms']['a'] == np.median(list(fast.values()))
    assert found['dropped_share']['b'] == pytest.approx(1 / 3)
    assert compare_live(slow, fast, 0.5)['p95_ms']['verdict'] == 'better'
    again = compare_live(fast, live('again', 50, range(0)), 0.5)
    assert again['p50_ms']['verdict'] == 'no clear difference'
    assert compare_live(fast, fast, 2.0)['p50_ms']['verdict'] == 'too few frames to tell'
    assert compare_live(fast, read_live_frames(tmp_path / 'none', tiny), 0.5) == {}


def test_the_shell_compares(
    results: tuple[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, result in zip('ab', results, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'result.json').write_text(json.dumps(result))
    arguments = ['bag', 'compare', str(tmp_path / 'a'), str(tmp_path / 'b' / 'result.json')]
    done = CliRunner().invoke(app, [*arguments, '--json', str(tmp_path / 'c.json')])
    assert done.exit_code == 0, done.output
    assert 'iou car' in done.output.split('worse:')[1]
    content = json.loads((tmp_path / 'c.json').read_text())
    assert content == {**compare(*results), 'live': {}}
    console = Console(quiet=True)
    print_comparison(compare(results[0], results[0]), console)
    for wrong in ('{}', 'no json', '[1]'):
        (tmp_path / 'wrong.json').write_text(wrong)
        with pytest.raises(DataError, match=r'wrong\.json is no result'):
            read_result(tmp_path / 'wrong.json')
    with pytest.raises(DataError, match='cannot be read'):
        read_result(tmp_path / 'absent.json')
