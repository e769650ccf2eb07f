"""The grammar of the line protocol: lines to messages and back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dida.chains import messages as chain_messages
from dida.errors import BAD_REQUEST, BadRequest, DidaError, UnknownVerb
from dida.pcs import messages as control_messages
from dida.replication import messages as peer_messages
from dida.versions import Version
from dida.wire import grammar, messages, runs
from dida.wire.messages import Debug, Error, No, Ok, Quit, Read, Request, UpdateIf, Write, form_of, vocabulary
from tests.support import strategies

KINDS = sorted(
    {
        kind
        for module in (messages, runs, chain_messages, control_messages, peer_messages)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Request) and kind.usage
    },
    key=lambda kind: (kind.__module__, kind.__name__),
)
STORAGE = vocabulary(*messages.NODE, Read, Write, UpdateIf, messages.ListRecords, messages.Home, messages.Versions)
names = pytest.mark.parametrize(
    "kind", KINDS, ids=lambda kind: f"{kind.__module__.removeprefix('dida.')}.{kind.__name__}"
)


# --- inverses -----------------------------------------------------------------------------------


@names
@settings(max_examples=settings().max_examples // 3)
@given(data=st.data())
def test_a_request_comes_back_from_its_line_as_it_was(kind: type[Request], data: st.DataObject) -> None:
    """`decode` is the inverse of `encode` for every request class, whatever its fields and tag are."""
    request = data.draw(strategies.requests(kind))
    tag = data.draw(st.none() | strategies.tags)
    line = grammar.encode(request, tag)
    assert b"\n" not in line
    assert b"\r" not in line
    assert grammar.decode(line, vocabulary(kind)) == (tag, request)


@given(strategies.replies, st.none() | strategies.tags)
@example(Ok(("a b", "")), None)
@example(Ok((), {"": {"deep": [None, 1.5, " {"]}}), "1")
@example(No(("4.1", "{}")), "#")
@example(Error("bad-request", ('say "x"',)), '"')
def test_a_reply_comes_back_from_its_line_as_it_was(reply: messages.Reply, tag: str | None) -> None:
    """`decode_reply` is the inverse of `encode_reply`, whatever words, object and tag are."""
    line = grammar.encode_reply(reply, tag)
    assert b"\n" not in line
    assert b"\r" not in line
    assert grammar.decode_reply(line) == (tag, reply)


@given(st.text())
def test_any_text_can_be_stored_and_comes_back(text: str) -> None:
    """Whatever text a key and a value are, a node gets just these."""
    assert grammar.decode(grammar.encode(Write(text, text)), STORAGE) == (None, Write(text, text))


@given(st.text(), st.text())
def test_a_word_written_as_json_is_that_word(key: str, value: str) -> None:
    """Clients that always write words as JSON strings, in ASCII or not, are understood."""
    for ascii_only in (True, False):
        spelled = " ".join(json.dumps(word, ensure_ascii=ascii_only) for word in (key, value))
        assert spelled.isascii() or not ascii_only
        if not any(0x7F <= ord(char) < 0xA0 for char in spelled):
            assert grammar.decode(f"write {spelled}".encode(), STORAGE)[1] == Write(key, value)


@given(st.sampled_from(KINDS), st.data())
def test_blanks_and_unknown_members_change_nothing(kind: type[Request], data: st.DataObject) -> None:
    """Between the tokens of a line any run of blanks and tabs may stand; unknown members are ignored."""
    request = data.draw(strategies.requests(kind))
    line = grammar.encode(request, "t").decode()
    tokens = grammar._TOKEN.findall(line)
    if not tokens[-1].startswith("{"):
        tokens.append("{}")
    known = json.loads(tokens[-1])
    tokens[-1] = json.dumps({**known, "of a later version": [1, {"x": None}]})
    blanks = st.text(" \t", min_size=1, max_size=3)
    spaced = "".join(data.draw(blanks) + token for token in tokens) + data.draw(blanks)
    assert grammar.decode(spaced.encode(), vocabulary(kind)) == ("t", request)


@given(strategies.objects, strategies.words)
def test_the_quick_way_and_the_thorough_way_agree(members: dict[str, Any], words: tuple[str, ...]) -> None:
    """A line that is split in a few steps gives what scanning it token by token gives."""
    line = grammar.encode_reply(Ok(words, members), "t")
    assert grammar._split(line) == grammar._scan(line)


@given(st.sampled_from([kind for kind in KINDS if not form_of(kind).words]), st.data())
def test_an_object_read_in_one_go_is_the_same(kind: type[Request], data: st.DataObject) -> None:
    """Whatever its members are, right or wrong, a line gives what it gives when it is taken apart first."""
    _, _, members = grammar._split(grammar.encode(data.draw(strategies.requests(kind)), "t"))
    for name in data.draw(st.lists(st.sampled_from([*members, "deadline"]), max_size=2)):
        members[name] = data.draw(
            st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | strategies.objects
        )
    found = []
    for blanks in (b" ", b"  "):
        line = b"#t%b%b {%b" % (blanks, form_of(kind).verb.encode(), grammar.encode_object({"x": 1, **members})[1:])
        try:
            found.append(grammar.decode(line, vocabulary(kind)))
        except BadRequest as problem:
            found.append((str(problem), None))  # type: ignore[arg-type]
    assert found[0] == found[1]


# --- forms --------------------------------------------------------------------------------------


FORMS = {
    "read 13": Read("13"),
    "  read\t13  ": Read("13"),
    "read 13 4.1": Read("13", Version(4, 1)),
    'read 13 {"latest": true}': Read("13", latest=True),
    'read 13 {"after": {"1:1": 3}, "deadline": 2}': Read("13", after={"1:1": 3}, deadline=2.0),
    'read 13 4.1 {"after": {}}': Read("13", Version(4, 1)),
    'write greeting "hello world"': Write("greeting", "hello world"),
    'write "" ""': Write("", ""),
    r'write k "\u0000\n\ud83d\ude00"': Write("k", "\0\n\U0001f600"),
    'write k v {"id": "s:1", "retry": false, "lowest": 1}': Write("k", "v", id="s:1", retry=False, lowest=1),
    'write k v {"id": null}': Write("k", "v"),
    "write k #v": Write("k", "#v"),
    "write k a{b}[c]": Write("k", "a{b}[c]"),
    "write k null": Write("k", "null"),
    "updateif 13 1 success": UpdateIf("13", "1", "success"),
    'list {"from": "k", "limit": 5}': messages.ListRecords(from_="k", limit=5),
    "debug on": Debug("on"),
    "quit": Quit(),
}


@pytest.mark.parametrize("line", FORMS)
def test_forms_that_people_type(line: str) -> None:
    """A line means what its verb's usage says, however it is spaced and quoted."""
    assert grammar.decode(line.encode(), STORAGE) == (None, FORMS[line])


