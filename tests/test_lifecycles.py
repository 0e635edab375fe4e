"""Servers and clients live through anything: whatever is called, in any order, from several threads at once.

Whatever happens, each call returns within seconds, raises nothing but what is documented, every connection that began
ends once, everything that was sent in good order arrives once and in order, and after ``close()`` no thread and no
socket is left.

A few seconds in the suite. By hand, so many lives of each kind, different ones each time::

    LIFECYCLES=500 python -X dev -m pytest tests/test_lifecycles.py -o faulthandler_timeout=0
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from simplesockets import TCPClient, TCPServer, hisock, hpx, transport
from simplesockets.connection import Connection
from simplesockets.engine import Acceptor
from simplesockets.errors import BindError, BusyError, LifecycleError, SetupError
from simplesockets.framing import LengthPrefixFramer
from simplesockets.protocol import FramedProtocol
from simplesockets.timing import Reconnect

from .support import certificates
from .support.clients import in_thread
from .support.hands import Action, Hands, stacks
from .support.leftovers import OpenSockets, left_threads
from .support.running import HOST, raw_client, raw_listener, running_server
from .support.waiting import PATIENCE, Gate, wait_until

LIVES = int(os.environ.get("LIFECYCLES", "0"))
CLOSING = 9.0
"""Seconds that a call may take: ``close()`` has 5 and some for what its own thread does."""

usual = settings(
    max_examples=LIVES or 5,
    stateful_step_count=40 if LIVES else 25,
    derandomize=not LIVES,
    deadline=None,
    database=None,
    # Threads take their turns as they like: what failed once need not fail the same way again.
    phases=[Phase.explicit, Phase.generate] if LIVES else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Lifecycle(RuleBasedStateMachine):
    """What all of them have in common; :attr:`actions` is what can be done to the objects under test."""

    documented: ClassVar[tuple[type[BaseException], ...]]
    hands_count: ClassVar[int] = 3
    rough: ClassVar[tuple[str, ...]] = ()
    """How the names of actions begin by which the server ends connections, with all that is on its way there."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets = OpenSockets()
        self.actions: dict[str, Action] = {}
        self.hands = Hands(self.hands_count, self.documented)
        self.begin()

    def begin(self) -> None:
        """Make the objects, and :attr:`actions`."""

    def finish(self) -> None:
        """Bring everything to its end, and look at what became of it."""

    @initialize(gentle=st.booleans())
    def choose(self, gentle: bool) -> None:
        """In every other life nothing may get lost."""
        if gentle:
            for name in [name for name in self.actions if name.startswith(self.rough)]:
                del self.actions[name]

    @rule(data=st.data(), hand=st.integers(0, 2))
    def do(self, data: st.DataObject, hand: int) -> None:
        """One thread does something, and nobody waits for it."""
        name = data.draw(st.sampled_from(list(self.actions)))
        self.hands.tell(hand, name, self.actions[name])

    @rule(data=st.data())
    def do_together(self, data: st.DataObject) -> None:
        """All threads do something at the same moment."""
        names = [data.draw(st.sampled_from(list(self.actions))) for _ in range(self.hands_count)]
        self.hands.tell_all([(name, self.actions[name]) for name in names])

    @rule()
    def settle(self) -> None:
        """Wait until all is done."""
        self.hands.settle()

    def teardown(self) -> None:
        """The end, whether the steps went well or not."""
        try:
            self.hands.settle()
            self.finish()
        finally:
            self.hands.end()
        assert left_threads(PATIENCE) == [], stacks()
        assert self.sockets.new() == []
        seconds, what = self.hands.slowest
        assert seconds < CLOSING, f"{what} took {seconds:.1f} s"


# ------------------------------------------------------------------------------------------------ the base layer


class Book:
    """What happened on the connections of one end."""

    def __init__(self) -> None:
        self.began: Counter[object] = Counter()
        self.ended: Counter[object] = Counter()
        self.got: dict[object, list[bytes]] = defaultdict(list)

    def check(self) -> None:
        """Every connection that began ended once, and what it brought was in order."""
        assert self.began == self.ended
        for items in self.got.values():
            numbers: dict[bytes, int] = {}
            for item in items:
                sender, _, number = item.partition(b":")
                assert int(number) > numbers.get(sender, -1), f"twice, or out of order: {items}"
                numbers[sender] = int(number)


