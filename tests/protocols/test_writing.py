"""`Writer`: bytes go out at once where there is room, in their order whether there is or not."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.testing import StringTransport

from dida.protocols.writing import Writer


class Narrow(FileDescriptor):
    """A Twisted transport whose socket has room for so many bytes."""

    def __init__(self) -> None:
        super().__init__(reactor=self)  # type: ignore[arg-type]
        self.connected = 1
        self.room = 0
        self.lost = False
        self.sent = b""

    def writeSomeData(self, data: Any) -> Any:
        if self.lost:
            return CONNECTION_LOST
        taken = bytes(data[: min(self.room, 7)])
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def addWriter(self, writer: Any) -> None:
        pass

    removeWriter = removeReader = addWriter


class Owner:
    """A producer that knows whether it is paused."""

    paused = False

    def pauseProducing(self) -> None:
        assert not self.paused
        self.paused = True

    def resumeProducing(self) -> None:
        assert self.paused
        self.paused = False

    def stopProducing(self) -> None:
        pass


@given(st.lists(st.tuples(st.binary(max_size=30), st.integers(0, 40), st.booleans())))
def test_what_is_written_arrives_in_its_order(steps: list[tuple[bytes, int, bool]]) -> None:
    """And the producer is paused exactly while the transport has something to send."""
    transport, owner = Narrow(), Owner()
    writer = Writer(transport, owner)
    written = b""
    for data, room, turn in steps:
        transport.room = room
        writer.write(data)
        written += data
        if turn:
            transport.doWrite()
        assert written.startswith(transport.sent)
        assert owner.paused == (len(transport.sent) < len(written))
    while owner.paused:
        transport.room = 10
        transport.doWrite()
    assert transport.sent == written


def test_a_lost_connection_is_left_to_the_transport() -> None:
    """It has the bytes, and comes to its end by them."""
    transport = Narrow()
    writer = Writer(transport)
    transport.lost = True
    writer.write(b"ok\r\n")
    assert transport.doWrite() is CONNECTION_LOST


def test_a_transport_that_has_no_such_way() -> None:
    """It writes as it does, and pauses its producer itself."""
    transport, owner = StringTransport(), Owner()
    Writer(transport, owner).write(b"ok\r\n")
    assert transport.value() == b"ok\r\n" and transport.producer is owner
