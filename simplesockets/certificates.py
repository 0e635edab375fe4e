"""Certificates for development: made once, signed by nobody but themselves, and good while they last.

A program calls :func:`self_signed` each time it starts, so the usual case is that both files are there and good. Only a
handshake can tell that for sure (the key is that of the certificate, the certificate has begun and not ended), so one
is made, in memory. It also tells the names and the end. That needs nothing but the standard library; ``cryptography``
is imported where a certificate has to be made.

Two programs may do this at the same time in the same directory. A new file comes into being under its name all at
once, and only in the place of what was found wanting (nothing, mostly). So the second program finds the first one's
key, and the first one's certificate of it.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import logging
import os
import pathlib
import ssl
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from .errors import SetupError
from .tls import Path, client_context, server_context
from .transport import check_count

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate as X509Certificate
    from cryptography.x509 import GeneralName

log = logging.getLogger("simplesockets")

HOSTNAMES = ("localhost", "127.0.0.1", "::1")
"""The names that a certificate is for, if none are given: this machine, seen from itself."""
DAYS = 365
"""Days that a certificate is good for, by default."""
CERTIFICATE = "certificate.pem"
"""Name of the certificate's file."""
KEY = "key.pem"
"""Name of the key's file."""

_MARK = b"# Made by simplesockets for development. It is made anew when it is missing or has expired.\n"
_ENDING = 24 * 3600.0  # seconds before its end that a certificate is as good as expired …
_HALF = 0.5  # … or this part of its life, if that is short
_ROUNDS = 3  # of looking and making, where other programs do the same
_SKEW = datetime.timedelta(hours=1)  # clients whose clocks are slow are to take it, too


class Certificate(NamedTuple):
    """Where a certificate and its key are."""

    certfile: pathlib.Path
    """PEM file of the certificate. Clients trust it: ``setup(cafile=…)``. It may be given to anybody."""
    keyfile: pathlib.Path
    """PEM file of the key. It stays with the server, and out of version control."""


def self_signed(
    directory: Path = ".", hostnames: str | Sequence[str] = HOSTNAMES, days: int = DAYS, *, renew: bool = False
) -> Certificate:
    """A certificate for development, which clients trust by name::

        certificate = self_signed("tls")
        server.setup(port=9999, certfile=certificate.certfile, keyfile=certificate.keyfile)
        client.setup("localhost", 9999, cafile=certificate.certfile)

    It is made where there is none, and anew where that which is there has expired (or will within a day) or lacks one
    of the names. Else it is used again, for which ``cryptography`` need not be installed. A client on another machine
    needs a copy of the certificate's file, and the server's name or address there among the ``hostnames``.

    Args:
        directory: for ``certificate.pem`` and ``key.pem``; made if need be.
        hostnames: names and IP addresses by which clients call the server.
        days: that it is good for.
        renew: whether to make another one in any case.

    Raises:
        SetupError: ``cryptography`` is missing; or a file that was not made here is in the way, which stays as it is;
            or the directory cannot be used.
        TypeError, ValueError: an argument is of no use.

    May be called from several threads and programs at once.
    """
    names = _checked([hostnames] if isinstance(hostnames, str) else hostnames)
    check_count("days", days, "days", 1)
    place = pathlib.Path(directory)
    files = Certificate(place / CERTIFICATE, place / KEY)
    try:
        for _ in range(_ROUNDS):
            before = _refuse_foreign(files)
            present = _examine(files)
            if present is not None and present.covers(names) and not renew:
                break
            place.mkdir(parents=True, exist_ok=True)
            names += [name for name in present.names if name not in names] if present else []
            _make(files, names, days, renew, before)
            renew = False
    except OSError as failure:
        raise SetupError(f"cannot keep a certificate in {str(place)!r}: {failure}") from failure
    return files


def _checked(hostnames: Sequence[str]) -> list[str]:
    names = [_normal(name) for name in hostnames]
    if not names:
        raise ValueError("hostnames must have at least one name or IP address, such as 'localhost'")
    return list(dict.fromkeys(names))


