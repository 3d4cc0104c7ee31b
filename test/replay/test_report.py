"""report.html: everything is in it, it needs nothing else, and it is the same every time."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip('rosbags')
pytest.importorskip('jinja2')
pytest.importorskip('matplotlib')

from bags_for_tests import (
    by_time,
    camera_rows,
    compressed,
    painted,
    quick_settings,
    stamp,
    truth_rows,
    write_ros2,
)
from rich.console import Console

from lwseg_ros.replay import timelines
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.figures import merge
from lwseg_ros.replay.plots import MAX_POINTS, Row, plot_rows
from lwseg_ros.replay.report import write_report
from lwseg_ros.replay.run import Evaluated, RunOptions, evaluate_bags
from lwseg_ros.replay.settings import Settings

VOID = {'meta', 'img', 'br', 'hr', 'link', 'input'}


class Page(HTMLParser):
    """The elements of a page; fails where a tag is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding='utf-8')
        self.feed(self.source)
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return ' '.join(filter(None, self.texts))


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return quick_settings(tiny_model, block_seconds=0.5)


def evaluate(bags: list[Path], out: Path, settings: Settings, *fail_if: str) -> Evaluated:
    return evaluate_bags(bags, out, settings, Console(quiet=True), RunOptions(fail_if=fail_if))


def test_the_page_shows_what_was_found_and_needs_nothing_else(
    tmp_path: Path, settings: Settings
) -> None:
    rows = camera_rows(30)
    kind, message = rows[7][2]
    message.data = message.data[:-5]
    rows[7] = (*rows[7][:2], (kind, message))
    # What is in the name of a bag is text, not markup.
    bag = write_ros2(tmp_path / 'a <b>& drive', by_time(rows, truth_rows(range(0, 30, 2))))
    out = tmp_path / 'out'
    found = evaluate([bag], out, settings, 'drivable_iou<0.1', 'miou<0.999')
    page = Page(out / 'report.html')

    names = [tag for tag, _ in page.elements]
    assert 'script' not in names
    assert 'link' not in names
    for tag, attributes in page.elements:
        for name in ('src', 'href', 'xlink:href'):
            target = attributes.get(name)
            assert target is None or target.startswith(('data:image/jpeg;base64,', '#')), tag
    assert not re.search(r'url\((?!#)|@import', page.source)

    text = page.text
    assert 'tiny on a <b>& drive' in text
    assert 'a <b>' not in page.source
    figures = found.result['overall']['figures']
    for name in ('drivable_iou', 'miou', 'flicker', 'low_confidence'):
        assert name in text
    assert f'{figures["drivable_iou"]["value"]:.3f}' in text
    assert '15 with truth' in text
    assert 'Below each figure: its 95 % confidence interval' in text
    assert '1 of 2 conditions failed' in text
    assert 'broken messages: 1 of 30' in text
    assert 'message 7' in text
    for label in ('sky', 'building', 'road', 'car'):
        assert text.count(label) >= 3, 'in the legend, the classes and the confusion'
    pictures = [attributes for tag, attributes in page.elements if tag == 'img']
    assert {picture['alt'] for picture in pictures} == {'camera', 'model', 'truth'}

    svg = page.source[page.source.index('<svg') : page.source.rindex('</svg>') + 6]
    plot = ''.join(ElementTree.fromstring(svg).itertext())
    for title in ('Drivable IoU', 'Mean IoU', 'Flicker', 'Drivable stability', 'Low confidence'):
        assert title in plot
    assert 'var(--bad)' in svg, 'the broken message is marked'

    before = page.source
    write_report(out, found.result, None, found.checks)
    assert (out / 'report.html').read_text(encoding='utf-8') == before


def test_bags_without_truth_and_with_failures(tmp_path: Path, settings: Settings) -> None:
    rows = [
        (
            '/front/image/compressed',
            stamp(i),
            compressed(painted(i), stamp(i)),
        )
        for i in range(6)
    ]
    bag = write_ros2(tmp_path / 'plain', rows)
    notes = tmp_path / 'notes.mcap'
    notes.write_text('not a bag')
    out = tmp_path / 'out'
    evaluate([bag, notes], out, replace(settings, truth_topics=(), truth_space=None))
    page = Page(out / 'report.html')
    text = page.text
    assert 'bags that failed: 1' in text
    assert f'{notes}' in text
    assert 'Against truth' not in text
    assert 'Confusion' not in text
    assert 'drivable_stability' in text
    assert '/front/image/compressed, 6 of 6 messages' in text


def test_an_interrupted_evaluation_says_so(tmp_path: Path, settings: Settings) -> None:
    bag = write_ros2(tmp_path / 'drive', by_time(camera_rows(12), truth_rows(range(12))))
    out = tmp_path / 'out'

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    write_report(out, merge([evaluate_bag(bag, out / 'drive', settings, interrupt)]))
    text = Page(out / 'report.html').text
    assert 'interrupted' in text
    assert 'the rest is not in these figures' in text


def test_of_many_bags_the_worst_are_plotted(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, 'MAX_TIMELINES', 1)
    wrong = [
        (topic, recorded_ns, (kind, dataclasses.replace(message, data=message.data * 0)))
        for topic, recorded_ns, (kind, message) in truth_rows(range(8))
    ]
    bags = [
        write_ros2(tmp_path / name, by_time(camera_rows(8), rows))
        for name, rows in (('easy', truth_rows(range(8))), ('hard', wrong))
    ]
    evaluate(bags, tmp_path / 'out', settings)
    page = Page(tmp_path / 'out' / 'report.html')
    assert page.source.count('<svg') == 1
    assert 'hard  /cam/image' in page.texts
    assert 'The worst 1 of 2 bags.' in page.text


def test_long_lines_are_drawn_as_mean_and_range() -> None:
    seconds = np.arange(50 * MAX_POINTS) / 15
    values = np.sin(seconds / 300)
    values[1000:9000] = np.nan
    short = plot_rows([Row('a', seconds[:900], values[:900])], np.empty(0))
    long = plot_rows([Row('a', seconds, values, False, seconds[1000:1005])], seconds[3:4])
    assert len(short) < len(long) < 100_000, 'of 60000 points'
    ElementTree.fromstring(long)


def test_a_short_drive_promises_no_confidence_intervals(
    tmp_path: Path, settings: Settings
) -> None:
    bag = write_ros2(tmp_path / 'short', by_time(camera_rows(3), truth_rows(range(3))))
    evaluate([bag], tmp_path / 'out', settings)
    text = Page(tmp_path / 'out' / 'report.html').text
    assert 'too short for confidence intervals' in text
    assert 'Below each figure' not in text
