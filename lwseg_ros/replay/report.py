"""report.html: one page that shows what `lwseg bag evaluate` found, nothing outside it needed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lwseg_ros.errors import LwsegError
from lwseg_ros.files import write_atomically
from lwseg_ros.live.latency import PERCENTILES
from lwseg_ros.replay.checks import Check
from lwseg_ros.replay.meanings import MEANINGS
from lwseg_ros.replay.result import (
    ACCURACY_FIGURES,
    AGREEMENT_FIGURES,
    FRAMES,
    STABILITY_FIGURES,
    BagEntry,
    Figure,
    LookFirst,
    Result,
    TopicEntry,
    read_bag_result,
)

try:
    import jinja2

    from lwseg_ros.replay.timelines import timelines
except ImportError:
    raise LwsegError(
        'report.html is made with jinja2 and matplotlib: pip install jinja2 matplotlib, '
        'or leave it out with --no-report'
    ) from None

MAX_PICTURES = 6
PICTURE_WIDTH, PICTURE_QUALITY = 540, 80
MAX_TROUBLES = 40

GROUPS = (
    ('Against truth', ('drivable_iou', 'miou', *ACCURACY_FIGURES[2:])),
    ('Without truth', (*STABILITY_FIGURES, 'drivable_share')),
    ('Against the other model', AGREEMENT_FIGURES),
)

REASONS = {
    'drivable_iou': 'Lowest drivable IoU',
    'miou': 'Lowest mean IoU',
    'flicker': 'Most flicker',
    'drivable_stability': 'Least stable drivable area',
    'low_confidence': 'Least confident',
    'drivable_agreement': 'Least agreement on what is drivable',
}


def write_report(
    folder: Path,
    result: Result,
    live: Mapping[str, Any] | None = None,
    checks: Sequence[Check] = (),
) -> None:
    """Write `folder`/report.html from a result and what lies in the folders of its bags.

    `live` is what `merge_live` returns.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template('report.html.jinja')
    page = template.render(**_content(folder, result, live, checks))
    write_atomically(folder / 'report.html', page.strip().encode() + b'\n')


def _content(
    folder: Path, result: Result, live: Mapping[str, Any] | None, checks: Sequence[Check]
) -> dict[str, Any]:
    overall, bags = result['overall'], result['bags']
    drawn, note = timelines(folder, result)
    of_bags = bags[0]['name'] if len(bags) == 1 else f'{len(bags)} bags'
    seconds = sum(bag['seconds'] for bag in bags)
    against = result['against']
    return {
        'heading': f'{result["model"]["name"]} on {of_bags}',
        'subtitle': ' · '.join(
            [
                result['model']['engine'],
                f'{overall["frames"]} frames, {overall["frames_with_truth"] or "none"} with truth',
                f'{_duration(seconds)} of driving',
                *([f'against {against["name"]}, {against["engine"]}'] if against else []),
            ]
        ),
        'badges': _badges(result, checks),
        'checks': checks,
        'groups': _groups(result),
        'live': None if live is None else _live(live),
        'timelines': drawn,
        'timelines_note': note,
        'block_seconds': f'{result["configuration"]["block_seconds"]:g}',
        'looks': _looks(folder, result),
        'legends': _legends(result),
        'space': result['comparison_space'],
        'classes': _classes(result),
        'confusion': _confusion(result),
        'troubles': _troubles(result),
        'bag_columns': [MEANINGS[name].title for name in _bag_columns(result)],
        'bags': _bags(folder, result),
        'provenance': json.dumps(_provenance(result), indent=2, ensure_ascii=False),
    }


def _badges(result: Result, checks: Sequence[Check]) -> list[tuple[str, bool]]:
    badges = [('interrupted', False) if result['interrupted'] else ('complete', True)]
    if result['failures']:
        badges.append((f'bags that failed: {len(result["failures"])}', False))
    broken = sum(topic['broken'] for bag in result['bags'] for topic in bag['topics'])
    if broken:
        badges.append((f'broken messages: {broken}', False))
    if any(bag['damage'] for bag in result['bags']):
        badges.append(('damaged bags', False))
    if checks:
        failed = sum(check.failed for check in checks)
        text = f'{failed} of {len(checks)} conditions failed' if failed else 'conditions passed'
        badges.append((text, not failed))
    return badges


def _groups(result: Result) -> list[dict[str, Any]]:
    figures = result['overall']['figures']
    intervals = any(figure['low'] is not None for figure in figures.values())
    notes = {
        'Against truth': (
            'Below each figure: its 95 % confidence interval. '
            if intervals
            else 'The drive is too short for confidence intervals. '
        )
        + f'{result["overall"]["frames_with_truth"]} of {result["overall"]["frames"]} frames have '
        'truth.',
        'Without truth': 'What the model says of itself over time, on every frame.',
        'Against the other model': result['against']['engine'] if result['against'] else '',
    }
    groups = []
    for title, names in GROUPS:
        known = [name for name in names if figures[name]['value'] is not None]
        if known:
            shown = [_figure(name, figures[name]) for name in known]
            groups.append({'title': title, 'note': notes[title], 'figures': shown})
    return groups


