"""Guarded refunds, end to end: this package, the real gateway, its ledger."""

from __future__ import annotations

import ast
import os
import re
import types
from typing import Any

import pytest
from actpass import ActPassClient, ActPassConnectionError
from support import ACTION, TESTS, Callback, Gateway


def refund(amount: int, **more: Any) -> dict[str, Any]:
    return {**ACTION, "args": {"amount": amount, "currency": "usd"}, **more}


def test_real_gateway_decides_refunds(gateway: Gateway) -> None:
    client = gateway.client(timeout=5)
    small, medium, large = Callback(), Callback(), Callback()
    allowed: Any = client.guard(execute_fn=small, **refund(4900))
    held: Any = client.guard(execute_fn=medium, **refund(25000))
    denied: Any = client.guard(execute_fn=large, **refund(90000))

    assert (allowed["executed"], allowed["result"]) == (True, small.result)
    assert allowed["decision"]["decision"] == "allow"
    assert allowed["decision"]["reason_code"] == "refund.small_in_scope"
    assert allowed["decision"]["risk_tier"] == "high"
    assert allowed["decision"]["explain"]["matched_rules"] == ["small_refund_auto_approve"]
    assert (held["executed"], held["decision"]["decision"]) == (False, "require_approval")
    assert held["decision"]["reason_code"] == "refund.medium_needs_approval"
    assert (denied["executed"], denied["decision"]["decision"]) == (False, "deny")
    assert denied["decision"]["reason_code"] == "refund.over_limit"
    assert (small.runs, medium.runs, large.runs) == (1, 0, 0)

    events = gateway.get("/api/v1/evidence/chains/decisions")["events"]
    decisions = [out["decision"] for out in (allowed, held, denied)]
    assert [event["event_id"] for event in events] == [decision["evidence_event_id"] for decision in decisions]
    assert [event["decision"] for event in events] == ["allow", "require_approval", "deny"]
    verified = gateway.get("/api/v1/evidence/chains/decisions/verify")
    assert (verified["valid"], verified["length"]) == (True, 3)
    assert verified["head"] == events[-1]["current_event_hash"]

    gateway.kill()
    enforced, observed = Callback(), Callback()
    blocked: Any = client.guard(execute_fn=enforced, **refund(4900))
    ran: Any = client.guard(execute_fn=observed, **refund(4900, mode="monitor"))
    for out in (blocked, ran):
        assert (out["decision"]["decision"], out["decision"]["reason_code"]) == ("deny", "actpass.unreachable")
        assert isinstance(out["error"], ActPassConnectionError)
    assert (blocked["executed"], enforced.runs) == (False, 0)
    assert (ran["executed"], ran["result"], observed.runs) == (True, observed.result, 1)


@pytest.mark.parametrize(
    ("arguments", "reason_code"),
    [
        ({"args": {}}, "policy.no_match"),
        ({"args": {"amount": "4900", "currency": "usd"}}, "policy.no_match"),
        ({"args": {"amount": 4900, "currency": "eur"}}, "policy.no_match"),
        ({"args": {"amount": 4900}}, "policy.no_match"),
        ({"args": {"amount": 10_000, "currency": "usd"}}, "refund.small_in_scope"),
        ({"args": {"amount": 10_001, "currency": "usd"}}, "refund.medium_needs_approval"),
        ({"args": {"amount": 10_000.5, "currency": "usd"}}, "refund.medium_needs_approval"),
        ({"args": {"amount": 50_000, "currency": "usd"}}, "refund.medium_needs_approval"),
        ({"args": {"amount": 50_001, "currency": "usd"}}, "refund.over_limit"),
        ({"args": {"amount": 10**30, "currency": "usd"}}, "refund.over_limit"),
    ],
)
def test_policy_evaluates_arguments_unchanged(gateway: Gateway, arguments: Any, reason_code: str) -> None:
    callback = Callback()
    with gateway.client() as client:
        out: Any = client.guard(execute_fn=callback, **{**ACTION, **arguments})
    assert out["decision"]["reason_code"] == reason_code
    assert callback.runs == (reason_code == "refund.small_in_scope")


