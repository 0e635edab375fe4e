"""The originals' names: what is an instance of what, what comes out of it, what exists only there. Pure.

Programs are read, not run, so what a name stands for is known by its kind: ``"TCPServer"``, or ``"server item"`` for an
element of what ``return_recved_data()`` gives.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PORTED = {"simplesockets.hisock": "hisock", "simplesockets.hpx": "happypandax_client"}
"""Modules here that take the place of an original: what comes from them is read in the same way."""

INSTANCES: dict[str, dict[str, tuple[str, ...]]] = {
    "simplesockets": {
        "TCPServer": ("TCPServer",),
        "TCPClient": ("TCPClient",),
        "SecureServer": ("SecureServer", "TCPServer"),
        "SecureClient": ("SecureClient", "TCPClient"),
    },
    "hisock": {
        "HiSockServer": ("HiSockServer",),
        "start_server": ("HiSockServer",),
        "ThreadedHiSockServer": ("HiSockServer", "threaded"),
        "start_threaded_server": ("HiSockServer", "threaded"),
        "HiSockClient": ("HiSockClient",),
        "connect": ("HiSockClient",),
        "ThreadedHiSockClient": ("HiSockClient", "threaded"),
        "threaded_connect": ("HiSockClient", "threaded"),
        "ClientInfo": ("ClientInfo",),
    },
    "happypandax_client": {"Client": ("Client",)},
}
"""What calling a name makes, by the original that has it."""

EACH, ITEM, CALL = "iter", "[]", "()"
MEMBERS: dict[str, dict[str, str]] = {
    "TCPServer": {
        "return_recved_data()": "server items",
        "recved_data": "server items",
        "return_exceptions()": "exceptions",
        "event": "event",
    },
    "TCPClient": {
        "return_recved_data()": "received items",
        "recved_data": "received items",
        "recv_data()": "received",
        "return_exceptions()": "exceptions",
        "event": "event",
    },
    "event": {"exception": "event.exception", "accepting_thread": "accepting"},
    "event.exception": {"exceptions": "collection"},
    "collection": {"exceptions": "exceptions"},
    "server items": {EACH: "server item", ITEM: "server item"},
    "received items": {EACH: "received", ITEM: "received"},
    "HiSockServer": {
        "get_client()": "ClientInfo",
        "get_group()": "ClientInfos",
        "get_all_clients()": "ClientInfos",
        "clients": "client table",
        "clients_rev": "client table",
        "funcs": "handlers",
    },
    "HiSockClient": {"get_client()": "ClientInfo", "funcs": "handlers"},
    "ClientInfos": {EACH: "ClientInfo", ITEM: "ClientInfo"},
    "ClientInfo": {"ip": "client address", "['ip']": "client address"},
}
"""What attributes, calls of methods, elements and iteration give, by kind."""

CALLBACKS: dict[str, dict[str, tuple[int, ...]]] = {
    "TCPServer": {"on_receive": (3, 2, 1), "on_connect": (1,), "on_disconnect": (1,), "handle_client": (2, 1)},
    "TCPClient": {"on_receive": (1,), "on_connect": (0,), "on_disconnect": (0,)},
}
"""With how many arguments callbacks are called here: the first number that fits."""

SETUP: dict[str, tuple[str, ...]] = {
    "TCPServer": ("ip", "port", "listen", "recv_buffer", "handle_client", "on_connect", "on_disconnect", "on_receive"),
    "TCPClient": ("target_ip", "target_port", "recv_buffer", "on_connect", "on_disconnect", "on_receive"),
}
"""The parameters of ``setup()`` in their order."""

CALLBACK_ARGUMENTS: dict[tuple[str, str, int], tuple[str, ...]] = {
    ("TCPServer", "on_receive", 2): ("client", "received"),
    ("TCPServer", "on_receive", 1): ("received",),
    ("TCPServer", "on_connect", 1): ("connect address",),
    ("TCPClient", "on_receive", 1): ("received",),
}
"""What callbacks get, as far as it matters."""

HANDLERS: dict[str, dict[str, tuple[int, ...]]] = {
    "HiSockServer": {
        "join": (1,),
        "leave": (1,),
        "name_change": (3,),
        "group_change": (3,),
        "message": (3, 2),
        "*": (3,),
        "": (2, 1, 0),
    },
    "HiSockClient": {
        "client_connect": (1,),
        "client_disconnect": (1,),
        "force_disconnect": (0,),
        "*": (2,),
        "": (1, 0),
    },
}
"""With how many arguments HiSock's handlers are called here, by their command; the empty one stands for all others."""

