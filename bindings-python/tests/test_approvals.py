"""Approvals, passports and evidence, with a scripted and with the real gateway."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from actpass import ActionBlockedError, ActPassArgumentError, ActPassStatusError
from support import (
    ACTION,
    Callback,
    Gateway,
    Hostile,
    answer,
    new_async_client,
    new_client,
    request_hash,
    run_loop,
    run_python,
)

REFUND = {**ACTION, "args": {"amount": 25000, "currency": "usd"}}
ASKED = answer(
    {"decision": "require_approval", "reason_code": "refund.medium", "approval_request_id": "apr_1"},
)
APPROVED = answer({"id": "apr_1", "status": "approved"})
ALLOWED = answer({"decision": "allow", "reason_code": "approval.approved", "evidence_event_id": "ev_2"})
RECORDED = answer({"event_id": "ev_3", "current_event_hash": "aa"})
PENDING = {"approval_request_id": "apr_1", "goal": "g", "tool": "t", "args": {"n": 1}}


def test_approved_action_runs_once(hostile: Hostile) -> None:
    callback = Callback()
    with hostile.play(ASKED, APPROVED, ALLOWED) as gateway, new_client(gateway.base_url) as client:
        out: Any = client.guard(execute_fn=callback, wait_for_approval=20, **REFUND)
        first, look, second = gateway.seen()
    assert (out["executed"], out["result"], callback.runs) == (True, callback.result, 1)
    assert look["path"].startswith("/api/v1/approvals/apr_1?wait=")
    first_body, second_body = json.loads(first["body"]), json.loads(second["body"])
    assert second_body.pop("approval_request_id") == "apr_1"
    assert first_body.pop("idempotency_key") != second_body.pop("idempotency_key")
    assert first_body == second_body


@pytest.mark.parametrize(
    ("status", "wait", "word", "reason"),
    [
        ("rejected", 20, "deny", "approval.rejected"),
        ("expired", 20, "deny", "approval.expired"),
        ("pending", 0.2, "require_approval", "actpass.approval_timeout"),
        ("pending", 0, "require_approval", "actpass.approval_timeout"),
    ],
)
def test_unapproved_action_does_not_run(hostile: Hostile, status: str, wait: float, word: str, reason: str) -> None:
    callback = Callback()
    looked = answer({"id": "apr_1", "status": status})
    with hostile.play(ASKED, looked, looked, looked) as gateway, new_client(gateway.base_url) as client:
        out: Any = client.guard(execute_fn=callback, wait_for_approval=wait, **REFUND)
    assert (out["executed"], callback.runs) == (False, 0)
    assert (out["decision"]["decision"], out["decision"]["reason_code"]) == (word, reason)
    assert "error" not in out
    assert ("approval" in out) is (status == "pending")


#: Events that end the wait for an approval, and the resulting reason code.
ENDS: dict[str, tuple[dict[str, Any], str]] = {
    "nobody_decided": (answer({"id": "apr_1", "status": "pending"}), "actpass.approval_timeout"),
    "the_gateway_died": ({"do": "reset", "at": "request"}, "actpass.unreachable"),
    "the_key_was_revoked": (answer({}, status=401), "actpass.unauthenticated"),
    "nonsense": (answer([]), "actpass.invalid_response"),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ENDS)
def test_wait_timeout_keeps_approval_and_evidence(hostile: Hostile, name: str, asynchronous: bool) -> None:
    step, code = ENDS[name]
    ids = {"evidence_event_id": "ev_1", "evidence_chain_id": "decisions"}
    asked = answer({"decision": "require_approval", "approval_request_id": "apr_1", **ids})
    callback = Callback()
    with hostile.play(asked, step, step, step) as gateway:
        new: Any = new_async_client if asynchronous else new_client
        called = new(gateway.base_url, max_retries=0).guard(execute_fn=callback, wait_for_approval=0.1, **REFUND)
        out: Any = run_loop(called) if asynchronous else called
    assert (out["executed"], callback.runs) == (False, 0)
    assert out["decision"]["reason_code"] == code
    assert {member: out["decision"].get(member) for member in ids} == ids
    assert out["approval"]["approval_request_id"] == out["decision"]["approval_request_id"] == "apr_1"
    with pytest.raises(ActionBlockedError, match="apr_1") as blocked:
        out.unwrap()
    assert blocked.value.approval == out["approval"]
    if "error" in out:
        assert out["error"].operation == "guard"
        assert str(out["error"]).startswith("guard: ")


#: A program that is interrupted while it waits for an approval.
WAITING = """
import os, signal, sys, threading, time
from support import ACTION, Callback, new_client