def test_real_gateway_applies_each_mode(gateway: Gateway) -> None:
    with gateway.client() as client:
        for mode, word, executed in (
            ("enforce", "deny", False),
            ("strict", "deny", False),
            ("warn", "warn", True),
            ("monitor", "deny", True),
        ):
            callback = Callback()
            out: Any = client.guard(execute_fn=callback, **refund(90000, mode=mode))
            assert (out["decision"]["decision"], out["executed"], callback.runs) == (word, executed, executed), mode
            assert out["decision"]["reason_code"] == "refund.over_limit"
            assert out["decision"].get("would_be") == ("deny" if mode == "warn" else None)
        assert client.guard(execute_fn=Callback(), **refund(4900, mode="strict"))["executed"], (
            "strict accepts a recorded allow"
        )


def test_repeated_idempotency_key_replays_first_decision(gateway: Gateway) -> None:
    with gateway.client() as client:
        first = client.preflight(**refund(4900, idempotency_key="once"))
        again: Any = client.preflight(**refund(4900, idempotency_key="once"))
        assert "replayed" not in first
        assert again.pop("replayed") is True
        assert again.pop("replay_age_ms") >= 0
        assert again == first
        out: Any = client.guard(execute_fn=Callback(), **refund(4901, idempotency_key="once"))
    assert (out["executed"], out["error"].status, out["decision"]["reason_code"]) == (
        False,
        409,
        "actpass.gateway_error",
    )


def test_unknown_api_key_blocks(gateway: Gateway) -> None:
    callback = Callback()
    with gateway.client(api_key="apk_of_somebody_else") as client:
        out: Any = client.guard(execute_fn=callback, **refund(4900))
    assert (callback.runs, out["decision"]["reason_code"], out["error"].status) == (0, "actpass.unauthenticated", 401)


def test_hashes_match_the_gateway(gateway: Gateway) -> None:
    body = {"agent_id": "support_agent", **refund(4900), "user_id": None, "passport": None, "mode": "enforce"}
    with gateway.client() as client:
        decision = client.preflight(**refund(4900, idempotency_key="k"))
    hashed = ActPassClient.hash_payload({**body, "idempotency_key": "k", "audience": None})
    assert decision["request_hash"] == hashed


#: The Python snippets of the product's SDK page, verbatim.
SETUP = """
from actpass import ActPassClient
client = ActPassClient(
api_key=os.environ["ACTPASS_API_KEY"],
tenant_id="your-team-id",
agent_id="support_agent",
)
"""
DECISION_ONLY = """
# Decision only
d = client.preflight(
goal="resolve_refund_request",
tool="stripe.refund.create",
args={"amount": 4900, "currency": "usd"},
resource="stripe:charge:ch_123",
)
print(d["decision"], d["reason_code"])
"""
GATE_REAL_EXECUTION = """
# Gate real execution
out = client.guard(
goal="resolve_refund_request",
tool="stripe.refund.create",
args={"amount": 4900, "currency": "usd"},
execute_fn=lambda ctx: stripe.Refund.create(charge="ch_123", amount=4900),
)
"""


class FakeStripe:
    """A fake of Stripe's module."""

    def __init__(self) -> None:
        self.refunds: list[Any] = []
        self.Refund = types.SimpleNamespace(create=self._create)

    def _create(self, **arguments: Any) -> str:
        self.refunds.append(arguments)
        return "re_1"


def run_snippets(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, *snippets: str) -> dict[str, Any]:
    monkeypatch.setenv("ACTPASS_API_KEY", "apk_dev")
    monkeypatch.setenv("ACTPASS_API_BASE_URL", gateway.base_url)
    stripe = FakeStripe()
    names: dict[str, Any] = {"os": os, "stripe": stripe}
    for snippet in snippets:
        exec(snippet, names)
    assert stripe.refunds == [{"charge": "ch_123", "amount": 4900}]
    return names


def test_sdk_page_snippets_run(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run_snippets(gateway, monkeypatch, SETUP, DECISION_ONLY, GATE_REAL_EXECUTION)
    assert capsys.readouterr().out == "allow refund.small_in_scope\n"
    assert names["out"]["result"] == "re_1"
    assert names["out"]["decision"]["reason_code"] == names["d"]["reason_code"]


def test_readme_snippet_runs(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    snippet, *others = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    for other in others:
        compile(other, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = run_snippets(gateway, monkeypatch, snippet)
    assert capsys.readouterr().out == "allow refund.small_in_scope\n"
    assert names["out"]["executed"] is True
