"""Import path of releases 0.3 and 0.4; the same objects."""

from .errors import SetupError, SocketError, error
from .events import Event, Socket_Response
from .events import ExceptionRecord as Better_Exception
from .server import Server_Client

__all__ = ["Better_Exception", "Event", "Server_Client", "SetupError", "SocketError", "Socket_Response", "error"]