def _figure(name: str, figure: Figure) -> dict[str, Any]:
    return {
        'name': name,
        'title': MEANINGS[name].title,
        'meaning': MEANINGS[name].text,
        **figure,
    }


def _live(live: Mapping[str, Any]) -> dict[str, Any]:
    latency, age, memory = live['latency_ms'], live['age_ms'], live['memory_mb']
    rows = [('latency', latency), ('age of the newest answer', age)]
    rows += [(f'node: {name}', stage) for name, stage in live['stages_ms'].items()]
    sent, processed = live['frames_in'], live['frames_processed']

    def tile(name: str, title: str, value: str, meaning: str) -> dict[str, Any]:
        return {
            **{'name': name, 'title': title, 'value': value, 'meaning': meaning},
            'low': None,
        }

    cores = live['cpu_cores']
    return {
        'note': f'Played at {live["settings"]["rate"]:g} times the recorded speed over '
        f'{live["middleware"]["rmw"]} to the node with {live["model"]["engine"]} on '
        f'{live["machine"]}. These figures are of this machine at that moment.'
        + (' The replay was interrupted.' if live['interrupted'] else ''),
        'figures': [
            tile('p99_ms', 'Latency, p99', _ms(latency['p99']), 'image sent to mask received'),
            tile(
                'age_p99_ms',
                'Age of the answer, p99',
                _ms(age['p99']),
                'of the newest mask at hand, at any moment',
            ),
            tile(
                'dropped_share',
                'Dropped',
                f'{live["dropped_share"]:.1%}',
                f'{sent - processed} of {sent} frames; {live["fps"]} answers a second at '
                f'{live["played_at_hz"]} frames',
            ),
            tile(
                'cpu_cores',
                'CPU',
                '–' if cores is None else f'{cores:.2f} cores',
                'mean use of the node while it was played to',
            ),
            tile(
                'memory_mb',
                'Memory',
                f'{memory["max"]:.0f} MB',
                f'most that the node had resident; {memory["first"]:.0f} MB at first',
            ),
        ],
        'percentiles': list(PERCENTILES),
        'rows': [{'title': title, 'values': list(values.values())} for title, values in rows],
    }


def _ms(value: float | None) -> str:
    return '–' if value is None else f'{value:.0f} ms'


def _looks(folder: Path, result: Result) -> list[dict[str, Any]]:
    several = len(result['bags']) > 1
    cameras = len({row['topic'] for row in result['look_first']})
    starts = _starts(folder, result['bags'])
    reasons: dict[str, list[dict[str, Any]]] = {}
    for row in result['look_first']:
        seconds = (row['stamp_ns'] - starts.get(row['bag'], row['stamp_ns'])) / 1e9
        place = [row['bag']] if several else []
        place += [row['topic']] if cameras > 1 else []
        place += [f'frame {row["index"]}', f'{seconds:.1f} s']
        frames = reasons.setdefault(row['reason'], [])
        if len(frames) < MAX_PICTURES:
            frames.append(
                {
                    'value': row['value'],
                    'stamp': row['stamp_ns'],
                    'place': ' · '.join(place),
                    'pictures': _pictures(folder / row['bag'], row),
                }
            )
    return [
        {
            'title': REASONS[name],
            'short': MEANINGS[name].title,
            'frames': frames,
        }
        for name, frames in reasons.items()
    ]


def _legends(result: Result) -> list[dict[str, Any]]:
    """Return the classes of the pictures; truth has its own where it is in another label space."""
    model, truth = result['label_space'], result['comparison_space']
    if truth is None or truth['classes'] == model['classes']:
        return [{'title': '', 'classes': model['classes']}]
    return [
        {'title': f'{title}: ', 'classes': space['classes']}
        for title, space in (('model', model), ('truth', truth))
    ]


def _pictures(folder: Path, row: LookFirst) -> list[dict[str, str]]:
    shown = []
    for name, title in (('input', 'camera'), ('overlay', 'model'), ('truth', 'truth')):
        path = folder / f'{row["picture"]}_{name}.jpg'
        picture = cv2.imread(str(path)) if path.is_file() else None
        if picture is None:
            continue
        scale = PICTURE_WIDTH / picture.shape[1]
        if scale < 1:
            size = PICTURE_WIDTH, max(1, round(picture.shape[0] * scale))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
        text = base64.b64encode(data.tobytes()).decode()
        shown.append({'title': title, 'data': f'data:image/jpeg;base64,{text}'})
    return shown


