"""Pages of the site that lie elsewhere in the repository, and what links and formulas become.

MkDocs runs this (`hooks` in mkdocs.yml). The Markdown is written for GitHub: links are between
files of the repository, formulas in LaTeX.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]

# Files of the repository that are pages of the site, too. Those in docs/ are without being named.
PAGES = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    **{
        f'lwseg_ros/models/{card.name}': f'models/{card.name}'
        for card in sorted((ROOT / 'lwseg_ros' / 'models').glob('*.md'))
    },
}

_LINK = re.compile(
    r'(?P<image>!?)\[(?P<text>[^][]*)\]\((?P<target>[^()\s:#]+)(?P<anchor>#[^()\s]*)?\)'
)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Any, config: Any, **kwargs: Any) -> Any:
    """Add the pages from elsewhere."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Any, **kwargs: Any) -> str:
    """Turn links between files of the repository into links between pages.

    Of a link to a file that is no page its text stays; one to nothing stays as it is, for MkDocs
    to complain of.
    """
    here = page.file.src_uri
    sources = {place: source for source, place in PAGES.items()}
    folder = posixpath.dirname(sources.get(here, f'docs/{here}'))

    def linked(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match['target']))
        place = PAGES.get(target, target.removeprefix('docs/'))
        if files.get_file_from_path(place) is not None:
            place = posixpath.relpath(place, posixpath.dirname(here) or '.')
            return f'{match["image"]}[{match["text"]}]({place}{match["anchor"] or ""})'
        return match['text'] if (ROOT / target).exists() else match[0]

    return _LINK.sub(linked, markdown)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Turn formulas into MathML, which browsers show by themselves."""

    def formula(match: re.Match[str]) -> str:
        display = 'block' if match[1] == 'div' else 'inline'
        return convert(html.unescape(match[2]), display=display)

    return _FORMULA.sub(formula, content)
