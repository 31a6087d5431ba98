"""Permits: a two-phase guard, spent once."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import os
import pickle
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from actpass import (
    ActionBlockedError,
    ActPassArgumentError,
    ActPassClient,
    ActPassConfigError,
    AsyncActPassClient,
    AsyncPermit,
    GuardOutcome,
    Permit,
    canonical_outcome,
)
from actpass.testing import ScriptedGateway
from support import (
    ACTION,
    ALLOW,
    BOUND,
    CREDENTIAL,
    MODES,
    Hostile,
    Played,
    answer,
    new_async_client,
    new_client,
    request_hash,
    together,
    within,
)

RECORDED = {"event_id": "ev_9", "current_event_hash": "00"}


class Asking:
    """Both clients and permits behind one blocking interface."""

    def __init__(self, base_url: str, awaited: bool) -> None:
        self._loop = asyncio.new_event_loop() if awaited else None
        self._client: Any = (new_async_client if awaited else new_client)(base_url)
        self.kind: Any = AsyncPermit if awaited else Permit

    def authorize(self, **how: Any) -> Any:
        return self.wait_for(lambda: self._client.authorize(**{**ACTION, **how}))

    def wait_for(self, call: Any) -> Any:
        return call() if self._loop is None else self._loop.run_until_complete(call())

    def permit(self, **how: Any) -> Any:
        permit = self.authorize(**how)
        assert isinstance(permit, self.kind), permit
        return permit

    def close(self) -> None:
        self.wait_for(self._client.close)
        if self._loop is not None:
            self._loop.close()


@pytest.fixture(params=[False, True], ids=["blocking", "awaited"])
def awaited(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def allowing(hostile: Hostile) -> Iterator[Played]:
    """Run a gateway that allows every action and records evidence."""
    with hostile.play(answer({**BOUND, **RECORDED, "evidence_chain_id": "decisions"})) as gateway:
        yield gateway


@pytest.fixture
def asking(allowing: Played, awaited: bool) -> Iterator[Asking]:
    asking = Asking(allowing.base_url, awaited)
    yield asking
    asking.close()


def event(gateway: Played) -> Any:
    """Return the event that the gateway recorded, once it arrives."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        told = [json.loads(one["body"]) for one in gateway.seen() if one["path"] == "/api/v1/evidence/events"]
        if told:
            assert len(told) == 1
            return told[0]
        time.sleep(0.01)
    raise AssertionError("no outcome was recorded")


def test_permit_returns_outcome_of_the_action(asking: Asking, allowing: Played) -> None:
    result = object()
    permit = asking.permit()
    assert (permit.tool, permit.decision["evidence_event_id"]) == (ACTION["tool"], "ev_1")
    context = permit.spend()
    assert context == {"credential": None, "decision": permit.decision, "halt": context["halt"]}
    out = asking.wait_for(lambda: permit.returned(result))
    assert isinstance(out, GuardOutcome)
    assert out["result"] is out.unwrap() is result
    assert (out["executed"], set(out)) == (True, {"decision", "executed", "result"})
    assert len(allowing.seen()) == 1


def test_permit_returns_error_of_the_action(asking: Asking) -> None:
    own = KeyError("charge")
    permit = asking.permit()
    permit.spend()
    out = asking.wait_for(lambda: permit.failed(own))
    assert out["error"] is own
    assert json.loads(canonical_outcome(out))["error"] == {"kind": "action", "status": None}
    with pytest.raises(KeyError) as raised:
        out.unwrap()
    assert raised.value is own


def test_permit_is_spent_and_reported_once(asking: Asking) -> None:
    permit = asking.permit()
    ends = [lambda: permit.returned(1), lambda: permit.failed(ValueError())]
    unspent = [lambda end=end: asking.wait_for(end) for end in ends] + [permit.cancelled, permit.suspended]
    for early in unspent:
        with pytest.raises(ActPassArgumentError, match="permit: not running") as raised:
            early()
        assert (raised.value.code, raised.value.operation) == ("actpass.invalid_argument", "authorize")
    permit.spend()
    for _ in range(2):
        with pytest.raises(ActPassArgumentError, match="permit: already spent"):
            permit.spend()
    with pytest.raises(ActPassArgumentError, match="error: expected an exception, found str"):
        asking.wait_for(lambda: permit.failed("no"))
    assert asking.wait_for(lambda: permit.returned(1))["executed"]
    for again in [permit.spend, *unspent]:
        with pytest.raises(ActPassArgumentError, match=r"permit: (already spent|not running)"):
            again()


