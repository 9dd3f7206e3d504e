"""HTTPS: what is spoken, and certificates that cannot be used."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import httpx
import pytest

from headrace.app.access import check_address, is_loopback, tls_of
from headrace.app.project import Project
from headrace.core.errors import ConfigError
from headrace.serving.http import serving
from headrace.serving.tls import Tls
from tests.certificates import write_certificate
from tests.e2e.shop import write_shop
from tests.unit.serving.shop import opened


@pytest.mark.parametrize("password", ["", "s3cret"])
def test_the_service_speaks_tls_1_2_and_1_3_and_nothing_else(tmp_path: Path, password: str) -> None:
    tls = Tls(*write_certificate(tmp_path / "tls", password), password)
    tls.check()
    with opened(tmp_path) as shop, serving(shop.service(), tls=tls) as port:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=str(tls.cert))
            context.minimum_version = context.maximum_version = version
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
            ):
                cipher = secure.cipher()
                assert cipher is not None
                assert "GCM" in cipher[0] or "POLY1305" in cipher[0]
        answer = httpx.get(
            f"https://127.0.0.1:{port}/health/live", verify=ssl.create_default_context(cafile=str(tls.cert))
        )
        assert answer.json() == {"status": "live"}
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/health/live")
    assert "s3cret" not in repr(tls)


def test_what_cannot_be_used_is_said_before_anything_listens(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path / "one")
    other = write_certificate(tmp_path / "two")[1]
    locked = write_certificate(tmp_path / "three", "s3cret")
    for tls, message in (
        (Tls(tmp_path / "none.pem", key), "tls_cert = .*no such file"),
        (Tls(cert, tmp_path / "none.pem"), "tls_key = .*no such file"),
        (Tls(cert, other), "MISMATCH"),
        (Tls(key, cert), "cannot be used"),
        (Tls(*locked), "tls_key_password"),
        (Tls(*locked, "wrong"), "tls_key_password"),
    ):
        with pytest.raises(ConfigError, match=message):
            tls.check()


def test_settings_name_both_files_or_none(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop")
    write_certificate(folder)
    with Project.open(folder) as project:
        assert tls_of(project.settings) is None
    with Project.open(folder, tls_cert="cert.pem", tls_key="key.pem", tls_key_password="") as project:
        found = tls_of(project.settings)
        assert found is not None
        assert found.cert == project.settings.folder / "cert.pem"
    for given, missing in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        with Project.open(folder, **{given: "cert.pem"}) as project, pytest.raises(ConfigError, match=missing):
            tls_of(project.settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "headrace.example", ""])
def test_another_address_than_this_machine_wants_a_key_first(tmp_path: Path, host: str) -> None:
    with Project.open(write_shop(tmp_path / "shop"), host=host) as project:
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match="headrace keys make"):
            check_address(project.parts)
        project.parts.catalog.keys.make("any", [], who="me")
        check_address(project.parts)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_this_machine_wants_none(tmp_path: Path, host: str) -> None:
    with Project.open(write_shop(tmp_path / "shop"), host=host) as project:
        check_address(project.parts)
