"""Recognition of other protocols on a DIDA port.

A web page can make its visitor's browser send HTTP to any port of the visitor's machine, with any body. If a node
executed each line, such a body would be commands. So a line that no client of DIDA sends, but HTTP, SMTP, Redis, SSH or
TLS do, ends the connection, and nothing after it is looked at:

1. The first word is not a verb of the node, and the last one is `HTTP/` and a version: the request line of HTTP. 2. The
first word is not a verb and ends in a colon: a header, of HTTP or of a mail. 3. It is the first line of its connection
and begins as those of other protocols do (`opening`).

A page also chooses the method: `fetch(url, {method: "write"})` sends `write /path HTTP/1.1`, which is a valid line. A
browser asks first, by OPTIONS, and is disconnected; but it does not ask if it takes the node for the page's own server
(DNS rebinding). Such a line is recognised by what follows it: a header, which a browser sends with it. So a first line
that ends like one of HTTP waits a moment for the next line (`is_request`, `is_header`).
"""

from __future__ import annotations

import re
from collections.abc import Container

_OPENING = (
    *(b"HELO", b"EHLO", b"LHLO", b"PRI", b"+OK", b"-ERR", b"SSH-", b"\x16\x03"),
    *(b"*%d" % count for count in range(1, 10)),
)
_VERSION = re.compile(rb"HTTP/\d+(?:\.\d+)*")


def opening(begun: bytes) -> bool | None:
    """Return True if a connection that begins with these bytes speaks another protocol; None if more bytes are needed.

    There need not be a whole line: a TLS hello has none.
    """
    if begun.startswith(_OPENING):
        return True
    return None if any(each.startswith(begun) for each in _OPENING) else False


def is_request(line: bytes) -> bool:
    """Return True if the line ends as the first one of HTTP does, whatever its method."""
    return _VERSION.fullmatch(line.rstrip().rpartition(b" ")[2].rpartition(b"\t")[2]) is not None


def is_header(line: bytes) -> bool:
    """Return True if the line begins with a word that ends in a colon, as headers do."""
    return _first(line).endswith(b":")


def is_foreign(line: bytes, verbs: Container[str]) -> bool:
    """Return True if a node with these verbs must not reply to such a line, nor look at anything after it."""
    return (is_request(line) or is_header(line)) and _first(line).decode(errors="replace") not in verbs


def _first(line: bytes) -> bytes:
    """Return the first word after the tag."""
    words = line.split(None, 2)
    if len(words) > 1 and words[0].startswith(b"#"):
        del words[0]
    return words[0] if words else b""
