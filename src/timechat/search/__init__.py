"""Search in real videos: frames and sentences as vectors, scores of frames, spans of moments, libraries of videos.

files ─▶ indexing ─▶ library (one SQLite file) ─▶ query ─▶ moments
            ├─ video_vectors: frames, about one per second ─▶ encoder ─▶ vectors, cuts
            └─ line_sources: speech, on-screen text, captions ─▶ lines
"""

from timechat.search.library import Library, default_library
from timechat.search.records import LibraryError

__all__ = ["Library", "LibraryError", "default_library"]
