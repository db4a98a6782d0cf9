"""From a prompt of the engine to a request, and from a completion to a text with notes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timechat.answers.allowed import with_allowed
from timechat.answers.forms import AnswerForm, json_form
from timechat.answers.prompts import Message
from timechat.answers.tasks import DecodingOptions
from timechat.answers.token_evidence import Token
from timechat.backbones.backbone import GeneratedText, Question
from timechat.backbones.endpoint.abilities import Ability, CompletionRequest
from timechat.backbones.endpoint.answers import Completion
from timechat.backbones.endpoint.messages import chat_messages, native_video_messages
from timechat.backbones.endpoint.options import EndpointOptions
from timechat.backbones.endpoint.pictures import EncodedPictures

_ALTERNATIVES = 20  # tokens that a server lists at each place, the maximum of most; scores are relative to allowed ones
_SAMPLING: tuple[Ability, ...] = ("temperature", "seed", "top_p", "top_k")


@dataclass(frozen=True, eq=False)
class EndpointPrompt:
    """Words of a prompt and the pictures of its window."""

    pictures: EncodedPictures
    question: Question


def check_decoding(decoding: DecodingOptions) -> None:
    """Raise for options that no endpoint keeps."""
    for name in ("num_beams", "length_penalty"):
        value = getattr(decoding, name)
        if value != 1:
            raise ValueError(f"an endpoint has no beam search, got {name}={value}; set it to 1, or use a local model")


def make_request(
    options: EndpointOptions,
    pictures: EncodedPictures,
    question: Question,
    form: AnswerForm | None,
    decoding: DecodingOptions,
    number: int,
) -> CompletionRequest:
    """Return the request for a prompt.

    Args:
        options: How videos are sent.
        pictures: Pictures of the window in the size and number to send.
        question: Words of the prompt.
        form: Form of the answer; None for a free one.
        decoding: Decoding options.
        number: Number of the window in the plan of its video, which is added to the seed.
    """
    turns: list[Message] = []
    for asked, answered in question.history:
        turns += [Message("user", asked), Message("assistant", answered)]
    native = None
    if options.native_video:
        native = native_video_messages(pictures, question.text, system=question.system, history=turns)
    sampling: dict[str, Any] = {}
    if decoding.do_sample:
        sampling = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": decoding.top_k,
            "seed": (decoding.seed + number) % 2**63,
        }
    fixed: dict[str, Any] = {}
    if decoding.repetition_penalty != 1:
        fixed["repetition_penalty"] = decoding.repetition_penalty
    if decoding.min_new_tokens:
        fixed["min_tokens"] = decoding.min_new_tokens
    if form is None and decoding.json_schema is not None:
        form = json_form(decoding.json_schema)
    if decoding.json_schema is not None and (form is None or form.schema is None):
        raise ValueError(f"json_schema must be the text of a JSON object, got {decoding.json_schema[:80]!r}")
    return CompletionRequest(
        chat_messages(
            pictures,
            question.text,
            system=question.system,
            history=turns,
            wording=options.wording,
            placement=options.placement,
        ),
        decoding.max_new_tokens,
        form,
        top_logprobs=_ALTERNATIVES if form is not None and form.regex else 0,
        native_video=native,
        fixed=fixed,
        **sampling,
    )


def read_text(
    completion: Completion, request: CompletionRequest, missing: Sequence[Ability], size_notes: Sequence[str]
) -> GeneratedText:
    """Return a completion without blanks at its ends, with notes about what the server does not do."""
    text = completion.text.strip()
    shift = len(completion.text) - len(completion.text.lstrip())
    placed = [
        Token(min(max(0, token.first - shift), len(text)), min(max(0, token.end - shift), len(text)), token.logprob)
        for token in completion.tokens
    ]
    if completion.form is not None and request.form is not None and request.form.regex and any(completion.alternatives):
        is_json = completion.form == "response_format"
        placed = list(with_allowed(text, placed, completion.alternatives, request.form, as_json=is_json))
    notes = list(size_notes)
    if not text:
        notes.append("the server gave an empty answer")
    form = request.form
    if form is not None and (form.regex or form.schema) and completion.form is None:
        notes.append("the server does not keep the form of answers, so the answer was read as free text")
    if completion.was_cut:
        notes.append(f"the answer ends at the limit of {request.max_tokens} tokens")
    if completion.has_thoughts:
        notes.append("thoughts of the model were removed from the answer")
    if lost := [name for name in _SAMPLING if name in missing and (name == "temperature" or request.temperature)]:
        notes.append(f"the server does not take {', '.join(lost)}, so it sampled in its own way")
    if request.native_video is not None and "media_io_kwargs" in missing:
        notes.append("the server takes no native video with times, so the frames were sent as single pictures")
    return GeneratedText(
        text,
        tuple(placed),
        completion.usage.prompt_tokens or 0,
        completion.usage.answer_tokens or len(placed),
        tuple(notes),
    )
