"""Each vector of ``tests/vectors`` in each mode that it names; see the README there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from actpass import canonical_outcome
from support import ACTION, MODES, VECTORS, Callback, Hostile, everything_shown, new_async_client, new_client

KEY = "apk_vector_secret"
CLIENT = {"timeout", "connect_timeout", "max_retries", "trust_ca"}
ACTION_MEMBERS = {
    *ACTION,
    "user_id",
    "passport",
    "idempotency_key",
    "audience",
    "approval_request_id",
    "tool_manifest_hash",
}
NEEDED = {"executed", "decision", "error", "requests_sent"}


def no_repeated_key(members: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(members)) == len(members), "a key is given twice"
    return dict(members)


def read(path: Path) -> dict[str, Any]:
    """Read a vector, and refuse what no vector has."""
    vector: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=no_repeated_key)
    assert (
        {"description", "gateway", "expect"}
        <= vector.keys()
        <= {
            "description",
            "gateway",
            "expect",
            "client",
            "action",
        }
    ), path
    assert vector.get("client", {}).keys() <= CLIENT, path
    assert vector.get("action", {}).keys() <= ACTION_MEMBERS, path
    assert vector["expect"].keys() <= set(MODES), path
    for expected in vector["expect"].values():
        assert NEEDED <= expected.keys() <= NEEDED | {"credential"}, path
        assert expected["error"] is None or expected["error"].keys() == {"kind", "status"}, path
    return vector


FILES = sorted(VECTORS.glob("*/*.json"))
RUNS = [(path, mode, kind) for kind in ("sync", "async") for path in FILES for mode in read(path)["expect"]]
WORKERS = 6
done: list[tuple[Path, str, str]] = []


@dataclass
class Played:
    """What came of a vector in a mode."""

    out: Any
    callback: Callback
    seen: list[dict[str, Any]]
    other_seen: list[dict[str, Any]]


def play(hostile: Hostile, path: Path, mode: str, kind: str) -> Played:
    vector = read(path)
    settings = {"timeout": 5, "max_retries": 0, **vector.get("client", {})}
    trust_ca = settings.pop("trust_ca", False)
    callback = Callback()
    with hostile.play(**vector["gateway"]) as gateway:
        ca = gateway.ca_pem if trust_ca else None
        settings = {"api_key": KEY, "agent_id": "vectors", "ca": ca, **settings}
        action = {**ACTION, **vector.get("action", {})}
        out = GUARDS[kind](gateway.base_url, settings, {"execute_fn": callback, "mode": mode, **action})
        return Played(out, callback, gateway.seen(), gateway.other_seen())


def guard(base_url: str, settings: dict[str, Any], action: dict[str, Any]) -> Any:
    with new_client(base_url, **settings) as client:
        return client.guard(**action)


def guard_async(base_url: str, settings: dict[str, Any], action: dict[str, Any]) -> Any:
    async def main() -> Any:
        async with new_async_client(base_url, **settings) as client:
            return await client.guard(**action)

    return asyncio.run(main())


GUARDS = {"sync": guard, "async": guard_async}


@pytest.fixture(scope="module")
def plays(hostile: Hostile, request: pytest.FixtureRequest) -> Iterator[dict[tuple[Path, str, str], Future[Played]]]:
    """Play what was selected, some at once: most of the time is spent in waiting for deadlines."""
    chosen = [
        (Path(str(item.callspec.params["path"])), str(item.callspec.params["mode"]), str(item.callspec.params["kind"]))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_vector"
    ]
    pool = ThreadPoolExecutor(WORKERS)
    yield {one: pool.submit(play, hostile, *one) for one in chosen}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    ("path", "mode", "kind"), RUNS, ids=[f"{path.parent.name}/{path.stem}-{mode}-{kind}" for path, mode, kind in RUNS]
)
def test_vector(plays: dict[tuple[Path, str, str], Future[Played]], path: Path, mode: str, kind: str) -> None:
    played = plays[path, mode, kind].result(timeout=60)
    done.append((path, mode, kind))
    expected = read(path)["expect"][mode]
    out, callback = played.out, played.callback

    assert callback.runs == expected["executed"]
    assert out["executed"] is expected["executed"]
    assert ("result" in out) is expected["executed"]
    assert out.get("result") is (callback.result if expected["executed"] else None)
    assert {name: out["decision"].get(name) for name in expected["decision"]} == expected["decision"]
    canonical = json.loads(canonical_outcome(out))
    assert canonical == {"decision": out["decision"], "error": expected["error"], "executed": out["executed"]}
    assert ("error" in out) is (expected["error"] is not None)
    tokens = [(context["credential"] or {}).get("token") for context in callback.contexts]
    assert tokens == [expected.get("credential")] * callback.runs

    assert len(played.seen) == expected["requests_sent"]
    for request in played.seen:
        assert (request["method"], request["path"]) == ("POST", "/api/v1/actions/preflight")
        assert dict(request["headers"])["authorization"] == f"Bearer {KEY}"
        assert request["body"] == played.seen[0]["body"]
        assert json.loads(request["body"])["idempotency_key"]
    assert played.other_seen == []
    # Every secret in a vector holds this word. Only a boolean is compared, so that a failure shows none.
    leaks = "secret" in everything_shown({**out, "result": None})
    assert not leaks


def test_each_vector_ran_in_each_of_its_modes() -> None:
    assert len(FILES) > 0, f"no vectors in {VECTORS}"
    assert {path.parent.name for path in FILES} >= {"failures", "table", "retries"}
    assert done == RUNS, f"{len(done)} of {len(RUNS)} runs"
    print(f"{len(FILES)} vectors, {len(done)} runs passed")