@pytest.mark.parametrize("tag", ["1", "a-b", "#", '"', "{", "é", "x" * 64])
def test_tags(tag: str) -> None:
    """Any 1 to 64 printable characters without blanks are a tag, and come back with the reply."""
    assert grammar.decode(f" #{tag} read k".encode(), STORAGE) == (tag, Read("k"))
    assert grammar.decode_reply(f"#{tag} ok".encode()) == (tag, Ok())


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain", "plain"),
        ("4.1", "4.1"),
        ("", '""'),
        ("two words", '"two words"'),
        ("#x", '"#x"'),
        ("x#", "x#"),
        ("{}", '"{}"'),
        ("[1]", '"[1]"'),
        ('say "x"', r'"say \"x\""'),
        ("a\nb", r'"a\nb"'),
        ("\x85\x7f\u2028", r'"\u0085\u007f\u2028"'),
        ("h\u00e9 \u00a0", '"h\u00e9 \u00a0"'),
        ("\u00e9", "\u00e9"),
    ],
)
def test_quoting(word: str, written: str) -> None:
    """A word stands bare where it can, and as a JSON string without control characters elsewhere."""
    assert grammar.quote(word) == written


def test_members_of_default_value_are_left_out() -> None:
    """A line says only what differs from the defaults, so that it stays short enough to read."""
    assert grammar.encode(Read("k")) == b"read k"
    assert grammar.encode(Write("k", "v", retry=False), "7") == b'#7 write k v {"retry":false}'
    assert grammar.encode(messages.ListRecords(from_="k")) == b'list {"from":"k"}'


@names
def test_every_verb_says_its_form(kind: type[Request]) -> None:
    """Every word of a usage line is a field of its class, and every verb is a lower-case word and explained."""
    form = form_of(kind)
    assert set(form.words) <= {field.name for field in attrs.fields(kind)}
    assert form.verb.isalpha()
    assert form.verb.islower()
    assert form.about


