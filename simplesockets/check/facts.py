"""What is different here, fact by fact: the one table behind ``check`` and the migration guides. Pure.

Each row is proved by a test that runs it, here and, where that is cheap, on the original release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "differs", "change"]
"""``ok`` runs unchanged; ``differs`` runs and means something else; ``change`` fails until it is rewritten."""

RELEASES = {"simplesockets": "0.4.0", "hisock": "2.0.2", "happypandax_client": "1.0.0"}
"""The releases that the facts are about."""


@dataclass(frozen=True)
class Fact:
    """One difference.

    Args:
        key: a short name.
        original: the package that a program was written for.
        level: whether it runs and means something else, or fails.
        what: what stands in the program.
        there: what that does in the original's release.
        here: what it does here.
        write: what to write instead.
        era: the programs it concerns: ``"not manual"`` spares those of the manual's generation (or of HiSock 0.x),
            ``"0.4"`` means those that are surely not; empty: all.
    """

    key: str
    original: str
    level: Level
    what: str
    there: str
    here: str
    write: str
    era: Literal["", "not manual", "0.4"] = ""

    def sentence(self, subject: str = "", write: str = "") -> str:
        """What to tell about a place in a program, where both arguments stand for what is more general here."""
        release = f"{self.original} {RELEASES[self.original]}"
        return f"{subject or self.what}. Here: {self.here}. In {release}: {self.there}. {write or self.write}"

    def row(self) -> str:
        """The row of the migration guide's table."""
        return f"| {self.what} | {self.there} | {self.here} | {self.write} <!-- {self.key} --> |"


_SIMPLESOCKETS = [
    Fact(
        "module",
        "simplesockets",
        "change",
        "a module inside the package: `_support_files`, `securesockets`, `example`",
        "it exists",
        "it does not exist",
        "Import `Event`, `SetupError` and the like from `simplesockets` or `simplesockets.typehints`; instead of a "
        "cipher with users and passwords use `SecureServer` and logins of your own",
    ),
    Fact(
        "foreign",
        "simplesockets",
        "change",
        "a name that the module merely imports: `threading`, `Callable`, `AES` … from `simplesockets.simple_sockets`",
        "it comes along, also by the star import",
        "it does not",
        "Import it from where it is at home",
    ),
    Fact(
        "secure-server",
        "simplesockets",
        "change",
        "`SecureServer.setup()` without a certificate",
        "the server makes a key, which clients take from anybody",
        "a `SetupError`: this is TLS",
        "Give `certfile=` and `keyfile=`; `self_signed()` makes them for development",
    ),
    Fact(
        "secure-client",
        "simplesockets",
        "differs",
        "`SecureClient.setup()` without `cafile=`",
        "whoever answers is trusted",
        "only certificates that the system trusts are, and `connect()` is False with any other",
        "Give `cafile=` with the server's certificate, or leave it if a public authority signed that",
    ),
    Fact(
        "secure-keys",
        "simplesockets",
        "change",
        "`privatekey`, `publickey`, `key`, `cipher` of a secure server or client",
        "the keys of its own cipher",
        "an `AttributeError`",
        "Leave it out: the keys are the business of TLS. `client.socket.cipher()` tells what is in use",
    ),
    Fact(
        "keysize",
        "simplesockets",
        "differs",
        "`SecureServer.setup(keysize=…)`",
        "the size of the key that is made",
        "it is accepted and means nothing",
        "Leave it out: the size is that of the certificate's key",
    ),
    Fact(
        "len",
        "simplesockets",
        "differs",
        "`len()` of an element that a server polled",
        "the number of bytes",
        "3, for it is the tuple `(client_socket, address, data)`",
        "Write `len(element.response)`",
        "not manual",
    ),
    Fact(
        "index",
        "simplesockets",
        "differs",
        "`element[…]` of an element that a server polled",
        "a byte, or a slice of the bytes",
        "a part of the tuple `(client_socket, address, data)`",
        "Write `element.response[…]`",
        "0.4",
    ),
    Fact(
        "isinstance",
        "simplesockets",
        "differs",
        "`isinstance(received, bytes)` or `tuple`",
        "False: something received is a `Socket_Response` and nothing else",
        "something received is bytes as well (a tuple, for elements that a server polled)",
        "Ask `isinstance(received, Socket_Response)` first; it is true in both",
        "not manual",
    ),
    Fact(
        "exceptions-iterate",
        "simplesockets",
        "differs",
        "a loop over `return_exceptions()`",
        "gives the times, as text",
        "gives the records, `(traceback_text, exception)`",
        "Loop over `.items()`, which gives times and records in both",
        "not manual",
    ),
    Fact(
        "exceptions-dict",
        "simplesockets",
        "change",
        "`return_exceptions()` as a dictionary: `pop`, `popitem`, `setdefault`, `update`, `isinstance(…, dict)`, "
        "`== {}`",
        "it is a dict",
        "it is a list with `.items() .keys() .values() .get()` and `[time]`",
        "Write `dict(server.return_exceptions())` where a dictionary is needed",
    ),
    Fact(
        "exceptions-truth",
        "simplesockets",
        "differs",
        "`event.exception.exceptions` as a condition",
        "true while there are no exceptions",
        "true when there are some",
        "Ask `event.exception.occurred`, which means the same in both",
    ),
    Fact(
        "connect-isinstance",
        "simplesockets",
        "differs",
        "`isinstance(…, Server_Client)` in `on_connect`",
        "True",
        "False: the argument is the `(ip, port)` tuple with the client's attributes",
        "Use `address.client`, the client itself, or leave the question out",
    ),
    Fact(
        "callback",
        "simplesockets",
        "change",
        "a callback with a wrong number of parameters",
        "it fails when it is called, and its client may be lost",
        "a `TypeError` when it is assigned, which names the accepted forms",
        "Change its parameters: a server's `on_connect(address)`, `on_disconnect(address)`, `on_receive(client_socket, "
        "address, data)` or `(client, received)` or `(data)`; a client's `on_connect()`, `on_disconnect()`, "
        "`on_receive(data)`",
    ),
    Fact(
        "callback-open",
        "simplesockets",
        "differs",
        "an `on_receive` that takes both two and three arguments, or a `handle_client` that takes both one and two "
        "(by `*args` or defaults)",
        "it is called as `(client, received)`, or `(client)`",
        "the longest form wins: `(client_socket, address, data)`, or `(client_socket, address)`",
        "Give it exactly the parameters that it needs",
        "not manual",
    ),
    Fact(
        "callback-method",
        "simplesockets",
        "differs",
        "a method `on_connect`, `on_disconnect` or `on_receive` in a subclass",
        "it is never called: the argument of `setup()`, or None, hides it",
        "it is the callback, unless `setup()` is given another",
        "Leave it if it is meant to be called, or give it another name",
    ),
    Fact(
        "default-ip",
        "simplesockets",
        "differs",
        "a server's `setup()` without `ip`",
        "it listens on 127.0.0.1",
        "it listens on the host name's address, too, as the manual has it, so others on the network may reach it",
        'Write `setup(ip="127.0.0.1", …)` to keep it on this machine',
        "not manual",
    ),
    Fact(
        "never-started",
        "simplesockets",
        "change",
        "a server that is set up and never started",
        "`setup()` begins to accept already",
        "nobody is accepted before `start()`",
        "Call `start()` after `setup()`",
    ),
    Fact(
        "send-raises",
        "simplesockets",
        "differs",
        "`try:` around a client's `send_data()`, whose result is not looked at",
        "it raises when the connection is gone",
        "it is False then, and the error is recorded; nothing is raised",
        "Write `if not client.send_data(…):`",
        "not manual",
    ),
    Fact(
        "killed",
        "simplesockets",
        "change",
        "`killed()`",
        "`killed` is a property",
        "it is a property, too",
        "Write `server.killed` without parentheses",
    ),
    Fact(
        "exception-flag",
        "simplesockets",
        "change",
        "`server.exception`, which the manual mentions",
        "it does not exist",
        "it does not exist",
        "Write `server.event.exception.occurred`",
    ),
    Fact(
        "private",
        "simplesockets",
        "change",
        "something private of a server or client: `_kill`, `_recv_buffer`, `_event_system` …",
        "it is there",
        "most of it does not exist, and none is promised",
        "Use the public names; `killed`, `setup(recv_buffer=…)`, `await_event()` say the same",
    ),
]

