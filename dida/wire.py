"""Lines to messages and back: the grammar of the line protocol; nothing else parses or prints lines.

    line  = [ "#" tag SP ] verb *( SP word ) [ SP object ] (CRLF | LF)
    reply = [ "#" tag SP ] ( "ok" | "no" | "error" SP code ) *( SP word ) [ SP object ]

A word is bare, or a JSON string in double quotes; the object is one JSON object up to the end of the
line. `decode` and `encode` are inverses, as are `decode_reply` and `encode_reply`. Decoding is lenient
where a person types (runs of blanks and tabs), encoding is strict. Lines here carry no line end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from dida.errors import BadRequest, UnknownVerb
from dida.messages import Error, Form, No, Ok, Reply, Request, form_of
from dida.versions import Version

MAX_LINE = 2**20
"""The default limit of a line in bytes, line end not counted."""
MAX_TAG = 64

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\{.*|[^ \t"\[][^ \t"]*', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_NOT_BARE = re.compile(r'[\s"\{\[\x00-\x1f\x7f-\x9f]')
_SPELLED = re.compile(r"[\u0080-\u009f\u2028\u2029\x7f]")
_TAG = re.compile(r"#([^\s\x00-\x1f\x7f-\x9f]{1,64})")

_parse_json = msgspec.json.Decoder().decode


def _say(value: Any) -> Any:
    """How msgspec writes what it does not know."""
    if isinstance(value, Version):
        return str(value)
    raise TypeError(f"{type(value).__name__} can't go on the wire")


def _read(kind: type, value: Any) -> Any:
    """How msgspec reads what it does not know."""
    if kind is Version and isinstance(value, str):
        return Version.parse(value)
    raise ValueError(f"expected a {kind.__name__.lower()}")


_json = msgspec.json.Encoder(enc_hook=_say).encode


def quote(word: str) -> str:
    """The word as it goes on a line: bare where it can be, else as a JSON string."""
    if word and word[0] != "#" and _NOT_BARE.search(word) is None:
        return word
    return _SPELLED.sub(lambda m: f"\\u{ord(m[0]):04x}", _json(word).decode())


def _split(line: bytes) -> tuple[str | None, list[str], dict[str, Any]]:
    """Tag, words and object of a line; BadRequest says what is malformed."""
    try:
        text = line.decode()
    except UnicodeDecodeError as problem:
        raise BadRequest(f"not UTF-8 at byte {problem.start}: send text as UTF-8") from None
    if (at := _CONTROL.search(text)) is not None:
        raise BadRequest(
            f"control character {at[0]!r} at column {at.start() + 1}: write it in a JSON string, as \\u{ord(at[0]):04x}"
        )
    tag = None
    words: list[str] = []
    members: dict[str, Any] = {}
    at_column, end = 0, len(text)
    while True:
        while at_column < end and text[at_column] in " \t":
            at_column += 1
        if at_column == end:
            break
        if text[at_column] == "#" and not words and tag is None:
            match = _TAG.match(text, at_column)
            if match is None or (match.end() < end and text[match.end()] not in " \t"):
                raise BadRequest(f"a tag is # and 1 to {MAX_TAG} printable characters without blanks")
            tag = match[1]
            at_column = match.end()
            continue
        match = _TOKEN.match(text, at_column)
        if match is None or (match.end() < end and text[match.end()] not in " \t"):
            raise _Tagged(tag, _what_is_wrong(text, at_column))
        token = match[0]
        if token[0] == '"':
            try:
                words.append(_parse_json(token))
            except msgspec.DecodeError as problem:
                raise _Tagged(tag, f"bad JSON string at column {at_column + 1}: {_lower(problem)}") from None
        elif token[0] == "{":
            try:
                members = _parse_json(token)
            except (msgspec.DecodeError, RecursionError) as problem:
                raise _Tagged(tag, f"bad JSON object at column {at_column + 1}: {_lower(problem)}") from None
        else:
            words.append(token)
        at_column = match.end()
    if not words:
        raise _Tagged(tag, "empty line: a line begins with a verb, try help")
    return tag, words, members


class _Tagged(BadRequest):
    """A malformed line whose tag could still be read, so that the answer can carry it."""

    def __init__(self, tag: str | None, text: str) -> None:
        super().__init__(text)
        self.tag = tag


def tag_of(problem: BaseException) -> str | None:
    """The tag of the line that `problem` was raised for, as far as it could be read."""
    tag = getattr(problem, "tag", None)
    return tag if isinstance(tag, str) else None


def _what_is_wrong(text: str, column: int) -> str:
    token = text[column:]
    if token[0] == '"':
        return f"a string that begins at column {column + 1} is not closed by a double quote before a blank"
    if token[0] == "[":
        return f"'[' at column {column + 1}: a word with it is written as a JSON string in double quotes"
    return f"a double quote inside the word at column {column + 1}: write the whole word as a JSON string"


def _lower(problem: BaseException) -> str:
    text = str(problem)
    return text[:1].lower() + text[1:]


def decode(line: bytes, vocabulary: Mapping[str, type[Request]]) -> tuple[str | None, Request]:
    """The request that a line is, and its tag. Raises BadRequest or UnknownVerb; `tag_of` the exception."""
    tag, words, members = _split(line)
    kind = vocabulary.get(words[0])
    if kind is None:
        unknown = UnknownVerb(words[0])
        unknown.tag = tag  # type: ignore[attr-defined]
        raise unknown
    form = form_of(kind)
    given = len(words) - 1
    if given < form.required or (given > len(form.words) and not form.rest):
        raise _Tagged(tag, f"expected: {form.usage}; got {given} word{'' if given == 1 else 's'} after {words[0]}")
    if form.rest:
        plain = len(form.words) - 1
        members[form.words[-1]] = words[1 + plain :]
        words = words[: 1 + plain]
    for name, attribute, _ in form.members:
        if name != attribute and name in members:
            members[attribute] = members.pop(name)
    members.update(zip(form.words, words[1:], strict=False))
    try:
        return tag, msgspec.convert(members, kind, strict=False, dec_hook=_read)
    except (msgspec.ValidationError, ValueError) as problem:
        raise _Tagged(tag, f"{_path(problem, form)}; expected: {form.usage}") from None


def _path(problem: Exception, form: Form) -> str:
    """msgspec's message, with the member that it is about said in the words of the usage line."""
    text, _, where = str(problem).partition(" - at `$.")
    where = where.rstrip("`")
    name = where.upper() if where in form.words else where
    return f"{name}: {_lower(ValueError(text))}" if name else _lower(ValueError(text))


