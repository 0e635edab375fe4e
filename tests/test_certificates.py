"""Certificates for development: made, used again, made anew, and never in the place of somebody else's."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from simplesockets import Certificate, SecureClient, SecureServer, SetupError, hisock, self_signed
from simplesockets.certificates import HOSTNAMES

from .support.running import HOST
from .support.waiting import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[1]

needs_cryptography = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="the package cryptography is not installed"
)


@contextlib.contextmanager
def serving(files: Certificate, ip: str = HOST) -> Iterator[SecureServer]:
    server = SecureServer()
    server.setup(
        ip=ip,
        port=0,
        certfile=files.certfile,
        keyfile=files.keyfile,
        on_receive=lambda client, address, data: client.send(data),
    )
    with server:
        yield server


def echo(server: SecureServer, name: str, cafile: pathlib.Path) -> BaseException | None:
    """What hinders a client that calls the server by that name; None: nothing does."""
    client = SecureClient()
    client.setup(HOST, server.address[1], cafile=cafile, server_hostname=name)
    with client:
        if not client.event.is_connected:
            return client.return_exceptions()[0].exception
        client.send_data(b"hello")
        assert client.recv_data(timeout=PATIENCE) == b"hello"
    return None


def contents(files: Certificate) -> list[bytes]:
    return [file.read_bytes() for file in files]


@pytest.fixture
def hidden_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be imported, as where it is not installed."""
    for name in ["cryptography", *(name for name in sys.modules if name.startswith("cryptography."))]:
        monkeypatch.setitem(sys.modules, name, None)


# ------------------------------------------------------------------------------------------------------------ use


@needs_cryptography
@pytest.mark.parametrize("name", HOSTNAMES)
def test_a_server_with_it_is_trusted_by_each_of_its_names(tmp_path: pathlib.Path, name: str) -> None:
    files = self_signed(tmp_path)
    with serving(files) as server:
        assert echo(server, name, files.certfile) is None


@needs_cryptography
def test_it_is_trusted_by_nobody_else_and_for_nothing_else(tmp_path: pathlib.Path) -> None:
    files, others = self_signed(tmp_path / "one"), self_signed(tmp_path / "other")
    with serving(files) as server:
        wrong_name = echo(server, "elsewhere.example", files.certfile)
        wrong_certificate = echo(server, "localhost", others.certfile)
    assert isinstance(wrong_name, ssl.SSLCertVerificationError)
    assert "elsewhere.example" in str(wrong_name)
    assert isinstance(wrong_certificate, ssl.SSLCertVerificationError)


@needs_cryptography
def test_its_key_cannot_sign_for_others(tmp_path: pathlib.Path) -> None:
    context = ssl.create_default_context(cafile=self_signed(tmp_path).certfile)
    assert context.cert_store_stats()["x509"] == 1
    assert context.get_ca_certs() == []


@needs_cryptography
def test_hisock_takes_it_as_it_is(tmp_path: pathlib.Path) -> None:
    files = self_signed(tmp_path)
    with hisock.ThreadedHiSockServer((HOST, 0), tls=files._asdict()) as server:
        server.start()
        with hisock.connect(server.get_addr(), name="Ann", tls=files.certfile) as client:
            assert client.get_client("Ann", timeout=PATIENCE).name == "Ann"


# ---------------------------------------------------------------------------------------------------------- files