def _normal(name: str) -> str:
    # As certificates have it: ASCII, and one way to write an address.
    if not isinstance(name, str):
        raise TypeError(f"a host name is text, such as 'localhost', not {name!r}")
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        written = name.encode("idna").decode().lower()
    except UnicodeError:
        written = ""
    if not written or any(character in written for character in " :/@\0"):
        raise ValueError(f"{name!r} is no host name and no IP address; give one such as 'localhost' or '192.168.1.5'")
    return written


def _refuse_foreign(files: Certificate) -> bytes | None:
    # Gives what the certificate's file has; None where there is none.
    found = [_content(file) for file in files]
    for file, content in zip(files, found, strict=True):
        if content is not None and not content.startswith(_MARK):
            raise SetupError(
                f"{str(file)!r} is in the way: it was not made by self_signed(), and is not overwritten. Use it "
                "with certfile= and keyfile=, or choose another directory"
            )
    return found[0]


def _content(file: pathlib.Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


# ------------------------------------------------------------------------------------------------- what is there


class _Present(NamedTuple):
    names: list[str]
    begin: float
    end: float

    def covers(self, names: Sequence[str]) -> bool:
        """Whether it is good for these, and for some time."""
        left = self.end - time.time()
        return set(names) <= set(self.names) and left > min(_ENDING, _HALF * (self.end - self.begin))


def _examine(files: Certificate) -> _Present | None:
    # None: it is missing, or not good.
    try:
        described = _try_out(server_context(*files), client_context(files.certfile))
    except (SetupError, ssl.SSLError):
        return None
    names = [value for _, value in cast("Sequence[tuple[str, str]]", described.get("subjectAltName", ()))]
    begin, end = (ssl.cert_time_to_seconds(cast(str, described[which])) for which in ("notBefore", "notAfter"))
    return _Present([_normal(name) for name in names], begin, end)


def _try_out(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> Mapping[str, object]:
    # A handshake in memory. Gives what the client knows of the server's certificate.
    client_side.check_hostname = False
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(one, other, server_side=True)
    client = client_side.wrap_bio(other, one)
    done = False
    while not done:
        done = True
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:  # the other side has to answer first
                done = False
    return cast("Mapping[str, object]", client.getpeercert())


# -------------------------------------------------------------------------------------------------------- making


def _make(files: Certificate, names: Sequence[str], days: int, renew: bool, before: bytes | None) -> None:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as failure:
        raise SetupError(
            "making a certificate needs the package cryptography, which is not installed: "
            'pip install "simplesockets[secure]"'
        ) from failure
    key = _key_in(files.keyfile, renew)
    pem = _sign(key, names, days).public_bytes(serialization.Encoding.PEM)
    if _content(files.certfile) == before:  # else another program was faster
        _write(files.certfile, pem, mode=0o644, replace=before is not None)
    log.info("made a certificate for %s, good for %s days: %s", ", ".join(names), days, files.certfile)


def _key_in(file: pathlib.Path, renew: bool) -> EllipticCurvePrivateKey:
    # The key that is there, or a new one.
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    replace = renew
    with contextlib.suppress(FileNotFoundError):
        try:
            if not renew:
                return _read_key(file)
        except ValueError:  # damaged
            replace = True
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(file, pem, mode=0o600, replace=replace)
    return _read_key(file)  # another program may have been faster


def _read_key(file: pathlib.Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_private_key(file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("it is of another kind")
    return key


def _sign(key: EllipticCurvePrivateKey, names: Sequence[str], days: int) -> X509Certificate:
    # No authority: whoever has the key can be this server, and cannot vouch for others.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "simplesockets development certificate")])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    for extension, critical in (
        (x509.SubjectAlternativeName([_general(name) for name in names]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    builder = builder.not_valid_before(now - _SKEW).not_valid_after(now + datetime.timedelta(days=days))
    return builder.sign(key, hashes.SHA256())


def _general(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(file: pathlib.Path, pem: bytes, *, mode: int, replace: bool) -> None:
    # Whole or not at all. Without ``replace`` a file that is there stays.
    number, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # nobody else can read it
    try:
        with open(number, "wb") as writer:
            writer.write(_MARK + pem)
        os.chmod(name, mode)
        if replace or not _link(name, file):
            os.replace(name, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _link(name: str, file: pathlib.Path) -> bool:
    # Whether the file is there now; not on file systems without links.
    try:
        os.link(name, file)
    except FileExistsError:
        pass
    except OSError:
        return file.exists()
    return True
