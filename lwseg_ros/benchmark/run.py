"""`lwseg benchmark`: measures what is asked for, and leaves JSON, tables and plots."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lwseg_ros.benchmark.end_to_end import time_cameras, time_end_to_end
from lwseg_ros.benchmark.energy import EnergyMeter
from lwseg_ros.benchmark.engines import Variant, time_engines
from lwseg_ros.benchmark.environment import environment
from lwseg_ros.benchmark.growth import CAMERAS, time_classes, time_pixels
from lwseg_ros.benchmark.points import time_points
from lwseg_ros.benchmark.report import FORMAT, RESULT, print_tables, read_result, write_report
from lwseg_ros.benchmark.startup import time_imports, time_startup
from lwseg_ros.errors import LwsegError
from lwseg_ros.files import sha256
from lwseg_ros.inference.model_source import find_model
from lwseg_ros.transport import apply_large_image_profile

MODES = ('engine', 'startup', 'end-to-end', 'growth', 'points')


@dataclass(frozen=True)
class Plan:
    """What to measure: every model on every backend, in every precision, at every size.

    A quantized model is run in precision auto only. `seconds` is spent on each figure.
    """

    models: Sequence[str]
    backends: Sequence[str]
    precisions: Sequence[str]
    sizes: Sequence[str]
    modes: Sequence[str]
    transports: Sequence[str] = ('raw',)
    baselines: bool = True
    seconds: float = 4.0
    threads: int | None = None

    def variants(self) -> list[Variant]:
        """Return what is to be measured."""
        infos = {model: find_model(model).info for model in self.models}
        return [
            Variant(model, backend, precision, size)
            for size, model, backend, precision in product(
                self.sizes, self.models, self.backends, self.precisions
            )
            if infos[model].precision == 'fp32' or precision == self.precisions[0]
        ]


def run_benchmark(plan: Plan, out: Path, console: Console) -> dict[str, Any]:
    """Measure, print the tables, and write performance.json, .md and .png files into `out`.

    What another run on the same machine has left there and this one does not measure is kept.
    """
    unknown = set(plan.modes) - set(MODES)
    if unknown:
        raise LwsegError(f'there is no mode {", ".join(unknown)}: choose {", ".join(MODES)}')
    apply_large_image_profile(os.environ)
    out.mkdir(parents=True, exist_ok=True)
    variants = plan.variants()
    result: dict[str, Any] = {
        'format': FORMAT,
        'commands': [shlex.join(['lwseg', *sys.argv[1:]])],
        'environment': environment(),
        'energy_source': EnergyMeter().source,
        'models': {model: sha256(find_model(model).path) for model in plan.models},
    }
    result = _continued(out / RESULT, result)
    with Progress(
        SpinnerColumn(), TextColumn('{task.description}'), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task('')

        def advance(what: str) -> None:
            progress.update(task, description=what)

        if 'engine' in plan.modes:
            result['engines'], result['skipped'] = time_engines(
                variants, plan.baselines, plan.seconds, plan.threads, advance
            )
        # The others run whole processes: the first precision and size of each model and backend.
        first = [
            v for v in variants if v.size == plan.sizes[0] and v.precision == plan.precisions[0]
        ]
        if 'startup' in plan.modes:
            result['startup'] = time_startup(first, advance)
            result['imports'] = time_imports(advance)
        if 'end-to-end' in plan.modes:
            result['end_to_end'] = time_end_to_end(first, plan.transports, plan.seconds, advance)
        if 'growth' in plan.modes:
            result['pixels'] = time_pixels(first[0], plan.seconds, advance)
            result['classes'] = time_classes(first[0].backend, plan.seconds, advance)
            result['cameras'] = time_cameras(first[0], CAMERAS, plan.seconds, advance)
        if 'points' in plan.modes:
            result['points'] = time_points(plan.seconds, advance)
    write_report(result, out)
    print_tables(result, console)
    console.print(f'results: {out}/performance.json, {out}/performance.md')
    return result


def _continued(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Return the new result with what an older one of the same machine and versions has more."""
    if not path.is_file():
        return result
    older = read_result(path)
    same = ('machine', 'versions', 'middleware')
    if any(older['environment'][key] != result['environment'][key] for key in same):
        return result
    return {
        **older,
        **result,
        'commands': [c for c in older['commands'] if c not in result['commands']]
        + result['commands'],
        'models': {**older['models'], **result['models']},
    }
