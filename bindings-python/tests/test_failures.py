"""Each row of the guard contract's failure table."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import actpass
import pytest
from support import ACTION, ALLOW, CALLS, Callback, Hostile, answer, new_client, whole, within


@dataclass
class Row:
    """A gateway's behaviour and the expected result."""

    name: str
    reason_code: str
    error: type[actpass.ActPassError]
    steps: list[dict[str, Any]] = field(default_factory=list)
    script: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    status: Any = None


def refused(name: str, status: int, reason_code: str, error: type[actpass.ActPassError], body: Any) -> Row:
    return Row(name, reason_code, error, [answer(body, status=status)], status=status)


def invalid(name: str, body: str, **step: Any) -> Row:
    step = {"do": "respond", "body": body, **step}
    return Row(name, "actpass.invalid_response", actpass.ActPassResponseError, [step])


def unreachable(name: str, *steps: dict[str, Any], **script: Any) -> Row:
    return Row(name, "actpass.unreachable", actpass.ActPassConnectionError, list(steps), script)


def late(name: str, *steps: dict[str, Any], **script: Any) -> Row:
    row = Row(name, "actpass.timeout", actpass.ActPassTimeoutError, list(steps), script)
    row.client = {"timeout": 0.3}
    return row


NO = {"error": {"code": "no", "message": "no"}}
DEEP = "[" * 128 + "]" * 128
ROWS = [
    unreachable("connection_refused", listen="refused"),
    unreachable("connection_reset_when_open", reset_accept=True),
    unreachable("connection_reset_instead_of_an_answer", {"do": "reset", "at": "request"}),
    unreachable("connection_reset_in_the_body", {"do": "reset", "at": "body"}),
    unreachable("connection_closed_instead_of_an_answer", {"do": "raw", "text": ""}),
    unreachable("certificate_self_signed", answer(ALLOW), tls="self_signed"),
    unreachable("certificate_of_an_unknown_authority", answer(ALLOW), tls="trusted"),
    unreachable("no_tls_on_https", answer(ALLOW), plain_on_https=True),
    late("timeout_in_the_connection", hang_accept=True),
    late("timeout_before_the_headers", {"do": "hang", "at": "request"}),
    late("timeout_in_the_headers", {"do": "hang", "at": "headers"}),
    late("timeout_in_the_body", {"do": "hang", "at": "body"}),
    late("timeout_in_a_body_that_trickles", {"do": "trickle", "body": '{"decision":"allow"}', "interval_ms": 50}),
    refused("401", 401, "actpass.unauthenticated", actpass.ActPassAuthenticationError, NO),
    refused("401_allow", 401, "actpass.unauthenticated", actpass.ActPassAuthenticationError, ALLOW),
    refused("403", 403, "actpass.forbidden", actpass.ActPassPermissionError, NO),
    refused("403_allow", 403, "actpass.forbidden", actpass.ActPassPermissionError, ALLOW),
    refused("429", 429, "actpass.rate_limited", actpass.ActPassRateLimitError, NO),
    refused("429_allow", 429, "actpass.rate_limited", actpass.ActPassRateLimitError, ALLOW),
    *(
        refused(f"{status}_allow", status, "actpass.gateway_error", actpass.ActPassStatusError, ALLOW)
        for status in (300, 304, 400, 404, 409, 418, 422, 500, 501, 502, 503, 504, 599)
    ),
    *(
        Row(
            f"redirect_{status}",
            "actpass.gateway_error",
            actpass.ActPassStatusError,
            [{"do": "redirect", "status": status}],
            status=status,
        )
        for status in (301, 302, 303, 307, 308)
    ),
    invalid("not_json", "allow"),
    invalid("html", "<html>allow</html>"),
    invalid("nothing", ""),
    invalid("no_content", "", status=204),
    invalid("a_string", '"allow"'),
    invalid("a_list", '[{"decision":"allow"}]'),
    invalid("null", "null"),
    invalid("no_decision", '{"reason_code":"refund.small_in_scope"}'),
    invalid("an_empty_decision", '{"decision":""}'),
    invalid("decision_true", '{"decision":true}'),
    invalid("decision_list", '{"decision":["allow"]}'),
    invalid("a_key_twice", '{"decision":"deny","decision":"allow"}'),
    invalid("a_key_twice_by_escape", '{"decision":"deny","decis\\u0069on":"allow"}'),
    invalid("a_key_twice_inside", '{"decision":"allow","explain":{"a":1,"a":2}}'),
    invalid("nested_past_128", f'{{"decision":"allow","deep":{DEEP}}}'),
    invalid("two_documents", '{"decision":"allow"}{}'),
    invalid("nan", '{"decision":"allow","x":NaN}'),
    Row(
        "body_over_1_mib",
        "actpass.invalid_response",
        actpass.ActPassResponseError,
        [{"do": "respond", "body_repeat": {"text": '{"decision":"allow"}    ', "times": 50_000}}],
    ),
    Row(
        "body_cut_short",
        "actpass.invalid_response",
        actpass.ActPassResponseError,
        [{"do": "truncate", "body": '{"decision":"allow"}', "missing": 1}],
    ),
]
ROW = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@ROW
@pytest.mark.parametrize("mode", ["enforce", "strict", "warn", "monitor"])
def test_failure_blocks_except_in_monitor(hostile: Hostile, row: Row, mode: Any) -> None:
    callback = Callback()
    with hostile.play(*row.steps, **row.script) as gateway, within(5):
        with new_client(gateway.base_url, **row.client) as client:
            out: Any = client.guard(execute_fn=callback, mode=mode, **ACTION)
        assert gateway.other_seen() == []
    observes = mode == "monitor"
    assert callback.runs == observes
    assert out["executed"] is observes
    assert ("result" in out) is observes
    assert out["decision"]["decision"] == "deny"
    assert out["decision"]["reason_code"] == row.reason_code
    assert out["decision"].keys() == {"decision", "reason_code", "explain"}
    assert out["decision"]["explain"]["summary"]
    assert out["decision"]["explain"]["matched_rules"] == []
    assert out["decision"]["explain"]["next_steps"], "a denial without next steps"
    assert type(out["error"]) is row.error
    assert (out["error"].code, out["error"].status) == (row.reason_code, row.status)
    assert [context["credential"] for context in callback.contexts] == [None] * observes


