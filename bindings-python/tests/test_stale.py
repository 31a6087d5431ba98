"""An idle connection closed by the server fails no call, not even a non-idempotent one."""

from __future__ import annotations

from typing import Any

from actpass import ActPassClient
from support import BOUND, Hostile, Played, answer, echoing, new_client, together

#: A response to both calls.
STEP = answer({**BOUND, "event_id": "ev_1"})


def evidence(client: ActPassClient, name: str) -> dict[str, Any]:
    recorded: Any = client.record_evidence("event", name)
    assert recorded["event_id"]
    return dict(recorded)


def guard(client: ActPassClient, name: str) -> dict[str, Any]:
    out: Any = client.guard(name, "tool", {}, lambda _: name)
    assert out.get("error") is None
    assert out["result"] == name
    return dict(out["decision"])


def closes_between(gateway: Played, clients: list[ActPassClient]) -> None:
    """Call with all clients concurrently, three times; the server closes every connection in between."""
    connections: set[int] = set()
    for at, call in enumerate((guard, evidence, guard)):
        together(len(clients), lambda client: call(clients[client], f"{client}"))  # noqa: B023
        seen = gateway.seen()[at * len(clients) :]
        assert len(seen) == len(clients), "each call was sent once"
        now = {one["connection"] for one in seen}
        assert not now & connections, "a closed connection was used"
        connections |= now
        gateway.close_connections()


def test_idle_connections_closed_by_server_fail_no_call(hostile: Hostile) -> None:
    with hostile.play(STEP) as gateway:
        closes_between(gateway, [new_client(gateway.base_url, max_retries=0) for _ in range(60)])


def test_idle_connection_pool_closed_by_server_fails_no_call(hostile: Hostile) -> None:
    with hostile.play(STEP) as gateway, new_client(gateway.base_url, max_retries=0) as client:
        closes_between(gateway, [client] * 20)


def test_reuses_connection_between_calls() -> None:
    with echoing() as base_url, new_client(base_url) as client:
        connections: set[int] = {guard(client, f"{at}")["connection"] for at in range(20)}
        connections |= {evidence(client, f"{at}")["connection"] for at in range(20)}
    assert len(connections) == 1
