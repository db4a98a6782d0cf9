"""Pages of lists, as in OpenAI's API."""

from collections.abc import Sequence
from typing import Any

from timechat.serving.errors import RequestError


def list_page(records: Sequence[dict[str, Any]], after: str | None, limit: int | None, kind: str) -> dict[str, Any]:
    """Return the list object with a page of records.

    Args:
        records: All records, each with an `id`.
        after: Id of the record before the page; None for the first page.
        limit: Maximum number of records; None for all.
        kind: Name of a record in messages: `file` or `job`.

    Raises:
        RequestError: There is no record with the id `after` (404).
    """
    if after is not None:
        ids = [record["id"] for record in records]
        if after not in ids:
            raise RequestError(
                404, f"there is no {kind} {after[:40]!r} to continue after", "after", f"{kind}_not_found"
            )
        records = records[ids.index(after) + 1 :]
    data = list(records[:limit])
    return {"object": "list", "data": data, "has_more": len(data) < len(records)}
