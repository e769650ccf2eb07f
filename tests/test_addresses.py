"""Addresses as command lines and scripts write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dida.addresses import Address, NodeAddress, StorageAddress, host_and_port, node_id
from dida.errors import UserError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://localhost:3333", "localhost", 3333),
        ("tcp://localhost:3333", "localhost", 3333),
        ("localhost:3333", "localhost", 3333),
        ("HTTP://LocalHost:3333/", "localhost", 3333),
        (" localhost:3333\r", "localhost", 3333),
        ("10.0.0.7:1", "10.0.0.7", 1),
        ("http://[::1]:65535", "::1", 65535),
        ("my_host.example-1.org:80", "my_host.example-1.org", 80),
    ],
)
def test_urls(text: str, host: str, port: int) -> None:
    """All the forms of a URL are the same host and port."""
    address = Address.parse(text)
    assert address == Address(host, port)
    assert Address.parse(str(address)) == address


WRONG_URLS = ["", "localhost", ":3333", "localhost:", "localhost:x", "ftp://h:1"]
WRONG_URLS += ["http://h:1/path", "h:1:2", "a b:1", "http//h:1", "h:-1", "::1:80", "h:٣", "é:1"]


@pytest.mark.parametrize("text", WRONG_URLS)
def test_what_is_no_url(text: str) -> None:
    """Anything else is the user's mistake, told with what a URL looks like."""
    with pytest.raises(UserError) as caught:
        Address.parse(text)
    assert str(caught.value) == f"invalid URL {text!r}: expected http://HOST:PORT, as in http://localhost:5001"


@pytest.mark.parametrize("text", ["localhost:0", "http://localhost:65536", "localhost:700000"])
def test_ports(text: str) -> None:
    """A port that there is not is told."""
    with pytest.raises(UserError) as caught:
        Address.parse(text)
    assert str(caught.value) == f"invalid port in {text!r}: choose one from 1 to 65535"


def test_nodes() -> None:
    """`ID=URL` and `R=ID@URL` name nodes, and are written back as they are read."""
    assert NodeAddress.parse("w=1=http://localhost:4001") == NodeAddress("w=1", Address("localhost", 4001))
    storage = StorageAddress.parse("1=s@1@tcp://localhost:5001")
    assert storage == StorageAddress(1, "s@1", Address("localhost", 5001))
    assert StorageAddress.parse(str(storage)) == storage
    worker = NodeAddress.parse("w1=localhost:4001")
    assert worker == NodeAddress("w1", Address("localhost", 4001))
    assert NodeAddress.parse(str(worker)) == worker


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (NodeAddress.parse, "localhost:4001", ": write ID=URL"),
        (NodeAddress.parse, "=localhost:4001", ": write ID=URL"),
        (NodeAddress.parse, "a b=localhost:4001", ": write ID=URL"),
        (NodeAddress.parse, "w1=localhost", "invalid URL 'localhost'"),
        (StorageAddress.parse, "s1@localhost:5001", ": write R=ID@URL"),
        (StorageAddress.parse, "1=localhost:5001", ": write R=ID@URL"),
        (StorageAddress.parse, "x=s1@localhost:5001", ": write R=ID@URL"),
        (StorageAddress.parse, "-1=s1@localhost:5001", ": write R=ID@URL"),
        (StorageAddress.parse, "²=s1@localhost:5001", ": write R=ID@URL"),
        (StorageAddress.parse, f"{2**31}=s1@localhost:5001", ": write R=ID@URL"),
        (StorageAddress.parse, "1=@localhost:5001", ": write R=ID@URL"),
        (StorageAddress.parse, "1=a b@localhost:5001", ": write R=ID@URL"),
        (StorageAddress.parse, "1=s1@localhost", "invalid URL 'localhost'"),
    ],
)
def test_what_names_no_node(parse: Callable[[str], object], text: str, says: str) -> None:
    """A wrong form is the user's mistake, told with the right form and an example."""
    with pytest.raises(UserError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "as in" in str(caught.value)


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (StorageAddress.parse, "1=s\x1b1@localhost:1", "invalid id 's\\x1b1'"),
        (
            NodeAddress.parse,
            "w\0=localhost:1",
            "invalid id 'w\\x00': give one word of at most 200 printable characters",
        ),
        (node_id, "", "invalid id ''"),
        (node_id, "\udcff", "invalid id '\\udcff'"),
        (node_id, "a\u2028b", "invalid id 'a\\u2028b'"),
        (node_id, "x" * 201, "xxx…': give one word"),
    ],
)
def test_what_is_no_id(parse: Callable[[str], object], text: str, says: str) -> None:
    """An id can be shown as it is: control characters, blanks and what is no text are in none."""
    with pytest.raises(UserError) as caught:
        parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0", ("0.0.0.0", None)),
        ("LocalHost:5001", ("localhost", 5001)),
        ("[::]", ("::", None)),
        ("[::1]:5001", ("::1", 5001)),
    ],
)
def test_where_to_listen(text: str, expected: tuple[str, int | None]) -> None:
    """A host, and a port if it is another one than the URL's."""
    assert host_and_port(text) == expected


@pytest.mark.parametrize("text", ["", ":5001", "host:0", "host:65536", "http://host:5001", "host:port", "::1", "a b"])
def test_nowhere_to_listen(text: str) -> None:
    """What is no host and port says how one is written."""
    with pytest.raises(
        UserError, match=r"invalid HOST\[:PORT\] .*: write a host, as in 0\.0\.0\.0 or 0\.0\.0\.0:5001$"
    ):
        host_and_port(text)