signal.signal(signal.SIGINT, signal.default_int_handler)
client = new_client(sys.argv[1], timeout=60)
callback = Callback()
sent = []

def interrupt():
    sys.stdin.readline()
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    client.guard(execute_fn=callback, wait_for_approval=60, **ACTION)
except KeyboardInterrupt:
    assert time.monotonic() - sent[0] < 15
    assert callback.runs == 0, "the function ran"
    print("interrupted")
"""


def test_ctrl_c_cancels_wait_and_runs_nothing(hostile: Hostile) -> None:
    with hostile.play(ASKED, {"do": "hang", "at": "request"}) as gateway:
        done = run_python(WAITING, gateway.base_url, cues=[gateway.has_seen(2)])
        assert len(gateway.seen()) == 2
    assert done.stdout.split() == ["interrupted"], done.stderr


def test_resumes_pending_approval_from_json(hostile: Hostile) -> None:
    callback = Callback()
    with hostile.play(ASKED, ALLOWED) as gateway:
        with new_client(gateway.base_url) as client:
            out: Any = client.guard(execute_fn=callback, passport="a.b_secret.c", **REFUND)
        kept = json.dumps(out["approval"])
        assert "secret" not in kept
        with new_client(gateway.base_url) as client:
            pending = json.loads(kept)
            assert pending["args"] == REFUND["args"]
            out = client.resume(pending, callback)
        first, second = (json.loads(one["body"]) for one in gateway.seen())
    assert (out["executed"], callback.runs) == (True, 1)
    assert second["approval_request_id"] == "apr_1"
    assert {name: first[name] for name in REFUND} == {name: second[name] for name in REFUND}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"args": None}, "pending.args: expected an object"),
        ({"goal": 7}, "pending.goal: expected a string, found a number"),
        ({"tool": ""}, "pending.tool: expected a non-empty string"),
        ({"mode": "always"}, "pending.mode: expected enforce, strict, warn or monitor"),
        ({"more": "x"}, "pending.more: unknown member"),
        ({"a b": "x"}, 'pending["a b"]: unknown member'),
        ({"args": {"n": float("nan")}}, "pending.args.n: expected a finite number, found NaN"),
    ],
)
def test_rejects_invalid_pending_approval(change: dict[str, Any], problem: str) -> None:
    callback = Callback()
    with new_client("http://127.0.0.1:9") as client, pytest.raises(ActPassArgumentError) as raised:
        client.resume({**PENDING, **change}, callback)  # type: ignore[typeddict-item]
    assert str(raised.value).startswith(problem), raised.value
    assert callback.runs == 0


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf"), "1", True, 10**400])
def test_rejects_invalid_wait(wait: Any) -> None:
    with new_client("http://127.0.0.1:9") as client:
        for call in (
            lambda: client.guard(execute_fn=lambda _: None, wait_for_approval=wait, **REFUND),
            lambda: client.resume(PENDING, lambda _: None, wait_for_approval=wait),  # type: ignore[arg-type]
        ):
            with pytest.raises(ActPassArgumentError, match=r"wait_for_approval: expected (non-negative )?seconds"):
                call()
        with pytest.raises(ActPassArgumentError, match=r"timeout: expected (non-negative )?seconds"):
            client.wait_for_approval("apr_1", wait)


def test_records_outcome(hostile: Hostile) -> None:
    for does, ended, hashed in [
        (lambda _: {"id": "re_1"}, "returned", request_hash(b'{"id": "re_1"}')),
        (lambda _: object(), "returned", None),
        (lambda _: 1 / 0, "failed", None),
    ]:
        with hostile.play(ALLOWED, RECORDED) as gateway, new_client(gateway.base_url) as client:
            out: Any = client.guard(execute_fn=does, record_outcome=True, **REFUND)
            asked, told = gateway.seen()
        assert out["executed"]
        assert out["evidence"] == {"event_id": "ev_3", "current_event_hash": "aa"}
        assert ("result" in out) is (ended == "returned")
        event = json.loads(told["body"])
        assert event["request_hash"] == request_hash(asked["body"].encode())
        assert (event["event_type"], event["metadata"]["ended"]) == ("action.outcome", ended)
        assert event["response_hash"] == hashed
        assert event["metadata"]["evidence_event_id"] == "ev_2"


def test_recording_error_keeps_result(hostile: Hostile) -> None:
    callback = Callback()
    step = {"do": "respond", "status": 500}
    with hostile.play(ALLOWED, step) as gateway, new_client(gateway.base_url) as client:
        out: Any = client.guard(execute_fn=callback, record_outcome=True, **REFUND)
    assert out["result"] is callback.result
    assert isinstance(out["evidence_error"], ActPassStatusError)
    assert "evidence" not in out
    assert "error" not in out
    with hostile.play(answer({"decision": "deny"})) as gateway, new_client(gateway.base_url) as client:
        out = client.guard(execute_fn=callback, record_outcome=True, **REFUND)
        assert len(gateway.seen()) == 1
    assert set(out) == {"decision", "executed"}


def decide(gateway: Gateway, verb: str, amount: int | None = None) -> None:
    """Decide the pending approval as an operator, as soon as it exists."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        waiting = gateway.get("/api/v1/approvals?status=pending", operator=True)["approvals"]
        for one in waiting:
            assert amount is None or one["args"]["amount"] == amount
            gateway.post(f"/api/v1/approvals/{one['id']}/{verb}", {"note": "seen"}, operator=True)
            return
        time.sleep(0.02)
    raise AssertionError("nothing waits")


