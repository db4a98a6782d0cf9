"""The model behind a service: one engine that many requests share.

engine      the thread that owns the model       scheduler  which request it works on next
service     a request about a video ─▶ an Answer: open videos, cancellation
videos      the name of a video ─▶ a file that may be opened: uploads, allowed folders, addresses
access/     checks of files, addresses and videos that clients name
http/       an OpenAI-compatible API and a web page (web/)
mcp/        the same tasks as tools for agents

This file imports nothing: the process that probes videos and `timechat mcp` import below it without fastapi.
"""
