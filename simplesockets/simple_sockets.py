"""Import path of releases 0.3 and 0.4; the same objects."""

from .client import TCPClient
from .errors import SetupError
from .events import Event, Socket_Response
from .events import ExceptionList as Exception_Collection
from .mailbox import EventQueue as Event_System
from .server import Server_Client, TCPServer

__all__ = [
    "Event",
    "Event_System",
    "Exception_Collection",
    "Server_Client",
    "SetupError",
    "Socket_Response",
    "TCPClient",
    "TCPServer",
]
