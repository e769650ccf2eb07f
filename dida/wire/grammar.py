"""Lines to messages and back: the grammar of the line protocol. Nothing else parses or prints lines.

    line  = [ "#" tag SP ] verb *( SP word ) [ SP object ] (CRLF | LF)
    reply = [ "#" tag SP ] ( "ok" | "no" | "error" SP code ) *( SP word ) [ SP object ]

A word is bare, or a JSON string in double quotes; the object is one JSON object up to the end of the line. `decode` and
`encode` are inverses, as are `decode_reply` and `encode_reply`. Decoding is lenient where a person types (runs of
blanks and tabs), encoding is strict. Lines here have no line end; `LineBuffer` cuts them out of a stream of bytes.

Most lines are plain: bare words between blanks, perhaps an object. Those are split in a few steps; all others, and
malformed ones, are scanned token by token. Both ways give the same result for the same line.

The module is long because both ways, and both directions, share the same few patterns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, TypeVar, cast

import attrs
import msgspec

from dida.errors import BadRequest, UnknownVerb
from dida.versions import Version
from dida.wire.messages import Error, Form, No, Ok, Reply, Request, form_of

MAX_LINE = 2**20
"""Default limit of a line in bytes, without its line end."""
HIGHEST_LIMIT = 2**30
"""The highest limit of a line in bytes."""
LONGEST_LINE = HIGHEST_LIMIT + 2**26
"""The limit for lines that another node has made of such lines: a record with its metadata, or a page."""
MAX_TAG = 64
MAX_WORDS = 2000
"""The most words of a line, with the verb: no verb takes as many."""
_MANY_WORDS = f"more than {MAX_WORDS} words: no verb takes as many"
MAX_UNCOUNTED = 2**16
"""Bytes of a line whose object is parsed whatever its parts."""
MAX_PARTS = 40_000
"""The most strings, commas, colons and brackets in the object of a longer line from a client. A small member takes a
hundred bytes of memory."""
_BEGIN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|(?:\A|[ \t])\{', re.DOTALL)
_PART = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[:,\[{]', re.DOTALL)
"""Both patterns take an unclosed string as one up to the end of the line: a search from each of its quotes would
take for ever."""
MAX_TYPED = 4096
"""Bytes of the longest line that may have been typed on a terminal, with deleted characters."""
MAX_IGNORED = 100
"""The most names of ignored members in one reply."""
MAX_NAME = 100
"""The most characters of each."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|\{.*|[^ \t"\[][^ \t"]*+', re.DOTALL)
"""Possessive, so that nothing is kept for backtracking: a string of a million escapes takes no memory."""
_BLANKS = re.compile(r"[ \t]*+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_NOT_IN_STRINGS = re.compile(r"[\x00-\x1f]")
"""Characters that JSON requires to be escaped."""
_BARE = re.compile(r'[^#\s"\{\[\x00-\x1f\x7f-\x9f][^\s"\{\[\x00-\x1f\x7f-\x9f]*')
_SPELLED = re.compile(r"[\u0080-\u009f\u2028\u2029\x7f]")
_TAGGED = re.compile(r"[ \t]*#([^\s\x00-\x1f\x7f-\x9f]{1,64})(?=[ \t]|\Z)")

SURROGATES = "half a surrogate pair: text that can't be encoded as UTF-8"
_WORDLESS = re.compile(rb"(?:#([\x21-\x7e]{1,64}) )?([a-z]+) (?=\{)")
"""A verb with an object and no words, as between nodes."""

_parse_json = msgspec.json.Decoder().decode


class LineBuffer:
    """Bytes to lines, whatever pieces the bytes come in.

    It holds no more than one unfinished line of `limit` bytes. When a line is longer, `overlong` is True, and that line
    and all that follows is dropped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.overlong = False
        self._begun = bytearray()

    def take(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their line ends (LF or CRLF)."""
        if self.overlong:
            return []
        lines: list[bytes] = []
        end = data.rfind(b"\n")
        if end >= 0:
            if self._begun:
                self._begun += data[:end]
                whole = bytes(self._begun)
                self._begun.clear()
            else:
                whole = data[:end]
            data = data[end + 1 :]
            lines = whole.split(b"\n")
            if b"\r" in whole:
                lines = [line.removesuffix(b"\r") for line in lines]
            if len(whole) > self.limit:
                for place, line in enumerate(lines):
                    if len(line) > self.limit:
                        self.overlong = True
                        return lines[:place]
        self._begun += data
        if len(self._begun) > self.limit and len(self._begun.removesuffix(b"\r")) > self.limit:
            self.overlong = True
            self._begun.clear()
        return lines


def _say(value: Any) -> Any:
    """How msgspec encodes types that it does not know."""
    if isinstance(value, Version):
        return str(value)
    raise TypeError(f"{type(value).__name__} can't go on the wire")


def _read(kind: type, value: Any) -> Any:
    """How msgspec decodes types that it does not know."""
    if kind is Version and isinstance(value, str):
        return Version.parse(value)
    raise ValueError(f"expected a {kind.__name__.lower()}")


_json = msgspec.json.Encoder(enc_hook=_say).encode


def quote(word: str) -> str:
    """Return the word as it goes on a line: bare if possible, else as a JSON string."""
    if word.isalnum() or _BARE.fullmatch(word):
        return word
    return _SPELLED.sub(lambda m: f"\\u{ord(m[0]):04x}", _json(word).decode())


def tag_of(line: bytes) -> str | None:
    """Return the tag of a line that `decode` refused, as far as it can be read."""
    match = _TAGGED.match(line.decode(errors="replace"))
    return match[1] if match else None


def _split(line: bytes) -> tuple[str | None, list[str], dict[str, Any]]:
    """Return tag, words and object of a line. The text of a BadRequest says what is malformed."""
    at = line.find(b" {")
    try:
        text = (line if at < 0 else line[:at]).decode()
        # Of all blanks only the space is printable, so that split() cuts at nothing else.
        if not text.isprintable() or '"' in text or " [" in text or text[:1] in "[{":
            return _scan(line)
        words = text.split(None, MAX_WORDS)
        members: dict[str, Any] = {} if at < 0 else _parse_json(line[at + 1 :])
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return _scan(line)
    tag = None
    if words and words[0][0] == "#":
        tag = words.pop(0)[1:]
    if not words or tag == "" or (tag is not None and len(tag) > MAX_TAG):
        return _scan(line)
    if len(words) > MAX_WORDS - (tag is not None):
        raise BadRequest(_MANY_WORDS)
    return tag, words, members


def _scan(line: bytes) -> tuple[str | None, list[str], dict[str, Any]]:
    """Do what `_split` does for any line, token by token."""
    try:
        text = line.decode()
    except UnicodeDecodeError as problem:
        raise BadRequest(f"not UTF-8 at byte {problem.start + 1}: send text as UTF-8") from None
    tag = None
    words: list[str] = []
    members: dict[str, Any] = {}
    at, end = 0, len(text)
    while True:
        blanks = _BLANKS.match(text, at)
        at = blanks.end() if blanks is not None else at
        if at == end:
            break
        if len(words) >= MAX_WORDS:
            raise BadRequest(_MANY_WORDS)
        if text[at] == "#" and not words and tag is None:
            match = _TAGGED.match(text)
            if match is None:
                raise BadRequest(f"a tag is # and 1 to {MAX_TAG} printable characters without blanks")
            tag = match[1]
            at = match.end()
            continue
        match = _TOKEN.match(text, at)
        if match is None or (match.end() < end and text[match.end()] not in " \t"):
            raise BadRequest(_what_is_wrong(text, at))
        token = match[0]
        if token[0] == "{":
            members = _json_at(text, at, end, "object")
        elif (control := (_NOT_IN_STRINGS if token[0] == '"' else _CONTROL).search(token)) is not None:
            raise BadRequest(_control_character(control[0], at + control.start()))
        elif token[0] == '"':
            words.append(_json_at(text, at, match.end(), "string"))
        else:
            words.append(token)
        at = match.end()
    if not words:
        raise BadRequest("no verb: a line begins with one, try help")
    return tag, words, members


def _json_at(text: str, start: int, end: int, what: str) -> Any:
    try:
        return _parse_json(text[start:end])
    except (msgspec.DecodeError, RecursionError) as problem:
        raise BadRequest(f"bad JSON {what} at column {start + 1}: {_lower(problem)}") from None


def _control_character(found: str, column: int) -> str:
    return f"control character at column {column + 1}: write it in a JSON string, as \\u{ord(found):04x}"


def _what_is_wrong(text: str, column: int) -> str:
    if text[column] == '"':
        return f"a string that begins at column {column + 1} is not closed by a double quote before a blank"
    if text[column] == "[":
        return f"'[' at column {column + 1}: a word with it is written as a JSON string in double quotes"
    return f"a double quote inside the word at column {column + 1}: write the whole word as a JSON string"


def _lower(problem: object) -> str:
    text = str(problem)
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


_TELNET = re.compile(b"\xff(?:[\xfb-\xfe].|[\xf0-\xfa])", re.DOTALL)
"""What telnet sends beside the text: options, and keys such as Ctrl-C."""
_ERASE = "\x08\x7f"


def as_meant(line: bytes) -> bytes:
    """Return a line of a terminal that does not edit lines, without the characters that were deleted."""
    if len(line) > MAX_TYPED:
        return line
    text = _TELNET.sub(b"", line).decode(errors="surrogateescape")
    if not any(erase in text for erase in _ERASE):
        return text.encode(errors="surrogateescape")
    kept: list[str] = []
    for character in text:
        if character not in _ERASE:
            kept.append(character)
        elif kept:
            kept.pop()
    return "".join(kept).encode(errors="surrogateescape")


def decode(
    line: bytes, vocabulary: Mapping[str, type[Request]], ignored: list[str] | None = None
) -> tuple[str | None, Request]:
    """Return the request and the tag of a line. Raises BadRequest or UnknownVerb; `tag_of` finds the tag then.

    Unknown members of the object are ignored. Those of a client's line are added to `ignored`, so that the reply can
    name them (`with_ignored`).
    """
    match = _WORDLESS.match(line)
    if match is not None:
        kind = vocabulary.get(match[2].decode())
        if kind is not None and (decoder := _decoder(kind)) is not None:
            try:
                return (match[1].decode() if match[1] is not None else None), decoder.decode(line[match.end() :])
            except (ValueError, RecursionError):
                pass  # the error is described below
    if len(line) > MAX_UNCOUNTED and _has_many_parts(line):
        raise BadRequest(f"the object has more than {MAX_PARTS} parts: send less")
    try:
        tag, words, members = _split(line)
    except BadRequest:
        meant = as_meant(line)
        if meant == line:
            raise
        tag, words, members = _split(meant)
    kind = vocabulary.get(words[0])
    if kind is None:
        raise UnknownVerb(words[0])
    form = form_of(kind)
    given = len(words) - 1
    if given < form.required or (given > len(form.words) and not form.rest):
        raise BadRequest(f"expected: {form.usage}; got {given} word{'' if given == 1 else 's'} after {words[0]}")
    if not members.keys() <= form.names:
        unknown = [name for name in members if name not in form.names and name not in form.words[given:]]
        for name in unknown:
            del members[name]
        if ignored is not None and not kind.between_nodes:
            ignored += [name[:MAX_NAME] for name in unknown[:MAX_IGNORED]]
    try:
        if not members and given <= form.plain:
            return tag, kind(*words[1:])
        if form.rest:
            plain = len(form.words) - 1
            members[form.words[-1]] = words[1 + plain :]
            words = words[: 1 + plain]
        for name, attribute, _ in form.members:
            if name != attribute and name in members:
                members[attribute] = members.pop(name)
        members.update(zip(form.words, words[1:], strict=False))
        return tag, msgspec.convert(members, kind, strict=False, dec_hook=_read)
    except ValueError as problem:
        raise BadRequest(f"{_path(problem, form)}; expected: {form.usage}") from None


def _has_many_parts(line: bytes) -> bool:
    """Return True if the object of a line has more than `MAX_PARTS` strings, commas, colons and brackets, and so may
    have that many members and elements. The object is not parsed for that, and no part of it is copied."""
    if sum(map(line.count, (b",", b":", b"[", b"{"))) <= MAX_PARTS // 2:
        return False
    for found in islice(_BEGIN.finditer(line), MAX_WORDS):
        if found[0].endswith(b"{"):
            return any(islice(_PART.finditer(line, found.start()), MAX_PARTS, None))
    return False


def _decoder_of(kind: type[Request]) -> msgspec.json.Decoder[Request] | None:
    """Return the decoder from a line's object to a request, for lines that have only the verb and the object."""
    form = form_of(kind)
    if form.words or not kind.between_nodes or any(name != attribute for name, attribute, _ in form.members):
        return None
    return msgspec.json.Decoder(kind, strict=False, dec_hook=_read)


_decoder = cast("Callable[[type[Request]], msgspec.json.Decoder[Request] | None]", cache(_decoder_of))


def _path(problem: Exception, form: Form) -> str:
    """Return msgspec's error text, with the member named as in the usage line."""
    text, _, where = str(problem).partition(" - at `")
    attribute = where.rpartition("$")[2].strip("`.")
    member = next((name for name, own, _ in form.members if own == attribute), attribute)
    name = member.upper() if member in form.words else member
    if text.startswith("Invalid enum value"):
        text = f"{text.rpartition(' ')[2]} is not a valid value: expected a number or all"
    return f"{name}: {_lower(text)}" if name else _lower(text)


def encode(request: Request, tag: str | None = None) -> bytes:
    """Return the line of a request; BadRequest if it has lone surrogates, which are not text."""
    form = form_of(type(request))
    words: list[str] = []
    for name in form.words:
        value = getattr(request, name)
        if value is None:
            break
        if isinstance(value, tuple):
            words += value
        else:
            words.append(str(value))
    members = {
        name: value for name, attribute, default in form.members if (value := getattr(request, attribute)) != default
    }
    return _line(tag, form.verb, words, members)


def with_ignored(reply: Reply, ignored: Sequence[str]) -> Reply:
    """Return the reply with the names of what was ignored in the line that it answers."""
    return attrs.evolve(reply, object={**reply.object, "ignored": list(ignored)}) if ignored else reply


def encode_reply(reply: Reply, tag: str | None = None) -> bytes:
    """Return the line of a reply; BadRequest if it has lone surrogates, which are not text."""
    if isinstance(reply, Ok):
        if not reply.words and reply.object:
            head = b"ok" if tag is None else b"#%b ok" % tag.encode()
            return b"%b %b" % (head, encode_object(reply.object))
        first = "ok"
    else:
        first = f"error {reply.code}" if isinstance(reply, Error) else "no"
    return _line(tag, first, reply.words, reply.object)


def encode_object(members: Mapping[str, Any]) -> bytes:
    """Return the object at the end of a line; BadRequest if it has lone surrogates, which are not text."""
    try:
        return _json(members)
    except UnicodeEncodeError:
        raise BadRequest(SURROGATES) from None


def _line(tag: str | None, first: str, words: Sequence[str], members: Mapping[str, Any]) -> bytes:
    try:
        text = " ".join([first, *map(quote, words)]) if words else first
        line = (text if tag is None else f"#{tag} {text}").encode()
    except UnicodeEncodeError:
        raise BadRequest(SURROGATES) from None
    return b"%b %b" % (line, encode_object(members)) if members else line


_Shape = TypeVar("_Shape")


def decode_reply(line: bytes) -> tuple[str | None, Reply]:
    """Return the reply and the tag of a line; BadRequest if it is not a reply."""
    match = _WORDLESS.match(line)
    if match is not None and match[2] == b"ok":
        try:
            members = _parse_json(line[match.end() :])
            return (match[1].decode() if match[1] is not None else None), Ok((), members)
        except (ValueError, RecursionError):
            pass  # the error is described below
    tag, words, members = _split(line)
    if words[0] == "ok":
        return tag, Ok(tuple(words[1:]), members)
    if words[0] == "no":
        return tag, No(tuple(words[1:]), members)
    if words[0] == "error" and len(words) > 1:
        return tag, Error(words[1], tuple(words[2:]), members)
    raise BadRequest(f"{words[0]!r} is not the beginning of a reply: expected ok, no or error CODE")


def structure(members: Mapping[str, Any], shape: type[_Shape]) -> _Shape:
    """Return a reply's object as `shape` (an attrs class); BadRequest if it has another form."""
    try:
        return msgspec.convert(members, shape, dec_hook=_read)
    except ValueError as problem:
        raise BadRequest(f"unexpected reply: {_lower(problem)}") from None


def unstructure(value: Any) -> Any:
    """Return an attrs object (or Struct) as plain dicts, lists and words, ready for a reply's object."""
    return msgspec.to_builtins(value, enc_hook=_say)
