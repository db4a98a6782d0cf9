"""Answers of the task commands: one video or many, with the model loaded once."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from timechat.cli.options import EvidenceOptions, MomentOptions, TaskOptions
from timechat.cli.outputs import write_results
from timechat.cli.retrieval import AnsweredByOption, DomainOptions, RetrievalOptions, SourceOptions, check_domain
from timechat.cli.session import CommandConsole, Session, check_request, load_timechat
from timechat.cli.videos import STDIN, VideoList, find_videos, output_names
from timechat.errors import TimeChatError, describe_error
from timechat.export import FORMATS

if TYPE_CHECKING:
    from timechat.answers.events import Answer, Task
    from timechat.pipeline import TimeChat
    from timechat.pipeline.estimate import JobEstimate
    from timechat.pipeline.streaming import AnswerStream

_ESTIMATE_ABOVE_WINDOWS = 3  # jobs with more windows show an estimate before they start
_BEST_MOMENT = MomentOptions()
_NO_EVIDENCE = EvidenceOptions()
_READ_DEFAULT = RetrievalOptions()
_BY_MODEL = SourceOptions(AnsweredByOption.MODEL)
_NOT_FORCED = DomainOptions()
_FAILED = 1  # exit status if some of several videos failed
_NOT_FOUND = 1  # exit status with --exit-status


def run_task(
    task: "Task",
    arguments: Sequence[str],
    query: str | None,
    settings: TaskOptions,
    *,
    moments: MomentOptions = _BEST_MOMENT,
    evidence: EvidenceOptions = _NO_EVIDENCE,
    retrieval: RetrievalOptions = _READ_DEFAULT,
    source: SourceOptions = _BY_MODEL,
    domain: DomainOptions = _NOT_FORCED,
    reads_subtitles: bool = False,
) -> None:
    """Check the input, load the model once, and answer and write the answer for each video.

    Args:
        task: Task of the command.
        arguments: Paths, folders, patterns and addresses of videos.
        query: Query or question; None for a task without one.
        settings: Options of the request.
        moments: Options of the moments that are kept.
        evidence: Options of citations.
        retrieval: Share of a long video to read, and the encoder of the search.
        source: What answers a query.
        domain: Option to answer about any video.
        reads_subtitles: Whether the answer is the subtitles of the video if the options name no other speech.

    Raises:
        typer.Exit: Some of several videos failed, or `--exit-status` reports that nothing was found.
    """
    check_request(task, query, settings)
    settings.check_windows()
    videos = find_videos(arguments)
    _check_number(videos, settings, moments)
    settings.check_output(videos.names, is_many=videos.is_many, plan=settings.plan)
    failures = _Failures(is_many=len(videos.names) + len(videos.problems) > 1)
    for problem in videos.problems:
        failures.add(problem)
    command = _TaskCommand(task, query, settings, moments, evidence, retrieval, source, domain, is_many=videos.is_many)
    answers = []
    with ExitStack() as open_videos:
        sessions = []
        for name in videos.names:
            session = open_videos.enter_context(Session(name, settings, command.console))
            with failures.collect(name):
                session.probe()
                session.load_transcript(settings, is_answer=task == "transcribe", reads_subtitles=reads_subtitles)
                if reads_subtitles:
                    _check_subtitles(session)
                sessions.append(session)
        for session in sessions:
            if not command.is_known_speech(session):
                command.timechat  # noqa: B018 - a model that cannot be loaded is no failure of a video
            with failures.collect(session.name):
                answers += command.answer(session, _target(settings, videos, session.name))
    if answers and command.has_result_file and settings.output is not None:
        write_results(settings.output, answers)
    failures.exit_if_any(len(videos.names) + len(videos.problems))
    if moments.exit_status and not all(_is_found(answer) for answer in answers):
        raise typer.Exit(_NOT_FOUND)


def _check_subtitles(session: Session) -> None:
    """Raise a `ValueError` if a video has no subtitles that can be read."""
    found = session.transcript
    if found is None or not found.lines:
        reason = f" ({'; '.join(found.notes)})" if found else ""
        raise ValueError(
            f"{session.name}: has no subtitles to transcribe{reason}; give --transcript FILE (words that are known), "
            "--asr MODEL (recognizes the words) or --guess (the video model guesses them)"
        )


def _check_number(videos: VideoList, settings: TaskOptions, moments: MomentOptions) -> None:
    """Check options that take one video only."""
    number = len(videos.names) + len(videos.problems)
    single = {
        "--transcript": settings.transcript is not None,
        "--plan": settings.plan,
        "--exit-status": moments.exit_status,
    }
    for option, is_given in single.items():
        if is_given and number > 1:
            raise ValueError(f"{option} takes one video, got {number}")
    if moments.exit_status and settings.plan:
        raise ValueError("--plan answers nothing; leave out --exit-status")


def _target(settings: TaskOptions, videos: VideoList, name: str) -> Path | None:
    """Return the file of a video's answer; None for stdout and for a file of all results."""
    if settings.output_dir is None:
        return settings.output
    names = output_names(videos.names, FORMATS[settings.form].extension)
    return settings.output_dir / dict(zip(videos.names, names, strict=True))[name]


