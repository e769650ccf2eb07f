"""Other protocols on a DIDA port, told from DIDA's own lines.

A web page can make its visitor's browser send HTTP to any port of the visitor's machine, and whatever it likes in the
body. If a node took each line by itself, such a body would be commands. So a line that no client of DIDA would say, and
that HTTP, SMTP, Redis, SSH or TLS do say, ends the connection before anything behind it is looked at:

1. its first word is no verb of the node, and its last one is `HTTP/` and a version: the request line of HTTP;
2. its first word is no verb, and ends in a colon: a header, of HTTP or of a letter;
3. it is the first of its connection, and begins as those of other protocols do (`opening`).

A page chooses the method, too: `fetch(url, {method: "write"})` sends `write /path HTTP/1.1`, which is a line of DIDA.
A browser asks first, by OPTIONS, and is cut off; but not where it takes the node for the page's own server (DNS
rebinding). Such a line is told by what follows it: a header, which a browser sends with it. So a first line that ends
as one of HTTP is kept for a moment, until it is known what the next line is (`is_request`, `is_header`).
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
    """Whether a connection that begins with these bytes speaks another protocol; None: more of them will tell.

    There need not be a whole line: a TLS hello has none.
    """
    if begun.startswith(_OPENING):
        return True
    return None if any(each.startswith(begun) for each in _OPENING) else False


def is_request(line: bytes) -> bool:
    """Whether the line ends as the first one of HTTP does, whatever its method."""
    return _VERSION.fullmatch(line.rstrip().rpartition(b" ")[2].rpartition(b"\t")[2]) is not None


def is_header(line: bytes) -> bool:
    """Whether the line begins with a word that ends in a colon, as headers do."""
    return _first(line).endswith(b":")


def is_foreign(line: bytes, verbs: Container[str]) -> bool:
    """Whether no line like this is to be answered, nor anything behind it looked at, by a node with these verbs."""
    return (is_request(line) or is_header(line)) and _first(line).decode(errors="replace") not in verbs


def _first(line: bytes) -> bytes:
    """The first word, behind the tag."""
    words = line.split(None, 2)
    if len(words) > 1 and words[0].startswith(b"#"):
        del words[0]
    return words[0] if words else b""
