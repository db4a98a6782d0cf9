"""Forms with a file, written to the disk as they arrive, in constant memory."""

import re
from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path
from typing import BinaryIO

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from timechat.serving.errors import RequestError

_MAX_FIELD_BYTES = 10_000
_MAX_NAME = 255
_MAX_PARTS = 100
_ESCAPED = re.compile(r"%(22|0[Aa]|0[Dd])")
"""What browsers write for a quotation mark or a line break in a name; no other character is written this way."""


class FileForm:
    """A `multipart/form-data` body with one file.

    Attributes:
        fields: Other parts, as text.
        filename: Name of the file, without folders; None until it has arrived.
    """

    def __init__(self, content_type: str, path: Path) -> None:
        """Prepare to read a form.

        Args:
            content_type: Content-Type header of the request.
            path: Path to which the part named `file` is written.

        Raises:
            RequestError: The header is not that of such a form.
        """
        header = Message()
        header["content-type"] = content_type
        boundary = header.get_param("boundary")
        if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
            raise RequestError(415, "upload a file as multipart/form-data with a part named file", "file")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._path, self._file = path, None
        self._header = (b"", b"")
        self._part: dict[str, str] = {}
        self._value = b""
        self._num_parts, self._is_whole = 0, False
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_header(data[start:end], b""),
            "on_header_value": lambda data, start, end: self._add_header(b"", data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": lambda data, start, end: self._take(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._close,
        }
        self._parser = MultipartParser(boundary.encode("latin-1", "replace"), callbacks)  # type: ignore[arg-type]

    _file: BinaryIO | None

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Read the whole form.

        Raises:
            RequestError: The form is malformed or has no file.
        """
        try:
            async for chunk in chunks:
                await run_in_threadpool(self._parser.write, chunk)
            self._parser.finalize()
        except MultipartParseError as error:
            raise RequestError(400, f"the form is malformed: {error}", "file") from error
        finally:
            if self._file is not None:
                self._file.close()
        if self._num_parts and not self._is_whole:
            raise RequestError(400, "the form is incomplete", "file")
        if self.filename is None:
            raise RequestError(400, "the form has no part named file with a filename", "file")
        if not self._path.stat().st_size:
            raise RequestError(400, "the file is empty", "file")

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise RequestError(413, f"the form has more than {_MAX_PARTS} parts", headers={"Connection": "close"})
        self._part, self._value, self._header = {}, b"", (b"", b"")

    def _add_header(self, name: bytes, value: bytes) -> None:
        self._header = (self._header[0] + name, self._header[1] + value)

    def _end_header(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            disposition = Message()
            disposition["content-disposition"] = self._header[1].decode("utf-8", "replace").replace("\n", " ")
            for key in ("name", "filename"):
                value = disposition.get_param(key, header="content-disposition")
                if isinstance(value, tuple):  # RFC 2231
                    value = value[2]
                if isinstance(value, str):
                    self._part[key] = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)
        self._header = (b"", b"")

    def _open(self) -> None:
        if self._part.get("name") != "file":
            return
        if self.filename is not None:
            raise RequestError(400, "the form has two files; upload them one by one", "file")
        self.filename = shown_name(self._part.get("filename", ""))
        self._file = self._path.open("wb")

    def _take(self, data: bytes) -> None:
        if self._part.get("name") == "file":
            assert self._file is not None
            self._file.write(data)
        else:
            self._value += data
            if len(self._value) > _MAX_FIELD_BYTES or len(self.fields) > 20:
                raise RequestError(413, "the form has fields that are too long or too many")

    def _end(self) -> None:
        if (name := self._part.get("name")) and name != "file":
            self.fields[name] = self._value.decode("utf-8", "replace")

    def _close(self) -> None:
        self._is_whole = True


def shown_name(filename: str) -> str:
    """Return the name of an uploaded file without folders and control characters, for display only.

    The name is never part of a path on this machine.
    """
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(char for char in last if char.isprintable())
    return clean[:_MAX_NAME] or "video"
