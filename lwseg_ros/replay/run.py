"""`lwseg bag evaluate` over bags: one process or many, live replay, conditions, report."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from lwseg_ros.bags.files import bags_at
from lwseg_ros.errors import DataError, LwsegError
from lwseg_ros.evaluation.common_space import common_space
from lwseg_ros.files import write_json
from lwseg_ros.inference.model_source import find_model
from lwseg_ros.replay.checks import Check, Condition, check, parse_conditions
from lwseg_ros.replay.figures import merge
from lwseg_ros.replay.fleet import Task, run_here, run_in_processes, run_on_ray
from lwseg_ros.replay.result import RESULT, Failure, Figure, Result
from lwseg_ros.replay.settings import Settings
from lwseg_ros.replay.truth import truth_space

LIVE, CHECKS = 'live.json', 'checks.json'


@dataclass(frozen=True)
class RunOptions:
    """What is done beside the evaluation itself, and where."""

    jobs: int = 1
    """Bags at once, each in a process of its own."""
    ray: bool = False
    """Spread the bags over a Ray cluster instead."""
    live_rate: float | None = None
    """Also play to the node, at so many times the recorded speed."""
    fail_if: tuple[str, ...] = ()
    """Conditions on the figures, see `checks`."""
    report: bool = True


class Evaluated(NamedTuple):
    """What became of an evaluation."""

    result: Result
    live: dict[str, Any] | None
    checks: list[Check]
    interrupted: bool

    def complaints(self) -> list[str]:
        """Return in sentences why it is not what was asked for, nothing if it is."""
        failures = self.result['failures']
        sentences = [str(check) for check in self.checks if check.failed]
        if failures:
            total = len(failures) + len(self.result['bags'])
            first = failures[0]['error']
            sentences.append(
                f'{len(failures)} of {total} bags could not be evaluated; the first: {first}'
            )
        return sentences


def evaluate_bags(
    bags: Sequence[Path],
    out: Path,
    settings: Settings,
    console: Console,
    options: RunOptions | None = None,
) -> Evaluated:
    """Evaluate bags (see `bags_at`) into `out/BAG/` and merge their results in `out/result.json`.

    Leaves live.json, checks.json and report.html in `out`, too, as far as they are asked for. Bags
    that are finished are not evaluated again. After Ctrl-C everything is of what was done, and
    says so. DataError if none of the bags can be evaluated; else those that cannot are among the
    result's failures.
    """
    options = options or RunOptions()
    bags = [bag for path in bags for bag in bags_at(path) or [path]]
    conditions = _prepare(settings, options)
    names = bag_names(bags)
    tasks = [Task(n, bag, out / n, settings) for n, bag in zip(names, bags, strict=True)]
    with _alone_in(out):
        result = _evaluate(tasks, options, console)
        interrupted = result['interrupted']
        write_json(out / RESULT, result)
        live = None
        if options.live_rate is not None and not interrupted:
            live, interrupted = _replay_live(result, out, settings, options.live_rate, console)
        checks = check(conditions, result, live)
        if conditions:
            write_json(out / CHECKS, {'checks': [one._asdict() for one in checks]})
        if options.report:
            from lwseg_ros.replay.report import write_report

            write_report(out, result, live, checks)
    print_result(result, console)
    if live is not None:
        _print_live(live, console)
    console.print(f'results are in {out}', highlight=False)
    return Evaluated(result, live, checks, interrupted)


def bag_names(bags: Sequence[Path]) -> list[str]:
    """Return a folder name for each bag: its own, after those of folders above where needed."""
    paths = [bag.resolve() for bag in bags]
    plain = [path if path.is_dir() else path.with_suffix('') for path in paths]
    for depth in range(1, max((len(path.parts) for path in plain), default=1)):
        names = ['_'.join(path.parts[-depth:]) for path in plain]
        if len(set(names)) == len(names):
            return names
    raise DataError(f'a bag is given twice: {", ".join(str(bag) for bag in bags)}')


def _prepare(settings: Settings, options: RunOptions) -> list[Condition]:
    """Return the conditions; LwsegError now for what would else fail after a long evaluation."""
    model = find_model(settings.model).info.label_space
    truth = truth_space(settings.truth_space, settings.truth_folder, model)
    spaces = (model, truth, common_space(model, truth))
    classes = dict.fromkeys(name for space in spaces for name in space.names)
    conditions = parse_conditions(options.fail_if, list(classes), options.live_rate is not None)
    if options.report:
        import lwseg_ros.replay.report  # noqa: F401
    if options.live_rate is not None:
        from lwseg_ros.live.replay import require_ros

        require_ros()
    return conditions


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Make the folder and lock it; LwsegError if that cannot be, or another process has it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise LwsegError(
            f'{out} cannot be written: {error.strerror}; choose another --out'
        ) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LwsegError(
                f'another lwseg bag evaluate writes into {out} now: wait for its end, or choose '
                'another --out'
            ) from None
        except OSError:
            pass  # some network file systems lock no folders
        yield
    finally:
        os.close(folder)


def _evaluate(tasks: Sequence[Task], options: RunOptions, console: Console) -> Result:
    """Return the merged result of all bags that can be evaluated."""
    results: list[Result] = []
    failures: list[Failure] = []
    with _progress(console) as progress:
        bars = _Bars(progress)
        whole = progress.add_task('bags', total=len(tasks), visible=len(tasks) > 1)
        if options.ray:
            answers = run_on_ray(tasks)
        elif options.jobs > 1 and len(tasks) > 1:
            answers = run_in_processes(tasks, min(options.jobs, len(tasks)), bars.update)
        else:
            answers = run_here(tasks, bars.update)
        for task, answer in answers:
            bars.remove(task.name)
            progress.advance(whole)
            if isinstance(answer, DataError):
                failures.append(Failure(bag=str(task.bag), error=str(answer)))
            elif isinstance(answer, LwsegError):
                raise answer
            else:
                results.append(answer)
    interrupted = len(results) + len(failures) < len(tasks)
    if not results:
        if interrupted:
            raise KeyboardInterrupt
        raise DataError('; '.join(failure['error'] for failure in failures))
    merged = merge(results)
    merged['failures'] = sorted(failures, key=lambda failure: failure['bag'])
    merged['interrupted'] |= interrupted
    return merged


def _replay_live(
    result: Result, out: Path, settings: Settings, rate: float, console: Console
) -> tuple[dict[str, Any] | None, bool]:
    """Play the bags to the node, one after the other; return their live.json, and if interrupted.

    A bag that has been played with the same settings is not played again.
    """
    from lwseg_ros.live.replay import LiveSettings, merge_live, read_live, replay_live

    own = LiveSettings(
        settings.model, settings.backend, settings.precision, settings.input_size, rate
    )
    interrupted = False
    with _progress(console) as progress:
        bars = _Bars(progress)
        for bag in result['bags']:
            folder = out / bag['name']
            there = read_live(folder)
            if there and not there['interrupted'] and there['settings'] == asdict(own):
                continue
            topics = [topic['topic'] for topic in bag['topics']]
            name = f'live: {bag["name"]}'
            try:
                replay_live(Path(bag['path']), topics, folder, own, partial(bars.update, name))
            except KeyboardInterrupt:
                interrupted = True
                break
            bars.remove(name)
    folders = [out / bag['name'] for bag in result['bags']]
    played = [folder for folder in folders if (folder / LIVE).is_file()]
    if not played:
        return None, interrupted
    live = merge_live(played)
    write_json(out / LIVE, live)
    return live, interrupted


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class _Bars:
    """A bar for each bag that is under way; any thread may move it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def update(self, name: str, done: int, total: int) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(escape(name))
        self._progress.update(self._bars[name], completed=done, total=total)

    def remove(self, name: str) -> None:
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))


