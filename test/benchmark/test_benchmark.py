"""`lwseg benchmark` measures real engines and the real node, and what it writes can be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lwseg_ros.benchmark.end_to_end import CALM_RATES_HZ
from lwseg_ros.benchmark.energy import EnergyMeter
from lwseg_ros.benchmark.report import compare, read_result
from lwseg_ros.benchmark.run import Plan, run_benchmark
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.inference.model_info import ModelInfo

pytest.importorskip('torch')
pytest.importorskip('openvino')
pytest.importorskip('onnxruntime')


def plan(model: Path, *modes: str) -> Plan:
    return Plan(
        models=[str(model)],
        backends=['openvino', 'onnxruntime'],
        precisions=['fp32', 'bf16'],
        sizes=['model', '160x96'],
        modes=modes,
        baselines=False,
        seconds=0.05,
    )


def test_engines_take_turns_and_two_runs_compare(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('lwseg_ros.benchmark.startup.REPEATS', 1)
    console = Console(record=True, width=200)
    run_benchmark(plan(tiny_model, 'engine', 'startup'), tmp_path / 'a', console)
    again = replace(plan(tiny_model, 'engine'), precisions=['fp32'], sizes=['model'])
    run_benchmark(again, tmp_path / 'b', console)
    result = read_result(tmp_path / 'a/performance.json')
    rows = {(row['backend'], row['precision'], row['size']): row for row in result['engines']}
    assert {('openvino', 'fp32', '128x96'), ('onnxruntime', 'fp32', '160x96')} <= set(rows)
    for row in rows.values():
        assert 0 < row['engine_ms']['p50'] <= row['engine_ms']['p99'] <= row['engine_ms']['max']
        ratio = row['segmenter_ms']['p50'] / row['engine_ms']['p50']
        assert row['segmenter_to_engine'] == pytest.approx(ratio, abs=1e-3)
        assert row['engine_processor_ms'] > 0
    assert [line for line in result['skipped'] if 'onnxruntime bf16' in line]
    assert [row['backend'] for row in result['startup']] == ['openvino', 'onnxruntime']
    assert all(0 < row['import_s'] < row['total_s'] for row in result['startup'])
    assert not {'torch', 'onnx'} & {n for row in result['imports'] for n in row['loads']}
    page = (tmp_path / 'a/performance.md').read_text(encoding='utf-8')
    assert '## Engines' in page
    assert '## Start-up' in page
    console.clear()
    before, after = (read_result(tmp_path / folder / 'performance.json') for folder in 'ab')
    compare(before, after, console)
    assert 'B / A' in console.export_text()


def test_labels_in_space_take_turns_with_plain_numpy(tiny_model: Path, tmp_path: Path) -> None:
    chosen = Plan([str(tiny_model)], ['openvino'], ['fp32'], ['model'], ['points'], seconds=0.05)
    rows = run_benchmark(chosen, tmp_path, Console(width=200))['points']
    whats = ['depth image 640x360', 'depth image 1280x720', 'cloud of 130000 points']
    assert [row['what'] for row in rows] == whats
    for row in rows:
        assert row['times_faster'] == pytest.approx(
            row['plain_ms']['p50'] / row['ours_ms']['p50'], rel=0.1
        )
    assert '## Labels in space' in (tmp_path / 'performance.md').read_text(encoding='utf-8')


def test_the_eager_baseline_computes_in_the_default_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lwseg_ros.benchmark import baselines

    seen: list[bool] = []
    load_network = baselines.load_network

    def load(path: Path, info: ModelInfo) -> Any:
        network = load_network(path, info)
        network.get_submodule('layer3').register_forward_hook(
            lambda module, given, result: seen.append(result.is_contiguous())
        )
        return network

    monkeypatch.setattr(baselines, 'load_network', load)
    labels, *_ = baselines.eager_task('road-nano', np.zeros((64, 96, 3), np.uint8))()
    assert labels.shape == (1, 64, 96)
    assert seen == [True]


@pytest.mark.alone
def test_the_node_end_to_end(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip('rclpy')
    pytest.importorskip('rosbags')
    chosen = Plan([str(tiny_model)], ['openvino'], ['fp32'], ['model'], ['end-to-end'], seconds=1)
    (row,) = run_benchmark(chosen, tmp_path, Console(width=200))['end_to_end']
    assert row['latency_ms']['p50'] > row['engine_ms']['p50']
    assert row['rate_hz'] in CALM_RATES_HZ
    assert row['engine_at_rate_ms']['p50'] > 0
    assert row['dropped_share'] < 1
    assert row['throughput_hz'] is None or row['throughput_hz'] > 5
    assert row['memory_mb'] > 50
    assert 0 < row['first_mask_s'] < 60
    assert {'wait', 'decode', 'infer', 'publish'} <= set(row['stages_ms'])


def test_wrong_use_is_a_sentence(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(LwsegError, match='no mode sideways'):
        run_benchmark(plan(tiny_model, 'sideways'), tmp_path, Console())
    other = tmp_path / 'other.json'
    other.write_text(json.dumps({'format': 'something'}), encoding='utf-8')
    with pytest.raises(DataError, match='not the JSON'):
        read_result(other)


def test_energy_of_rapl_counters(tmp_path: Path) -> None:
    package = tmp_path / 'class/powercap/intel-rapl:0'
    package.mkdir(parents=True)
    (package / 'max_energy_range_uj').write_text('10000000', encoding='ascii')
    (package / 'energy_uj').write_text('9000000', encoding='ascii')
    with EnergyMeter(tmp_path) as meter:
        (package / 'energy_uj').write_text('1000000', encoding='ascii')  # it has wrapped
    assert meter.source == 'RAPL packages'
    assert meter.joules == pytest.approx(2.0)
    with EnergyMeter(tmp_path / 'nothing') as meter:
        pass
    assert (meter.source, meter.joules) == ('', None)
