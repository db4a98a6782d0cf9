"""Templates of the questions about synthetic videos, and of their speech.

The built-in model was trained on these sentences: another wording needs another training.
"""

GROUNDING = (
    "When does this happen: {text}?",
    "When does {subject} {bare}?",
    "Find the moment when {text}.",
    "At what time does {subject} {bare}?",
    "Find {subject} {ing}.",
    "In which part of the video can you see {subject} {ing}?",
    "Give the start and end of this event: {text}.",
    "From when to when does {subject} {bare}?",
)
HIGHLIGHTS = (
    "Show me the best moments of this: {query}.",
    "Which moments fit best to this: {query}? Give a score for each.",
    "Find the highlight moments of '{query}' with their saliency scores.",
    "At which seconds can this be seen best: {query}?",
    "Give the highlights about this, with scores: {query}.",
    "Rate the moments of this event: {query}.",
)
DENSE_CAPTION = (
    "What happens in the video, and when?",
    "Describe all events with their start and end times.",
    "List everything that happens, with times.",
    "Tell me each event of the video with its start and end.",
    "Write a caption for each event and say when it happens.",
    "Find all events in the video and describe them.",
    "Who does what, and when?",
)
STEPS = (
    "What are the steps in this video, and when?",
    "List the steps with their start and end times.",
    "Tell me step by step what is done, with times.",
    "Find each step and describe it.",
    "Which actions are done one after the other, and when?",
    "Give the steps in order, each with its time.",
)
STEPS_OF_ONE = (
    "What does {object} do, step by step?",
    "List the steps of {object} with their start and end times.",
    "Tell me what {object} does, and when.",
    "Describe all actions of {object} in order, with times.",
    "When does {object} do what?",
    "Follow {object} and say what it does, with times.",
)
MOMENTS = (
    "Which moments of the video are the most important?",
    "Find the highlights of the video with their scores.",
    "At which seconds is the most going on?",
    "Give the best moments of the video and rate them.",
    "Sum the video up by its most important moments.",
    "Choose the moments to keep, with a saliency score for each.",
)
SUMMARY = (
    "What is the video about?",
    "Sum up the video.",
    "Tell in a few sentences what happens.",
    "Describe the video in short.",
    "Give a short summary of the video.",
    "What happens in the video, in a few words?",
)
TRANSCRIBE = (
    "What is said in the video, and when?",
    "Write down the speech with times.",
    "Tell me every spoken sentence with its start and end.",
    "What does the speaker say?",
    "Transcribe what you hear.",
    "Give the spoken words and their times.",
)

NARRATION = ("Now {text}.", "Look, {text}.", "Here {text}.", "You can see that {text}.", "I think {text}.")
"""Sentences about an event; a narrator always uses the first."""
SMALL_TALK = (
    "Hello and welcome.",
    "Let us see what comes next.",
    "This is my favorite part.",
    "I like these colors.",
    "Please watch closely.",
    "What a nice day.",
    "We are not done yet.",
    "Thank you for watching.",
    "Let me think about that.",
    "That was fun.",
)

WHAT_AT = (
    "What happens at {time} seconds?",
    "What is going on at {time} seconds?",
    "What can be seen at {time} seconds?",
    "At {time} seconds, what happens?",
    "Which event is shown at {time} seconds?",
)
WHAT_AFTER = (
    "What happens right after {text}?",
    "What comes next after {text}?",
    "What is the first thing to happen after {text}?",
    "After {text}, what happens next?",
    "Which event starts first after this one ends: {text}?",
)
HOW_OFTEN = (
    "How often does {subject} {bare}?",
    "How many times does {subject} {bare}?",
    "Count how often {subject} {finite}.",
    "How many times can you see {subject} {ing}?",
    "Tell me how many times {subject} {finite}.",
)
HOW_MANY = (
    "How many things {bare}?",
    "Count the things that {bare}.",
    "How many different things can you see {ing}?",
    "Tell me how many things {bare}.",
    "What is the number of things that {bare}?",
)
HOW_LONG = (
    "How long does {subject} {bare}?",
    "For how many seconds does {subject} {bare}?",
    "How long does this last: {text}?",
    "How many seconds does this event take: {text}?",
    "How long can you see {subject} {ing}?",
)
DOES_HAPPEN = (
    "Does {subject} {bare}?",
    "Does this happen in the video: {text}?",
    "Is it true that {text}?",
    "Can you see {subject} {ing}?",
    "Does {subject} {bare} at any time?",
)
WHICH_FIRST = (
    "Which comes first: {text}, or {other}?",
    "What happens first, {text} or {other}?",
    "Which event is earlier: {text}, or {other}?",
    "Which of these starts first: {text}, or {other}?",
    "Tell me what comes first: {text}, or {other}.",
)
WHAT_COLOR = (
    "What color is the {noun} that {finite}?",
    "What is the color of the {noun} that {finite}?",
    "The {noun} that {finite}: what color is it?",
    "Tell me the color of the {noun} that {finite}.",
    "One {noun} {finite}. What color is it?",
)
WHAT_SHAPE = (
    "What shape is the {noun} that {finite}?",
    "What is the shape of the {noun} that {finite}?",
    "The {noun} that {finite}: what shape is it?",
    "Tell me the shape of the {noun} that {finite}.",
    "One {noun} {finite}. What shape is it?",
)