class NumberedClient:
    """A client that numbers what it sends."""

    def __init__(self, name: int, server: Callable[[], int], **more: Any) -> None:
        self.tcp = TCPClient()
        self.book = Book()
        self.sent: list[bytes] = []
        self._name = name
        self._port = server
        self._more = more
        self._lock = threading.Lock()  # one sender at a time, so that numbers are in order
        self._number = 0
        self.orders: dict[bytes, Action] = {
            b"close": self.tcp.close,
            b"reconnect": self.tcp.reconnect,
            b"disconnect": self.tcp.disconnect,
        }
        self.setup()

    def setup(self) -> None:
        """Aim at the server."""
        self.tcp.setup(
            HOST,
            self._port(),
            on_connect=lambda: self.book.began.update([self._name]),
            on_disconnect=lambda: self.book.ended.update([self._name]),
            on_receive=self.on_receive,
            connect_timeout=2.0,
            protocol=framed,
            **self._more,
        )

    def send(self) -> None:
        """Send the next number."""
        with self._lock:
            item = b"%d:%d" % (self._name, self._number)
            self._number += 1
            if self.tcp.send_data(item):
                self.sent.append(item)

    def on_receive(self, data: bytes) -> None:
        """What comes back; some of it is an order."""
        order = self.orders.get(bytes(data))
        if order is not None:
            order()
        else:
            self.book.got[self._name].append(bytes(data))

    def receive(self) -> None:
        """Take an item, if one comes soon."""
        if (item := self.tcp.recv_data(timeout=0.01)) and item not in self.orders:
            assert item.partition(b":")[0] == b"%d" % self._name

    def actions(self) -> Iterator[tuple[str, Action]]:
        """What can be done to it."""
        tcp = self.tcp
        found: dict[str, Action] = {
            "setup": self.setup,
            "connect": tcp.connect,
            "start": tcp.start,
            "open": tcp.open,
            "disconnect": tcp.disconnect,
            "reconnect": tcp.reconnect,
            "shutdown": tcp.shutdown,
            "close": tcp.close,
            "autorecv": tcp.autorecv,
            "send": self.send,
            "send again": self.send,
            "recv_data": self.receive,
            "end_sending": tcp.end_sending,
            "await_event": partial(tcp.await_event, 1),
        }
        yield from found.items()
        for order in self.orders:
            yield f"{order.decode()} in on_receive", partial(tcp.send_data, order)


def framed() -> FramedProtocol:
    return FramedProtocol(LengthPrefixFramer())


class TCPLifecycle(Lifecycle):
    """A TCPServer that echoes, and two TCPClients."""

    server_options: ClassVar[dict[str, Any]] = {}
    client_options: ClassVar[dict[str, Any]] = {}
    documented = (SetupError, LifecycleError, BusyError, TimeoutError, OSError)
    rough = ("server.close", "server.disconnect")

    def begin(self) -> None:
        self.server = TCPServer()
        self.book = Book()
        self.lossy = False  # whether the server ended a connection, with which goes what was on its way
        self.port = 0
        self.set_up()
        self.server.start()
        self.clients = [NumberedClient(name, lambda: self.port, **self.client_options) for name in range(2)]
        for number, client in enumerate(self.clients):
            self.actions |= {f"client {number}.{name}()": action for name, action in client.actions()}
        server = self.server
        for order in (b"server.close", b"server.disconnect"):
            self.actions[f"{order.decode()}() in on_receive"] = partial(self.clients[0].tcp.send_data, order)
        self.actions |= {
            "server.start()": server.start,
            "server.start() again": server.start,
            "server.stop()": server.stop,
            "server.exit_accept()": server.exit_accept,
            "server.restart()": server.restart,
            "server.setup()": self.set_up,
            "server.setup(), start()": self.set_up_and_start,
            "server.setup(), start() again": self.set_up_and_start,
            "server.close()": self.close_server,
            "server.disconnect()": self.disconnect_one,
            "server.max_connections": self.limit,
            "server.send_data()": self.send_to_one,
        }

    def set_up(self) -> None:
        self.server.setup(
            HOST,
            0,
            on_connect=lambda address: self.book.began.update([address.client]),
            on_disconnect=lambda address: self.book.ended.update([address.client]),
            on_receive=self.echo,
            protocol=framed,
            **self.server_options,
        )
        with contextlib.suppress(SetupError):  # closed meanwhile
            self.port = self.server.address[1]

    def set_up_and_start(self) -> None:
        self.set_up()
        self.server.start()

    def echo(self, client: Any, _: object, data: bytes) -> None:
        if data == b"server.close":
            return self.close_server()
        if data == b"server.disconnect":
            self.lossy = True
            self.server.disconnect(client)
            return None
        if b":" in data:
            self.book.got[client].append(bytes(data))
        with contextlib.suppress(OSError):  # it is gone
            client.send(data)
        return None

    def close_server(self) -> None:
        self.lossy = True
        self.server.close()

    def disconnect_one(self) -> None:
        self.lossy = True
        for address in list(self.server.clients)[:1]:
            self.server.disconnect(address)

    def send_to_one(self) -> None:
        for address in list(self.server.clients)[:1]:
            with contextlib.suppress(OSError):
                self.server.clients[address].fileno()

    def limit(self) -> None:
        self.server.max_connections = None if self.server.max_connections else 1

    def finish(self) -> None:
        self.server.max_connections = None
        if not self.lossy:
            with contextlib.suppress(LifecycleError):
                self.server.restart()
            self.server.start()
        for client in self.clients:
            client.tcp.close()
        sent = {item for client in self.clients for item in client.sent}
        if not self.lossy:
            wait_until(lambda: sent <= self.arrived(), "all that was sent to arrive", 10.0)
        self.server.close()
        self.book.check()
        counts = Counter(item for items in self.book.got.values() for item in items)
        assert all(count == 1 for count in counts.values()), counts
        for client in self.clients:
            client.book.check()
        assert not self.server.clients

    def arrived(self) -> set[bytes]:
        return {item for items in list(self.book.got.values()) for item in list(items)}


