"""Storage replicas for plain calls: the test delivers their messages, when and in which order it likes.

For what takes time and chance there is `dida.simulate`; here nothing happens unless the test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import define

from dida.addresses import Address, StorageAddress
from dida.replication.config import Config
from dida.replication.messages import Member, PeerMessage
from dida.replication.outputs import Answer, FlushRequested, Left, LogMessage, Output, Send
from dida.replication.replica import Replica
from dida.wire import grammar
from dida.wire.messages import Reply, Request, form_of

TICK = 0.02


@define(eq=False)
class Letter:
    """A message under way, or the reply to one."""

    source: int
    target: int
    send: Send
    answer: Reply | None = None
    is_answer: bool = False

    @property
    def verb(self) -> str:
        return form_of(type(self.send.message)).verb


class Hand:
    """Replicas 1 to `count`, and the letters between them. Only delivered letters arrive."""

    def __init__(self, count: int = 3, start: bool = True, **config: Any) -> None:
        self.now = 0.0
        self.config = Config(**{"ping_interval": 0.1, "ping_timeout": 0.5, **config})
        self.named = tuple(StorageAddress(n, f"s{n}", Address("node", 5000 + n)) for n in range(1, count + 1))
        self.replicas: dict[int, Replica] = {}
        self.letters: list[Letter] = []
        self.replies: dict[str, Reply] = {}
        self.notes: list[str] = []
        self.left: dict[int, Left] = {}
        """The last output of those that have shut down."""
        self.gathering = False
        """While it is true nobody sends what is gathered: `flush` does."""
        self._asked: dict[tuple[str, int], Letter] = {}
        self._tokens = 0
        self._lives: dict[int, int] = {}
        if start:
            for number in range(1, count + 1):
                self.start(number)
            self.run(2.0, lambda: all(r.context.serving for r in self.replicas.values()))
            self.run(0.3)

    def start(self, number: int) -> None:
        """Start a process: a new incarnation of this replica."""
        self._lives[number] = self._lives.get(number, 0) + 1
        member = Member(f"{number}:{self._lives[number]}", number, f"s{number}", self.url(number))
        self.replicas[number] = Replica(self.config, member, self.named, self.now)

    def crash(self, number: int, refused: bool = True) -> None:
        """End a process; with `refused` the others find out at once that nobody listens at its port."""
        del self.replicas[number]
        lost = [x for x in self.letters if number in (x.source, x.target)]
        self.letters = [x for x in self.letters if x not in lost]
        for token, letter in list(self._asked.items()):
            if number in (letter.source, letter.target):  # it was delivered, and is not answered any more
                del self._asked[token]
                lost.append(letter)
        for letter in lost:
            asker = letter.target if letter.is_answer else letter.source
            if asker in self.replicas:
                self._take(asker, letter.send, None)
        for other, replica in list(self.replicas.items()) if refused else ():
            self.act(other, replica.on_broken(self.url(number), self.now))
            self.act(other, replica.on_refused(self.url(number), self.now, self.now))

    def stop(self, number: int, drain: float = 30.0) -> None:
        """Shut a process down."""
        self.act(number, self.replicas[number].on_stop(drain, self.now))

    @staticmethod
    def url(number: int) -> str:
        return f"node:{5000 + number}"

    # --- clients --------------------------------------------------------------------------------

    def ask(self, number: int, request: Request) -> str:
        """Send a request to a replica; return the name under which `replies` will have the reply."""
        self._tokens += 1
        token = f"client {self._tokens}"
        self.act(number, self.replicas[number].on_request(token, request, self.now))
        return token

    def answer(self, number: int, request: Request, seconds: float = 5.0) -> Reply:
        """Send a request to a replica, let all go on until it has answered, and return the reply."""
        token = self.ask(number, request)
        assert self.run(seconds, lambda: token in self.replies), f"no answer to {request}"
        return self.replies[token]

    # --- letters --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Let all replicas send what they have gathered; from now on they send at once."""
        self.gathering = False
        for number, replica in self.replicas.items():
            self.act(number, replica.flush(self.now))

    def act(self, number: int, outputs: Iterable[Output]) -> None:
        """Act on the outputs of a replica's turn: letters and replies."""
        for output in outputs:
            match output:
                case Send():
                    target = int(output.url.rpartition(":")[2]) - 5000
                    if target in self.replicas:
                        self.letters.append(Letter(number, target, output))
                    else:
                        self.letters.append(Letter(target, number, output, None, True))  # nobody listens there
                case Answer(token=tuple() as token):
                    letter = self._asked.pop(token)
                    self.letters.append(Letter(letter.target, letter.source, letter.send, plain(output.reply), True))
                case Answer():
                    self.replies[output.token] = output.reply
                case LogMessage():
                    self.notes.append(output.text)
                case Left():
                    self.left[number] = output
                    self.crash(number)
                case FlushRequested() if not self.gathering:
                    self.act(number, self.replicas[number].flush(self.now))

    def _take(self, number: int, send: Send, reply: Reply | None) -> None:
        replica = self.replicas[number]
        if send.token is not None:
            self.act(number, replica.on_forwarded(send.token, reply, self.now))
        else:
            self.act(number, replica.on_answer(send.url, send.peer, send.message, reply, self.now))

    def under_way(self, verb: str = "", source: int = 0, target: int = 0, answers: bool | None = None) -> list[Letter]:
        """Return the letters of that description, the oldest first."""
        return [
            letter
            for letter in self.letters
            if verb in ("", letter.verb)
            and source in (0, letter.source)
            and target in (0, letter.target)
            and answers in (None, letter.is_answer)
        ]

    def deliver(self, *letters: Letter) -> None:
        """Deliver these letters, in this order."""
        for letter in letters:
            self.letters.remove(letter)
            if letter.target not in self.replicas:
                continue
            if letter.is_answer:
                self._take(letter.target, letter.send, letter.answer)
                continue
            self._tokens += 1
            token = ("peer", self._tokens)
            self._asked[token] = letter
            message = letter.send.message
            assert isinstance(message, PeerMessage)
            self.act(letter.target, self.replicas[letter.target].on_peer(token, message, self.now))

    def pass_on(self, *verbs: str, source: int = 0, target: int = 0) -> None:
        """Deliver all letters of these verbs (none: of all), and what comes of them, until none is left."""
        for _ in range(10_000):
            found = [x for x in self.under_way(source=source, target=target) if not verbs or x.verb in verbs]
            if not found:
                return
            self.deliver(found[0])
        raise AssertionError("the replicas never come to rest")

    def lose(self, *letters: Letter) -> None:
        """Lose these letters; their senders are notified."""
        for letter in letters:
            self.letters.remove(letter)
            asker = letter.target if letter.is_answer else letter.source
            self._take(asker, letter.send, None)

    # --- time -----------------------------------------------------------------------------------

    def tick(self, *numbers: int, seconds: float = TICK) -> None:
        """Let time pass for these replicas (none: for all); nothing is delivered."""
        self.now += seconds
        for number in numbers or tuple(self.replicas):
            if number in self.replicas:
                self.act(number, self.replicas[number].tick(self.now))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Tick and deliver all letters in their order, for so long or until something is true; return True if it is."""
        end = self.now + seconds
        while True:
            self.pass_on()
            if until():
                return True
            if self.now >= end:
                return False
            self.tick()

    def quiet(self) -> bool:
        """Return True if nothing is under way, held back or locked."""
        return not self.letters and all(
            not (
                r.state.held
                or r.state.prepared
                or r.state.log.size
                or r.locks.keys
                or r.commit.open
                or r.requests.in_hand
            )
            for r in self.replicas.values()
        )

    def home(self, key: str) -> int:
        """Return the replica that coordinates the key's commits, as the first one sees it."""
        return next(iter(self.replicas.values())).context.home(key).replica

    def key_at(self, number: int) -> str:
        """Return a key whose home is that replica."""
        return next(key for key in map(str, range(1000)) if self.home(key) == number)

    def stored(self, number: int, key: str) -> list[str]:
        """Return the values of a key that a replica shows, newest first."""
        return [entry.value for entry in self.replicas[number].state.store.versions(key)]