@names
def test_a_verb_alone(kind: type[Request]) -> None:
    """A verb without anything is a request, or a bad request that tells its form: never a bug."""
    said = ""
    try:
        _, request = grammar.decode(form_of(kind).verb.encode(), vocabulary(kind))
    except BadRequest as problem:
        said = problem.words[0]
    assert isinstance(request, kind) if not said else f"expected: {kind.usage}" in said


def test_verbs_are_said_once() -> None:
    """No two classes of one vocabulary share a verb, except where one overrides the node's own."""
    for kinds in (messages.NODE, chain_messages.SCHEDULER, chain_messages.WORKER, peer_messages.PEER):
        assert len(vocabulary(*kinds)) == len(kinds)


# --- malformed lines ----------------------------------------------------------------------------

MALFORMED = {
    b"": "no verb: a line begins with one, try help",
    b" \t ": "no verb: a line begins with one, try help",
    b"#7": "no verb: a line begins with one, try help",
    b'{"a": 1}': "no verb: a line begins with one, try help",
    b"{x} y": "bad JSON object at column 1: JSON is malformed: object keys must be strings (byte 1)",
    b"[x] y": "'[' at column 1: a word with it is written as a JSON string in double quotes",
    b"# read k": "a tag is # and 1 to 64 printable characters without blanks",
    b"#" + b"x" * 65 + b" read k": "a tag is # and 1 to 64 printable characters without blanks",
    b"read": "expected: read KEY [VERSION]; got 0 words after read",
    b"read k 1.1 x": "expected: read KEY [VERSION]; got 3 words after read",
    b"write k": "expected: write KEY VALUE; got 1 word after write",
    b"read k 1": "VERSION: invalid version '1': write number.replica, as in 4.1; expected: read KEY [VERSION]",
    b"read k 9007199254740992.1": ("VERSION: version 9007199254740992.1 is out of range; expected: read KEY [VERSION]"),
    b"read \xff": "not UTF-8 at byte 6: send text as UTF-8",
    b'read k {"after": {"\xff": 1}}': "not UTF-8 at byte 20: send text as UTF-8",
    b"read k\x00": "control character at column 7: write it in a JSON string, as \\u0000",
    b'read "a\x01b"': "control character at column 8: write it in a JSON string, as \\u0001",
    "read \x85".encode(): "control character at column 6: write it in a JSON string, as \\u0085",
    b'read "k': "a string that begins at column 6 is not closed by a double quote before a blank",
    b'read "k"x': "a string that begins at column 6 is not closed by a double quote before a blank",
    b'read k"k': "a double quote inside the word at column 6: write the whole word as a JSON string",
    b"read [1]": "'[' at column 6: a word with it is written as a JSON string in double quotes",
    rb'read "\q"': "bad JSON string at column 6: JSON is malformed: invalid escape character in string (byte 3)",
    b'read k {"a": 1': "bad JSON object at column 8: input data was truncated",
    b"read k {1}": "bad JSON object at column 8: JSON is malformed: object keys must be strings (byte 1)",
    b'read k {"a": 1} x': "bad JSON object at column 8: JSON is malformed: trailing characters (byte 10)",
    b'read k {"deadline": -1}': "deadline: expected `float` >= 0.0; expected: read KEY [VERSION]",
    b'read k {"deadline": "soon"}': "deadline: expected `float`, got `str`; expected: read KEY [VERSION]",
    b'read k {"after": 7}': "after: expected `object`, got `int`; expected: read KEY [VERSION]",
    b'read k {"after": {"": 1}}': "after: expected `str` of length >= 1; expected: read KEY [VERSION]",
    b'write k v {"id": ""}': "id: expected `str` of length >= 1; expected: write KEY VALUE",
    b'write k v {"lowest": 9223372036854775808}': (
        "lowest: expected `int` <= 9007199254740991; expected: write KEY VALUE"
    ),
    b"debug maybe": "expected debug on or debug off; expected: debug SWITCH",
    b'debug maybe {"deadline": 1}': "expected debug on or debug off; expected: debug SWITCH",
}