PUBLIC: dict[str, frozenset[str]] = {
    "TCPServer": _words(
        """
        setup start stop exit_accept recv_data killed restart return_exceptions return_recved_data disconnect
        send_data recved_data socket clients max_connections on_connect on_disconnect on_receive new_data_recved
        event await_event close EVENT_EXCEPTION EVENT_RECEIVED EVENT_TIMEOUT
        """
    ),
    "TCPClient": _words(
        """
        setup start connect reconnect autorecv send_data recv_data shutdown disconnect close return_exceptions
        return_recved_data recved_data socket Address new_data_recved event await_event on_connect on_disconnect
        on_receive EVENT_EXCEPTION EVENT_RECEIVED EVENT_TIMEOUT EVENT_DISCONNECT EVENT_CONNECTED
        """
    ),
    "HiSockServer": _words(
        """
        addr cache_size clients clients_rev close closed disconnect_all_clients disconnect_client funcs get_addr
        get_all_clients get_client get_group header_len on recv recv_raw run send_all_clients send_client
        send_client_raw send_group send_group_raw socket start start_server stop_server join
        """
    ),
    "HiSockClient": _words(
        """
        addr cache_size change_group change_name close closed connect_time connected funcs get_cache get_client
        get_client_addr get_server_addr group header_len name on original_group original_name raw_send recv recv_raw
        send sock start start_client stop_client update join
        """
    ),
    "Client": _words(
        """
        accepted alive close connect guest_allowed handshake host name port ready request_handshake send send_bytes
        send_raw session version
        """
    ),
}
"""What exists there and here, by the class."""

PRIVATE: dict[str, frozenset[str]] = {
    "TCPServer": _words(
        """
        _accept_clients _allthreads _event_system _kill _perfom_disconnect _recv_buffer _start_target _TCPServer__IP
        _TCPServer__PORT _TCPServer__accepting_thread _TCPServer__handle_client _TCPServer__setup_flag
        """
    ),
    "TCPClient": _words(
        """
        _event_system _recv_buffer _setup_flag _target_ip _target_port _TCPClient__allthreads _TCPClient__autorecv
        _TCPClient__autorecv_thread _TCPClient__reciving_automatic _TCPClient__start_taregt
        """
    ),
    "HiSockServer": _words(
        """
        _cache _call_function _call_function_reserved _call_wildcard_function _client_disconnection
        _get_all_client_sockets_in_group _get_client_from_name_or_ip_port _handle_keepalive _handle_recv_commands
        _keepalive _keepalive_event _keepalive_thread _new_client_connection _on _receiving_data _recv_on_events
        _reserved_funcs _send_type_cast _sockets_list _type_cast_client_data _unreserved_func_arguments
        _unresponsive_clients _stop_event
        """
    ),
    "HiSockClient": _words(
        """
        _cache _call_function _call_function_reserved _call_wildcard_function _handle_keepalive
        _handle_recv_commands _on _receiving_data _recv_on_events _reserved_funcs _send_client_hello _send_type_cast
        _type_cast_client_data _unreserved_func_arguments _stop_event
        """
    ),
    "Client": _words(
        """
        _accepted _alive _buffer _check_auth _closed _context _convert_to_json _disconnect _end_of_message
        _guest_allowed _last_pass _last_user _ready _recv _send _server _server_info _sock _version
        """
    ),
}
"""The originals' insides, which do not exist here, or are something else."""

RENAMED: dict[str, dict[str, str]] = {
    "HiSockServer": {
        "_run": "run",
        "_send_client_raw": "send_client_raw",
        "_send_group_raw": "send_group_raw",
        "_send_all_clients_raw": "send_all_clients_raw",
    },
    "HiSockClient": {"_update": "update", "_send_raw": "raw_send"},
}
"""Methods that hide behind an underscore in release 2.0.2, and have a name here."""

FOREIGN: dict[str, frozenset[str]] = {
    "simplesockets.simple_sockets": _words(
        "AES Any Callable List Optional Tuple Union dataclass datetime socket threading time traceback _time"
    ),
    "simplesockets.secure_sockets": _words(
        "AES Callable Optional PKCS1_OAEP RSA get_random_bytes threading time traceback _time"
    ),
    "hisock": frozenset({"examples"}),
    "hisock.server": _words(
        """
        Callable IPv4Address Iterable Union json select socket threading warnings _HiSockBase _dict_tupkey_lookup
        _removeprefix _type_cast
        """
    ),
    "hisock.client": _words(
        """
        Callable IPv4Address Union errno json socket sys threading time traceback _HiSockBase _removeprefix
        _type_cast
        """
    ),
    "hisock.utils": _words(
        """
        Any Dict IPv4Address List Optional Tuple Type Union ast builtins json pathlib search socket sys _Sentinel
        _dict_tupkey_lookup _dict_tupkey_lookup_key _input_ip_address _input_port _removeprefix
        _str_type_to_type_annotations_dict _type_cast
        """
    ),
}
"""What the originals' modules have from elsewhere, or for themselves; programs that lean on it get it from its home."""

MODULES_GONE = (
    "simplesockets._support_files",
    "simplesockets.securesockets",
    "simplesockets.example",
    "hisock._shared",
    "hisock.examples",
)
"""Modules that do not exist here."""

NOT_CASTABLE = _words("tuple set frozenset complex bytearray Tuple Set FrozenSet")
"""Annotations to which HiSock cannot cast content."""


def canonical(dotted: str) -> str:
    """The name by which something is known here: as the original has it, also where it comes from this package."""
    for here, there in PORTED.items():
        if dotted == here or dotted.startswith(f"{here}."):
            return there + dotted.removeprefix(here)
    return dotted


def original_of(dotted: str) -> str | None:
    """The original that a canonical name belongs to; None for names of anybody else."""
    root = dotted.partition(".")[0]
    return root if root in INSTANCES else None


def is_gone(dotted: str) -> bool:
    """Whether it is, or is in, a module that does not exist here."""
    return any(dotted == module or dotted.startswith(f"{module}.") for module in MODULES_GONE)
