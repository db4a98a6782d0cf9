"""The tasks as tools for agents, on the Model Context Protocol.

tool call ─▶ arguments ─▶ VideoRequest ─▶ Answer, by the service ─▶ result
protocol.py  tools.py     tools.py        worker.py                 protocol.py
"""
