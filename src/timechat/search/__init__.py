"""Search in real videos: frames and sentences as vectors, scores of frames, spans of moments, libraries of videos.

files ─▶ indexing ─▶ library (one SQLite file) ─▶ query ─▶ moments
            ├─ video_vectors: frames, about one per second ─▶ encoder ─▶ vectors, cuts
            └─ line_sources: speech, on-screen text, captions ─▶ lines
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timechat.search.library import Library, default_library
    from timechat.search.records import LibraryError

# Imported on first use: the settings of a batch need a type of this folder, but no library.
_HOMES = {"Library": "library", "LibraryError": "records", "default_library": "library"}

__all__ = ["Library", "LibraryError", "default_library"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'timechat.search' has no attribute {name!r}")
    return getattr(import_module(f"timechat.search.{_HOMES[name]}"), name)
