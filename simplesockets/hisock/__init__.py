"""HiSock: commands with content, names, groups and typed handlers, over TCP.

    from simplesockets import hisock

    server = hisock.start_server(("127.0.0.1", 5000))

    @server.on("greet")
    def greet(client: hisock.ClientInfo, name: str):
        server.send_client(client, "greeting", f"Hello {name}")

    server.start()

It takes the place of the package ``hisock``, of both generations, in programs and on the wire. Programs that say
``import hisock`` get this one after :func:`install_as_hisock`.

The files, in order: casting, protocol, groups and handlers are pure; loop has what server and client share. Several
servers as one: backplane and neighbours are pure; then exchange, redis_backplane and cluster.
"""

import sys

from . import client, constants, server, utils
from .casting import ClientInfo
from .client import HiSockClient, ThreadedHiSockClient, connect, threaded_connect
from .constants import __version__
from .errors import (
    BackplaneError,
    ClientDisconnected,
    ClientException,
    ClientNotFound,
    GroupNotFound,
    InvalidHandler,
    InvalidTypeCast,
    ServerException,
    ServerNotRunning,
)
from .redis_backplane import RedisBackplane
from .server import HiSockServer, ThreadedHiSockServer, start_server, start_threaded_server
from .utils import get_local_ip, input_client_config, input_server_config, ipstr_to_tup, iptup_to_str

__all__ = [
    "BackplaneError",
    "ClientDisconnected",
    "ClientException",
    "ClientInfo",
    "ClientNotFound",
    "GroupNotFound",
    "HiSockClient",
    "HiSockServer",
    "InvalidHandler",
    "InvalidTypeCast",
    "RedisBackplane",
    "ServerException",
    "ServerNotRunning",
    "ThreadedHiSockClient",
    "ThreadedHiSockServer",
    "__version__",
    "client",
    "connect",
    "constants",
    "get_local_ip",
    "input_client_config",
    "input_server_config",
    "install_as_hisock",
    "ipstr_to_tup",
    "iptup_to_str",
    "server",
    "start_server",
    "start_threaded_server",
    "threaded_connect",
    "utils",
]


def install_as_hisock() -> None:
    """Make ``import hisock``, and imports from it, find this module in the running interpreter.

    Call it before anything imports ``hisock``. Another package of that name stays installed, and unused.
    """
    here = sys.modules[__name__]
    for name, module in {
        "": here,
        ".client": client,
        ".server": server,
        ".utils": utils,
        ".constants": constants,
    }.items():
        sys.modules[f"hisock{name}"] = module