@contextlib.contextmanager
def deciding(gateway: Gateway, verb: str) -> Iterator[None]:
    thread = threading.Thread(target=decide, args=(gateway, verb, 25000))
    thread.start()
    yield
    thread.join()


def test_refund_waits_for_approval_and_runs_once(gateway: Gateway) -> None:
    callback = Callback(lambda _: {"refund": "re_1"})
    with gateway.client() as client, deciding(gateway, "approve"):
        out: Any = client.guard(execute_fn=callback, wait_for_approval=20, record_outcome=True, **REFUND)
    assert (out["executed"], out["decision"]["reason_code"], callback.runs) == (True, "approval.approved", 1)
    events = gateway.get("/api/v1/evidence/chains/decisions")["events"]
    assert [one["event_type"] for one in events] == ["decision", "approval.approved", "decision", "action.outcome"]
    assert events[3]["request_hash"] == events[2]["request_hash"] == out["decision"]["request_hash"]
    assert events[3]["response_hash"] == request_hash(b'{"refund": "re_1"}')
    assert gateway.get("/api/v1/evidence/chains/decisions/verify")["valid"] is True


def test_rejected_refund_does_not_run(gateway: Gateway) -> None:
    callback = Callback()
    with gateway.client() as client, deciding(gateway, "reject"):
        out: Any = client.guard(execute_fn=callback, wait_for_approval=20, **REFUND)
    assert (out["executed"], out["decision"]["reason_code"], callback.runs) == (False, "approval.rejected", 0)


def test_changed_action_does_not_run_under_approval(gateway: Gateway) -> None:
    callback = Callback()
    with gateway.client() as client:
        pending: Any = client.guard(execute_fn=callback, **REFUND)["approval"]
        assert client.wait_for_approval(pending)["status"] == "pending"
        early: Any = client.resume(pending, callback)
        assert (early["decision"]["reason_code"], early["approval"]) == ("approval.pending", pending)
        decide(gateway, "approve")
        assert client.wait_for_approval(pending["approval_request_id"], timeout=20)["status"] == "approved"
        more = {**pending, "args": {**pending["args"], "amount": 26000}}
        changed: Any = client.resume(more, callback)
        assert (changed["executed"], changed["decision"]["reason_code"]) == (False, "approval.action_mismatch")
        assert callback.runs == 0
        assert client.resume(pending, callback)["executed"]
        again: Any = client.resume(pending, callback)
        assert (again["executed"], again["decision"]["reason_code"]) == (False, "approval.spent")
    assert callback.runs == 1


