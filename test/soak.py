"""Run the node for minutes under overload and faults; report memory, ages and counts.

A camera of 60 full-HD images a second, from the generated drive, meets a model of some five frames
a second, while frames are broken, the camera restarts, sizes and stamps jump, and the node is
deactivated. The exit status is 1 if a promise is broken.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import rclpy
import typer
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from ros_for_tests import (
    ALL,
    BEST_EFFORT,
    RELIABLE,
    Driver,
    NodeProcess,
    image_message,
    node_command,
)
from sensor_msgs.msg import Image

from lwseg_ros.synthetic.drive import GeneratedDrive
from lwseg_ros.transport import PROFILE_VARIABLES

RATE_HZ = 60
PICTURES = 8
FAULT_PERIOD_S = 8.0
FAULT_S = 2.0
HOUR_S = 3600
PERCENTILES = (50, 99, 100)

WARM_UP_S = 300.0
"""By then every fault has come several times, and the memory that they need is there."""
MAX_GROWTH_MB = 50.0
MAX_WARM_GROWTH_MB = 5.0
MAX_LATENESS_MS = 500.0
"""What the operating system may take from the node, beyond one inference and one period."""


class Camera:
    """A camera that can be restarted and whose frames can be spoilt; `sent` counts them."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        drives = {
            size: GeneratedDrive(7, *size, frames=PICTURES) for size in ((1920, 1080), (1280, 720))
        }
        self._messages = {
            size: [image_message(frame.image) for frame in drive] for size, drive in drives.items()
        }
        self._steps = {size: messages[0].step for size, messages in self._messages.items()}
        self._numbers = itertools.count()
        self._qos = itertools.cycle((RELIABLE, BEST_EFFORT))
        self.sent = 0
        self.broken_sent = 0
        self.size = (1920, 1080)
        self.broken = False
        self.in_the_past = False
        self._publisher = driver.node.create_publisher(Image, 'image', next(self._qos))

    def start(self) -> None:
        """Send frames from now on, while the driver spins."""
        self._timer = self._driver.node.create_timer(1 / RATE_HZ, self.publish)

    def stop(self) -> None:
        """Send no more."""
        self._timer.cancel()

    def restart(self) -> None:
        """Go away and come back with the other reliability."""
        self._driver.node.destroy_publisher(self._publisher)
        self._publisher = self._driver.node.create_publisher(Image, 'image', next(self._qos))

    def publish(self) -> None:
        """Send one frame if the node listens."""
        if not self._publisher.get_subscription_count():
            return
        message = self._messages[self.size][next(self._numbers) % PICTURES]
        message.step = 7 if self.broken else self._steps[self.size]
        message.header.stamp = self._driver.node.get_clock().now().to_msg()
        if self.in_the_past:
            message.header.stamp.sec -= HOUR_S
        self._publisher.publish(message)
        self.sent += 1
        self.broken_sent += self.broken