_HISOCK = [
    Fact(
        "import",
        "hisock",
        "change",
        "`import hisock`, `from hisock import …`",
        "that package",
        "that package still, if it is installed",
        "Write `from simplesockets import hisock`, `from simplesockets.hisock import …`, or call "
        "`simplesockets.hisock.install_as_hisock()` first",
    ),
    Fact(
        "module",
        "hisock",
        "change",
        "`hisock._shared`, `hisock.examples`",
        "they exist",
        "they do not exist",
        "Leave them out: they are insides and demonstrations",
    ),
    Fact(
        "foreign",
        "hisock",
        "change",
        "a name that a module merely imports, or keeps for itself: `json`, `threading`, `_type_cast` … from "
        "`hisock.server`, `.client`, `.utils`",
        "it is there, also by the star import",
        "it does not come with the star import, and is not promised otherwise",
        "Import it from where it is at home; `recv(command, type)` and annotations cast",
    ),
    Fact(
        "underscore",
        "hisock",
        "change",
        "`_send_raw()`, `_send_client_raw()`, `_send_group_raw()`, `_send_all_clients_raw()`, `_run()`, `_update()`",
        "private methods",
        "they are public, under the names of 0.x",
        "Write `raw_send()`, `send_client_raw()`, `send_group_raw()`, `send_all_clients_raw()`, `run()`, `update()`",
    ),
    Fact(
        "private",
        "hisock",
        "change",
        "something else that is private: `_sockets_list`, `_reserved_funcs` …",
        "it is there",
        "most of it does not exist, and none is promised",
        "Use the public names, such as `get_all_clients()` and `on(…, override=True)`",
    ),
    Fact(
        "empty-group",
        "hisock",
        "differs",
        "`send_group()` to a group that nobody is in",
        "nothing happens",
        "a `GroupNotFound`, which is a `TypeError`, as 0.x says",
        "Catch `GroupNotFound` where a group may be empty",
        "not manual",
    ),
    Fact(
        "equal",
        "hisock",
        "differs",
        "`==` or `!=` of a server or client",
        "compares the IP addresses (and the server's own is wrong for text)",
        "only the same object is equal",
        "Compare `get_addr()`, or `get_server_addr()`",
    ),
    Fact(
        "clients-table",
        "hisock",
        "differs",
        "a change to `server.clients` or `server.clients_rev`",
        "changes the server's own table",
        "changes a copy",
        "Call `disconnect_client()`; names and groups are changed by the client",
    ),
    Fact(
        "funcs",
        "hisock",
        "change",
        "what is in `funcs`",
        'dictionaries with `"func"`, `"name"`, `"type_hint"` …',
        "the functions themselves, in a copy",
        'Write `server.funcs["command"]` without a further subscript, and `on()` to register',
    ),
    Fact(
        "info-assign",
        "hisock",
        "change",
        "an assignment to `name`, `group` or `ip` of a `ClientInfo`",
        "changes that object, and no client",
        "an `AttributeError`",
        "Keep it in a variable of your own; clients call `change_name()` and `change_group()`",
    ),
    Fact(
        "ip-text",
        "hisock",
        "differs",
        "`client.ip` as text",
        "`('127.0.0.1', 5000)`",
        "`127.0.0.1:5000`",
        "Write `client.ip_as_str`, which is that in both, or `tuple(client.ip)`",
    ),
    Fact(
        "handler",
        "hisock",
        "change",
        "a handler with a wrong number of parameters",
        "`on()` raises a `TypeError`",
        "`on()` raises an `InvalidHandler`, which is a `TypeError`, and names the accepted forms",
        "Change its parameters",
    ),
    Fact(
        "handler-open",
        "hisock",
        "differs",
        "a handler with `*args`",
        "gets only what has a parameter with a name",
        "gets as much as it can take: the client and the message",
        "Give it exactly the parameters that it needs",
    ),
    Fact(
        "annotation",
        "hisock",
        "change",
        "a handler whose message is annotated with a type that nothing can be cast to, such as `tuple` or `set`",
        "each message fails",
        "`on()` raises an `InvalidHandler`",
        "Annotate `list` and convert it in the handler",
    ),
    Fact(
        "error-handler",
        "hisock",
        "differs",
        "what a handler raises, with `start(error_handler=…)` or `try:` around `start()`",
        "it ends the loop (and closes a server): it goes to `error_handler`, or out of `start()`",
        "it goes to `error_handler`, or to the log, and the loop goes on",
        "Call `close()` in the `error_handler` if the loop is to end",
    ),
    Fact(
        "cache-zero",
        "hisock",
        "differs",
        "`cache_size=0`",
        "there is no cache, and `get_cache()` fails",
        "the cache has no limit, as the documentation says",
        "Write `cache_size=-1` for none, or a number",
    ),
    Fact(
        "empty-content",
        "hisock",
        "differs",
        "`0`, `[]` or `{}` as content",
        "nothing is sent as content",
        "`0`, `[]` or `{}` is sent; typed handlers get the same value either way",
        "Leave the content out where nothing is to be sent",
    ),
    Fact(
        "bad-host",
        "hisock",
        "differs",
        "`except TypeError` for a server's address that does not resolve",
        "a `TypeError`",
        "a `socket.gaierror`, which is an `OSError`",
        "Catch `OSError`, which covers a port in use in both, too",
    ),
]