@ROW
def test_preflight_raises_each_failure(hostile: Hostile, row: Row) -> None:
    with hostile.play(*row.steps, **row.script) as gateway, within(5):
        with new_client(gateway.base_url, **row.client) as client, pytest.raises(row.error) as raised:
            client.preflight(**ACTION)
        assert gateway.other_seen() == []
    assert type(raised.value) is row.error
    assert (raised.value.code, raised.value.status) == (row.reason_code, row.status)
    assert raised.value.operation == "preflight"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("word", ["deny", "require_approval", "require_tool_reapproval", "warn", "quarantine"])
def test_401_with_decision_is_decision(hostile: Hostile, status: int, word: str) -> None:
    decision = {"decision": word, "reason_code": "key.revoked"}
    callback = Callback()
    with hostile.play(answer(decision, status=status)) as gateway, new_client(gateway.base_url) as client:
        assert client.preflight(**ACTION) == whole(decision)
        for mode in ("enforce", "strict", "warn", "monitor"):
            out: Any = client.guard(execute_fn=callback, mode=mode, **ACTION)
            assert out["decision"] == whole(decision)
            assert "error" not in out
            assert out["executed"] is (mode == "monitor")
    assert callback.runs == 1


@pytest.mark.parametrize(
    "recorded", [{}, {"evidence_event_id": None}, {"evidence_event_id": ""}, {"evidence_event_id": 7}]
)
def test_strict_blocks_unrecorded_allow(hostile: Hostile, recorded: dict[str, Any]) -> None:
    callback = Callback()
    with hostile.play(answer({"decision": "allow", **recorded})) as gateway, new_client(gateway.base_url) as client:
        out: Any = client.guard(execute_fn=callback, mode="strict", **ACTION)
        assert client.guard(execute_fn=lambda _: None, mode="enforce", **ACTION)["executed"]
    assert (callback.runs, out["executed"]) == (0, False)
    assert out["decision"]["decision"] == "deny"
    assert out["decision"]["reason_code"] == "actpass.unrecorded"
    assert "error" not in out


def test_lookalike_of_allow_blocks(hostile: Hostile) -> None:
    callback = Callback()
    for word in (" allow", "allow ", "ALLOW", "Allow", "allow\n", "allow\0", "\u0430llow", "allowed", "permit"):
        decision = {"decision": word, "evidence_event_id": "ev_1"}
        with hostile.play(answer(decision)) as gateway, new_client(gateway.base_url) as client:
            for mode in ("enforce", "strict", "warn"):
                out: Any = client.guard(execute_fn=callback, mode=mode, **ACTION)
                assert (out["decision"], out["executed"], callback.runs) == (whole(decision), False, 0)


def test_function_error_takes_precedence_over_failed_gate_in_monitor(hostile: Hostile) -> None:
    own = ValueError("own")

    def fail(_: Any) -> None:
        raise own

    with hostile.play(listen="refused") as gateway, new_client(gateway.base_url) as client:
        out: Any = client.guard(execute_fn=fail, mode="monitor", **ACTION)
    assert out["error"] is own
    assert out["executed"] is True
    assert out["decision"]["reason_code"] == "actpass.unreachable"


def test_other_calls_raise_gateway_errors(hostile: Hostile) -> None:
    calls = {name: call for name, call in CALLS.items() if name not in {"preflight", "guard", "authorize"}}
    for step, error in (
        (answer(NO, status=500), actpass.ActPassStatusError),
        (answer(NO, status=401), actpass.ActPassAuthenticationError),
        (answer(NO, status=403), actpass.ActPassPermissionError),
        (answer(NO, status=429), actpass.ActPassRateLimitError),
        (answer({}), actpass.ActPassResponseError),
        (answer([]), actpass.ActPassResponseError),
        ({"do": "redirect"}, actpass.ActPassStatusError),
        ({"do": "reset", "at": "request"}, actpass.ActPassConnectionError),
    ):
        with hostile.play(step) as gateway, new_client(gateway.base_url) as client:
            for name, call in calls.items():
                with pytest.raises(error) as raised:
                    call(client)
                assert (type(raised.value), raised.value.operation) == (error, name)
            assert gateway.other_seen() == []
            assert len(gateway.seen()) == len(calls)


@pytest.mark.parametrize("name", CALLS)
def test_retries_only_safe_calls(hostile: Hostile, name: str) -> None:
    steps = ({"do": "reset", "at": "request"}, answer({**ALLOW, "valid": True, "revoked": True}))
    with hostile.play(*steps) as gateway:
        with new_client(gateway.base_url, max_retries=2) as client, contextlib.suppress(actpass.ActPassError):
            CALLS[name](client)
        bodies = [one["body"] for one in gateway.seen()]
    assert len(bodies) == (1 if name in {"issue_passport", "record_evidence"} else 2)
    assert len(set(bodies)) == 1, "the retry differs from the first request"