@needs_cryptography
@pytest.mark.skipif(os.name != "posix", reason="file modes are of POSIX")
def test_only_the_owner_reads_the_key(tmp_path: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        files = self_signed(tmp_path / "new" / "directory")
    finally:
        os.umask(before)
    assert stat.S_IMODE(files.keyfile.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.certfile.stat().st_mode) == 0o644
    assert b"PRIVATE" not in files.certfile.read_bytes()
    assert sorted(file.name for file in files.keyfile.parent.iterdir()) == ["certificate.pem", "key.pem"]


@needs_cryptography
def test_it_is_used_again_without_cryptography(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    first = contents(self_signed(tmp_path))
    request.getfixturevalue("hidden_cryptography")
    assert contents(self_signed(tmp_path)) == first
    assert contents(self_signed(tmp_path, "localhost")) == first  # one of its names
    assert contents(self_signed(str(tmp_path), ["0:0::1", "LOCALHOST"])) == first  # otherwise written


@needs_cryptography
def test_more_names_are_added_to_those_that_it_has(tmp_path: pathlib.Path) -> None:
    old_certificate, old_key = contents(self_signed(tmp_path, ["one.example", "192.0.2.1"]))
    files = self_signed(tmp_path, "grüße.example")
    assert files.certfile.read_bytes() != old_certificate
    assert files.keyfile.read_bytes() == old_key
    with serving(files) as server:
        for name in ("one.example", "192.0.2.1", "grüße.example"):
            assert echo(server, name, files.certfile) is None


@needs_cryptography
@pytest.mark.parametrize(
    ("days", "later", "kept"), [(30, 28, True), (30, 29.5, False), (30, 31, False), (1, 0.4, True)]
)
def test_it_is_made_anew_before_it_expires(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, days: int, later: float, kept: bool
) -> None:
    first = contents(self_signed(tmp_path, days=days))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + later * 24 * 3600)
    assert (contents(self_signed(tmp_path, days=days)) == first) is kept


@needs_cryptography
def test_renewal_makes_another_key_too(tmp_path: pathlib.Path) -> None:
    old = contents(self_signed(tmp_path))
    files = self_signed(tmp_path, renew=True)
    assert not set(contents(files)) & set(old)
    with serving(files) as server:
        assert echo(server, "localhost", files.certfile) is None


@needs_cryptography
@pytest.mark.parametrize("damage", ["no certificate", "no key", "another's certificate", "damaged key", "half of it"])
def test_what_does_not_fit_is_made_anew(tmp_path: pathlib.Path, damage: str) -> None:
    files = self_signed(tmp_path)
    if damage == "no certificate":
        files.certfile.unlink()
    elif damage == "no key":
        files.keyfile.unlink()
    elif damage == "another's certificate":
        files.certfile.write_bytes(self_signed(tmp_path / "other").certfile.read_bytes())
    elif damage == "damaged key":
        files.keyfile.write_bytes(files.keyfile.read_bytes().replace(b"A", b"B"))
    else:
        files.certfile.write_bytes(files.certfile.read_bytes()[:400])
    with serving(self_signed(tmp_path)) as server:
        assert echo(server, "localhost", files.certfile) is None


@needs_cryptography
@pytest.mark.parametrize("name", ["certificate.pem", "key.pem"])
@pytest.mark.parametrize("renew", [False, True])
def test_files_of_others_are_not_touched(tmp_path: pathlib.Path, name: str, renew: bool) -> None:
    other = tmp_path / name
    other.write_text("precious")
    with pytest.raises(SetupError, match=f"{name}.* is in the way.*choose another directory"):
        self_signed(tmp_path, renew=renew)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert other.read_text() == "precious"


@needs_cryptography
def test_many_at_the_same_time_get_the_same_one(tmp_path: pathlib.Path) -> None:
    count = 8
    together, seen = threading.Barrier(count), []

    def make() -> None:
        together.wait(PATIENCE)
        seen.append(tuple(contents(self_signed(tmp_path))))

    threads = [threading.Thread(target=make) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(seen) == count
    assert len(set(seen)) == 1


@needs_cryptography
def test_file_systems_without_links_will_do(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    files = self_signed(tmp_path)
    with serving(files) as server:
        assert echo(server, "localhost", files.certfile) is None


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.usefixtures("hidden_cryptography")
def test_a_missing_package_is_named_with_what_to_do(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SetupError, match=r'pip install "simplesockets\[secure\]"'):
        self_signed(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"hostnames": []}, ValueError, "at least one name"),
        ({"hostnames": ["local host"]}, ValueError, "'local host' is no host name"),
        ({"hostnames": "http://localhost"}, ValueError, "no host name"),
        ({"hostnames": ""}, ValueError, "'' is no host name"),
        ({"hostnames": [1]}, TypeError, "a host name is text"),
        ({"days": 0}, ValueError, "days must be at least 1"),
        ({"days": 1.5}, TypeError, "days must be a whole number"),
    ],
)
def test_arguments_of_no_use_are_refused(
    tmp_path: pathlib.Path, arguments: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        self_signed(tmp_path, **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@needs_cryptography
def test_a_directory_that_is_none_is_an_error_that_names_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot keep a certificate in '.*file'"):
        self_signed(tmp_path / "file")


# ----------------------------------------------------------------------------------------------------- the command


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "simplesockets", "certificate", *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@needs_cryptography
def test_the_command_makes_one_and_says_what_to_do_with_it(tmp_path: pathlib.Path) -> None:
    made = command(str(tmp_path), "--host", "one.example", "--host", "192.0.2.1", "--days", "3")
    files = Certificate(tmp_path / "certificate.pem", tmp_path / "key.pem")
    assert made.returncode == 0, made.stderr
    for file in files:
        assert str(file) in made.stdout
    with serving(files) as server:
        for name in ("one.example", "192.0.2.1"):
            assert echo(server, name, files.certfile) is None
        assert isinstance(echo(server, "localhost", files.certfile), ssl.SSLCertVerificationError)


def test_the_command_says_why_it_cannot(tmp_path: pathlib.Path) -> None:
    (tmp_path / "key.pem").write_text("precious")
    refused = command(str(tmp_path))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "is in the way" in refused.stderr
