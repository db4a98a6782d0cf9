"""Video language models behind the time engine, one folder for each way to reach one.

endpoint/   an OpenAI-compatible server, on this machine or another one; without torch
"""