class Soak:
    """The run: `seconds` of overload with a fault every few seconds, and what was seen."""

    def __init__(self, node: NodeProcess, driver: Driver) -> None:
        self._node, self._driver = node, driver
        self.timings: list[dict[str, float]] = []
        self.memory_mb: list[tuple[float, float]] = []
        self.faults: dict[str, int] = {}
        while not driver.diagnostics.get('backend'):  # loading a model may take minutes
            assert node.process.poll() is None, f'the node did not start: {node.log}'
            driver.executor.spin_once(timeout_sec=0.2)
        driver.node.create_subscription(
            DiagnosticArray, f'{driver.target}/timing', self._on_timing, ALL
        )
        self.camera = Camera(driver)
        driver.spin_until(self._first_result, 'the first result')
        self._before = driver.counts()
        self.timings.clear()
        self.camera.sent = 0
        self._kinds: dict[str, Callable[[], None]] = {
            'broken frames': lambda: self._spoil('broken', True),
            'camera restarts': self._restart,
            'stamps an hour back': lambda: self._spoil('in_the_past', True),
            'another size': lambda: self._spoil('size', (1280, 720)),
            'deactivations': self._deactivate,
        }

    def counts(self) -> dict[str, int]:
        """Stop the camera and return what became of the frames of the run."""
        self.camera.stop()
        now = self._driver.counts()
        processed = now['processed'] - self._before['processed']
        self._driver.spin_until(lambda: len(self.timings) >= processed, 'the last results')
        return {what: number - self._before.get(what, 0) for what, number in now.items()}

    def run(self, seconds: float, advance: Callable[[float], None]) -> None:
        """Send frames for so long; `advance` is told the seconds done."""
        self.camera.start()
        start = time.monotonic()
        kinds = itertools.cycle(self._kinds)
        while (passed := time.monotonic() - start) < seconds:
            advance(passed)
            self._spin(min(FAULT_PERIOD_S, seconds - passed), start)
            if time.monotonic() - start < seconds:
                kind = next(kinds)
                self._kinds[kind]()
                self.faults[kind] = self.faults.get(kind, 0) + 1
                self._await_results(f'results after {kind}')
        advance(seconds)

    def _first_result(self) -> bool:
        self.camera.publish()
        self._driver.executor.spin_once(timeout_sec=0.2)
        return bool(self.timings)

    def _spin(self, seconds: float, start: float) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if not self.memory_mb or now - start - self.memory_mb[-1][0] >= 1:
                self.memory_mb.append((now - start, _resident_mb(self._node.process.pid)))
            self._driver.executor.spin_once(timeout_sec=0.05)

    def _spoil(self, what: str, value: Any) -> None:
        before = getattr(self.camera, what)
        setattr(self.camera, what, value)
        end = time.monotonic() + FAULT_S
        self._driver.spin_until(lambda: time.monotonic() > end, 'the end of the fault')
        setattr(self.camera, what, before)

    def _restart(self) -> None:
        self.camera.restart()

    def _deactivate(self) -> None:
        assert self._driver.transition(Transition.TRANSITION_DEACTIVATE), 'not deactivated'
        # Refused while the inference of before still runs.
        self._driver.spin_until(
            lambda: self._driver.transition(Transition.TRANSITION_ACTIVATE), 'the activation'
        )

    def _await_results(self, what: str) -> None:
        seen = len(self.timings)
        self._driver.spin_until(lambda: len(self.timings) > seen + 1, what)

    def _on_timing(self, message: DiagnosticArray) -> None:
        ms = {value.key: float(value.value) for value in message.status[0].values}
        ms['in the past'] = float(ms['age_ms'] > HOUR_S * 500)
        self.timings.append(ms)


