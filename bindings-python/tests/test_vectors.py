"""Each vector of ``tests/vectors`` in each of its modes; see the README there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from actpass import ActionBlockedError, ActPassArgumentError, AsyncPermit, Permit, _native, canonical_outcome
from actpass.integrations._common import ToolMap
from support import ACTION, MODES, VECTORS, Callback, Hostile, everything_shown, new_async_client, new_client

KEY = "apk_vector_secret"
#: The default key of an action, so that every language sends the same request.
IDEMPOTENCY_KEY = "vector_key"
CLIENT = {"timeout", "connect_timeout", "max_retries", "circuit_failures", "trust_ca", "approval_keys", "dpop_key"}
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
EVENTS = "/api/v1/evidence/events"


def no_repeated_key(members: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(members)) == len(members), "duplicate key"
    return dict(members)


def read(path: Path) -> dict[str, Any]:
    """Read a vector, and reject unknown members."""
    vector: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=no_repeated_key)
    needed = {"description", "gateway", "expect"}
    optional = {
        "client",
        "action",
        "calls_before",
        "record_outcome",
        "ends",
        "changed_args",
        "unmapped",
        "gateway_echoes",
    }
    assert needed <= vector.keys() <= needed | optional, path
    assert vector.get("ends", "returned") in {"returned", "failed", "cancelled", "suspended"}, path
    assert vector.get("client", {}).keys() <= CLIENT, path
    assert vector.get("action", {}).keys() <= ACTION_MEMBERS, path
    assert vector["expect"].keys() <= set(MODES), path
    for expected in vector["expect"].values():
        assert NEEDED <= expected.keys() <= NEEDED | {"credential", "recorded", "blocked"}, path
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
    """Return each mode; for a failure, ``enforce`` and ``monitor`` again without a circuit breaker."""
    again = {"enforce", "monitor"} if path.parent.name == "failures" else set()
    return [
        Run(path, mode, off, kind)
        for mode in sorted(read(path)["expect"])
        for off in (False, True)
        if not off or mode in again
    ]


AREAS = {
    "changes",
    "circuit",
    "dpop",
    "failures",
    "halts",
    "lost",
    "outcomes",
    "replays",
    "retries",
    "signed",
    "table",
    "texts",
    "unmapped",
}
if not hasattr(_native, "break_next_call"):  # Released wheels have no test hooks, so no call can be broken.
    AREAS -= {"lost"}
FILES = sorted(path for path in VECTORS.glob("*/*.json") if path.parent.name != "lost" or "lost" in AREAS)
KINDS = ("sync", "async")
RUNS = [run for kind in KINDS for path in FILES for run in runs_of(path, kind)]
WORKERS = 6
#: The result of each run, as a line.
done: dict[Run, str] = {}


class Stopped(KeyboardInterrupt):
    """The exception that stops a vector's action in a blocking program."""


class Suspended(Exception):  # noqa: N818
    """The control-flow signal of a framework."""


class Ending(Callback):
    """The action of a vector; ``ends`` defines its end."""

    def __init__(self, ends: str, kind: str, recorded: bool) -> None:
        super().__init__()
        self._ends, self._kind = ends, kind
        self.error = ValueError("the card is closed")
        if recorded:
            self.result: Any = None

    def __call__(self, context: Any) -> Any:
        self.contexts.append(context)
        if self._ends == "failed":
            raise self.error
        if self._ends == "suspended":
            raise Suspended
        if self._ends == "cancelled":
            return self._stop()
        return self.result

    def _stop(self) -> Any:
        if self._kind == "sync":
            raise Stopped
        task: Any = asyncio.current_task()
        task.cancel()
        return asyncio.sleep(10)


@dataclass
class Played:
    """The result of a run; no ``out`` if its action was stopped."""

    out: Any
    blocked: ActionBlockedError | None
    callback: Ending
    seen: list[dict[str, Any]]
    other_seen: list[dict[str, Any]]


