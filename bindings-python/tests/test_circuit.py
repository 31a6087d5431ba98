"""The circuit breaker for an unreachable gateway."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from actpass import ActPassConfigError, ActPassConnectionError
from support import ACTION, ALLOW, Callback, Child, Hostile, answer, new_client

RESET = {"do": "reset", "at": "request"}


def test_circuit_opens_probes_and_closes(hostile: Hostile) -> None:
    callback = Callback()
    with hostile.play(*[RESET] * 5, answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
        for _ in range(5):
            assert client.circuit == "closed"
            out: Any = client.guard(execute_fn=callback, **ACTION)
            assert out["decision"]["reason_code"] == "actpass.unreachable"
            assert out["error"].retry_after is None
        assert client.circuit == "open"
        out = client.guard(execute_fn=callback, **ACTION)
        assert (out["executed"], out["decision"]["reason_code"]) == (False, "actpass.unreachable")
        assert 0 < out["error"].retry_after <= 1
        assert client.guard(execute_fn=callback, mode="monitor", **ACTION)["executed"], "monitor runs always"
        assert (len(gateway.seen()), callback.runs) == (5, 1)
        time.sleep(out["error"].retry_after + 0.05)
        assert client.guard(execute_fn=callback, **ACTION)["executed"]
        assert (client.circuit, callback.runs) == ("closed", 2)


def test_zero_circuit_failures_disables_circuit(hostile: Hostile) -> None:
    with hostile.play(*[RESET] * 12) as gateway, new_client(gateway.base_url, circuit_failures=0) as client:
        for _ in range(12):
            with pytest.raises(ActPassConnectionError):
                client.preflight(**ACTION)
        assert (client.circuit, len(gateway.seen())) == ("closed", 12)


def test_forked_child_starts_with_closed_circuit(hostile: Hostile) -> None:
    with hostile.play(RESET, answer(ALLOW)) as gateway:
        client = new_client(gateway.base_url, circuit_failures=1)
        with pytest.raises(ActPassConnectionError):
            client.preflight(**ACTION)
        assert client.circuit == "open"
        parent = os.getpid()

        def ask() -> None:
            assert os.getpid() != parent
            assert client.circuit == "closed"
            assert client.preflight(**ACTION)["decision"] == "allow"

        Child(ask).ended_well()
        assert client.circuit == "open"


@pytest.mark.parametrize("wrong", [-1, 1.5, "5", True, None])
def test_rejects_invalid_circuit_failures(wrong: Any) -> None:
    with pytest.raises(ActPassConfigError, match="circuit_failures: expected a non-negative integer"):
        new_client("http://127.0.0.1:9", circuit_failures=wrong)
