"""https with an authority of its own."""

from __future__ import annotations

import datetime as dt
import ssl
import stat
from typing import TYPE_CHECKING

import aiohttp
import pytest
from cryptography import x509

from tests.exchange.help import parse, talk
from tests.fake_bybit import FakeBybit, system_clock
from tests.fake_bybit.tls import make_certificates

if TYPE_CHECKING:
    from pathlib import Path

RAW = b"GET /v5/market/time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_client_that_trusts_the_authority_is_served(host: str) -> None:
    async with FakeBybit(tls=True) as exchange:
        assert exchange.url.startswith("https://")
        assert exchange.ca_path is not None
        context = ssl.create_default_context(cafile=str(exchange.ca_path))
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"https://{host}:{exchange.port}/v5/market/time", ssl=context) as answer,
        ):
            assert (await answer.json())["retCode"] == 0


async def test_a_client_that_does_not_trust_it_is_not() -> None:
    async with FakeBybit(tls=True) as exchange:
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(exchange.port, RAW, ssl.create_default_context())


async def test_faults_break_tls_connections_too() -> None:
    async with FakeBybit(tls=True) as exchange:
        assert exchange.certificates is not None
        context = exchange.certificates.client_context()
        exchange.faults.add({"kind": "truncate", "count": 1})
        exchange.faults.add({"kind": "reset_before", "count": 1})
        assert parse(await talk(exchange.port, RAW, context)).raw_body[:1] == b"{"
        with pytest.raises(ConnectionError):
            await talk(exchange.port, RAW, context)


def test_the_certificate_is_short_lived_fresh_and_names_this_machine(tmp_path: Path) -> None:
    one, two = (make_certificates(tmp_path / name, system_clock()) for name in "ab")
    certificate = x509.load_pem_x509_certificate(one.chain_path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "host.docker.internal"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life < dt.timedelta(days=3)
    assert one.key_path.read_bytes() != two.key_path.read_bytes()
    assert stat.S_IMODE(one.key_path.stat().st_mode) == 0o600
    authority = x509.load_pem_x509_certificate(one.ca_path.read_bytes())
    certificate.verify_directly_issued_by(authority)


async def test_a_directory_of_the_callers_choice_is_kept(tmp_path: Path) -> None:
    async with FakeBybit(tls=True, tls_dir=tmp_path / "new") as exchange:
        assert exchange.ca_path == tmp_path / "new" / "ca.pem"
    assert (tmp_path / "new" / "ca.pem").exists()


async def test_without_tls_there_is_no_authority(exchange: FakeBybit) -> None:
    assert exchange.ca_path is None
    assert exchange.url.startswith("http://")
