"""One script, written down in the ways that are found in the wild."""

from __future__ import annotations

_NODES = """\
storage s1 http://localhost:5001 10
storage s2 http://localhost:5002 10
worker w1 http://localhost:4001 0
"""
_SCHEDULER = "scheduler sc http://localhost:2000\n"
_REST = "populate four_records\nclient 13 three_increments\n"
_PLAIN = _SCHEDULER + _NODES + _REST

WILD = {
    "plain": _PLAIN,
    "CRLF": _PLAIN.replace("\n", "\r\n"),
    "byte-order mark": "\ufeff" + _PLAIN,
    "tabs": _PLAIN.replace(" ", "\t"),
    "double blanks": _PLAIN.replace(" ", "  ").replace("\n", "  \n"),
    "no final newline": _PLAIN.rstrip("\n"),
    "comments": "# all of it\n\n" + _PLAIN.replace("\n", " # note\n") + "#",
    "upper case": _PLAIN.replace("http://", "HTTP://").replace("storage", "STORAGE").replace("client", "Client"),
    "upper case hosts": _PLAIN.replace("localhost", "LOCALHOST"),
    "tcp": _PLAIN.replace("http://", "tcp://"),
    "no http": _PLAIN.replace("http://", ""),
    "numeric ids": _PLAIN.replace("s1", "1").replace("s2", "2").replace("w1", "3").replace(" sc ", " 4 "),
    "debug first": "debug\n" + _PLAIN,
    "debug between the nodes": _PLAIN.replace("worker", "debug\nworker"),
    "no gossip delay": _PLAIN.replace(" 10\n", "\n").replace("4001 0", "4001"),
    "wait_interval": _PLAIN + "wait_interval 5\n\nlistGlobal\nstatus",
    "quoted words": _PLAIN.replace("13 three_increments", '"13" "three_increments"'),
    "a crash of a node behind the nodes": "debug\n" + _NODES + _SCHEDULER + "crash s2\n" + _REST,
    "populate, then crash": _PLAIN.replace("client", "crash s2\nclient"),
    "client, then crash": _PLAIN + "crash s2\nlistGlobal",
    "scheduler last": _NODES + _REST + _SCHEDULER,
    "scheduler behind the nodes": _NODES + _SCHEDULER + _REST,
    "number behind the scheduler's URL": _PLAIN.replace(":2000", ":2000 5"),
    "everything at once": "\ufeff"
    + (_NODES + _REST + _SCHEDULER).replace(":2000", ":2000\t5 # last").replace("\n", "\t\r\n").rstrip(),
}
"""What each shows, and the script: two storage nodes, a worker, a scheduler, data, a client before any wait."""