class TLSLifecycle(TCPLifecycle):
    """The same, encrypted."""

    server_options: ClassVar[dict[str, Any]] = {"ssl_context": certificates.server_side()}
    client_options: ClassVar[dict[str, Any]] = {"ssl_context": certificates.client_side()}


class ReconnectingLifecycle(TCPLifecycle):
    """Clients that come back by themselves."""

    client_options: ClassVar[dict[str, Any]] = {"reconnect": Reconnect(first=0.01, most=0.05, initially=True)}


# --------------------------------------------------------------------------------------------------------- HiSock


class HiSockSlot:
    """One HiSock client after the other, each of which numbers what it sends."""

    def __init__(self, name: str, life: HiSockLifecycle) -> None:
        self.all: list[hisock.ThreadedHiSockClient] = []
        self.name = name
        self._life = life
        self._lock = threading.Lock()  # one sender at a time, so that numbers are in order
        self._number = 0

    @property
    def now(self) -> hisock.ThreadedHiSockClient:
        """The latest one."""
        if not self.all:
            raise hisock.ClientDisconnected("there is none yet")
        return self.all[-1]

    def connect(self) -> None:
        """A new one."""
        client = hisock.ThreadedHiSockClient((HOST, self._life.port), f"{self.name}{len(self.all)}", "all")
        client.on("echo")(_nothing)
        self.all.append(client)

    def start(self) -> None:
        """Start its loop."""
        self.now.start(error_handler=_ignore)

    def connect_and_start(self) -> None:
        """Both."""
        self.connect()
        self.start()

    def send(self) -> None:
        """Send the next number."""
        with self._lock:
            item = f"{self.name}:{self._number}"
            self._number += 1
            self.now.send("number", item)
            self._life.sent.append(item)

    def actions(self) -> Iterator[tuple[str, Action]]:
        """What can be done to it."""
        yield from {
            "connect": self.connect,
            "connect, start": self.connect_and_start,
            "connect, start again": self.connect_and_start,
            "start": self.start,
            "close": lambda: self.now.close(),
            "stop_client": lambda: self.now.stop_client(),
            "close without leave": lambda: self.now.close(emit_leave=False),
            "send": self.send,
            "send again": self.send,
            "recv": lambda: self.now.recv("echo", timeout=0.01),
            "change_name": lambda: self.now.change_name(f"{self.name}x"),
            "get_client": lambda: self.now.get_client(self.now.get_client_addr(), timeout=1.0),
        }.items()


def _nothing(_: str) -> None:
    pass


def _ignore(_: BaseException) -> None:
    pass


