"""SQLite files of rosbag2: closed, cut off, or with a journal that their recorder left."""

from __future__ import annotations

import shutil
import sqlite3
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from lwseg_ros.bags.container import Channel, StoredMessage, ros_type

SQLITE_MAGIC = b'SQLite format 3\0'
JOURNALS = ('-wal', '-journal')
"""What SQLite has beside a file while it is written, and after it was not closed."""

_MAX_MISSING = 1000
"""After so many rows that cannot be read none is looked for any more (our choice)."""


class SqliteFile:
    """An SQLite file, a Container; one with journals is given as its `merged` copy."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ''
        self.channels: dict[int, Channel] = {}
        self._ids = array('q')
        """Of all messages that can be read, in the order of their recording."""
        missing = _missing_bytes(path)
        if missing:
            self.damage = f'{missing} of its bytes are missing'
        with closing(_open(path)) as base:
            try:
                topics = _rows(base, 'SELECT * FROM topics')
            except sqlite3.Error as error:
                self._note(error)
                return
            counts: Counter[int] = Counter()
            try:
                if missing:
                    raise sqlite3.DatabaseError
                self._ids.extend(
                    row[0]
                    for row in base.execute('SELECT id FROM messages ORDER BY timestamp, id')
                )
                counts.update(
                    dict(base.execute('SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id'))
                )
                if counts.total() != len(self._ids):
                    raise sqlite3.DatabaseError('its index is damaged')
            except sqlite3.Error as error:
                self._note(error)
                counts = self._search(base)
            definitions = _definitions(base)
        for topic in topics:
            encoding = topic.get('serialization_format', 'cdr')
            kind = ros_type(topic['type'], encoding)
            definition = definitions.get(topic['type'], '')
            self.channels[topic['id']] = Channel(
                topic['name'], kind, encoding, definition, counts[topic['id']]
            )

    def messages(self, channels: Collection[int]) -> Iterator[StoredMessage]:
        """Read the messages of some channels in the order of their recording."""
        wanted = ','.join(str(int(channel)) for channel in channels)
        # What is not asked for is not read.
        query = (
            'SELECT topic_id, timestamp, data FROM messages '
            f'WHERE id = ? AND topic_id IN ({wanted})'
        )
        with closing(_open(self.path)) as base:
            for number in self._ids:
                try:
                    row: Any = base.execute(query, (number,)).fetchone()
                except sqlite3.Error as error:
                    self._note(error)
                    continue
                if row is not None:
                    yield StoredMessage(row[0], row[1], bytes(row[2]))

    def _search(self, base: sqlite3.Connection) -> Counter[int]:
        """Find the messages of a damaged file: pages are missing, so rows are asked for singly."""
        found: list[tuple[int, int, int]] = []
        data = b''
        missed = 0
        self._ids = array('q')
        try:
            (number,) = base.execute('SELECT MIN(id) - 1 FROM messages').fetchone()
        except sqlite3.Error:
            number = None
        number = number or 0
        while missed < _MAX_MISSING:
            number += 1
            missed += 1
            try:
                row: Any = base.execute(
                    'SELECT timestamp, topic_id, data FROM messages WHERE id = ?', (number,)
                ).fetchone()
            except sqlite3.Error:
                continue
            if row is not None:
                missed = 0
                found.append((row[0], number, row[1]))
                data = bytes(row[2])
        # Where a page is cut, its rest reads as zeros. Pages are filled in the order of the
        # messages, so only the last that can be read may end in such zeros.
        if found and data.endswith(b'\0') and self.path.stat().st_size % _page_bytes(self.path):
            found.pop()
        found.sort()
        self._ids.extend(number for _, number, _ in found)
        return Counter(channel for _, _, channel in found)

    def _note(self, error: Exception) -> None:
        self.damage = self.damage or ' '.join(str(error).split()) or 'it cannot be read'


def journals(path: Path) -> list[Path]:
    """Return the journals beside an SQLite file that have something in them."""
    found = [path.with_name(path.name + ending) for ending in JOURNALS]
    return [file for file in found if file.is_file() and file.stat().st_size]


def merged(path: Path, folder: Path) -> Path:
    """Return a copy in `folder` of an SQLite file and its journals, made one by SQLite.

    SQLite would write beside the original otherwise.
    """
    for file in (path, *journals(path)):
        shutil.copyfile(file, folder / file.name)
    copy = folder / path.name
    # What is wrong with it is told when it is read.
    with closing(sqlite3.connect(copy)) as base, suppress(sqlite3.Error):
        base.execute('SELECT COUNT(*) FROM sqlite_master').fetchone()  # rolls a journal back
        base.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchone()
    return copy


def _open(path: Path) -> sqlite3.Connection:
    # Who stops reading may be another thread than the one that began.
    uri = f'{path.absolute().as_uri()}?immutable=1'
    base = sqlite3.connect(uri, uri=True, check_same_thread=False)
    with suppress(sqlite3.Error):  # the next query tells it
        base.execute('PRAGMA writable_schema = ON')  # or SQLite refuses a file that is cut
    return base


def _rows(base: sqlite3.Connection, query: str) -> list[dict[str, Any]]:
    cursor = base.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _definitions(base: sqlite3.Connection) -> dict[str, str]:
    """Return the definitions of message types, which older versions of rosbag2 do not write."""
    try:
        return {
            row['topic_type']: row['encoded_message_definition']
            for row in _rows(base, 'SELECT * FROM message_definitions')
            if row['encoding'] == 'ros2msg'
        }
    except (sqlite3.Error, LookupError):
        return {}


def _missing_bytes(path: Path) -> int:
    """Return how many bytes of its last pages a file has lost, by what its header says."""
    with path.open('rb') as file:
        head = file.read(100)
    # The number of pages holds where the number of the change stands beside it, too.
    pages = int.from_bytes(head[28:32], 'big') if head[24:28] == head[92:96] else 0
    return max(0, pages * _page_bytes(path) - path.stat().st_size)


def _page_bytes(path: Path) -> int:
    with path.open('rb') as file:
        size = int.from_bytes(file.read(18)[16:], 'big')
    return 65536 if size == 1 else max(1, size)
