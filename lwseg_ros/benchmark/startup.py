"""From the start of a process to the first labels, and what importing costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lwseg_ros.benchmark.engines import Variant
from lwseg_ros.errors import LwsegError

REPEATS = 3
IMPORTS = (
    *('lwseg_ros', 'lwseg_ros.inference.segmenter', 'lwseg_ros.cli.commands'),
    'lwseg_ros.ros.node',
)
HEAVY = ('torch', 'onnx', 'openvino', 'onnxruntime', 'matplotlib', 'rosbags', 'rclpy', 'cv2')

_FIRST_LABELS = """
import sys, time
start = time.perf_counter()
import numpy
from lwseg_ros import Segmenter
imported = time.perf_counter()
model, backend, precision, size = sys.argv[1:]
segmenter = Segmenter.load(
    model, backend, precision=precision, input_size=None if size == 'model' else size
)
loaded = time.perf_counter()
segmenter(numpy.zeros((720, 1280, 3), numpy.uint8))
done = time.perf_counter()
import json, os
pages = int(open('/proc/self/statm').read().split()[1])
print(json.dumps({
    'import_s': imported - start,
    'load_s': loaded - imported,
    'first_labels_s': done - loaded,
    'memory_mb': pages * os.sysconf('SC_PAGE_SIZE') / 1e6,
}))
"""

_IMPORT = """
import sys, time
start = time.perf_counter()
__import__(sys.argv[1])
took = time.perf_counter() - start
import json
print(json.dumps({'s': took, 'loaded': sorted(n for n in sys.argv[2:] if n in sys.modules)}))
"""


def time_startup(
    variants: Sequence[Variant], advance: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return for each variant the medians, in seconds, of fresh processes up to the first labels.

    `cold_s` is the total of the very first one: what is cached on disk may not be there then.
    """
    rows = []
    for variant in variants:
        advance(f'starting {variant.model} {variant.backend} {variant.precision}')
        runs = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            answer = first_labels(variant)
            runs.append({**answer, 'total_s': time.perf_counter() - start})
        cold, *warm = runs
        medians = {key: round(float(np.median([run[key] for run in warm])), 3) for key in cold}
        rows.append({**variant._asdict(), **medians, 'cold_s': round(cold['total_s'], 3)})
    return rows


def first_labels(variant: Variant) -> dict[str, float]:
    """Return seconds and megabytes of a fresh process that labels one image of 1280x720."""
    return _run(_FIRST_LABELS, variant._replace(model=variant.file))


def time_imports(advance: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return for some modules how long a fresh process imports them, and what comes along."""
    rows = []
    for module in IMPORTS:
        advance(f'importing {module}')
        try:
            runs = [_run(_IMPORT, (module, *HEAVY)) for _ in range(REPEATS)]
        except LwsegError:  # the node without ROS
            continue
        seconds = float(np.median([run['s'] for run in runs]))
        rows.append({'module': module, 's': round(seconds, 3), 'loads': runs[0]['loaded']})
    return rows


def _run(program: str, arguments: Sequence[str]) -> dict[str, Any]:
    parents = [str(Path(__file__).resolve().parents[2]), os.environ.get('PYTHONPATH', '')]
    done = subprocess.run(
        [sys.executable, '-c', program, *arguments],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, parents))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ['it said nothing']
        raise LwsegError(f'{" ".join(arguments)} did not start: {lines[-1]}')
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