class HiSockLifecycle(Lifecycle):
    """A ThreadedHiSockServer, one after the other, and clients."""

    documented = (
        hisock.errors.ClientException,
        hisock.errors.ServerException,
        LifecycleError,
        BusyError,
        OSError,  # TimeoutError among them
    )
    rough = ("server.close", "server.disconnect")

    def begin(self) -> None:
        self.sent: list[str] = []
        self.got: list[str] = []
        self.joined: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.lossy = False
        self.servers: list[hisock.ThreadedHiSockServer] = []
        self.renew()
        self.slots = [HiSockSlot(name, self) for name in "ab"]
        for slot in self.slots:
            self.actions |= {f"{slot.name}.{name}()": action for name, action in slot.actions()}
        self.actions |= {
            "server.close(), a new one": self.replace,
            "server.start()": lambda: self.server.start(error_handler=_ignore),
            "server.disconnect_client()": partial(self.drop, False),
            "server.disconnect_client(force=True)": partial(self.drop, True),
            "server.disconnect_all_clients()": self.drop_all,
            "server.send_all_clients()": lambda: self.server.send_all_clients("echo", "news"),
            "server.send_group()": lambda: self.server.send_group("all", "echo", "news"),
            "server.recv()": lambda: self.server.recv("nothing", timeout=0.01),
        }

    @property
    def server(self) -> hisock.ThreadedHiSockServer:
        """The latest one."""
        return self.servers[-1]

    def renew(self) -> None:
        server = hisock.ThreadedHiSockServer((HOST, 0))
        server.on("join")(lambda client: self.joined.update([client.ipstr]))
        server.on("leave")(lambda client: self.left.update([client.ipstr]))

        def number(client: hisock.ClientInfo, item: str) -> None:
            self.got.append(item)
            with contextlib.suppress(hisock.errors.ClientException, OSError):  # it is gone
                server.send_client(client, "echo", item)

        server.on("number")(number)
        server.start(error_handler=_ignore)
        self.port = server.get_addr()[1]
        self.servers.append(server)

    def replace(self) -> None:
        self.lossy = True
        self.server.close()
        self.renew()

    def drop(self, force: bool) -> None:
        self.lossy = True
        for info in self.server.get_all_clients()[:1]:
            self.server.disconnect_client(info, force=force, call_func=True)

    def drop_all(self) -> None:
        self.lossy = True
        self.server.disconnect_all_clients()

    def finish(self) -> None:
        for slot in self.slots:
            for client in slot.all:
                client.close()
        if not self.lossy:
            wait_until(lambda: len(self.got) >= len(self.sent), "all that was sent to arrive", 10.0)
            assert sorted(self.got) == sorted(self.sent)
            wait_until(lambda: self.left == self.joined, f"all who joined to leave: {self.joined}, {self.left}", 10.0)
        for server in self.servers:
            server.close()
        assert self.left <= self.joined
        numbers = defaultdict(list)
        for item in self.got:
            name, _, number = item.partition(":")
            numbers[name].append(int(number))
        for each in numbers.values():
            assert len(set(each)) == len(each), f"twice: {each}"


# ------------------------------------------------------------------------------------------------------------ HPX


class HPXLifecycle(Lifecycle):
    """An HPX server, which clients may quit and restart, and clients that are lost and come back."""

    documented = (hpx.HPXError, SetupError, OSError)

    def begin(self) -> None:
        self.server = hpx.Server(port=0, users={"admin": "secret"})
        self.runs: Counter[int] = Counter()
        self.answered: list[int] = []
        self._numbers = iter(range(1 << 30))
        self.server.function("count")(self.count)
        self.server.function("stop")(lambda: self.server.close())
        self.server.start()
        self.port = self.server.address[1]
        self.all: list[hpx.Client] = []
        for _ in range(2):
            self.renew()
        server = self.server
        self.actions = {
            "server.start()": self.start,
            "server.start() again": self.start,
            "server.close()": server.close,
            "server.ready": self.toggle,
            "client()": self.renew,
        }
        for slot in range(2):
            for name, action in self.of_client(slot):
                self.actions[f"client {slot}.{name}"] = action

    def of_client(self, slot: int) -> Iterator[tuple[str, Action]]:
        """What can be done with one of the two latest clients."""

        def client() -> hpx.Client:
            return self.all[slot - 2]

        yield from {
            "connect()": lambda: client().connect(HOST, self.port),
            "connect() again": lambda: client().connect(HOST, self.port),
            "handshake()": lambda: client().handshake(),
            "handshake('admin')": lambda: client().handshake("admin", "secret"),
            "handshake('admin') again": lambda: client().handshake("admin", "secret"),
            "request_handshake()": lambda: client().request_handshake("admin", "wrong"),
            "call('count')": lambda: self.call(client()),
            "call('count') again": lambda: self.call(client()),
            "call('stop')": lambda: client().call("stop"),
            "send('serverrestart')": lambda: client().send("serverrestart"),
            "send('serverquit')": lambda: client().send("serverquit"),
            "close()": lambda: client().close(),
        }.items()

    def renew(self) -> None:
        self.all.append(hpx.Client("fuzz", HOST, self.port, timeout=5))

    def start(self) -> None:
        self.server.start()
        self.port = self.server.address[1]

    def toggle(self) -> None:
        self.server.ready = not self.server.ready

    def count(self, number: int) -> int:
        self.runs[number] += 1
        return number

    def call(self, client: hpx.Client) -> None:
        number = next(self._numbers)
        assert client.call("count", number=number) == number
        self.answered.append(number)

    def finish(self) -> None:
        for client in self.all:
            client.close()
        self.server.close()
        assert all(self.runs[number] == 1 for number in self.answered)
        assert all(count == 1 for count in self.runs.values()), "called once, run twice"
        assert not self.server.exceptions, self.server.exceptions
        assert not self.server.running


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of refused connections are nobody's concern."""
    log = logging.getLogger("simplesockets")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


