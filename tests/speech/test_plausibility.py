"""Lines that a speech recogniser invents, and lines that look like inventions and are real."""

import pytest

from timechat.answers.events import Event
from timechat.speech.plausibility import RecognizedLine, plausible_lines
from timechat.speech.prompt import spoken_words

REAL = "This is the optical and science segment of the telescope"


def line(start, end, text, *, logprob=-0.25, no_speech=0.03, compression=1.3):
    return RecognizedLine(Event(start, end, text), start, end, logprob, no_speech, compression)


def dropped(*lines: RecognizedLine) -> tuple[list[str], str]:
    """Return the words that were kept and the reasons in the note."""
    kept, notes = plausible_lines(lines)
    (note,) = notes or ("",)
    count = len(lines) - len(kept)
    start = f"recognized lines that were probably not said, left out: {count} of {len(lines)} ("
    assert note == "" or note.startswith(start)
    return [event.caption for event in kept], note.removeprefix(start).removesuffix(")")


def test_real_speech_is_kept_without_a_note():
    # The lines that faster-whisper's tiny.en recognises in the NASA video of PyPI's test data, with their evidence.
    lines = [
        line(0.34, 4.84, "This is the optical and science segment of the Webb Space Telescope"),
        line(4.84, 8.34, "in one of the largest clean rooms in the world"),
        line(8.34, 12.34, "at Ness's Goddard Space Flight Center in Greenbelt, Maryland."),
    ]
    assert plausible_lines(lines) == (tuple(each.event for each in lines), ())


@pytest.mark.parametrize(
    ("invented", "reason"),
    [
        (line(0, 2, "You", logprob=-0.87, no_speech=0.94), "1 without a voice"),
        (line(0, 2, "Free was important, we go", logprob=-1.01), "1 with a low probability"),
        (line(0, 30, "I do not know. " * 12), "1 that repeat themselves"),
        (line(40, 60, "Oh no"), "1 too long for the words"),
        (line(40, 41, "one two three four five six seven eight nine ten eleven"), "1 too short for the words"),
        (line(40, 43, "Subtitles by the Amara.org community"), "1 of credits of subtitles"),
        (line(40, 43, "Untertitel im Auftrag des ZDF, 2020"), "1 of credits of subtitles"),
        (line(40, 43, "Субтитры сделал DimaTorzok"), "1 of credits of subtitles"),
        (line(40, 43, "Thanks for watching!", no_speech=0.7), "1 of sign-offs without other speech"),
        (line(40, 43, "ご視聴ありがとうございました", logprob=-0.8), "1 of sign-offs without other speech"),
        (line(60, 62, "So we begin here", no_speech=0.7), "1 at the edge of a window"),
        (line(30, 60, f"{REAL}, and we go on, and so on", no_speech=0.87), "1 at the edge of a window"),
        (line(40, 41, "♪ ♪"), "1 without words"),
    ],
)
def test_an_invented_line_is_dropped(invented, reason):
    speech = line(20, 24, REAL)
    assert dropped(speech, invented) == ([REAL], reason)


@pytest.mark.parametrize(
    "real",
    [
        line(40, 43, REAL, logprob=-0.95),
        line(40, 43, REAL, no_speech=0.9),  # the words are probable
        line(40, 48, "Well, yes"),
        line(40, 48.5, "今天我们做菜"),
        line(40, 41, "今天我们在厨房里做一道很好吃的菜"),
        line(40, 40, "and so on"),  # the last words of a window
        line(40, 43, "Thanks for watching!"),  # after other speech
        line(60, 62, "So we begin here"),
        line(0, 2, "So we begin here", no_speech=0.7),
        line(40, 41, "Thank you.", no_speech=0.55),  # of a synthetic voice, among other lines
        line(30, 60, f"{REAL}, and then we go on with it, and so on, for a while"),
        line(40, 43, "The subtitles by her friend were good"),
        line(40, 43, "No. No, no, no. Stop it now!", compression=2.6),
    ],
)
def test_a_real_line_is_kept(real):
    kept, reasons = dropped(line(36, 38, "what comes before it"), real)
    assert (real.event.caption in kept, reasons) == (True, "")


def test_a_loop_of_the_recogniser_is_heard_once():
    loop = [line(i, i + 1, words, compression=4.9) for i, words in enumerate(["come in.", "Love you.", "Come in!"] * 3)]
    assert dropped(*loop) == (["come in.", "Love you."], "7 that repeat others")


def test_a_sentence_is_said_twice_but_not_three_times():
    lines = [line(i, i + 1, "Thank you, sir.") for i in range(5)]
    assert dropped(*lines) == (["Thank you, sir."] * 2, "3 that repeat others")
    assert dropped(*(line(i, i + 1, "No.") for i in range(5))) == (["No."] * 5, "")


def test_sign_offs_alone_are_dropped():
    lines = [
        line(12, 14, "Thank you."),
        line(44, 46, "Thanks for watching."),
        line(80, 82, "Bye-bye!"),
        line(99, 100, "you"),
    ]
    assert dropped(*lines) == ([], "4 of sign-offs without other speech")
    assert dropped(line(5, 8, REAL), *lines) == ([REAL, "Thank you."], "3 of sign-offs without other speech")


def test_the_note_counts_every_reason():
    lines = [
        line(0, 2, "You", logprob=-2),
        line(5, 8, REAL),
        line(9, 10, "Thanks", logprob=-1.5),
        line(30, 60, "Oh no"),
    ]
    assert dropped(*lines) == ([REAL], "1 too long for the words, 2 with a low probability")
    assert plausible_lines([]) == ((), ())


def test_characters_of_chinese_count_as_half_words():
    assert (spoken_words("今天 we cook"), spoken_words("")) == (3.0, 0)
