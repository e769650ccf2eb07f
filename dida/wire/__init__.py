"""The line protocol as values: its grammar, and the messages that every node and every client knows.

No Twisted, clock, file or socket is used here; `dida.protocols` carries the bytes.
"""
