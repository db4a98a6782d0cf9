"""The tasks as tools for agents, on the Model Context Protocol.

call ─▶ arguments ─▶ a file that may be opened ─▶ Answer, on the desk's thread ─▶ result
 protocol.py  tools.py      library.py                 desk.py                  protocol.py
"""
