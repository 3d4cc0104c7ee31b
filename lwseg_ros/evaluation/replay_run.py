"""Several bags, one after the other, with progress in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.replay import RESULT, Settings, bag_names, evaluate_bag, write_json
from lwseg_ros.evaluation.replay_figures import merge
from lwseg_ros.evaluation.replay_result import Failure, Figure, Result


def evaluate_bags(bags: Sequence[Path], out: Path, settings: Settings, console: Console) -> Result:
    """Evaluate bags into `out/BAG/` and merge their results in `out/result.json`.

    Bags that are finished are not evaluated again. After Ctrl-C the result is of what was done,
    and says so. DataError, after the others are done, if a bag cannot be evaluated.
    """
    results: list[Result] = []
    failures: list[Failure] = []
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        for bag, name in zip(bags, bag_names(bags), strict=True):
            task = progress.add_task(escape(name), total=None)

            def advance(done: int, total: int, task: int = task) -> None:
                progress.update(task, completed=done, total=total)  # type: ignore[arg-type]

            try:
                result = evaluate_bag(bag, out / name, settings, advance)
            except DataError as error:
                failures.append(Failure(bag=str(bag), error=str(error)))
                continue
            finally:
                progress.remove_task(task)
            results.append(result)
            if result['interrupted']:
                break
    if not results:
        raise DataError('; '.join(failure['error'] for failure in failures))
    merged = merge(results)
    merged['failures'] = failures
    write_json(out / RESULT, merged)
    print_result(merged, console)
    console.print(f'results are in {out}', highlight=False)
    if failures:
        raise DataError(
            f'{len(failures)} of {len(bags)} bags could not be evaluated; the first: '
            f'{failures[0]["error"]}'
        )
    return merged


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
    for bag in result['bags']:
        broken = sum(topic['broken'] for topic in bag['topics'])
        notes = [bag['damage']] if bag['damage'] else []
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


def _right(name: str) -> Column:
    return Column(name, justify='right')


def _cells(figure: Figure) -> tuple[str, str]:
    value, low, high = (figure[name] for name in ('value', 'low', 'high'))
    interval = '-' if low is None or high is None else f'{low:.4f} to {high:.4f}'
    return '-' if value is None else f'{value:.4f}', interval
