"""The wire format, compared with the requests and responses of the published client 1.1.3."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import ACTION, API_KEY, PASSPORT, Callback, Captured, Gateway, Published, capturing, new_client

SHAPES: dict[str, Any] = {
    "nothing": {},
    "plain": {"amount": 4900, "currency": "usd"},
    "order": {"z": 1, "a": 2, "M": {"y": None, "b": [True, False]}},
    "unicode": {"näme": "Zoë \u20ac 😀 \u2028", "\U0001d4b3": "\x7f\x80"},
    "escapes": {'"\\/\b\f\n\r\t\0\x1f': '"\\/\b\f\n\r\t\0\x1f'},
    "floats": {"a": [1.0, -0.0, 0.1, 1e16, 1e22, 1e-5, 1 / 3, 5e-324, 1.7976931348623157e308, 49.90]},
    "integers": {"a": [0, -1, 2**53, 2**63, 2**64, 10**40]},
    "nested": {"a": [[[]], {}, {"b": {"c": [None, ["d"]]}}]},
    "tuples": {"a": (1, (2, ()))},
    "odd_keys": {7: 1, None: 2, True: 3, 1.5: 4},
    "none": {"a": None},
}
EVERYTHING = {
    "user_id": "user_1",
    "passport": PASSPORT,
    "mode": "strict",
    "audience": "mcp://stripe-production",
}
KEY = {"idempotency_key": "key_1"}

CALLS: list[tuple[str, dict[str, Any]]] = [
    *(("preflight", {**ACTION, **KEY, "args": shape}) for shape in SHAPES.values()),
    *(("guard", {**ACTION, **KEY, "args": shape}) for shape in SHAPES.values()),
    *((method, {**ACTION, **KEY, "mode": mode}) for method in ("preflight", "guard") for mode in ("warn", "monitor")),
    *((method, {**ACTION, **KEY, **EVERYTHING}) for method in ("preflight", "guard")),
    ("preflight", {"goal": "ziel €", "tool": 'to"ol', "args": {}, **KEY}),
    ("issue_passport", {"audience": "mcp://x", "goal": "g", "allowed_tools": []}),
    (
        "issue_passport",
        {
            "audience": "mcp://stripe-production",
            "goal": "resolve_refund_request",
            "allowed_tools": ["stripe.refund.create", "ü"],
            "allowed_resources": ["stripe:charge:ch_123"],
            "resource_constraints": {"max_amount": 10000, "currency": "usd", "rate": 0.10, "z": [None, {"a": 1e22}]},
            "user_id": "user_1",
            "ttl_seconds": 300,
            "risk_tier": "high",
        },
    ),
    ("verify_passport", {"token": PASSPORT, "audience": "mcp://x"}),
    (
        "verify_passport",
        {
            "token": PASSPORT,
            "audience": "mcp://x",
            "agent_id": "agent",
            "user_id": "user_1",
            "current_tool_manifest_hash": "aa",
            "policy_hash": "bb",
        },
    ),
    ("revoke_passport", {"jti": "ap_1"}),
    ("revoke_passport", {"jti": "ap_1", "reason": "session “ended”"}),
    ("record_evidence", {"event_type": "refund.sent", "chain_id": "case_1"}),
    *(
        ("record_evidence", {"event_type": "refund.sent", "chain_id": "case_1", "metadata": shape})
        for shape in SHAPES.values()
    ),
    (
        "record_evidence",
        {
            "event_type": "refund.sent",
            "chain_id": "case_1",
            "tool_id": "stripe.refund.create",
            "decision": "allow",
            "reason_code": "refund.small_in_scope",
            "request_hash": "aa",
            "response_hash": "bb",
        },
    ),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "with_tenant_and_agent": {"api_key": API_KEY, "tenant_id": "your-team-id", "agent_id": "support_agent"},
    "with_the_key_alone": {"api_key": API_KEY},
}

#: Headers that may differ: the user agent, keep-alive, and the accepted media types.
MAY_DIFFER = {"user-agent", "connection", "accept"}


def members(body: bytes) -> Any:
    """Return the members in order, with numbers as source text."""
    return json.loads(
        body, object_pairs_hook=list, parse_int=lambda text: ("int", text), parse_float=lambda text: ("float", text)
    )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_requests_match_1_1_3(published: Published, settings: dict[str, Any]) -> None:
    with capturing() as server:
        where = {**settings, "base_url": server.base_url}
        returned = published.call(where, CALLS)
        theirs: list[Captured] = server.take()
        with new_client(**{"agent_id": None, **where}) as client:
            for (method, arguments), their_answer in zip(CALLS, returned):
                extra: dict[str, Any] = {"execute_fn": lambda _: "ran"} if method == "guard" else {}
                our_answer = getattr(client, method)(**arguments, **extra)
                if method == "guard":
                    assert our_answer.pop("executed") is True
                for said in (our_answer, their_answer):
                    # A request hash differs between the clients: the idempotency keys differ.
                    (said["decision"] if method == "guard" else said).pop("request_hash", None)
                assert our_answer == their_answer
        ours = server.take()
    assert len(ours) == len(theirs) == len(CALLS)
    for (method, arguments), our, their in zip(CALLS, ours, theirs):
        assert our.path == their.path
        assert members(our.body) == members(their.body), (method, arguments)
        assert our.body == their.body, (method, arguments)
        names = our.headers.keys() | their.headers.keys()
        different = {name for name in names if our.headers.get(name) != their.headers.get(name)}
        assert different <= MAY_DIFFER
        assert our.headers["authorization"] == f"Bearer {settings['api_key']}"
        assert our.headers.get("x-actpass-tenant") == settings.get("tenant_id")
        assert our.headers["content-type"] == "application/json"
        assert our.headers["user-agent"].startswith("actpass-python/")
        assert "connection" not in our.headers, "the connection is not kept"


def test_fills_members_that_1_1_3_leaves_null(published: Published) -> None:
    with capturing() as server:
        where = {"api_key": API_KEY, "base_url": server.base_url}
        published.call(where, [("preflight", ACTION)])
        with new_client(agent_id=None, **where) as client:
            client.preflight(**ACTION)
            client.preflight(**ACTION, approval_request_id="apr_1", tool_manifest_hash="aa")
        their, our, more = (json.loads(one.body) for one in server.take())
    assert their.pop("idempotency_key") is None
    assert our.pop("idempotency_key")
    assert our == their
    assert list(more)[-2:] == ["approval_request_id", "tool_manifest_hash"]


REFUNDS = {4900: "allow", 25000: "require_approval", 90000: "deny"}


def test_1_1_3_works_against_the_gateway(published: Published, gateway: Gateway) -> None:
    settings = {"api_key": "apk_dev", "agent_id": "support_agent", "base_url": gateway.base_url}
    wanted = [{**ACTION, "args": {"amount": amount, "currency": "usd"}} for amount in REFUNDS]
    preflights = [("preflight", {**action, "idempotency_key": f"p{at}"}) for at, action in enumerate(wanted)]
    guards = [("guard", {**action, "idempotency_key": f"g{at}"}) for at, action in enumerate(wanted)]
    event: dict[str, Any] = {"event_type": "refund.sent", "chain_id": "case_1", "metadata": {"rate": 0.5}}
    *theirs, recorded = published.call(settings, [*preflights, *guards, ("record_evidence", event)])
    their_decisions, their_outcomes = theirs[:3], theirs[3:]

    assert [decision["decision"] for decision in their_decisions] == list(REFUNDS.values())
    assert [outcome.get("result") for outcome in their_outcomes] == ["ran", None, None]
    with gateway.client() as client:
        # A key is bound to its body, so equal keys also prove equal bodies. An allow is replayed; every other decision
        # is made again, for the same approval request.
        for (_, arguments), theirs_said in zip(preflights, their_decisions):
            ours_said: Any = client.preflight(**arguments)
            repeated = theirs_said["decision"] == "allow"
            assert (ours_said.pop("replayed", False), ours_said.pop("replay_age_ms", -1) >= 0) == (repeated, repeated)
            assert (ours_said.pop("evidence_event_id") == theirs_said.pop("evidence_event_id")) is repeated
            assert ours_said == theirs_said
        for (_, arguments), outcome in zip(guards, their_outcomes):
            callback = Callback(lambda _: "ran")
            out: Any = client.guard(execute_fn=callback, **arguments)
            # The allow of another call does not authorize this one.
            repeated = outcome["decision"]["decision"] == "allow"
            expected = "actpass.replayed" if repeated else outcome["decision"]["reason_code"]
            assert (out["executed"], callback.runs, out["decision"]["reason_code"]) == (False, 0, expected)
        client.record_evidence(**event)

    events = gateway.get("/api/v1/evidence/chains/case_1")["events"]
    assert [one["event_type"] for one in events] == ["refund.sent", "refund.sent"]
    assert (events[0]["event_id"], events[0]["current_event_hash"]) == (
        recorded["event_id"],
        recorded["current_event_hash"],
    )
    assert gateway.get("/api/v1/evidence/chains/case_1/verify")["valid"] is True
    # Six events of the published client, and two repeated decisions of this client, each an approval and a denial.
    assert len(gateway.get("/api/v1/evidence/chains/decisions")["events"]) == 10
