"""HiSock's exceptions, under their names of release 2.

What 0.x documents as a plain ``TypeError`` is one here as well.

    SimpleSocketsError
    ├── ClientException
    │   ├── ClientNotFound            no such client is connected            (TypeError)
    │   ├── ClientDisconnected        this client was closed here            (ConnectionError)
    │   └── ServerNotRunning          the server is not there, or not any more (ConnectionError)
    ├── ServerException
    │   ├── GroupNotFound             nobody is in that group                (TypeError)
    │   └── BackplaneError            what connects several servers is away  (ConnectionError)
    ├── InvalidTypeCast               content does not fit the type          (TypeError, ValueError)
    ├── InvalidHandler                a function does not fit its command    (TypeError, ValueError)
    ├── FunctionNotFoundException
    └── NoMessageException
"""

from __future__ import annotations

from ..errors import SimpleSocketsError


class ClientException(SimpleSocketsError):
    """Something about a client is not as it has to be."""


class ServerException(SimpleSocketsError):
    """Something about a server is not as it has to be."""


class ClientNotFound(ClientException, TypeError):
    """No client of that name or address is connected."""


class ClientDisconnected(ClientException, ConnectionError):
    """The connection was ended on this side."""


class ServerNotRunning(ClientException, ConnectionError):
    """The server refuses connections, or ended this one."""


class GroupNotFound(ServerException, TypeError):
    """No connected client is in that group."""


class BackplaneError(ServerException, ConnectionError):
    """What connects this server to the others is away, or was."""


class InvalidTypeCast(SimpleSocketsError, TypeError, ValueError):
    """Content cannot be cast to the wanted type, or cannot be sent at all."""


class InvalidHandler(SimpleSocketsError, TypeError, ValueError):
    """A function cannot be called with what its command gives it."""


class FunctionNotFoundException(SimpleSocketsError):
    """There is no such handler. Kept for programs that catch it; nothing raises it."""


class NoMessageException(SimpleSocketsError):
    """There is no message. Kept for programs that catch it; nothing raises it."""


class NoHeaderWarning(UserWarning):
    """Kept for programs that filter it; nothing warns so."""


class FunctionNotFoundWarning(UserWarning):
    """Kept for programs that filter it; nothing warns so."""