def print_result(result: Result, console: Console) -> None:
    """Print the figures over all bags, those of each class, and what to know of the bags."""
    overall = result['overall']
    title = f'{result["model"]["name"]} on {result["model"]["engine"]}, {overall["frames"]} frames'
    figures = Table('figure', _right('value'), _right('95 %'), title=escape(title))
    for name, figure in overall['figures'].items():
        if figure['value'] is not None:
            figures.add_row(name, *_cells(figure))
    classes = Table('class', _right('iou'), _right('95 %'))
    for name, figure in overall['iou'].items():
        classes.add_row(escape(name), *_cells(figure))
    for table in (figures, classes):
        if table.row_count:
            console.print(table)
    space = result['comparison_space']
    if space is not None and space['name'] != result['label_space']['name']:
        console.print(f'{space["name"]}: {space["description"]}', highlight=False, markup=False)
    for bag in result['bags']:
        broken = sum(topic['broken'] for topic in bag['topics'])
        notes = [*filter(None, [bag['damage']]), *bag.get('notes', [])]
        if bag['interrupted']:
            notes.append(f'interrupted after {bag["frames"]} frames')
        if bag['broken']:
            first = bag['broken'][0]
            notes.append(
                f'{broken} broken messages, the first {first["topic"]} {first["index"]}: '
                f'{first["reason"]}'
            )
        if notes:
            console.print(f'{bag["name"]}: {"; ".join(notes)}', highlight=False, markup=False)


def _print_live(live: dict[str, Any], console: Console) -> None:
    table = Table('live', _right('value'))
    for name in ('latency_ms', 'age_ms'):
        values = ' / '.join('-' if v is None else f'{v:.1f}' for v in live[name].values())
        table.add_row(f'{name} {" / ".join(live[name])}', values)
    table.add_row('frames', str(live['frames_in']))
    table.add_row('dropped', f'{live["frames_dropped"]} ({live["dropped_share"]:.1%})')
    table.add_row('cpu_cores', str(live['cpu_cores']))
    table.add_row('memory_mb', str(live['memory_mb']['max']))
    console.print(table)


def _right(name: str) -> Column:
    return Column(name, justify='right')


def _cells(figure: Figure) -> tuple[str, str]:
    value, low, high = (figure[name] for name in ('value', 'low', 'high'))
    interval = '-' if low is None or high is None else f'{low:.4f} to {high:.4f}'
    return '-' if value is None else f'{value:.4f}', interval
