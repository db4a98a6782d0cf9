"""Six wordings of this package for the questions of each task."""

from collections.abc import Mapping

_CAPTION_FORM = "Write each event as 'start - end seconds, description'."
_STEP_FORM = "Write each step as 'start - end seconds, step'."
_SPEECH_FORM = "Write it as 'Transcribed speech: start - end seconds, sentence.'"
_SCORES = "from 1 for dull to 5 for essential"

OWN_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "dense_caption": (
        f"List everything that happens in the video, in the order of time. {_CAPTION_FORM}",
        f"Describe the events of the video one after the other, each with its start and end time. {_CAPTION_FORM}",
        f"Divide the video into events. For each event, say when it starts and ends, and what happens. {_CAPTION_FORM}",
        f"Which events does the video show, and when does each start and end? {_CAPTION_FORM}",
        f"Write a timeline of the video with a caption for every event. {_CAPTION_FORM}",
        f"Watch the whole video, find all events in it, and caption each with its times. {_CAPTION_FORM}",
    ),
    "dense_caption_starts": (
        "List the events of the video in the order of time. Write each as 'start seconds, description'.",
        "When does each part of the video begin, and what is it about? Write each as 'start seconds, description'.",
        "Divide the video into chapters. Write the time at which each begins as 'start seconds, description'.",
        "Write a table of contents of the video, with entries of the form 'start seconds, description'.",
        "Find the moments at which something new begins in the video. Write each as 'start seconds, description'.",
        "Describe what happens in the video, event by event, each with its start: 'start seconds, description'.",
    ),
    "grounding": (
        "When does the following happen in the video: '{query}'? Give the start and the end in seconds.",
        "Find the part of the video that shows '{query}', and give its start and end in seconds.",
        "From when to when does the video show '{query}'? Answer with start and end in seconds.",
        "Give the start and the end, in seconds, of the event that the words '{query}' describe.",
        "A sentence describes one event of the video: '{query}'. At which second does it start, and when does it end?",
        "Locate '{query}' in the video. Give the time at which it starts and the time at which it ends, in seconds.",
    ),
    "grounding_moment": (
        "At which moment of the video does the following happen: '{query}'? Give the time in seconds.",
        "Find the moment of the video that shows '{query}', and give its time in seconds.",
        "When does the video show '{query}'? Answer with one time in seconds.",
        "Give the time, in seconds, of the moment that the words '{query}' describe.",
        "A sentence describes one moment of the video: '{query}'. At which second does it happen?",
        "Locate '{query}' in the video. Give its time in seconds.",
    ),
    "highlights": (
        "Which moments of the video show '{query}' best? Give their times in seconds and their saliency scores.",
        "Find the highlights of the video for the query '{query}': their times in seconds and their saliency scores.",
        "Someone looks for '{query}'. Which moments of the video should be shown, and how well does each of them fit? "
        "Give times in seconds and saliency scores.",
        "List the moments of the video that match '{query}', each with its time in seconds and a saliency score.",
        "Give the times in seconds of the highlights about '{query}', and then the saliency score of each.",
        "How well do the moments of the video match '{query}'? Give the times of those that match, and their scores.",
    ),
    "highlights_without_query": (
        f"Which moments of the video belong into a short summary? Give their times in seconds and saliency scores, "
        f"{_SCORES}.",
        f"Find the highlights of the video: their times in seconds and their saliency scores, {_SCORES}.",
        f"Choose the most important moments of the video. Give the times in seconds, and a saliency score, {_SCORES}.",
        f"A trailer of the video is made. Which moments does it show? Give times in seconds and saliency scores, "
        f"{_SCORES}.",
        f"List the times in seconds of the moments that are worth seeing, and the saliency score of each, {_SCORES}.",
        f"Summarize the video by its best moments: times in seconds, then saliency scores, {_SCORES}.",
    ),
    "steps": (
        f"List the steps of the task in the video, each with its start and end time. {_STEP_FORM}",
        f"Which steps does the video show, and when does each start and end? {_STEP_FORM}",
        f"Explain how the task in the video is done, step by step, with times. {_STEP_FORM}",
        f"Divide the video into the steps of its task, and name each of them. {_STEP_FORM}",
        f"Find all actions of the procedure in the video with their times. {_STEP_FORM}",
        f"Write instructions for the task in the video, with the times at which each step is shown. {_STEP_FORM}",
    ),
    "transcribe": (
        f"Write down what is said in the video, with times. {_SPEECH_FORM}",
        f"Transcribe the video, sentence by sentence, with the start and end of each. {_SPEECH_FORM}",
        f"What do people say in the video, and when? {_SPEECH_FORM}",
        f"Give the transcript of the video with the times of its sentences. {_SPEECH_FORM}",
        f"Write subtitles for the speech in the video. {_SPEECH_FORM}",
        f"Listen to the speech in the video and write its sentences with their times. {_SPEECH_FORM}",
    ),
}
"""Wordings of each task; `{query}` is the place of the query. None of `grounding_moment` has the word "end"."""