TestTCP = TCPLifecycle.TestCase
TestTCP.settings = usual
TestTLS = TLSLifecycle.TestCase
TestTLS.settings = usual
# A thread that reconnects rolls dice, which hypothesis takes for the test's doing.
_other_dice = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
TestReconnecting = _other_dice(ReconnectingLifecycle.TestCase)
TestReconnecting.settings = usual
TestHiSock = HiSockLifecycle.TestCase
TestHiSock.settings = usual
TestHPX = HPXLifecycle.TestCase
TestHPX.settings = usual


# --------------------------------------------------------------------------------------------- what they have found


def test_only_one_of_two_setups_at_the_same_time_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, bind = Gate(), transport.listen_on_free_port

    def bind_later(*arguments: Any) -> Any:
        gate.arrive()
        return bind(*arguments)

    monkeypatch.setattr(transport, "listen_on_free_port", bind_later)
    server = TCPServer()
    first, _ = in_thread(lambda: server.setup(HOST, 0))
    gate.wait_arrived()
    with pytest.raises(SetupError, match="already"):
        server.setup(HOST, 0, on_receive=print)
    gate.open()
    first.join(PATIENCE)
    assert server.on_receive is None  # the second one changed nothing
    server.close()


def test_setup_can_be_called_again_after_it_failed() -> None:
    server = TCPServer()
    with raw_listener() as taken, pytest.raises(BindError):
        server.setup(HOST, taken.getsockname()[1])
    server.setup(HOST, 0)
    server.close()


def test_nobody_restarts_a_server_that_is_being_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Acceptor.stop
    tried: list[str] = []

    def restart_meanwhile(acceptor: Acceptor) -> None:
        with pytest.raises(SetupError, match="closed"):
            server.restart()
        tried.append("restart()")
        stop(acceptor)

    with running_server() as server:
        monkeypatch.setattr(Acceptor, "stop", restart_meanwhile)
        server.close()
        assert tried


def test_a_setup_while_the_server_is_being_closed_opens_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Acceptor.stop

    def set_up_meanwhile(acceptor: Acceptor) -> None:
        monkeypatch.undo()
        server.setup(HOST, 0)
        stop(acceptor)

    with running_server() as server:
        monkeypatch.setattr(Acceptor, "stop", set_up_meanwhile)
        server.close()
        assert not server._bell.closed  # so polling waits, instead of spinning
        server.start()
        with raw_client(server) as sock:
            sock.sendall(b"hello")
            wait_until(lambda: server.event.new_data, "received data")


def test_who_is_disconnected_before_on_connect_ran_is_not_announced_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begin = Gate(), Connection.open

    def begin_later(connection: Connection) -> None:
        gate.arrive()
        begin(connection)

    monkeypatch.setattr(Connection, "open", begin_later)
    said: list[object] = []
    with running_server(on_connect=said.append, on_disconnect=said.append) as server, raw_client(server) as sock:
        gate.wait_arrived()
        address = sock.getsockname()
        wait_until(lambda: address in server.clients, "the client")
        assert server.disconnect(address)
        gate.open()
        assert sock.recv(1) == b""
        assert said == []
        with raw_client(server) as other:
            wait_until(lambda: said, "the next client to be announced")
            assert server.disconnect(other.getsockname())
            assert other.recv(1) == b""
        wait_until(lambda: len(said) == 2, "it to be gone")
