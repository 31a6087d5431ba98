"""A connection that the server closed while it was idle fails no call, not even one that may not be repeated."""

from __future__ import annotations

import time
from typing import Any

from actpass import ActPassClient
from support import echoing, new_client, together, within

IDLE = ("--idle-close", "1")
PAUSE = 2.0


def evidence(client: ActPassClient, name: str) -> dict[str, Any]:
    recorded: Any = client.record_evidence("event", name)
    assert recorded["event_id"] == f"ev_{name}"
    return dict(recorded)


def guard(client: ActPassClient, name: str) -> dict[str, Any]:
    out: Any = client.guard(name, "tool", {}, lambda _: name)
    assert out.get("error") is None
    assert out["result"] == out["decision"]["asked"]["goal"] == name
    return dict(out["decision"])


def test_clients_that_pause() -> None:
    """Each client has one connection, which is closed twice while nobody looks; nothing is retried."""
    with echoing(*IDLE) as base_url, within(10):
        clients = [new_client(base_url, max_retries=0) for _ in range(60)]

        def run(at: int) -> int:
            connections = [guard(clients[at], f"{at} first")["connection"]]
            for call in (evidence, guard):
                time.sleep(PAUSE)
                connections.append(call(clients[at], f"{at} after a pause")["connection"])
            assert len(set(connections)) == len(connections), "the server closed no connection"
            return len(connections) - 1

        assert sum(together(len(clients), run)) >= 100


def test_one_client_with_many_connections_that_pauses() -> None:
    with echoing(*IDLE) as base_url, new_client(base_url, max_retries=0) as client, within(10):
        before = set(together(20, lambda at: guard(client, f"{at}")["connection"]))
        for call in (evidence, guard):
            time.sleep(PAUSE)
            after = set(together(20, lambda at: call(client, f"{at} after")["connection"]))  # noqa: B023
            assert not after & before, "the server closed no connection"
            before = after


def test_a_connection_is_kept_between_calls() -> None:
    with echoing() as base_url, new_client(base_url) as client:
        connections = {guard(client, f"{at}")["connection"] for at in range(20)}
        connections |= {evidence(client, f"{at}")["connection"] for at in range(20)}
    assert len(connections) == 1
