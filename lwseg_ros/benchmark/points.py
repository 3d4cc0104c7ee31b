"""What it costs to put labels into space, beside the same in plain NumPy.

Plain NumPy is what a node does that was written for the purpose: everything anew for each frame,
without hidden points.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lwseg_ros.benchmark.timing import percentiles, time_in_turns
from lwseg_ros.camera_model import Intrinsics
from lwseg_ros.points.cloud import Cloud, CloudView, MarkedLayout, marks_of
from lwseg_ros.points.depth import POINT_STEP, DepthView, depth_from_message
from lwseg_ros.points.field import FLOAT32, Field
from lwseg_ros.transforms import Transform

DEPTH_SIZES = ((640, 360), (1280, 720))
CLOUD_POINTS = 130_000
RINGS = 64
MAX_RANGE = 50.0

Task = Callable[[], object]


def time_points(seconds: float, advance: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return what a depth image and a cloud cost, ours and plain NumPy's, on one core.

    From the message that has come to the bytes of the one that goes out.
    """
    tasks: dict[tuple[str, str], Task] = {}
    for width, height in DEPTH_SIZES:
        ours, plain = _depth_tasks(width, height)
        name = f'depth image {width}x{height}'
        tasks[name, 'ours'], tasks[name, 'plain'] = ours, plain
    ours, plain = _cloud_tasks()
    name = f'cloud of {CLOUD_POINTS} points'
    tasks[name, 'ours'], tasks[name, 'plain'] = ours, plain
    times: dict[tuple[str, str], list[float]] = {key: [] for key in tasks}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for turn in time_in_turns(tasks, seconds):
            advance(' '.join(turn.key))
            times[turn.key] += turn.times_ms
    finally:
        cv2.setNumThreads(threads)
    rows = []
    for name in dict.fromkeys(name for name, _ in tasks):
        ours_ms, plain_ms = (percentiles(times[name, who]) for who in ('ours', 'plain'))
        times_faster = round(plain_ms['p50'] / ours_ms['p50'], 1)
        rows.append(
            {
                'what': name,
                'ours_ms': ours_ms,
                'plain_ms': plain_ms,
                'times_faster': times_faster,
            }
        )
    return rows


def _camera(width: int, height: int) -> Intrinsics:
    focal = 0.8 * width
    k = (focal, 0.0, (width - 1) / 2, 0.0, focal, (height - 1) / 2, 0.0, 0.0, 1.0)
    return Intrinsics(width, height, k)


def _mask(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 11, (height, width)).astype(np.uint8)


def _depth_tasks(width: int, height: int) -> tuple[Task, Task]:
    rng = np.random.default_rng(0)
    millimetres = rng.integers(0, 60_000, (height, width)).astype(np.uint16)
    message = SimpleNamespace(
        encoding='16UC1',
        width=width,
        height=height,
        step=2 * width,
        is_bigendian=0,
        data=millimetres.tobytes(),
    )
    labels, confidence = _mask(width, height), _mask(width, height)
    camera = _camera(width, height)
    view = DepthView(camera)
    out = np.empty((height, width, POINT_STEP // 4), np.float32)
    fx, _, cx, _, fy, cy = camera.k[:6]
    point = np.dtype(
        {
            'names': ['x', 'y', 'z', 'label', 'confidence'],
            'formats': ['f4', 'f4', 'f4', 'u1', 'u1'],
            'offsets': [0, 4, 8, 12, 13],
            'itemsize': POINT_STEP,
        }
    )

    def ours() -> None:
        view.points(depth_from_message(message), labels, confidence, MAX_RANGE, out)

    def plain() -> bytes:
        z = np.frombuffer(message.data, np.uint16).reshape(height, width).astype(np.float32) / 1000
        z[(z <= 0) | (z > MAX_RANGE)] = np.nan
        u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        points = np.zeros((height, width), point)
        points['x'], points['y'], points['z'] = (u - cx) * z / fx, (v - cy) * z / fy, z
        points['label'], points['confidence'] = labels, confidence
        return points.tobytes()

    return ours, plain


def _cloud_tasks() -> tuple[Task, Task]:
    """Return the tasks of a scan of a street: ground, walls on both sides and things between."""
    width, height = DEPTH_SIZES[-1]
    rng = np.random.default_rng(0)
    columns = CLOUD_POINTS // RINGS
    left = np.tile(np.linspace(-np.pi, np.pi, columns), RINGS)
    up = np.repeat(np.linspace(-0.43, 0.17, RINGS), columns)
    with np.errstate(divide='ignore'):
        to_ground = np.where(up < 0, 1.9 / np.sin(-up), np.inf)
        to_wall = 8 / np.abs(np.sin(left)) / np.cos(up)
    distance = np.minimum(np.minimum(to_ground, to_wall), 80.0)
    thing = rng.random(columns) < 0.05
    distance = np.where(np.tile(thing, RINGS), np.minimum(distance, 12.0), distance)
    points = distance * np.stack(
        [np.cos(up) * np.cos(left), np.cos(up) * np.sin(left), np.sin(up)]
    )
    number = points.shape[1]
    step = 16
    rows = np.zeros((number, step // 4), np.float32)
    rows[:, :3] = points.T
    message = SimpleNamespace(
        fields=[Field(n, 4 * i, FLOAT32) for i, n in enumerate(('x', 'y', 'z', 'intensity'))],
        width=number,
        height=1,
        point_step=step,
        row_step=step * number,
        is_bigendian=False,
        data=rows.tobytes(),
    )
    camera = _camera(width, height)
    view = CloudView(camera)
    rotation = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], np.float64)
    place = Transform(rotation, np.array([0.2, -0.4, 0.1]))
    labels, confidence = _mask(width, height), _mask(width, height)
    layout = MarkedLayout(Cloud(message))
    out = np.empty((number, layout.point_step), np.uint8)
    fx, _, cx, _, fy, cy = camera.k[:6]

    def ours() -> None:
        cloud = Cloud(message)
        moved = place.apply(cloud.xyz())
        marks = marks_of(number, view.seen(moved), labels, confidence)
        MarkedLayout(cloud).write(cloud, *marks, out)

    def plain() -> bytes:
        fields = np.dtype([(field.name, 'f4') for field in message.fields])
        cloud = np.frombuffer(message.data, fields)
        homogeneous = np.stack([cloud['x'], cloud['y'], cloud['z'], np.ones(number)])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = place
        x, y, z, _ = matrix @ homogeneous
        with np.errstate(divide='ignore', invalid='ignore'):
            u, v = np.round(fx * x / z + cx), np.round(fy * y / z + cy)
        seen = (z > 0.1) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
        marked = np.empty(number, [*fields.descr, ('label', 'u1'), ('confidence', 'u1')])
        for name in fields.names or ():
            marked[name] = cloud[name]
        marked['label'], marked['confidence'] = 255, 0
        column, row = u[seen].astype(int), v[seen].astype(int)
        marked['label'][seen] = labels[row, column]
        marked['confidence'][seen] = confidence[row, column]
        return marked.tobytes()

    return ours, plain