@pytest.mark.parametrize("text", ["b\x7fc", "\x85", "a\u2028b", "\x9f"])
def test_what_json_does_not_want_spelled_may_be_raw(text: str) -> None:
    """In a JSON string only what is below U+0020 must be spelled; all else is taken as it is."""
    assert grammar.decode(f'write "{text}" "{text}"'.encode(), STORAGE) == (None, messages.Write(text, text))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("writ\x7fte kex\x08y 1", "write key 1"),
        ("\x7f\x08ping", "ping"),
        ("abc\x7f\x7f\x7f\x7f\x7fping", "ping"),
        ('write k "a\x08b"', 'write k "b"'),
    ],
)
def test_characters_that_were_taken_back(typed: str, meant: str) -> None:
    """What a terminal sends that does not edit its lines is read as it was meant."""
    assert grammar.decode(typed.encode(), STORAGE) == grammar.decode(meant.encode(), STORAGE)


def test_only_what_may_have_been_typed_is_taken_back() -> None:
    """Characters are taken back in lines as long as a terminal's; a longer line was not typed, and is refused."""
    half = grammar.MAX_TYPED // 2 - 4
    assert grammar.decode(b"x" * half + b"\x7f" * half + b"ping", STORAGE) == (None, messages.Ping())
    with pytest.raises(BadRequest):
        grammar.decode(b"x" * 500_000 + b"\x7f" * 500_000 + b"ping", STORAGE)


@pytest.mark.parametrize("line", MALFORMED)
def test_malformed_lines(line: bytes) -> None:
    """A line that can't be understood is a bad request, which says what is wrong and where."""
    with pytest.raises(BadRequest) as caught:
        grammar.decode(line, STORAGE)
    assert (caught.value.code, caught.value.words) == (BAD_REQUEST, (MALFORMED[line],))


def test_unknown_verb() -> None:
    """A verb that the node has not is named in the error."""
    with pytest.raises(UnknownVerb) as caught:
        grammar.decode(b"#1 raed k", STORAGE)
    assert str(caught.value) == "unknown-verb: raed"


@pytest.mark.parametrize(
    ("line", "tag"),
    [
        (b"#7 raed k", "7"),
        (b"#7 read \xff", "7"),
        (b'\t #7 read "', "7"),
        (b"#7", "7"),
        (b"# 7", None),
        (b"#" + b"x" * 65, None),
        (b"#\xff read", "\N{REPLACEMENT CHARACTER}"),
        (b"read #7", None),
        (b"", None),
    ],
)
def test_the_tag_of_a_malformed_line(line: bytes, tag: str | None) -> None:
    """The answer to a malformed line can carry its tag as long as that can be read."""
    assert grammar.tag_of(line) == tag


@pytest.mark.parametrize("line", [b"what", b"error", b"4.1 ok", b'"ok" \xff', b'ok {"a"}', b""])
def test_what_is_no_reply(line: bytes) -> None:
    """A line that is no reply is a bad request, nothing else."""
    with pytest.raises(BadRequest):
        grammar.decode_reply(line)


tokens = st.sampled_from(
    [b"read ", b"#1 ", b'"', b"{", b"}", b" ", b"\t", b":", b"\\", b"\\u", b"[", b"k", b'{"a":', b"\xff", b"\0"]
)
lines = st.binary(max_size=80) | st.lists(tokens, max_size=12).map(b"".join) | st.text().map(str.encode)


@given(lines)
@example(b"read k " + b'{"a":' * 5000)
@example(b'read k {"a":' + b"9" * 5000 + b"}")
@example(b'read k {"a":1e999}')
@example(b'read "\\ud800"')
def test_nothing_but_a_dida_error_comes_out_of_any_bytes(line: bytes) -> None:
    """Whatever bytes arrive, decoding gives a message or raises a DidaError that can be answered."""
    for decoded in (lambda: grammar.decode(line, STORAGE), lambda: grammar.decode_reply(line)):
        try:
            decoded()
        except DidaError as problem:
            grammar.encode_reply(Error(problem.code, problem.words), grammar.tag_of(line))


