"""The certificates of tests/data/tls, which make.sh there makes, and contexts with them."""

from __future__ import annotations

import pathlib
import ssl

FILES = pathlib.Path(__file__).resolve().parents[1] / "data" / "tls"
CA = FILES / "ca.pem"
OTHER_CA = FILES / "other_ca.pem"
SERVER = FILES / "server.pem"
CLIENT = FILES / "client.pem"
EXPIRED = FILES / "expired.pem"
ELSEWHERE = FILES / "elsewhere.pem"


def server_side(certificate: pathlib.Path = SERVER, *, mutual: bool = False) -> ssl.SSLContext:
    """A server's context; ``mutual``: which wants a certificate of each client."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    if mutual:
        context.load_verify_locations(CA)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_side(authority: pathlib.Path = CA, certificate: pathlib.Path | None = None) -> ssl.SSLContext:
    """A client's context, which trusts that authority."""
    context = ssl.create_default_context(cafile=authority)
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context