def encode(request: Request, tag: str | None = None) -> bytes:
    """The line that says `request`."""
    form = form_of(type(request))
    parts = [form.verb] if tag is None else [f"#{tag}", form.verb]
    for name in form.words:
        value = getattr(request, name)
        if value is None:
            break
        if isinstance(value, tuple):
            parts += map(quote, value)
        else:
            parts.append(quote(str(value)))
    members = {
        name: value for name, attribute, default in form.members if (value := getattr(request, attribute)) != default
    }
    return _finish(parts, members)


def encode_reply(reply: Reply, tag: str | None = None) -> bytes:
    """The line that says `reply`."""
    parts = [] if tag is None else [f"#{tag}"]
    match reply:
        case Ok():
            parts.append("ok")
        case No():
            parts.append("no")
        case Error():
            parts += ("error", reply.code)
    parts += map(quote, reply.words)
    return _finish(parts, reply.object)


def _finish(parts: list[str], members: Mapping[str, Any]) -> bytes:
    line = " ".join(parts).encode()
    return line + b" " + _json(members) if members else line


_Shape = TypeVar("_Shape")


def decode_reply(line: bytes) -> tuple[str | None, Reply]:
    """The reply that a line is, and its tag; BadRequest when it is none."""
    tag, words, members = _split(line)
    if words[0] == "ok":
        return tag, Ok(tuple(words[1:]), members)
    if words[0] == "no":
        return tag, No(tuple(words[1:]), members)
    if words[0] == "error" and len(words) > 1:
        return tag, Error(words[1], tuple(words[2:]), members)
    raise BadRequest(f"{words[0]!r} begins no reply: expected ok, no or error CODE")


def shaped(members: Mapping[str, Any], shape: type[_Shape]) -> _Shape:
    """A reply's object as `shape` (an attrs class); BadRequest when it has another form."""
    try:
        return msgspec.convert(members, shape, dec_hook=_read)
    except (msgspec.ValidationError, ValueError) as problem:
        raise BadRequest(f"unexpected reply: {_lower(problem)}") from None


def unshaped(value: Any) -> Any:
    """An attrs object (or Struct) as plain dicts, lists and words, ready for a reply's object."""
    return msgspec.to_builtins(value, enc_hook=_say)
