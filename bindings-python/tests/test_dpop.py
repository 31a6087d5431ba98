"""DPoP: the key that an API key is bound to. The proofs are in ``tests/vectors/dpop``."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from actpass import ActPassArgumentError, ActPassClient, ActPassConfigError, AsyncActPassClient, dpop_thumbprint
from support import ACTION, API_KEY, Hostile, answer, new_client

#: RFC 8037, appendix A.
BODY = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g"
PEM = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----\n"
THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
INVALID = ["", BODY, PEM.replace("PRIVATE", "PUBLIC"), PEM * 2, PEM.replace("MC4C", "MC4D")]


def test_thumbprint_matches_the_public_key() -> None:
    assert dpop_thumbprint(PEM) == THUMBPRINT


@pytest.mark.parametrize("pem", INVALID)
def test_invalid_key_is_named_and_not_shown(pem: str) -> None:
    with pytest.raises(ActPassArgumentError, match=r"\Adpop_key: ") as argument:
        dpop_thumbprint(pem)
    for client in (ActPassClient, AsyncActPassClient):
        with pytest.raises(ActPassConfigError, match=r"\Adpop_key: ") as config:
            client(API_KEY, dpop_key=pem)
        assert str(config.value) == str(argument.value)
        assert BODY not in repr(config.value)


@pytest.mark.parametrize("key", [b"PEM", 7, Path("dpop.pem")])
def test_key_of_another_type_is_named(key: Any) -> None:
    with pytest.raises(ActPassConfigError, match=r"\Adpop_key: expected a string, found "):
        ActPassClient(API_KEY, dpop_key=key)
    with pytest.raises(ActPassArgumentError, match=r"\Adpop_key: expected a string, found "):
        dpop_thumbprint(key)


def test_client_does_not_show_or_pickle_the_key() -> None:
    client = ActPassClient(API_KEY, dpop_key=PEM)
    assert BODY not in repr(client)
    assert not hasattr(client, "dpop_key")
    with pytest.raises(TypeError):
        pickle.dumps(client)


def test_key_file_of_the_environment_is_the_default(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "dpop.pem"
    path.write_text(PEM, encoding="ascii")
    monkeypatch.setenv("ACTPASS_DPOP_KEY_FILE", str(path))
    dpop = {"api_key": API_KEY, "jkt": THUMBPRINT}
    with hostile.play(answer({"decision": "allow"}), dpop=dpop) as gateway, new_client(gateway.base_url) as client:
        # Options of a call, `bind` and derived clients keep the key.
        assert client.preflight(**ACTION)["decision"] == "allow"
        with client.bind(user_id="u_1"):
            assert client.with_options(timeout=5).preflight(**ACTION)["decision"] == "allow"
        assert len({dict(request["headers"])["dpop"] for request in gateway.seen()}) == 2
    monkeypatch.setenv("ACTPASS_DPOP_KEY_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(ActPassConfigError, match=r"\Adpop_key: cannot read .*missing.pem, the file in ACTPASS_DPOP"):
        ActPassClient(API_KEY)
