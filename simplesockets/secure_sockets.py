"""Import path of releases 0.3 and 0.4; the same objects. Encryption (SecureServer, SecureClient) is not in yet."""

from .simple_sockets import Server_Client, SetupError, Socket_Response, TCPClient, TCPServer

__all__ = ["Server_Client", "SetupError", "Socket_Response", "TCPClient", "TCPServer"]