def _starts(folder: Path, bags: Iterable[BagEntry]) -> dict[str, int]:
    """Return the first stamp of each bag."""
    starts = {}
    for bag in bags:
        with (folder / bag['name'] / FRAMES).open(encoding='utf-8') as lines:
            first = lines.readline()
        if first:
            starts[bag['name']] = json.loads(first)['stamp_ns']
    return starts


def _classes(result: Result) -> list[dict[str, Any]]:
    overall, space = result['overall'], result['comparison_space']
    if space is None or overall['confusion'] is None or overall['accuracy'] is None:
        return []
    borders = overall['accuracy']['boundary']['classes']
    pixels = np.array(overall['confusion']).sum(1)
    return [
        {
            'name': each['name'],
            'color': each['color'],
            **overall['iou'][each['name']],
            'f1': borders.get(each['name'], {}).get('f1'),
            'share': pixels[each['id']] / pixels.sum(),
        }
        for each in space['classes']
        if each['name'] in overall['iou']
    ]


def _confusion(result: Result) -> dict[str, Any]:
    """Return the share of each true class that went to each answer, without empty ones."""
    counts, space = result['overall']['confusion'], result['comparison_space']
    if space is None or counts is None:
        return {'columns': [], 'rows': []}
    table = np.array(counts, np.float64)
    names = {each['id']: each['name'] for each in space['classes']}
    names[len(table)] = 'none'
    present = np.flatnonzero(table.sum(1))
    answered = np.flatnonzero(table.sum(0))
    columns = sorted({*present.tolist(), *answered.tolist()})
    return {
        'columns': [names[i] for i in columns],
        'rows': [
            {'name': names[i], 'shares': (table[i, columns] / table[i].sum()).tolist()}
            for i in present.tolist()
        ],
    }


def _troubles(result: Result) -> list[str]:
    """Return in sentences what was wrong with the bags."""
    troubles = [f'{failure["bag"]}: {failure["error"]}' for failure in result['failures']]
    for bag in result['bags']:
        found = []
        if bag['damage']:
            found.append(bag['damage'])
        if bag['interrupted']:
            found.append('the evaluation was interrupted: the rest is not in these figures')
        if bag['order'] != 'stamp':
            found.append('stamps jump too far to be sorted: frames are in the order of recording')
        for topic in bag['topics']:
            place = f'{topic["topic"]}: '
            if topic['broken']:
                found.append(f'{place}broken messages: {topic["broken"]} of {topic["messages"]}')
            if topic['stamps_back']:
                found.append(f'{place}stamps before the one before them: {topic["stamps_back"]}')
            if topic['without_stamp']:
                found.append(f'{place}messages without a stamp: {topic["without_stamp"]}')
            if topic['truth_unmatched']:
                found.append(f'{place}truth without a frame: {topic["truth_unmatched"]}')
        found += [
            f'{broken["topic"]}, message {broken["index"]}: {broken["reason"]}'
            for broken in bag['broken']
        ]
        if bag['left_out']:
            found.append(f'left out: {", ".join(bag["left_out"])}')
        troubles += [f'{bag["name"]}: {sentence}' for sentence in found]
    if len(troubles) > MAX_TROUBLES:
        more = len(troubles) - MAX_TROUBLES
        troubles = [*troubles[:MAX_TROUBLES], f'and {more} more, in result.json']
    return troubles


def _bag_columns(result: Result) -> list[str]:
    """Return the figures of each bag that are shown: some of those that are known at all."""
    figures = result['overall']['figures']
    names = ('drivable_iou', 'miou', 'false_drivable_rate', 'drivable_agreement', 'flicker')
    return [name for name in (*names, 'low_confidence') if figures[name]['value'] is not None]


def _bags(folder: Path, result: Result) -> list[dict[str, Any]]:
    columns = _bag_columns(result)
    rows = []
    for bag in result['bags']:
        figures = read_bag_result(folder, bag)['overall']['figures']
        rows.append(
            {
                **{name: bag[name] for name in ('name', 'frames', 'seconds')},
                'values': [figures[name]['value'] for name in columns],
                'topics': [_topic(entry) for entry in bag['topics']],
            }
        )
    return rows


def _topic(entry: TopicEntry) -> str:
    text = f'{entry["topic"]}, {entry["frames"]} of {entry["messages"]} messages'
    return f'{text}, truth: {entry["truth"]}' if entry['truth'] else text


def _provenance(result: Result) -> dict[str, Any]:
    bags = {bag['name']: {'path': bag['path'], 'sha256': bag['sha256']} for bag in result['bags']}
    names = ('model', 'against', 'versions', 'configuration')
    return {**{name: result[name] for name in names}, 'bags': bags}  # type: ignore[literal-required]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f'{seconds:.1f} s'
    return f'{seconds / 60:.1f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'
