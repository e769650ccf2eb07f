"""Application files, and the request that travels along a chain."""

import attrs
import pytest

from dida.chains.messages import SCHEDULER, WORKER, Ended, Execute
from dida.chains.records import Assignment, Meta
from dida.console.application import Application
from dida.errors import BadRequest, UserError
from dida.versions import Version
from dida.wire import grammar
from dida.wire.messages import vocabulary
from dida.wire.runs import Result, Run


@pytest.mark.parametrize(
    ("content", "operators"),
    [
        (b"operator A 0\noperator B 1\n", ("A", "B")),
        (b"operator B 1\noperator A 0", ("A", "B")),
        (b"operator A 0\noperator C 1\noperator B 1\n", ("A", "C", "B")),
        (b"\xef\xbb\xbfoperator A 0\r\n\r\n  \t\r\noperator\tB   1\r\n", ("A", "B")),
        (b"# an application\noperator A 0 # the first\n\noperator A 1\n", ("A", "A")),
        (b"operator A 00\roperator B 01\r", ("A", "B")),
    ],
)
def test_application_files(content: bytes, operators: tuple[str, ...]) -> None:
    """Operators run in the order of their numbers, equal ones in file order, however the file is laid out."""
    assert Application.parse(content, "app").operators == operators


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "app: missing operator: write lines like operator AddOperator 0"),
        (b"operator A 1\n", "app line 1: missing number 0 before 1"),
        (b"operator A 0\noperator B 3\noperator C 1\n", "app line 2: missing number 2 before 3"),
        (b"operator A first\n", "app line 1: invalid number 'first'"),
        (b"operator A -1\n", "app line 1: invalid number '-1'"),
        (b"operator A \xc2\xb2\n", "app line 1: invalid number '²'"),
        (b"\noperator A\n", "app line 2: got 1 word after operator: write operator CLASSNAME SEQ"),
        (b"operator A 0 1\n", "app line 1: got 3 words after operator"),
        (b"operater A 0\n", "app line 1: unknown word 'operater': write operator CLASSNAME SEQ"),
        (b"operator ../A 0\n", "app line 1: invalid class name '../A'"),
        (b"operator class 0\n", "app line 1: invalid class name 'class'"),
        (b"operator A 0\noperator \xff 1\n", "app line 2: not UTF-8"),
        (b"".join(b"operator A %d\n" % n for n in range(1001)), "a chain may have 1000"),
    ],
)
def test_mistakes_in_application_files(content: bytes, message: str) -> None:
    """Each mistake is one line with the file, the line, and what to write."""
    with pytest.raises(UserError) as caught:
        Application.parse(content, "app")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def request() -> Execute:
    meta = Meta(
        run="r1-abcd",
        scheduler="localhost:2000",
        storage=("1=s1@localhost:5001",),
        view=3,
        versions={"a key": Version(4, 1)},
        after={"1:9": 7},
    )
    chain = (Assignment("A", 0, "w1", "localhost", 4001), Assignment("B", 1, "w2", "localhost", 4002))
    return Execute(meta=meta, input="13", next=0, size=2, chain=chain, left=120.0)


def test_the_request_survives_the_wire() -> None:
    """What a worker sends is what the next one gets, versions and timestamp included."""
    sent = request()
    assert grammar.decode(grammar.encode(sent, "7"), vocabulary(*WORKER)) == ("7", sent)


def test_an_executed_step_is_in_the_request() -> None:
    """The output of a step is the next one's previous output; the first one's is empty."""
    first = request()
    assert first.previous_output == ""
    second = attrs.evolve(first, chain=first.with_step(output="out", ms=1.5).chain, next=1)
    assert (second.assignment.operator, second.previous_output) == ("B", "out")
    assert (second.chain[0].ms, second.chain[1]) == (1.5, first.chain[1])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"next":0', b'"next":2'),
        (b'"size":2', b'"size":3'),
        (b'"4.1"', b'"4"'),
        (b'"left":', b'"x":'),
        (b'"position":1', b'"position":0'),
    ],
)
def test_a_request_that_does_not_fit_is_refused(old: bytes, new: bytes) -> None:
    """A request whose parts contradict each other, or that lacks one, is a bad request and nothing worse."""
    with pytest.raises(BadRequest):
        grammar.decode(grammar.encode(request()).replace(old, new), vocabulary(*WORKER))


def test_lines_that_people_type() -> None:
    """`run` takes any number of operators; `{timeout}` is the deadline of `result`."""
    decoded = grammar.decode(b'run "the input" A B A {"after":{"1:1":2}}', vocabulary(*SCHEDULER))[1]
    assert decoded == Run("the input", ("A", "B", "A"), after={"1:1": 2})
    waiting = grammar.decode(b'result r1-x {"timeout":60}', vocabulary(*SCHEDULER))[1]
    assert isinstance(waiting, Result)
    assert waiting.deadline == 60
    with pytest.raises(BadRequest):
        grammar.decode(b"run 13", vocabulary(*SCHEDULER))


def test_outputs_are_strings_whatever_they_look_like() -> None:
    """An output that reads like null, a number or JSON stays the string that it is."""
    for output in ("null", "12", "true", "[]", ""):
        ended = Ended(run="r1", chain=(Assignment("A", 0, "w", "h", 1, output, 0.5),))
        assert grammar.decode(grammar.encode(ended), vocabulary(*SCHEDULER))[1] == ended
