"""Retrieval in an open video: its frame vectors, the windows that the model reads, and answers by the search alone."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from timechat.answers.events import Answer, Event
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import format_events
from timechat.answers.windows import Window
from timechat.backbones.backbone import Check, acquire
from timechat.pipeline.request import Request
from timechat.pipeline.session import ProgressCallback, VideoSession
from timechat.search.encoder import FrameTextEncoder, load_encoder
from timechat.search.retrieval import best_windows, frames_between, rank_windows, read_share, window_priors
from timechat.search.spans import smooth_scores
from timechat.search.video_vectors import FRAMES_PER_SECOND, FoundSpan, VideoVectors, encode_video, find_spans

_MAX_MOMENTS = 1000  # number of moments of a search for all of them
_loaded: dict[str, FrameTextEncoder] = {}
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class ChosenWindows:
    """The windows that the model reads.

    Attributes:
        windows: Windows in order of time.
        priors: Probability of each window of the video to hold the moment, by the encoder alone; their sum is 1.
        share: Share of the video that they cover, from 0 to 1.
        note: Sentence about the choice, for readers of the answer.
    """

    windows: tuple[Window, ...]
    priors: Mapping[Window, float]
    share: float
    note: str

    def describe(self, answer: Answer) -> Answer:
        """Return the answer about these windows with their share of the video, and the note."""
        return replace(answer, read_share=self.share, notes=(self.note, *answer.notes))


def shared_encoder(encoder: str | FrameTextEncoder) -> FrameTextEncoder:
    """Return an encoder; one that is given by its name is loaded once per process."""
    if isinstance(encoder, FrameTextEncoder):
        return encoder
    with _loading:
        if encoder not in _loaded:
            _loaded[encoder] = load_encoder(encoder)
        return _loaded[encoder]


def windows_to_read(
    request: Request, video: VideoSession, check: Check, progress: ProgressCallback | None = None
) -> ChosenWindows:
    """Rank the windows of an open video for the query of a request, and choose those to read; see `choose_windows`."""
    return choose_windows(request, video.windows, lambda encoder: frame_vectors(video, encoder, check, progress))


def choose_windows(
    request: Request, windows: Sequence[Window], encode: Callable[[FrameTextEncoder], VideoVectors]
) -> ChosenWindows:
    """Rank windows for the query of a request, and choose those to read.

    A request for all moments walks down the ranking until the scores fall, also beyond its share of the windows. All
    windows are read if the encoder does not know the words of the query.

    Args:
        request: Request with a query.
        windows: All windows of the video, in order of time.
        encode: Function that returns the frames of the windows as vectors, see `vectors_between`.
    """
    encoder = shared_encoder(request.retrieval.encoder)
    if not encoder.knows(request.query or ""):
        priors = dict.fromkeys(windows, 1 / len(windows))
        note = f"read the whole video: {encoder.name} does not know the words of the query"
        return ChosenWindows(tuple(windows), priors, 1.0, note)
    vectors = encode(encoder)
    sentence = encoder.encode_sentence(request.query or "")
    frames, times = vectors.vectors.astype(np.float32), vectors.times + windows[0].start
    smoothed = smooth_scores(encoder.score(frames, sentence, vectors.statistics), vectors.cuts)
    evidence = smooth_scores(encoder.evidence(frames, sentence), vectors.cuts)
    chosen = best_windows(
        rank_windows(windows, times, smoothed),
        request.retrieval.read,
        smoothed,
        until_scores_fall=request.task == "grounding" and request.moments.find_all,
    )
    share = read_share(chosen, windows)
    note = f"read {share:.0%} of the video: the {len(chosen)} of {len(windows)} windows that {encoder.name} ranks first"
    return ChosenWindows(chosen, window_priors(windows, times, evidence), share, note)


def answer_by_search(
    request: Request,
    video: VideoSession,
    check: Check,
    model_name: str,
    domain: str | None = None,
    progress: ProgressCallback | None = None,
) -> Answer:
    """Answer a grounding request by the scores of a frame-text encoder; words that it does not know are not found.

    Args:
        request: Grounding request; its threshold is compared with the probability of a moment.
        video: Open video.
        check: Function that ends the search when it raises.
        model_name: Name of the model that does not answer.
        domain: Description of the videos that the model was trained on; None if the request names the search.
        progress: Callback for the encoded frames.
    """
    encoder, selection, query = shared_encoder(request.retrieval.encoder), request.moments, request.query or ""
    moments: list[FoundSpan] = []
    notes: tuple[str, ...] = encoder.notes(query)
    if encoder.knows(query):
        vectors = frame_vectors(video, encoder, check, progress)
        limit = _MAX_MOMENTS if selection.find_all else selection.top_k
        moments = find_spans(vectors, encoder, encoder.encode_sentence(query), limit=limit)
        notes += vectors.notes
    threshold = encoder.found_threshold if selection.threshold is None else selection.threshold
    offset = video.windows[0].start
    found = [moment for moment in moments if moment.score >= threshold]
    events = [Event(offset + moment.start, offset + moment.end, query, moment.score) for moment in found]
    reason = "" if domain is None else f": this video is unlike the videos that {model_name} was trained on ({domain})"
    return Answer(
        " ".join(format_events([event], "grounding") for event in events) or NOT_FOUND_ANSWER,
        events,
        task="grounding",
        question=query,
        video=video.name,
        duration=video.duration,
        model=encoder.name,
        found=bool(events),
        score=max((moment.score for moment in moments), default=None),
        step=1 / FRAMES_PER_SECOND,
        by="search",
        player_offset=video.player_offset,
        timings={stage: round(seconds, 3) for stage, seconds in video.timings.items()},
        notes=(f"answered by the search of {encoder.name}, not by {model_name}{reason}", *notes),
    )


def frame_vectors(
    video: VideoSession, encoder: FrameTextEncoder, check: Check, progress: ProgressCallback | None = None
) -> VideoVectors:
    """Return the frames of the windows of an open video as vectors: from memory, the cache on disk, or encoded now.

    The whole video is encoded in any case, so that a later question about another part finds the vectors. The times of
    the result count from the start of the first window.

    Raises:
        ValueError: The video cannot be read again.
    """
    with acquire(video.vectors_lock, check):
        if encoder.fingerprint not in video.vectors:
            video.vectors[encoder.fingerprint] = video.timed(
                "encode", partial(_encode, video, encoder, check, progress)
            )
        whole = video.vectors[encoder.fingerprint]
    return vectors_between(whole, encoder, video.windows[0].start, video.windows[-1].end)


def vectors_between(whole: VideoVectors, encoder: FrameTextEncoder, start: float, end: float) -> VideoVectors:
    """Return the frames of a part of a video; the times of the result count from `start` seconds of the video."""
    first, after = frames_between(Window(start, end), whole.times)
    if start == 0 and after - first == len(whole.times) and end >= whole.duration:
        return whole
    cuts = [i for i, cut in enumerate(whole.cuts) if first < cut < after]
    vectors = whole.vectors[first:after]
    return replace(
        whole,
        times=np.maximum(whole.times[first:after] - start, 0.0),
        vectors=vectors,
        duration=end - start,
        cuts=tuple(whole.cuts[i] - first for i in cuts),
        cut_times=whole.cut_times[cuts] - start,
        statistics=encoder.statistics(vectors.astype(np.float32)),
    )


def _encode(
    video: VideoSession, encoder: FrameTextEncoder, check: Check, progress: ProgressCallback | None
) -> VideoVectors:
    if video.encoder is None or video.encoder.source is None:
        raise ValueError("the search reads the frames again: give the video itself as a file, not encoded or as a pipe")
    return encode_video(
        video.encoder.source,
        encoder,
        cache=None if video.cache is None else video.cache.disk,
        digest=None if video.cache is None else video.cache.digest,
        timeout=video.encoder.timeout,
        check=check,
        progress=None if progress is None else lambda _, done, total: progress("search", done, total),
    )