def report(soak: Soak, counts: dict[str, int], stop_s: float, log: str) -> dict[str, Any]:
    """Return all figures; `broken_promises` says in sentences what did not hold."""
    work = np.array([t['decode_ms'] + t['infer_ms'] + t['publish_ms'] for t in soak.timings])
    ages = np.array([t['age_ms'] for t in soak.timings])
    timely = np.array([not t['in the past'] for t in soak.timings])
    lateness = (ages - work)[timely] - 1e3 / RATE_HZ
    memory = np.array([mb for _, mb in soak.memory_mb])
    growth = _growth(memory[len(memory) // 4 :])
    warm = np.array([mb for s, mb in soak.memory_mb if s > WARM_UP_S])
    warm_growth = _growth(warm)
    late = float(np.percentile(lateness, 99))
    sent, broken, refused = soak.camera.sent, soak.camera.broken_sent, counts['refused']
    ends = counts['processed'] + counts['dropped'] + refused
    promises = {
        f'memory grew by {growth:.0f} MB': growth <= MAX_GROWTH_MB,
        f'memory grew by {warm_growth:.0f} MB after {WARM_UP_S:.0f} s': warm_growth
        <= MAX_WARM_GROWTH_MB,
        f'results came {late:.0f} ms later than one inference and one period': late
        <= MAX_LATENESS_MS,
        f'received is not processed + dropped + refused: {counts}': counts['received'] == ends,
        f'{counts["processed"]} frames were processed, {len(ages)} results came': len(ages)
        == counts['processed'],
        f'more frames came or were lost than the {sent} sent: {counts}': counts['received']
        + counts['lost']
        <= sent,
        f'{refused} of {broken} broken frames were refused': bool(refused) == bool(broken)
        and refused <= broken,
        f'the node took {stop_s:.1f} s to stop': stop_s <= 1 + MAX_LATENESS_MS / 1e3,
        'the log has a traceback': 'Traceback' not in log,
    }
    seconds = soak.memory_mb[-1][0]
    return {
        'seconds': round(seconds, 1),
        'frames': {
            'sent': sent,
            'sent a second': round(sent / seconds, 1),
            'broken': broken,
            **counts,
        },
        'faults': soak.faults,
        'age_ms': _percentiles(ages[timely]),
        'work_ms': _percentiles(work),
        'lateness_ms': _percentiles(lateness),
        'memory_mb': {
            'first': round(float(memory[0]), 1),
            'last': round(float(memory[-1]), 1),
            'max': round(float(memory.max()), 1),
            'growth': round(growth, 1),
            f'growth after {WARM_UP_S:.0f} s': round(warm_growth, 1)
            if warm.size
            else 'not reached',
            'over_time': [(round(s, 1), round(mb, 1)) for s, mb in soak.memory_mb],
        },
        'stop_s': round(stop_s, 2),
        'broken_promises': [sentence for sentence, held in promises.items() if not held],
    }


def _growth(memory: Any) -> float:
    """Return by how much the last third lies above the first; 0 if there is nothing."""
    third = max(len(memory) // 3, 1)
    return float(np.median(memory[-third:]) - np.median(memory[:third])) if len(memory) else 0.0


def _percentiles(values: Any) -> dict[str, float]:
    names = ('p50', 'p99', 'max')
    return {
        name: round(float(np.percentile(values, p)), 1)
        for name, p in zip(names, PERCENTILES, strict=True)
    }


def _resident_mb(process_id: int) -> float:
    pages = int(Path(f'/proc/{process_id}/statm').read_text(encoding='ascii').split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def _table(figures: dict[str, Any]) -> Table:
    table = Table('figure', 'value', title=f'{figures["seconds"]:.0f} s of overload and faults')
    for part in ('setting', 'frames', 'faults', 'age_ms', 'work_ms', 'lateness_ms', 'memory_mb'):
        for name, value in figures[part].items():
            if name != 'over_time':
                table.add_row(f'{part} {name}', str(value))
    table.add_row('stop_s', str(figures['stop_s']))
    return table


def main(
    minutes: Annotated[float, typer.Option(help='How long.', min=0.1)] = 30.0,
    out: Annotated[Path, typer.Option(help='JSON file of all figures.')] = Path('soak.json'),
    model: Annotated[str, typer.Option(help='As model.path.')] = 'road',
    input_size: Annotated[str, typer.Option(help='As model.input_size.')] = '1120x736',
) -> None:
    """Run the node under overload and faults; exit status 1 if it breaks a promise."""
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 101))
    console = Console()
    parameters = {'model.path': model, 'model.input_size': input_size, 'diagnostics.period_s': 0.5}
    folder = Path(tempfile.mkdtemp(prefix='lwseg_soak_'))
    node = NodeProcess(folder / 'node.log', node_command(parameters))
    try:
        driver = Driver()
        soak = Soak(node, driver)
        with Progress(
            *Progress.get_default_columns()[:-1],
            TimeRemainingColumn(),
            TextColumn('{task.fields[memory]}'),
            console=console,
        ) as progress:
            task = progress.add_task('soaking', total=minutes * 60, memory='')

            def advance(seconds: float) -> None:
                memory = f'{soak.memory_mb[-1][1]:.0f} MB' if soak.memory_mb else ''
                progress.update(task, completed=seconds, memory=memory)

            soak.run(minutes * 60, advance)
        counts = soak.counts()
        setting = {
            'backend': driver.diagnostics['backend'],
            'model': f'{model} at {input_size}',
            'camera': f'1920x1080 rgb8 at {RATE_HZ} Hz',
            'rmw': rclpy.get_rmw_implementation_identifier(),
            'transport': os.environ.get(PROFILE_VARIABLES[0], 'default'),
            'machine': f'{platform.machine()}, {os.cpu_count()} cores',
            'load': f'{os.getloadavg()[0]:.1f}',
        }
        driver.close()
        figures = {'setting': setting, **report(soak, counts, node.stop(), node.log)}
    except AssertionError as error:
        raise SystemExit(f'{error}; the log of the node: {node.log_path}') from error
    finally:
        node.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')
    console.print(_table(figures))
    for sentence in figures['broken_promises']:
        console.print(f'[red]broken promise:[/red] {sentence}')
    console.print(f'figures in {out}, log of the node in {node.log_path}')
    raise SystemExit(bool(figures['broken_promises']))


if __name__ == '__main__':
    typer.run(main)
