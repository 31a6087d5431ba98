"""Certificate authorities from the environment, and invalid paths in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from actpass import ActPassConfigError, ActPassConnectionError
from support import ACTION, ALLOW, Hostile, answer, new_client

NAMED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", NAMED)
def test_trusts_authority_from_environment(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bundle = tmp_path / "ca.pem"
    with hostile.play(answer(ALLOW), tls="trusted") as gateway:
        assert gateway.ca_pem is not None
        bundle.write_text(gateway.ca_pem)
        monkeypatch.setenv(name, str(tmp_path if name == "SSL_CERT_DIR" else bundle))
        with new_client(gateway.base_url) as client:
            assert client.preflight(**ACTION)["decision"] == "allow"


def test_untrusted_authority_error_names_the_variables(hostile: Hostile) -> None:
    with hostile.play(answer(ALLOW), tls="self_signed") as gateway, new_client(gateway.base_url) as client:
        trusted = r"; trusted authorities: \d+ (of the system|bundled)"
        with pytest.raises(ActPassConnectionError, match=trusted) as caught:
            client.preflight(**ACTION)
        assert "SSL_CERT_FILE or REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE" in str(caught.value)


@pytest.mark.parametrize("name", NAMED)
def test_rejects_unreadable_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, str(tmp_path / "missing.pem"))
    with pytest.raises(ActPassConfigError, match=f"^{name}: expected CA certificates in PEM, found "):
        new_client("https://gate.example")
    new_client("http://127.0.0.1:9").close()


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "all_proxy"])
def test_rejects_invalid_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "socks://127.0.0.1:1080")
    with pytest.raises(ActPassConfigError, match=f"^{name}: expected http, https, socks4"):
        new_client("https://gate.example")
