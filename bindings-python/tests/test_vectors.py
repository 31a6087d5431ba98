"""Each vector of ``tests/vectors`` in each mode that it names; see the README there."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from actpass import canonical_outcome
from support import ACTION, MODES, VECTORS, Callback, Hostile, everything_shown, new_async_client, new_client

KEY = "apk_vector_secret"
#: Of an action that gives none, so that every language sends the same request.
IDEMPOTENCY_KEY = "vector_key"
CLIENT = {"timeout", "connect_timeout", "max_retries", "circuit_failures", "trust_ca"}
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
            "calls_before",
        }
    ), path
    assert vector.get("client", {}).keys() <= CLIENT, path
    assert vector.get("action", {}).keys() <= ACTION_MEMBERS, path
    assert vector["expect"].keys() <= set(MODES), path
    for expected in vector["expect"].values():
        assert NEEDED <= expected.keys() <= NEEDED | {"credential"}, path
        assert expected["error"] is None or expected["error"].keys() == {"kind", "status"}, path
    return vector


@dataclass(frozen=True)
class Run:
    """A vector in one of its modes, by one of the clients."""

    path: Path
    mode: str
    circuit_off: bool
    kind: str

    def __str__(self) -> str:
        off = "-circuit_off" if self.circuit_off else ""
        return f"{self.path.parent.name}/{self.path.stem}-{self.mode}-{self.kind}{off}"


def runs_of(path: Path, kind: str) -> list[Run]:
    """Return each mode; of a failure, the two that any failure has once more without a circuit breaker."""
    again = {"enforce", "monitor"} if path.parent.name == "failures" else set()
    return [
        Run(path, mode, off, kind)
        for mode in sorted(read(path)["expect"])
        for off in (False, True)
        if not off or mode in again
    ]


FILES = sorted(VECTORS.glob("*/*.json"))
KINDS = ("sync", "async")
RUNS = [run for kind in KINDS for path in FILES for run in runs_of(path, kind)]
WORKERS = 6
#: What came of each run, as a line.
done: dict[Run, str] = {}


@dataclass
class Played:
    """What came of a run."""

    out: Any
    callback: Callback
    seen: list[dict[str, Any]]
    other_seen: list[dict[str, Any]]


def play(hostile: Hostile, run: Run) -> Played:
    vector = read(run.path)
    settings = {"timeout": 5, "max_retries": 0, **vector.get("client", {})}
    if run.circuit_off:
        settings["circuit_failures"] = 0
    trust_ca = settings.pop("trust_ca", False)
    callback = Callback()
    with hostile.play(**vector["gateway"]) as gateway:
        ca = gateway.ca_pem if trust_ca else None
        settings = {"api_key": KEY, "agent_id": "vectors", "ca": ca, **settings}
        action = {"mode": run.mode, **ACTION, "idempotency_key": IDEMPOTENCY_KEY, **vector.get("action", {})}
        # The last call is the one that is judged.
        calls = [Callback() for _ in range(vector.get("calls_before", 0))] + [callback]
        out = GUARDS[run.kind](gateway.base_url, settings, action, calls)
        return Played(out, callback, gateway.seen(), gateway.other_seen())


def guard(base_url: str, settings: dict[str, Any], action: dict[str, Any], calls: list[Callback]) -> Any:
    with new_client(base_url, **settings) as client:
        return [client.guard(execute_fn=callback, **action) for callback in calls][-1]


def guard_async(base_url: str, settings: dict[str, Any], action: dict[str, Any], calls: list[Callback]) -> Any:
    async def main() -> Any:
        async with new_async_client(base_url, **settings) as client:
            return [await client.guard(execute_fn=callback, **action) for callback in calls][-1]

    return asyncio.run(main())


GUARDS = {"sync": guard, "async": guard_async}


@pytest.fixture(scope="module")
def plays(hostile: Hostile, request: pytest.FixtureRequest) -> Iterator[dict[Run, Future[Played]]]:
    """Play what was selected, some at once: most of the time is spent in waiting for deadlines."""
    chosen: list[Run] = [
        item.callspec.params["run"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_vector"
    ]
    pool = ThreadPoolExecutor(WORKERS)
    yield {run: pool.submit(play, hostile, run) for run in chosen}
    pool.shutdown(cancel_futures=True)
    folder = os.environ.get("ACTPASS_OUTCOMES")
    for kind in KINDS if folder else ():
        path = Path(str(folder)) / f"python-{kind}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for run, line in done.items() if run.kind == kind), encoding="utf-8")


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_vector(plays: dict[Run, Future[Played]], run: Run) -> None:
    played = plays[run].result(timeout=60)
    vector = read(run.path)
    expected = vector["expect"][run.mode]
    out, callback = played.out, played.callback
    # Every secret in a vector holds this word. Only their number is compared, so that a failure shows none.
    leaks = everything_shown({**out, "result": None}).count("secret")
    done[run] = (
        f'{{"circuit_off":{json.dumps(run.circuit_off)},"leaks":{leaks},"mode":"{run.mode}","outcome":{canonical_outcome(out)},'
        f'"requests_sent":{len(played.seen)},"runs":{callback.runs},"vector":"{run.path.parent.name}/{run.path.stem}"}}'
    )

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
    given = vector.get("action", {}).get("idempotency_key", IDEMPOTENCY_KEY)
    for request in played.seen:
        assert (request["method"], request["path"]) == ("POST", "/api/v1/actions/preflight")
        assert dict(request["headers"])["authorization"] == f"Bearer {KEY}"
        assert request["body"] == played.seen[0]["body"]
        key = json.loads(request["body"])["idempotency_key"]
        assert key == given if given else len(key) == 36
    assert played.other_seen == []
    assert leaks == 0


def test_each_vector_ran_in_each_of_its_modes() -> None:
    assert len(FILES) > 0, f"no vectors in {VECTORS}"
    assert {path.parent.name for path in FILES} >= {"circuit", "failures", "replays", "retries", "table"}
    assert list(done) == RUNS, f"{len(done)} of {len(RUNS)} runs"
    print(f"{len(FILES)} vectors, {len(done)} runs passed")