_HPX = [
    Fact(
        "import",
        "happypandax_client",
        "change",
        "`import happypandax_client`, `from happypandax_client import …`",
        "that package",
        "that package still, if it is installed",
        "Write `from simplesockets import hpx as happypandax_client`, `from simplesockets.hpx import …`",
    ),
    Fact(
        "private",
        "happypandax_client",
        "change",
        "something private of a client: `_sock`, `_recv()`, `_buffer`, `handshake(_data=…)` …",
        "it is there",
        "most of it does not exist, and none is promised",
        "Use `send_raw()`, `send_bytes()`, `alive()`, `notices`",
    ),
    Fact(
        "star",
        "happypandax_client",
        "differs",
        "`TimeoutError` after `from happypandax_client import *`",
        "the built-in one",
        "the protocol's error with code 102, which is a kind of it, so that other timeouts are not caught",
        "Import names one by one, or write `builtins.TimeoutError`",
    ),
    Fact(
        "logger",
        "happypandax_client",
        "differs",
        '`logging.getLogger("happypandax-client")`',
        "the client logs there",
        "nothing logs there",
        'Write `logging.getLogger("simplesockets.hpx")`',
    ),
]

FACTS = {f"{fact.original}:{fact.key}": fact for fact in (*_SIMPLESOCKETS, *_HISOCK, *_HPX)}
"""All of them, by original and key."""
