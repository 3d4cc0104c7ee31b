"""README is short and leads to every page of docs, and what the pages name is there."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths_for_tests import ROOT
from test_borders import GROUND_FLOOR, MAY_IMPORT

from lwseg_ros.image_messages import ENCODINGS

README = ROOT / 'README.md'
DOCS = ROOT / 'docs'
PACKAGE = ROOT / 'lwseg_ros'
PAGES = [*ROOT.glob('*.md'), *DOCS.glob('*.md'), *(PACKAGE / 'models').glob('*.md')]

# Folders whose files pages may name, from the repository on or from the package on.
FOLDERS = {
    *('config', 'docs', 'launch', 'lwseg_ros', 'test'),
    *(path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()),
}


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    text = re.sub(r'^```.*?^```$', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)
    return re.sub(r'\n\n(?: {4}.*\n|\n)+', '\n\n', text)


def code_spans(page: Path) -> list[str]:
    return re.findall(r'`([^`\n]+)`', prose(page))


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor, which may be empty, of each link within the repository."""
    for target in re.findall(r'\]\(([^()\s]+)\)', re.sub(r'`[^`\n]+`', '', prose(page))):
        if '://' not in target:
            path, _, anchor = target.partition('#')
            yield ((page.parent / path).resolve() if path else page), anchor


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', prose(page), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def reached() -> set[Path]:
    """Return the pages that README leads to, over other pages, too."""
    found, new = set(), {README}
    while new:
        found |= new
        new = {path for page in new for path, _ in links(page) if path.suffix == '.md'} - found
    return found


def test_readme_is_read_in_ten_minutes() -> None:
    assert len(README.read_text(encoding='utf-8').splitlines()) <= 160


def test_readme_names_the_encodings_that_the_code_knows() -> None:
    (row,) = re.findall(
        r'^\| in \| `image` \|.*\| (.+); others .*\|$', prose(README), re.MULTILINE
    )
    listed = row.replace('\\', '').split()
    found = {name: fnmatch.filter(ENCODINGS, name) for name in listed}
    assert all(found.values()), found
    assert sorted(each for names in found.values() for each in names) == sorted(ENCODINGS)


def test_readme_leads_to_every_page() -> None:
    assert set(PAGES) - reached() == set()
    assert {DOCS / 'parameters.md', DOCS / 'no_frames.md'} <= {path for path, _ in links(README)}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        assert path.exists(), f'no {path}'
        assert not anchor or anchor in anchors(path), f'{path.name} has no {anchor}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_files_that_pages_name_exist(page: Path) -> None:
    for span in code_spans(page):
        folder, slash, _ = span.partition('/')
        if slash and folder in FOLDERS and re.fullmatch(r'[\w./-]+', span):
            assert (ROOT / span).exists() or (PACKAGE / span).exists(), f'no {span}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_python_names_that_pages_name_exist(page: Path) -> None:
    for span in code_spans(page):
        if (match := re.match(r'lwseg_ros(?:\.\w+)+', span)) is None:
            continue
        path, names = PACKAGE, match.group().split('.')[1:]
        while names and (path / names[0]).is_dir():
            path /= names.pop(0)
        path = path / f'{names.pop(0)}.py' if names else path / '__init__.py'
        assert path.is_file(), f'no {match.group()}'
        for name in names[:1]:
            definition = rf'^(?:class|def) {name}\b'
            assert re.search(definition, path.read_text(encoding='utf-8'), re.MULTILINE), span


def test_drawing_shows_who_may_import_whom() -> None:
    drawing = (DOCS / 'architecture.md').read_text(encoding='utf-8')
    drawn = {
        (room, other)
        for room, others in re.findall(r'^ +(\w+) -(?:-|\.-)> (.+)$', drawing, re.MULTILINE)
        for other in others.split(' & ')
    }
    rooms = {module: module.partition('.')[0] for module in MAY_IMPORT}
    assert drawn == {
        (rooms[module], other)
        for module, others in MAY_IMPORT.items()
        for other in others
        if rooms[module] not in ('', 'cli', *GROUND_FLOOR)
        and other not in (rooms[module], *GROUND_FLOOR)
    }