def test_only_one_of_many_threads_spends_permit(allowing: Played) -> None:
    with new_client(allowing.base_url) as client:
        permit: Any = client.authorize(**ACTION)

        def spend(_: int) -> bool:
            try:
                permit.spend()
            except ActPassArgumentError:
                return False
            return True

        assert sum(together(8, spend)) == 1


def test_permit_cannot_be_created_or_copied(allowing: Played) -> None:
    from actpass._native import GuardSession

    for make in (GuardSession, lambda: GuardSession.__new__(GuardSession), lambda: object.__new__(GuardSession)):
        with pytest.raises(TypeError):
            make()
    with new_client(allowing.base_url) as client:
        permit = client.authorize(**ACTION)
        for double in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(ActPassArgumentError, match="permit: expected a value that can be pickled or copied"):
                double(permit)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_process_cannot_spend_permit(allowing: Played) -> None:
    with new_client(allowing.base_url) as client:
        permit: Any = client.authorize(**ACTION)
        child = os.fork()
        if child == 0:
            try:
                permit.spend()
            except ActPassArgumentError as error:
                os._exit(7 if "forked child" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        permit.spend()


def test_authorize_and_guard_have_the_same_parameters() -> None:
    for client in (ActPassClient, AsyncActPassClient):
        guard, authorize = (inspect.signature(method).parameters for method in (client.guard, client.authorize))
        assert guard.keys() - authorize.keys() == {"execute_fn"}
        assert authorize.keys() <= guard.keys()
        assert all(authorize[name].default == guard[name].default for name in authorize)


@pytest.mark.parametrize("mode", MODES)
def test_blocked_action_returns_no_permit(hostile: Hostile, awaited: bool, mode: str) -> None:
    said = {"decision": "require_approval", "reason_code": "refund.medium", "approval_request_id": "apr_1"}
    with hostile.play(answer(said)) as gateway:
        asking = Asking(gateway.base_url, awaited)
        given = asking.authorize(mode=mode)
        if mode == "monitor":
            assert isinstance(given, asking.kind)
            assert given.spend()["decision"]["decision"] == "require_approval"
        else:
            assert (given["executed"], given["approval"]["approval_request_id"]) == (False, "apr_1")
            with pytest.raises(
                ActionBlockedError, match=rf"\A{ACTION['tool']} was not run: require_approval"
            ) as raised:
                given.unwrap()
            assert raised.value.tool == ACTION["tool"]
            assert raised.value.approval == given["approval"]
        asking.close()


@pytest.mark.parametrize("mode", MODES)
def test_failed_gate_returns_no_permit(hostile: Hostile, awaited: bool, mode: str) -> None:
    with hostile.play({"do": "reset", "at": "request"}) as gateway:
        asking = Asking(gateway.base_url, awaited)
        given = asking.authorize(mode=mode)
        if mode == "monitor":
            given.spend()
            given = asking.wait_for(lambda: given.returned(7))
            assert given["result"] == 7
        assert given["executed"] is (mode == "monitor")
        assert (given["decision"]["reason_code"], given["error"].operation) == ("actpass.unreachable", "authorize")
        asking.close()


@pytest.mark.parametrize("mode", MODES)
def test_changed_arguments_block_except_in_monitor(hostile: Hostile, awaited: bool, mode: str) -> None:
    with hostile.play(answer({**BOUND, "credential": {"token": CREDENTIAL}})) as gateway:
        asking = Asking(gateway.base_url, awaited)
        same = asking.permit(mode=mode)
        assert same.spend(dict(ACTION["args"]))["credential"] == {"token": CREDENTIAL}
        for args in ({**ACTION["args"], "amount": 490_000}, {}, {"amount": object()}):
            permit = asking.permit(mode=mode)
            if mode == "monitor":
                context = permit.spend(args)
                assert context["credential"] is None
                assert context["decision"]["reason_code"] == "actpass.arguments_changed"
                continue
            with pytest.raises(ActionBlockedError) as raised:
                permit.spend(args)
            blocked = raised.value
            assert (blocked.code, blocked.tool) == ("actpass.arguments_changed", ACTION["tool"])
            assert "Retry the same call" in str(blocked)
            with pytest.raises(ActPassArgumentError, match="permit: already spent"):
                permit.spend(ACTION["args"])
        asking.close()


def test_permit_expires_with_its_credential(hostile: Hostile, awaited: bool) -> None:
    soon = (datetime.now(timezone.utc) + timedelta(seconds=2)).isoformat()
    with hostile.play(answer({**BOUND, "credential": {"token": CREDENTIAL, "expires_at": soon}})) as gateway:
        asking = Asking(gateway.base_url, awaited)
        early, late, observed = asking.permit(), asking.permit(), asking.permit(mode="monitor")
        assert early.spend()["credential"]["token"] == CREDENTIAL
        time.sleep(2.1)
        with pytest.raises(ActionBlockedError) as raised:
            late.spend()
        assert (raised.value.code, raised.value.retryable) == ("actpass.permit_expired", False)
        assert "was allowed, but was not run in time" in str(raised.value)
        assert CREDENTIAL not in repr(vars(raised.value))
        assert observed.spend()["credential"] is None
        asking.close()


def test_records_outcome(hostile: Hostile, awaited: bool) -> None:
    ends: dict[str, Any] = {
        "returned": lambda permit: permit.returned({"id": "re_1"}),
        "failed": lambda permit: permit.failed(ValueError("no")),
    }
    for ended, end in ends.items():
        with hostile.play(answer(ALLOW), answer(RECORDED)) as gateway:
            asking = Asking(gateway.base_url, awaited)
            permit = asking.permit(record_outcome=True)
            permit.spend()
            assert len(gateway.seen()) == 1
            out = asking.wait_for(lambda permit=permit, end=end: end(permit))
            assert (out["evidence"], out["executed"]) == (RECORDED, True)
            told = event(gateway)
            assert (told["event_type"], told["metadata"]["ended"]) == ("action.outcome", ended)
            assert told["response_hash"] == (request_hash(b'{"id": "re_1"}') if ended == "returned" else None)
            asking.close()


@pytest.mark.parametrize("ended", ["cancelled", "suspended"])
def test_stopped_action_is_recorded_without_waiting(hostile: Hostile, awaited: bool, ended: str) -> None:
    with hostile.play(answer(ALLOW), answer(RECORDED, delay_ms=500)) as gateway:
        asking = Asking(gateway.base_url, awaited)
        permit = asking.permit(record_outcome=True)
        permit.spend()
        with within(0.4):
            getattr(permit, ended)()
        assert event(gateway)["metadata"]["ended"] == ended
        asking.close()


def test_rejects_result_that_has_not_run(asking: Asking) -> None:
    permit = asking.permit()
    permit.spend()
    out = asking.wait_for(lambda: permit.returned(number for number in [1]))
    assert isinstance(out["error"], ActPassArgumentError)
    assert "result" not in out


def test_names_invalid_argument(asking: Asking, allowing: Played) -> None:
    for wrong in ({"args": {"n": object()}}, {"mode": "off"}, {"record_outcome": "yes"}, {"default": 7}):
        with pytest.raises(ActPassConfigError, match=rf"\A{next(iter(wrong))}\b") as raised:
            asking.authorize(**wrong)
        assert raised.value.operation == "authorize"
    assert allowing.seen() == []


def test_scripted_gateway_records_spent_permits() -> None:
    with ScriptedGateway() as gateway, gateway.client() as client:
        gateway.allow("demo.tool")
        permit: Any = client.authorize("demo", "demo.tool", {"n": 1})
        gateway.assert_asked("demo.tool", times=1)
        gateway.assert_not_executed()
        permit.spend()
        gateway.assert_executed("demo.tool", times=1)
        changed: Any = client.authorize("demo", "demo.tool", {"n": 1})
        with pytest.raises(ActionBlockedError):
            changed.spend({"n": 2})
        gateway.assert_executed("demo.tool", times=1)
        gateway.deny("demo.tool")
        assert not isinstance(client.authorize("demo", "demo.tool", {}), Permit)
        gateway.assert_executed("demo.tool", times=1)