class Parted(Hand):
    """Replicas of which some cannot reach others. Letters to them arrive if they can be reached again in time; if not,
    their senders are notified."""

    def __init__(self, count: int, **config: Any) -> None:
        self.cut: set[tuple[int, int]] = set()
        self._stuck: list[tuple[float, Letter]] = []
        super().__init__(count, **config)
        self.run(self.config.ping_timeout)

    def part(self, *pairs: tuple[int, int], one_way: bool = False) -> None:
        """Cut the links between these; one way: from the first to the second only."""
        self.cut = {*pairs} if one_way else {*pairs, *((b, a) for a, b in pairs)}
        self.letters += [x for _, x in self._stuck if (x.source, x.target) not in self.cut]
        self._stuck = [(at, x) for at, x in self._stuck if (x.source, x.target) in self.cut]

    def pass_on(self, *verbs: str, source: int = 0, target: int = 0) -> None:
        while True:
            stuck = [x for x in self.letters if (x.source, x.target) in self.cut]
            self._stuck += [(self.now, letter) for letter in stuck]
            self.letters = [x for x in self.letters if x not in stuck]
            found = [x for x in self.under_way(source=source, target=target) if not verbs or x.verb in verbs]
            if not found:
                return
            self.deliver(found[0])

    def tick(self, *numbers: int, seconds: float = TICK) -> None:
        super().tick(*numbers, seconds=seconds)
        late = [letter for at, letter in self._stuck if self.now - at >= letter.send.timeout]
        self._stuck = [(at, letter) for at, letter in self._stuck if letter not in late]
        late = [x for x in late if (x.target if x.is_answer else x.source) in self.replicas]
        self.letters += late
        self.lose(*late)


def plain(reply: Reply) -> Reply:
    """Return the reply as it comes off the wire."""
    return grammar.decode_reply(grammar.encode_reply(reply))[1]