def play(hostile: Hostile, run: Run) -> Played:
    vector = read(run.path)
    settings = {"timeout": 5, "max_retries": 0, **vector.get("client", {})}
    if run.circuit_off:
        settings["circuit_failures"] = 0
    trust_ca = settings.pop("trust_ca", False)
    recorded = vector.get("record_outcome", False)
    callback = Ending(vector.get("ends", "returned"), run.kind, recorded)
    with hostile.play(**vector["gateway"]) as gateway:
        ca = gateway.ca_pem if trust_ca else None
        settings = {"api_key": KEY, "agent_id": "vectors", "ca": ca, **settings}
        action = {"mode": run.mode, **ACTION, "idempotency_key": IDEMPOTENCY_KEY, **vector.get("action", {})}
        # The vector's expectations apply to the last call.
        calls = [Callback() for _ in range(vector.get("calls_before", 0))] + [callback]
        out = blocked = None
        with contextlib.suppress(Stopped, Suspended, asyncio.CancelledError):
            if vector.get("unmapped"):
                out = unmapped(gateway.base_url, settings, action["tool"])
            else:
                changed = vector.get("changed_args", action["args"] if vector.get("ends") == "suspended" else None)
                out = GUARDS[run.kind](gateway.base_url, settings, action, calls, recorded, changed)
        if isinstance(out, ActionBlockedError):
            # Raised by spending a permit.
            out, blocked = {"executed": False, "decision": out.decision}, out
        elif out is not None and not out["executed"]:
            with pytest.raises(ActionBlockedError) as raised:
                out.unwrap()
            blocked = raised.value
        if out is None:
            # The background thread records a stop.
            deadline = time.monotonic() + 5
            while len(gateway.seen()) < vector["expect"][run.mode]["requests_sent"] and time.monotonic() < deadline:
                time.sleep(0.01)
        return Played(out, blocked, callback, gateway.seen(), gateway.other_seen())


def guard(
    base_url: str, settings: dict[str, Any], action: dict[str, Any], calls: list[Any], record: bool, changed: Any
) -> Any:
    with new_client(base_url, **settings) as client:
        if changed is None:
            return [client.guard(execute_fn=one, record_outcome=record, **action) for one in calls][-1]
        permit = client.authorize(record_outcome=record, **action)
        if not isinstance(permit, Permit):
            return permit
        try:
            context = permit.spend(changed)
        except ActionBlockedError as blocked:
            return blocked
        spent_once(permit)
        try:
            return permit.returned(calls[-1](context))
        except Suspended:
            permit.suspended()
            raise


def unmapped(base_url: str, settings: dict[str, Any], tool: str) -> Any:
    with new_client(base_url, **settings) as client:
        return ToolMap(client, {}).unmapped(tool)


def spent_once(permit: Permit | AsyncPermit) -> None:
    with pytest.raises(ActPassArgumentError):
        permit.spend()


def guard_async(
    base_url: str, settings: dict[str, Any], action: dict[str, Any], calls: list[Any], record: bool, changed: Any
) -> Any:
    async def main() -> Any:
        async with new_async_client(base_url, **settings) as client:
            if changed is None:
                return [await client.guard(execute_fn=one, record_outcome=record, **action) for one in calls][-1]
            permit = await client.authorize(record_outcome=record, **action)
            if not isinstance(permit, AsyncPermit):
                return permit
            try:
                context = permit.spend(changed)
            except ActionBlockedError as blocked:
                return blocked
            spent_once(permit)
            try:
                return await permit.returned(calls[-1](context))
            except Suspended:
                permit.suspended()
                raise

    return asyncio.run(main())


GUARDS = {"sync": guard, "async": guard_async}


@pytest.fixture(scope="module")
def plays(hostile: Hostile, request: pytest.FixtureRequest) -> Iterator[dict[Run, Future[Played]]]:
    """Run the selected vectors, several concurrently: most of the time is spent waiting for deadlines."""
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


