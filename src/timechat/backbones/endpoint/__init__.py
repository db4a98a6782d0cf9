"""The client side of an OpenAI-compatible server: frames with true times in, text with log probabilities out.

address     http://host/v1#NAME ─▶ base address, model, key, privacy note
pictures    frames ─▶ JPEG pictures with their times     messages   pictures + question ─▶ chat messages
options     how videos are sent                          requests   prompt ─▶ request, completion ─▶ text with notes
backbone    the parts below as a backbone of the engine
abilities   request ─▶ body with the fields that the server takes ─▶ completion
client      body ─▶ response: retries, limits of time and number, cancellation
answers     response or stream ─▶ text, tokens, usage

No file here imports torch or transformers.
"""