@pytest.mark.parametrize(
    "line",
    [
        b'#1 heartbeat {"sender":"1:x","have":{"1:x":3},"at":0.5}',
        b'heartbeat {"sender":"1:x","at":"7","oldest":"3","deadline":"1.5"}',
        b'#1 heartbeat {"sender":"1:x","oldest":2.0,"unknown":[1,{}]}',
        b'#"a{ heartbeat {"sender":"1:x"}',
        b'#1 heartbeat {"sender":"1:x","oldest":-1}',
        b'#1 heartbeat {"sender":"1:x"} {}',
        b'#1 heartbeat {"sender":"1:x","sender":"2:x"}',
        b'#1 heartbeat {"sender":7}',
        b'#1 heartbeat  {"sender":"1:x"} ',
        b"#1 heartbeat {}",
        b'#1 heartbeat {"sender":"\\ud800"}',
        b"#1 heartbeat {\xff}",
        b'#1 lock {"sender":"1:x","keys":[[1,"k"],[2,"l","s:1"]]}',
        b'#1 lock {"sender":"1:x","keys":[[1]]}',
        b'#1 nothing {"sender":"1:x"}',
    ],
)
def test_a_line_without_words_is_decoded_in_one_step_to_the_same(line: bytes) -> None:
    """What nodes say to each other is decoded in one step; the outcome is that of the general way, which a second blank
    makes it take."""

    def outcome(line: bytes) -> object:
        try:
            return grammar.decode(line, vocabulary(*peer_messages.PEER))
        except DidaError as problem:
            return type(problem), re.sub(r"(column|byte) \d+", r"\1 N", str(problem))

    assert outcome(line) == outcome(line.replace(b" {", b"  {", 1))


@pytest.mark.parametrize("text", ["\ud800", "\ud800 ", "\udcff{"])
def test_half_a_character_is_refused(text: str) -> None:
    """A lone surrogate, which is no text, is refused where a message is made, with a clear error."""
    for encoded in (
        lambda: grammar.encode(Write("k", text)),
        lambda: grammar.encode(Write("k", "v", id=text)),
        lambda: grammar.encode_reply(Ok((text,))),
        lambda: grammar.encode_reply(Ok((), {"a": text})),
    ):
        with pytest.raises(BadRequest, match="surrogate"):
            encoded()


# --- objects ------------------------------------------------------------------------------------


@attrs.frozen
class Shape:
    version: Version
    names: tuple[str, ...] = ()


def test_objects_of_replies() -> None:
    """A reply's object becomes an attrs object and back; one of another form is a bad request."""
    shape = Shape(Version(4, 1), ("a",))
    assert grammar.unstructure(shape) == {"version": "4.1", "names": ("a",)}
    assert grammar.structure(grammar.unstructure(shape), Shape) == shape
    for wrong in ({}, {"version": "4"}, {"version": 4}, {"version": "4.1", "names": 5}):
        with pytest.raises(BadRequest, match="unexpected reply"):
            grammar.structure(wrong, Shape)


# --- bytes to lines -----------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=8).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))), st.data())
def test_lines_come_out_whatever_pieces_come_in(lines: list[bytes], data: st.DataObject) -> None:
    """The lines are the same however the stream is cut, with LF and with CRLF."""
    stream = b"".join(line + data.draw(st.sampled_from([b"\n", b"\r\n"])) for line in lines) + b"begun"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    buffer = grammar.LineBuffer(8)
    taken: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        taken += buffer.take(stream[start:end])
    assert taken == lines
    assert not buffer.overlong


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_limit_of_a_line(end: bytes, size: int) -> None:
    """A line of just the limit is taken; one byte more ends the stream there, not what came before it."""
    for length, overlong in ((8, False), (9, True)):
        stream = b"first" + end + b"x" * length + end + b"last" + end
        buffer = grammar.LineBuffer(8)
        taken = [line for at in range(0, len(stream), size) for line in buffer.take(stream[at : at + size])]
        assert taken == ([b"first"] if overlong else [b"first", b"x" * 8, b"last"])
        assert buffer.overlong is overlong


def test_a_line_that_never_ends_is_not_kept() -> None:
    """Once a line is longer than the limit, no more of it is held, however much comes."""
    buffer = grammar.LineBuffer(1000)
    for _ in range(100):
        assert buffer.take(b"x" * 100) == []
        assert len(buffer._begun) <= 1001
    assert buffer.overlong


def test_every_error_code_is_documented() -> None:
    """The codes are lower-case words, so that a client can tell them from text."""
    from dida import errors

    codes = [value for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)]
    assert len(codes) == len(set(codes)) > 10
    assert all(code.replace("-", "").isalpha() and code.islower() for code in codes)


def test_nothing_else_parses_lines() -> None:
    """JSON is read and written in the wire module (and in files that are JSON), nowhere else in the core."""
    core = Path(grammar.__file__).parent
    for module in core.glob("*.py"):
        if module.name != "wire.py":
            assert "json" not in [
                word for line in module.read_text().splitlines() if "import" in line for word in line.split()
            ]
