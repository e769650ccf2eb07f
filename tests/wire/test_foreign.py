"""What is told from DIDA's own lines, as another protocol's."""

from __future__ import annotations

import pytest

from dida.wire import foreign
from tools.doc_tables import NODES

REQUESTS = [
    "GET / HTTP/1.1",
    "POST /run?x=y HTTP/1.0",
    "get /crash HTTP/1.1",
    "Crash / HTTP/1.1",
    "made-up!method /x HTTP/1.1",
    "CONNECT localhost:4001 HTTP/1.1",
    "POST http://localhost:4001/ HTTP/1.1",
    "PRI * HTTP/2.0",
    "GET /a HTTP/3",
    "GET\t/a\tHTTP/1.1 ",
    'GET /"{[ HTTP/1.1',
    "#1 GET / HTTP/1.1",
    "#1 / HTTP/1.1",
    "HTTP/1.1",
    "\ufeffPOST / HTTP/1.1",
]
HEADERS = ["Host: localhost:4001", "host: x", "From: <a@b>", 'X-"Y": {', "x:", "#1 Host: x", " Cookie:\ta=b"]
OWN = [
    "GET / HTTP/0.9 now",
    "GET /crash",
    "GET / http/1.1",
    "GET / HTTP/",
    "GET / HTTP/1.1x",
    "GET / xHTTP/1.1",
    "HTTP/1.1 200 OK",
    "Host:x",
    "Host :",
    "a1 LOGIN user word",
    "SET key value",
    "EHLO me",
    "QUIT",
    "STATUS",
    "",
    " ",
    "#1",
    'read "x',
]


@pytest.mark.parametrize("node", NODES)
def test_another_protocols_lines_are_told_from_ours(node: str) -> None:
    """A request line of HTTP and a header are foreign whatever the method and the name, at every kind of node."""
    for line in REQUESTS + HEADERS:
        assert foreign.is_foreign(line.encode(), NODES[node]), line


@pytest.mark.parametrize("node", NODES)
def test_all_else_is_answered(node: str) -> None:
    """What is merely not understood is no other protocol's, and neither is any line that begins with a verb."""
    for line in [*OWN, *(f"{verb} x HTTP/1.1" for verb in NODES[node]), *(f"{verb} x: y" for verb in NODES[node])]:
        assert not foreign.is_foreign(line.encode(), NODES[node]), line


@pytest.mark.parametrize(
    ("begins", "theirs"),
    [
        *((begin, True) for begin in (b"HELO me\r\n", b"EHLO", b"LHLO x", b"PRI * HTTP/2.0\r\n", b"SSH-2.0-x")),
        *((begin, True) for begin in (b"*1\r\n$4\r\nPING\r\n", b"*9", b"+OK ready", b"-ERR", b"\x16\x03\x01\x02\x00")),
        *((begin, None) for begin in (b"", b"H", b"HEL", b"*", b"+O", b"\x16", b"SSH", b"PR")),
        *(
            (begin, False)
            for begin in (b"help", b"HELP", b"*0", b"*x", b"*\n", b"\x16\x02", b"#1 ping", b"\n", b"ping")
        ),
    ],
)
def test_how_a_connection_begins(begins: bytes, theirs: bool | None) -> None:
    """Other protocols' first bytes are known as soon as they are there, and no sooner."""
    assert foreign.opening(begins) is theirs
