"""SecureServer and SecureClient: TCPServer and TCPClient that are always encrypted, by TLS.

Release 0.4 has these names, with a cipher of its own; programs keep their calls and say where the certificate is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from ssl import SSLContext

from .certificates import Certificate, self_signed
from .client import CONNECT_TIMEOUT, TCPClient
from .dispatch import Callback
from .errors import SetupError
from .events import ReceivedBytes
from .protocol import ProtocolFactory, RawProtocol
from .server import ContextMaker, EngineName, TCPServer
from .timing import Reconnect
from .tls import HANDSHAKE_TIMEOUT, Path, client_context, server_context
from .transport import SEND_TIMEOUT

__all__ = ["Certificate", "SecureClient", "SecureServer", "self_signed"]


class SecureServer(TCPServer):
    """A :class:`TCPServer` that speaks TLS.

    Source: 0.4, where the encryption was home-made; its keys (``privatekey``, ``publickey``) do not exist here.
    """

    def setup(
        self,
        ip: str | Sequence[str] | None = None,
        port: int = 25567,
        listen: int = 5,
        recv_buffer: int = 2048,
        handle_client: Callback | None = None,
        on_connect: Callback | None = None,
        on_disconnect: Callback | None = None,
        on_receive: Callback | None = None,
        keysize: int = 2048,
        *,
        protocol: ProtocolFactory = RawProtocol,
        ssl_context: SSLContext | ContextMaker | None = None,
        handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
        send_timeout: float | None = SEND_TIMEOUT,
        idle_timeout: float | None = None,
        max_per_address: int | None = None,
        engine: EngineName = "threads",
        workers: int | None = None,
        certfile: Path | None = None,
        keyfile: Path | None = None,
        password: str | None = None,
        cafile: Path | None = None,
    ) -> None:
        """As :meth:`TCPServer.setup`, with a certificate, or with an ``ssl_context`` that has one.

        Args:
            keysize: accepted for programs of 0.4; the certificate's key counts.
            certfile: PEM file of the server's certificate, followed by those that signed it. For development,
                :func:`self_signed` makes one.
            keyfile: PEM file of its key; not given: it is in ``certfile``, too.
            password: of the key.
            cafile: PEM file of those who sign clients' certificates; given, each client has to have one.

        Raises:
            SetupError: there is no certificate, or it cannot be used.
        """
        files = (certfile, keyfile, password, cafile)
        if ssl_context is None:
            if certfile is None:
                raise SetupError("TLS needs a certificate: setup(certfile=…, keyfile=…), or setup(ssl_context=…)")
            ssl_context = partial(server_context, certfile, keyfile, password, cafile)
        elif files != (None,) * 4:
            raise SetupError("give either ssl_context, or certfile and its like, not both")
        super().setup(
            ip,
            port,
            listen,
            recv_buffer,
            handle_client,
            on_connect,
            on_disconnect,
            on_receive,
            protocol=protocol,
            ssl_context=ssl_context,
            handshake_timeout=handshake_timeout,
            send_timeout=send_timeout,
            idle_timeout=idle_timeout,
            max_per_address=max_per_address,
            engine=engine,
            workers=workers,
        )


class SecureClient(TCPClient):
    """A :class:`TCPClient` that speaks TLS, and verifies the server's certificate.

    Source: 0.4, where the encryption was home-made; its ``key`` and ``cipher`` do not exist here.
    """

    def setup(
        self,
        target_ip: str,
        target_port: int = 25567,
        recv_buffer: int = 2048,
        on_connect: Callback | None = None,
        on_disconnect: Callback | None = None,
        on_receive: Callback | None = None,
        listen: int = 5,
        handle_client: Callback | None = None,
        *,
        connect_timeout: float | None = CONNECT_TIMEOUT,
        send_timeout: float | None = SEND_TIMEOUT,
        idle_timeout: float | None = None,
        protocol: ProtocolFactory = RawProtocol,
        ssl_context: SSLContext | None = None,
        server_hostname: str | None = None,
        reconnect: Reconnect | bool | None = None,
        cafile: Path | None = None,
        certfile: Path | None = None,
        keyfile: Path | None = None,
        password: str | None = None,
    ) -> None:
        """As :meth:`TCPClient.setup`. Without an ``ssl_context`` the certificate and the name in it are verified.

        Args:
            cafile: PEM file of those who sign the server's certificate, or of that itself, if it is self-signed; not
                given: those whom the system trusts.
            certfile, keyfile, password: the client's own certificate, for servers that want one.

        Raises:
            SetupError: a file cannot be used.
        """
        files = (cafile, certfile, keyfile, password)
        if ssl_context is None:
            ssl_context = client_context(*files)
        elif files != (None,) * 4:
            raise SetupError("give either ssl_context, or cafile and its like, not both")
        super().setup(
            target_ip,
            target_port,
            recv_buffer,
            on_connect,
            on_disconnect,
            on_receive,
            listen,
            handle_client,
            connect_timeout=connect_timeout,
            send_timeout=send_timeout,
            idle_timeout=idle_timeout,
            protocol=protocol,
            ssl_context=ssl_context,
            server_hostname=server_hostname,
            reconnect=reconnect,
        )

    def recv_data(self, raw: bool = False, *, timeout: float | None = None) -> ReceivedBytes:
        """As :meth:`TCPClient.recv_data`.

        Args:
            raw: accepted for programs of 0.4; what comes is decrypted in either case.
            timeout: seconds; None waits until something comes or the connection ends.
        """
        return super().recv_data(timeout=timeout)
