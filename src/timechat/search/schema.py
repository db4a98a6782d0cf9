"""Tables of a library file, and the check that a file is one."""

import sqlite3
from collections.abc import Iterator

from timechat.search.records import LibraryError

LIBRARY_VERSION = 1

_APPLICATION_ID = 0x54434C42  # marks the file as a library
_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE videos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT UNIQUE NOT NULL, duration REAL NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, created REAL, player_offset REAL NOT NULL, notes TEXT NOT NULL
);
CREATE TABLE files (
    path BLOB PRIMARY KEY, video INTEGER REFERENCES videos (id), stamp TEXT, modified REAL NOT NULL,
    is_offline INTEGER NOT NULL DEFAULT 0, error TEXT
);
CREATE INDEX files_by_video ON files (video);
CREATE TABLE parts (
    video INTEGER NOT NULL REFERENCES videos (id), kind TEXT NOT NULL, facts TEXT NOT NULL, num_rows INTEGER NOT NULL,
    notes TEXT NOT NULL, PRIMARY KEY (video, kind)
);
CREATE TABLE frames (
    video INTEGER PRIMARY KEY REFERENCES videos (id), encoder TEXT NOT NULL, num_frames INTEGER NOT NULL,
    times BLOB NOT NULL, cuts BLOB NOT NULL, cut_times BLOB NOT NULL, statistics BLOB NOT NULL,
    segment_starts BLOB NOT NULL, segment_vectors BLOB NOT NULL,
    vectors BLOB NOT NULL -- last, because SQLite reads a row up to the last column that is asked for
);
CREATE TABLE lines (
    id INTEGER PRIMARY KEY, video INTEGER NOT NULL REFERENCES videos (id), kind TEXT NOT NULL, start REAL NOT NULL,
    end REAL NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX lines_by_video ON lines (video, kind);
CREATE VIRTUAL TABLE words USING fts5 (
    text, content = 'lines', content_rowid = 'id', tokenize = "unicode61 remove_diacritics 2"
);
CREATE TRIGGER line_added AFTER INSERT ON lines BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER line_removed AFTER DELETE ON lines BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
END;
"""

_TABLES_OF_WORK = """
CREATE TABLE IF NOT EXISTS unfinished (
    video INTEGER NOT NULL REFERENCES videos (id), first INTEGER NOT NULL, facts TEXT NOT NULL,
    num_frames INTEGER NOT NULL, num_requested INTEGER NOT NULL, last_pixels TEXT NOT NULL, times BLOB NOT NULL,
    vectors BLOB NOT NULL, PRIMARY KEY (video, first)
);
CREATE TABLE IF NOT EXISTS read_again (
    video INTEGER NOT NULL REFERENCES videos (id), kind TEXT NOT NULL, PRIMARY KEY (video, kind)
);
"""


def is_new(connection: sqlite3.Connection) -> bool:
    """Return whether a file has no tables."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def check_version(connection: sqlite3.Connection, name: str) -> None:
    """Check that a file with tables is a library of this version.

    Args:
        connection: Connection to the file.
        name: Name of the file for messages.

    Raises:
        LibraryError: It is another kind of file, or of another version.
    """
    application, version = (
        int(connection.execute(f"PRAGMA {pragma}").fetchone()[0]) for pragma in ("application_id", "user_version")
    )
    if application != _APPLICATION_ID:
        raise LibraryError(f"{name}: is not a library of timechat; give another file with --library")
    if version != LIBRARY_VERSION:
        raise LibraryError(
            f"{name}: is a library of version {version}, and this timechat uses version {LIBRARY_VERSION}; index the "
            "videos again into another file with --library"
        )


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of a new library, in the transaction of the caller."""
    for statement in _statements(_TABLES):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {LIBRARY_VERSION}")


def make_tables_of_work(connection: sqlite3.Connection) -> None:
    """Make the tables of unfinished work, which older libraries lack, in the transaction of the caller."""
    for statement in _statements(_TABLES_OF_WORK):
        connection.execute(statement)


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script, which `executescript` would run outside of the transaction."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
