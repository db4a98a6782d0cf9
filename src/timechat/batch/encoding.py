"""Videos that a Ray cluster encodes for a library; the process of the command writes the library."""

import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from timechat.batch.stages import OnPiece, Piece
from timechat.batch.worker import Worker
from timechat.errors import TimeChatError, describe_error
from timechat.search.encoded_files import EncodedFile, encode_file
from timechat.search.encoder import FrameTextEncoder, load_encoder

_MAX_SECONDS = 6 * 3600.0  # of one video; each part of 16 frames has a limit of its own
_PART_SECONDS = 600.0


@dataclass(frozen=True)
class FileJob:
    """A file to encode.

    Attributes:
        video: Path, absolute.
        known: SHA-256 of contents whose frames need not be encoded.
    """

    video: str
    known: frozenset[str]


@dataclass(frozen=True)
class EncodeVideo:
    """Stage that encodes the frames of a file.

    Attributes:
        encoder: Name of the encoder.
        fingerprint: Fingerprint of the encoder in the process of the command.
    """

    encoder: str
    fingerprint: str

    @cached_property
    def _encoder(self) -> FrameTextEncoder:
        encoder = load_encoder(self.encoder)
        if encoder.fingerprint != self.fingerprint:
            raise TimeChatError(
                f"the encoder {self.encoder} of another machine is not that of this one; install the same version of "
                "TimeChat and the same model everywhere"
            )
        return encoder

    def load(self) -> None:
        """Load the encoder."""
        self._encoder  # noqa: B018 - loaded here, before the first file

    def __call__(self, row: FileJob, pieces: Sequence[Piece], on_piece: OnPiece, /) -> dict[str, Any]:  # noqa: ARG002
        """Return the `file`; see `Stage`."""
        return {"file": encode_file(row.video, self._encoder, row.known, timeout=_PART_SECONDS)}


class FileActor:
    """Encodes files in a worker process, which is killed when a video hangs; one actor of the pool."""

    def __init__(self, stage: EncodeVideo, known: frozenset[str]) -> None:
        from timechat.batch.items import hide_main

        hide_main()
        self._worker, self._known = Worker(stage), known

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Encode one file; an error of the encoder is returned too, because Ray would repeat it."""
        path = item["id"]
        try:
            outcome = self._worker.run(FileJob(path, self._known), timeout=_MAX_SECONDS)
        except TimeChatError as error:
            return {"id": path, "file": b"", "fatal": describe_error(error)}
        file = EncodedFile(path, error=outcome.error) if outcome.result is None else outcome.result["file"]
        return {"id": path, "file": pickle.dumps(file), "fatal": ""}


@dataclass(frozen=True)
class ClusterEncoder:
    """Function that encodes files on a Ray cluster, as `Library.index` takes it.

    Attributes:
        stage: Stage that encodes a file.
        address: `"auto"` for the cluster of this machine, `"local"` for processes of this machine, or `HOST:PORT`.
        actors: Number of processes; None for one.
    """

    stage: EncodeVideo
    address: str
    actors: int | None = None

    def __call__(
        self, paths: Sequence[str], known: Collection[str], check: Callable[[], object]
    ) -> Iterator[EncodedFile]:
        """Yield files in the order in which they are finished; a file can be missing at the end."""
        if not paths:
            return
        from timechat.batch.ray_data import choose_pool, connected, items_dataset, map_actors, run_rounds

        missing = set(paths)

        def begin_round(fitting: int) -> Any:
            dataset = items_dataset([{"id": path} for path in sorted(missing)])
            return map_actors(dataset, FileActor, (self.stage, frozenset(known)), fitting, 0.0)

        def should_stop() -> bool:
            check()
            return False

        with connected(self.address):
            number, gpus = choose_pool(self.actors, 0.0)
            for item in run_rounds(missing, begin_round, number, gpus, should_stop):
                if item["id"] in missing:
                    missing.remove(item["id"])
                    yield pickle.loads(item["file"])