def _is_found(answer: "Answer") -> bool:
    return bool(answer.events) if answer.found is None else answer.found


@dataclass
class _Failures:
    """Videos of a command that could not be answered; with one video, its error ends the command."""

    is_many: bool
    count: int = field(default=0, init=False)

    @contextmanager
    def collect(self, name: str) -> Iterator[None]:
        """Report an error about one of several videos, and continue."""
        try:
            yield
        except (TimeChatError, ValueError, OSError) as error:
            if not self.is_many or isinstance(error, BrokenPipeError):
                raise
            message = describe_error(error)
            self.add(message if message.startswith(name) else f"{name}: {message}")

    def add(self, message: str) -> None:
        """Report the failure of one video."""
        self.count += 1
        typer.echo(f"timechat: {message}", err=True)

    def exit_if_any(self, total: int) -> None:
        """End the command with status 1 if a video failed."""
        if self.count:
            typer.echo(f"timechat: {self.count} of {total} videos failed", err=True)
            raise typer.Exit(_FAILED)


@dataclass
class _TaskCommand:
    """One task for all videos of a command."""

    task: "Task"
    query: str | None
    settings: TaskOptions
    moments: MomentOptions
    evidence: EvidenceOptions
    retrieval: RetrievalOptions
    source: SourceOptions
    domain: DomainOptions
    is_many: bool

    @cached_property
    def console(self) -> CommandConsole:
        return CommandConsole(quiet=self.settings.quiet)

    @cached_property
    def timechat(self) -> "TimeChat":
        """The model, loaded with the first video."""
        return load_timechat(self.settings, self.console, use_cache=not self.settings.no_cache)

    @property
    def has_result_file(self) -> bool:
        """Whether the output file holds one result per video."""
        settings = self.settings
        return settings.writes_results or (self.is_many and settings.output is not None and settings.form == "jsonl")

    def answer(self, session: Session, target: Path | None) -> "list[Answer]":
        """Answer about one video and write the answer; an estimate alone is no answer."""
        if self.is_known_speech(session):
            answer = self._known_speech(session)
            return self._finish(answer, session, target, answer.notes)
        from timechat.pipeline import Request

        settings, form = self.settings, self.settings.form
        evidence = self.evidence.cite or self.evidence.verify
        opened = session.open(self.timechat, settings, keep_in_memory=evidence)
        transcript = session.transcript
        request = Request(
            self.task,
            self.query,
            decoding=settings.decoding(),
            preset=settings.preset,
            transcript=transcript.lines if transcript else None,
            moments=self.moments.selection(),
            cite=self.evidence.cite,
            verify=self.evidence.verify,
            retrieval=self.retrieval.config(self.source.by),
        )
        if settings.plan:
            estimate = self.timechat.estimate(request, opened)
            typer.echo(_format_estimate(estimate, settings.prices(), as_json=form == "json"))
            return []
        with self.console.working("comparing the video with the videos that the model was trained on"):
            if self.task != "grounding" and not self.domain.force:
                check_domain(session.name, self.timechat, opened)
            is_searched = self.timechat.answerer().uses_search(request, opened)
        is_estimated = len(opened.windows) > _ESTIMATE_ABOVE_WINDOWS and not self.timechat.backbone.config.is_remote
        if is_estimated and not is_searched and not settings.quiet:
            name = f"{session.name}: " if self.is_many else ""
            self.console.info(f"plan: {name}{self.timechat.estimate(request, opened)}")
        is_on_terminal = form == "text" and target is None and sys.stdout.isatty()
        is_live = self.timechat.answerer().keeps_text(request, opened) and not evidence and not is_searched
        is_streamed = (
            is_on_terminal and is_live and self.task != "grounding"
        )  # its text names moments below the threshold
        if is_streamed:
            answer = print_stream(self.timechat.stream(request, opened))
        else:
            with self.console.progress() as progress:
                answer = self.timechat.run(request, opened, progress=progress)
        answer = replace(answer, notes=(*(transcript.notes if transcript else ()), *answer.notes))
        privacy_note = self.timechat.backbone.config.privacy_note  # printed when the model was opened
        notes = [note for note in answer.notes if note != privacy_note]
        return self._finish(answer, session, target, notes, is_on_screen=is_streamed)

    def is_known_speech(self, session: Session) -> bool:
        """Whether the speech of a video is known, or the video has none, so that no model is needed."""
        has_audio = session.info is None or session.info.has_audio
        return self.task == "transcribe" and (session.transcript is not None or not has_audio)

    def _known_speech(self, session: Session) -> "Answer":
        from timechat.speech import NO_AUDIO, Transcript, transcript_answer

        info, settings = session.info, self.settings
        assert info is not None
        transcript = session.transcript or Transcript(notes=(NO_AUDIO,))
        return transcript_answer(
            transcript,
            video=session.name,
            duration=info.duration,
            player_offset=info.player_offset,
            start=settings.start,
            end=settings.end,
        )

    def _finish(
        self,
        answer: "Answer",
        session: Session,
        target: Path | None,
        notes: Sequence[str],
        *,
        is_on_screen: bool = False,
    ) -> "list[Answer]":
        """Show notes, write the answer, cut the video and close it."""
        self._note(session, notes)
        if not self.has_result_file:
            self._write(answer, session, target, is_on_screen=is_on_screen)
        cut_video(answer, session, self.settings, self.console)
        session.close()
        return [answer]

    def _note(self, session: Session, notes: Sequence[str]) -> None:
        for note in notes:
            self.console.warn(f"{session.name}: {note}" if self.is_many else note)

    def _write(self, answer: "Answer", session: Session, target: Path | None, *, is_on_screen: bool) -> None:
        """Write the answer to stdout or to its file, and the HTML page if one is requested.

        Args:
            answer: Answer to write.
            session: The video.
            target: File of the answer; None means stdout.
            is_on_screen: Whether the text of the answer was shown already.
        """
        from timechat.export import event_lines, export_notes, to_html, to_text, write_as, write_text_atomically

        form, page, info = self.settings.form, self.settings.html, session.info
        fps, start_timecode = (info.fps, info.start_timecode) if info else (None, None)
        if form not in ("text", "json") and not answer.events:
            self._note(session, [f"the answer names no times, so there is nothing to write as {form}"])
        try:
            text = write_as(answer, form, fps=fps, start_timecode=start_timecode)
        except ValueError:
            self.console.info(to_text(answer).rstrip("\n"))  # an answer that the format cannot express is not lost
            raise
        self._note(session, export_notes(answer, form, fps=fps, start_timecode=start_timecode))
        if is_on_screen:
            for line in event_lines(answer):
                typer.echo(line)
        elif target is not None:
            if target.parent == self.settings.output_dir:
                target.parent.mkdir(exist_ok=True)
            write_text_atomically(target, text)
        else:
            typer.echo(text, nl=False)
        if page is not None:
            shown = replace(answer, video=None) if session.name == STDIN else answer
            write_text_atomically(page, to_html(shown, page_folder=page.resolve().parent))
            if session.name == STDIN:
                self._note(session, ["the page has no video, because the video came through standard input"])


