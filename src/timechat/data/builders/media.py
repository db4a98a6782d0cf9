"""Transcripts and compressed copies of the videos of a build; what exists is not made again."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from timechat.data.builders.build import BuildOptions, Prepare
from timechat.data.builders.video_folder import VideoFolder, video_id
from timechat.data.transcripts import transcript_path, write_transcript
from timechat.errors import VideoError
from timechat.speech.recognition import SpeechRecognizer
from timechat.video.clips import compress_video

COMPRESSED_FPS = 6
COMPRESSED_SIDE = 224  # pixels
_SPEECH_SOURCE = "yttemporal"

Progress = Callable[[str, int, int], None]
"""Callback with a stage, the number of finished steps and the number of all steps."""


@dataclass(frozen=True, kw_only=True)
class MediaOptions:
    """What is made of the videos of a build.

    Attributes:
        asr: Speech recogniser for videos without a transcript, see `transcribe_audio`; None recognises nothing.
        compress: Folder for compressed copies; None makes none.
        timeout: Maximum time to read one video, in seconds.
    """

    asr: str | None = None
    compress: Path | None = None
    timeout: float = 600.0


@dataclass
class PreparedMedia:
    """What a build needs of transcripts and copies.

    Attributes:
        prepare: Function for `build_file`, which makes them; None if nothing is made.
        problems: Messages about videos that could not be transcribed or compressed.
    """

    prepare: Prepare | None = None
    problems: list[str] = field(default_factory=list)


def prepare_media(
    source: str, annotations: Path, videos: Path, options: BuildOptions, media: MediaOptions, progress: Progress
) -> PreparedMedia:
    """Prepare transcripts and copies of videos.

    For speech as the answer (`yttemporal` with a folder), the folder of annotations is the folder of transcripts, and
    all videos are transcribed first. For other sources, a video is transcribed when its first record is built.

    Args:
        source: Name of the source.
        annotations: Annotations of the source.
        videos: Folder of the videos.
        options: Options of the build.
        media: Options of transcripts and copies.
        progress: Callback for the progress of one video.

    Raises:
        ValueError: Speech is to be recognised, and no folder of transcripts is named; or the copies would be written
            among the videos.
        ModuleNotFoundError, CheckpointError: The recogniser cannot be used.
    """
    prepared = PreparedMedia()
    folder = options.transcripts
    is_speech = source == _SPEECH_SOURCE and not annotations.is_file()
    if media.asr is not None and is_speech:
        folder = annotations
    if media.asr is not None and folder is None:
        raise ValueError("--asr writes transcripts to the folder that --transcripts names; add --transcripts DIR")
    if media.compress is not None and media.compress.resolve().is_relative_to(videos.resolve()):
        raise ValueError(f"{media.compress}: is in the folder of the videos; give --compress a folder beside it")
    recognizer = None if media.asr is None else SpeechRecognizer(media.asr)
    if recognizer is not None and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def listen(file: Path) -> None:
        """Write the transcript of a video, if it has none."""
        if recognizer is None or folder is None or (path := transcript_path(folder, file.name)).exists():
            return
        try:
            speech = recognizer.transcribe(file, timeout=media.timeout, progress=progress)
        except VideoError as error:
            prepared.problems.append(f"no transcript: {error}")
        else:
            write_transcript(path, speech.lines)

    def prepare(file: Path) -> Path:
        """Write the transcript and the copy of a video, and return the file that the records name."""
        if not is_speech:
            listen(file)
        return file if media.compress is None else _compressed(file, videos, media.compress, media, prepared.problems)

    if is_speech and recognizer is not None:
        for file in VideoFolder(videos):
            listen(file)
    if recognizer is not None or media.compress is not None:
        prepared.prepare = prepare
    return prepared


def _compressed(file: Path, videos: Path, folder: Path, media: MediaOptions, problems: list[str]) -> Path:
    """Return the compressed copy of a video, or the video itself if it cannot be compressed."""
    target = (folder / file.relative_to(videos)).with_name(f"{video_id(file.name)}.mp4")
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        compress_video(file, target, fps=COMPRESSED_FPS, short_side=COMPRESSED_SIDE, timeout=media.timeout)
    except VideoError as error:
        problems.append(f"not compressed, so the records name the video itself: {error}")
        return file
    return target