def canonical(value: Any) -> str:
    """Return ``value`` in RFC 8785 form; its numbers need no special form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def thrown(blocked: ActionBlockedError | None) -> dict[str, Any] | None:
    """Return the error that unwrapping a blocked outcome raises."""
    if blocked is None:
        return None
    return {
        "approval": blocked.approval and blocked.approval["approval_request_id"],
        "code": blocked.code,
        "developer": blocked.developer_text,
        "message": str(blocked),
        "retryable": blocked.retryable,
        "tool": blocked.tool,
    }


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_vector(plays: dict[Run, Future[Played]], run: Run) -> None:
    played = plays[run].result(timeout=60)
    vector = read(run.path)
    expected = vector["expect"][run.mode]
    out, callback, blocked = played.out, played.callback, thrown(played.blocked)
    events = [json.loads(one["body"]) for one in played.seen if one["path"] == EVENTS]
    asked = [one for one in played.seen if one["path"] != EVENTS]
    # Every secret in a vector contains this word. The test compares only their number, so that a failure prints none.
    texts = json.dumps(blocked)
    whole = "" if vector.get("gateway_echoes") else everything_shown([out and {**out, "result": None}, played.blocked])
    leaks = (texts + whole).count("secret")
    # The text of the gate's error may depend on timing.
    line = blocked and ({**blocked, "developer": None} if expected["error"] else blocked)
    done[run] = (
        f'{{"blocked":{canonical(line)},"circuit_off":{json.dumps(run.circuit_off)},"leaks":{leaks},'
        f'"mode":"{run.mode}","outcome":{canonical_outcome(out) if out else "null"},'
        f'"recorded":{canonical(events[0] if events else None)},"requests_sent":{len(played.seen)},'
        f'"runs":{callback.runs},"vector":"{run.path.parent.name}/{run.path.stem}"}}'
    )

    ends = vector.get("ends", "returned")
    stopped = ends in {"cancelled", "suspended"} and expected["executed"]
    assert callback.runs == expected["executed"]
    assert (out is None) is stopped
    decision = callback.contexts[0]["decision"] if stopped else out["decision"]
    assert {name: decision.get(name) for name in expected["decision"]} == expected["decision"]
    if not stopped:
        assert out["executed"] is expected["executed"]
        assert ("result" in out) is (expected["executed"] and ends == "returned")
        assert out.get("result") is (callback.result if "result" in out else None)
        assert json.loads(canonical_outcome(out)) == {
            "decision": decision,
            "error": expected["error"],
            "executed": out["executed"],
        }
        assert ("error" in out) is (expected["error"] is not None)
        if expected["executed"] and ends == "failed":
            assert out["error"] is callback.error
    tokens = [(context["credential"] or {}).get("token") for context in callback.contexts]
    assert tokens == [expected.get("credential")] * callback.runs
    assert (blocked is None) is (expected["executed"])
    assert {name: (blocked or {})[name] for name in expected.get("blocked", {})} == expected.get("blocked", {})

    assert len(played.seen) == expected["requests_sent"]
    recorded = expected.get("recorded")
    assert len(events) == (recorded is not None)
    assert recorded is None or {name: events[0].get(name) for name in recorded} == recorded
    given = vector.get("action", {}).get("idempotency_key", IDEMPOTENCY_KEY)
    for request in asked:
        assert (request["method"], request["path"]) == ("POST", "/api/v1/actions/preflight")
        headers = dict(request["headers"])
        has_proof = "dpop_key" in vector.get("client", {})
        assert headers["authorization"] == f"{'DPoP' if has_proof else 'Bearer'} {KEY}"
        assert ("dpop" in headers) is has_proof
        assert request["body"] == asked[0]["body"] or (vector.get("calls_before") and given is None)
        key = json.loads(request["body"])["idempotency_key"]
        assert key == given if given else len(key) == 36
    assert played.other_seen == []
    assert leaks == 0


def test_every_vector_ran_in_all_its_modes() -> None:
    assert len(FILES) > 0, f"{VECTORS} contains no vectors"
    assert {path.parent.name for path in FILES} >= AREAS
    assert list(done) == RUNS, f"{len(done)} of {len(RUNS)} runs"
    print(f"{len(FILES)} vectors, {len(done)} runs passed")