BOUNDED = {
    "audience": "mcp://stripe-production",
    "goal": ACTION["goal"],
    "allowed_tools": [ACTION["tool"]],
    "allowed_resources": [ACTION["resource"]],
    "resource_constraints": {"max_amount": 10000, "currency": "usd"},
}


def test_passport_constrains_value_and_is_single_use(gateway: Gateway) -> None:
    callback = Callback()
    with gateway.client(tenant_id="dev") as client:
        issued: Any = client.issue_passport(**BOUNDED)
        assert issued["jti"].startswith("ap_")
        assert issued["jwks_uri"] == f"{gateway.base_url}/.well-known/jwks.json"
        shown: Any = {"passport": issued["token"], "audience": BOUNDED["audience"]}
        over: Any = client.guard(execute_fn=callback, **REFUND, **shown)
        assert (over["executed"], over["decision"]["reason_code"]) == (False, "passport.constraint")
        assert client.guard(execute_fn=callback, **ACTION, **shown)["executed"]
        again: Any = client.guard(execute_fn=callback, **ACTION, **shown)
        assert (again["executed"], again["decision"]["reason_code"]) == (False, "passport.replayed")
    assert callback.runs == 1


def test_offline_verification_matches_gateway(gateway: Gateway) -> None:
    with gateway.client(tenant_id="dev") as client:
        issued: Any = client.issue_passport(**BOUNDED)
        token, audience = issued["token"], BOUNDED["audience"]
        there: Any = client.verify_passport(token, audience)
        here: Any = client.verify_passport_offline(token, audience)
        assert there["valid"] is here["valid"] is True
        assert here["claims"] == there["claims"]
        assert here["claims"]["resource_constraints"] == BOUNDED["resource_constraints"]
        signed_otherwise = token[:-2] + ("BA" if token.endswith("AA") else "AA")
        for changed in (signed_otherwise, token.replace(".", ".A", 1), "x" + token, "a.b.c", token + "."):
            there, here = client.verify_passport(changed, audience), client.verify_passport_offline(changed, audience)
            assert there["valid"] is here["valid"] is False
            assert there["errors"] == here["errors"], changed
        assert client.verify_passport_offline(token, "mcp://other")["errors"] == ["passport.audience"]
        assert client.verify_passport(token, "mcp://other")["errors"] == ["passport.audience"]
        assert client.revoke_passport(issued["jti"], "session ended") == {"revoked": True}
        assert client.verify_passport(token, audience)["errors"] == ["passport.revoked"]
        assert client.verify_passport_offline(token, audience)["valid"], (
            "offline verification does not detect the revocation"
        )


def test_passport_replaces_approval(gateway: Gateway) -> None:
    callback = Callback()
    with gateway.client(tenant_id="dev") as client:
        pending: Any = client.guard(execute_fn=callback, **REFUND)["approval"]
        decide(gateway, "approve")
        wanted = {**BOUNDED, "resource_constraints": {}, "approval_request_id": pending["approval_request_id"]}
        token = client.issue_passport(**wanted)["token"]  # type: ignore[arg-type]
        claims: Any = client.verify_passport_offline(token, BOUNDED["audience"])["claims"]  # type: ignore[arg-type]
        assert claims["approval_request_id"] == pending["approval_request_id"]
        assert len(claims["approval_hash"]) == 64
        dearer = {**REFUND, "args": {"amount": 26000, "currency": "usd"}}
        other: Any = client.guard(execute_fn=callback, passport=token, **dearer)
        assert (other["executed"], other["decision"]["reason_code"]) == (False, "passport.approval")
        assert client.guard(execute_fn=callback, passport=token, **REFUND)["executed"]
        assert not client.guard(execute_fn=callback, passport=token, **REFUND)["executed"]
    assert callback.runs == 1