def _format_estimate(estimate: "JobEstimate", prices: tuple[float, float] | None, *, as_json: bool) -> str:
    price = None if prices is None else estimate.price(*prices)
    if as_json:
        return json.dumps(estimate.to_dict() | {"price": price}, indent=2)
    return f"{estimate}{'' if price is None else f', price {price:.4g}'}"


def print_stream(stream: "AnswerStream") -> "Answer":
    """Show an answer while it is written."""
    from timechat.export import printable

    for piece in stream:
        typer.echo(printable(piece), nl=False)
    typer.echo()
    return stream.answer


def cut_video(answer: "Answer", session: Session, settings: TaskOptions, console: CommandConsole) -> None:
    """Cut the events out of the video, if the options ask for it, and report the clips."""
    if settings.clips is None and settings.reel is None:
        return

    if not answer.events:
        console.warn("the answer names no times, so there is nothing to cut")
        return
    from timechat.video.clips import concat_clips, extract_clips

    options: dict[str, Any] = {"mode": settings.cut.value, "timeout": settings.timeout}
    reports = []
    with console.working("cutting the video"):
        if settings.clips is not None:
            reports = extract_clips(session.source, answer.events, settings.clips, **options)
            if past := len(answer.events) - len(reports):
                console.warn(f"not cut, as they lie past the video's end: {past} of {len(answer.events)} events")
        if settings.reel is not None:
            reports += concat_clips(session.source, answer.events, settings.reel, **options)
    for report in reports:
        console.warn(str(report))
