"""The code that all adapters share: the mapping of tools, and the guarded call."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from actpass import (
    UNGUARDED,
    ActionBlockedError,
    ActPassArgumentError,
    ActPassClient,
    ActPassConfigError,
    AsyncActPassClient,
    ToolAction,
)
from actpass.integrations._common import ToolMap, blocked_text, pending_of, run_guarded, run_guarded_async
from support import ALLOW, PASSPORT, Hostile, Played, answer, new_async_client, new_client, run_loop, wait_until

REFUND = ToolAction("stripe.refund.create", goal="refund {charge}", resource="stripe:charge:{charge}")
ARGS = {"charge": "ch_1", "amount": 4900}
APPROVAL = answer({"decision": "require_approval", "reason_code": "refund.large", "approval_request_id": "apr_1"})
RECORDED = answer({"event_id": "ev_2", "current_event_hash": "00"})


@pytest.fixture
def gateway(hostile: Hostile) -> Iterator[Played]:
    with hostile.play(answer(ALLOW)) as gateway:
        yield gateway


def clients(gateway: Played, **settings: Any) -> list[Any]:
    return [new_client(gateway.base_url, **settings), new_async_client(gateway.base_url, **settings)]


def guarded(client: Any, asynchronous: bool, *given: Any, **options: Any) -> Any:
    """Run one call of a tool, in an event loop or without one."""
    if not asynchronous:
        return run_guarded(client, *given, **options)

    async def main() -> Any:
        return await run_guarded_async(client, *given, **options)

    return run_loop(main())


def sent(gateway: Played) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(gateway.seen()[-1]["body"])
    return body


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("kind", [0, 1], ids=["blocking client", "asynchronous client"])
def test_runs_with_either_client(gateway: Played, kind: int, asynchronous: bool) -> None:
    client = clients(gateway)[kind]
    ran: list[Any] = []

    def execute(args: Any, context: Any) -> str:
        ran.append((args, context["decision"]["decision"]))
        return "refunded"

    outcome = guarded(client, asynchronous, REFUND, ARGS, execute)
    assert outcome.unwrap() == "refunded"
    assert ran == [(ARGS, "allow")]
    asked = sent(gateway)
    assert (asked["tool"], asked["goal"], asked["resource"]) == (
        "stripe.refund.create",
        "refund ch_1",
        "stripe:charge:ch_1",
    )
    assert asked["args"] == ARGS


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("kind", [0, 1])
def test_records_outcome_with_either_client(hostile: Hostile, kind: int, asynchronous: bool) -> None:
    action = ToolAction("demo.tool", goal="demo", record_outcome=True)
    with hostile.play(answer(ALLOW), RECORDED, answer(ALLOW), answer({}, status=500)) as gateway:
        client = clients(gateway)[kind]
        outcome = guarded(client, asynchronous, action, {}, lambda args, context: 7)
        assert (outcome["result"], outcome["evidence"]["event_id"]) == (7, "ev_2")
        outcome = guarded(client, asynchronous, action, {}, lambda args, context: 7)
        assert (outcome["result"], outcome["evidence_error"].status) == (7, 500)


def test_blocking_call_inside_event_loop_with_asynchronous_client(gateway: Played) -> None:
    """A framework may call a plain tool on the loop's thread."""

    async def main() -> Any:
        async with new_async_client(gateway.base_url) as client:
            first = run_guarded(client, REFUND, ARGS, lambda args, context: 1)
            return first["result"], await client.guard("demo", "demo.tool", {}, lambda ctx: 2)

    first, second = run_loop(main())
    assert (first, second["result"]) == (1, 2)


@pytest.mark.parametrize("kind", [0, 1])
def test_unreachable_gateway_blocks(kind: int) -> None:
    client = [new_client, new_async_client][kind]("http://127.0.0.1:9")
    for asynchronous in (True, False):
        outcome = guarded(client, asynchronous, REFUND, ARGS, lambda args, context: pytest.fail("it ran"))
        assert (outcome["executed"], outcome["decision"]["reason_code"]) == (False, "actpass.unreachable")
        assert blocked_text(outcome).startswith("stripe.refund.create was not run: deny (actpass.unreachable).")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_executes_the_evaluated_copy(hostile: Hostile, asynchronous: bool) -> None:
    """The framework's dict changes during the decision; the tool gets the evaluated arguments."""
    args: dict[str, Any] = {"charge": "ch_1", "items": [{"amount": 1}], "pair": ("a", ["b"])}

    def subject() -> str:
        args["items"][0]["amount"] = 1_000_000
        args["pair"][1].append("c")
        args["charge"] = "ch_2"
        return "u"

    action = ToolAction("demo.tool", goal="demo", resource="{charge}", user_id=subject)
    with hostile.play(answer(ALLOW)) as gateway:
        ran: list[Any] = []
        guarded(new_client(gateway.base_url), asynchronous, action, args, lambda args, context: ran.append(args))
        assert ran == [{"charge": "ch_1", "items": [{"amount": 1}], "pair": ("a", ["b"])}]
        assert sent(gateway)["args"] == {"charge": "ch_1", "items": [{"amount": 1}], "pair": ["a", ["b"]]}


def test_changed_object_blocks(gateway: Played) -> None:
    """An object that cannot be copied is serialized again right before the tool runs."""

    class Order:
        amount = 1

    order = Order()

    def subject() -> str:
        order.amount = 1_000_000
        return "u"

    action = ToolAction("demo.tool", goal="demo", user_id=subject, default=lambda order: {"amount": order.amount})
    outcome = run_guarded(new_client(gateway.base_url), action, {"order": order}, lambda *_: pytest.fail("it ran"))
    assert outcome["decision"]["reason_code"] == "actpass.arguments_changed"


def test_options_select_the_sent_arguments(gateway: Played) -> None:
    action = ToolAction(
        "demo.tool",
        goal=lambda charge: f"refund {charge}",
        resource=lambda args: ",".join(sorted(args)),
        include=["charge", "card", "db"],
        exclude=["db"],
        redact=["card"],
        user_id="u",
        passport=lambda: PASSPORT,
        audience="a",
        mode="strict",
        tool_manifest_hash="h",
        approval_request_id=lambda charge: f"apr_{charge}",
    )
    args = {"charge": "ch_1", "card": "4242", "db": object(), "amount": 3}
    ran: list[Any] = []
    outcome = run_guarded(new_client(gateway.base_url), action, args, lambda args, context: ran.append(args))
    assert (outcome["executed"], ran) == (False, []), "strict: the response is not bound to the request"
    asked = sent(gateway)
    assert (asked["args"], asked["goal"]) == ({"charge": "ch_1", "card": "[redacted]"}, "refund ch_1")
    assert (asked["resource"], asked["user_id"], asked["passport"]) == ("amount,card,charge,db", "u", PASSPORT)
    assert (asked["mode"], asked["audience"], asked["tool_manifest_hash"]) == ("strict", "a", "h")
    assert asked["approval_request_id"] == "apr_ch_1"
    run_guarded(new_client(gateway.base_url), action, args, lambda *_: None, approval_request_id="apr_9")
    assert sent(gateway)["approval_request_id"] == "apr_9"


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize(
    ("action", "args", "problem"),
    [
        (REFUND, {"charge": "ch_1", "amount": float("nan")}, "args.amount: expected a finite number, found NaN"),
        (REFUND, {"charge": "ch_1", "by": b"x"}, "args.by: expected a value that is JSON, found bytes"),
        (REFUND, {"amount": 3}, "goal: expected charge as a string or whole number, found nothing"),
        (REFUND, {"charge": ["ch_1"]}, "goal: expected charge as a string or whole number, found list"),
        (
            ToolAction("stripe.refund.create", goal="g", resource=lambda charge: charge),
            {"amount": 3},
            "resource: expected the argument 'charge', found nothing",
        ),
        (REFUND, [1], "args: expected a dict, found list"),
    ],
)
def test_invalid_arguments_block(
    gateway: Played, action: ToolAction, args: Any, problem: str, asynchronous: bool
) -> None:
    """The model reads the argument at fault, without the advice for a developer."""
    client = new_client(gateway.base_url, mode="monitor")
    outcome = guarded(client, asynchronous, action, args, lambda args, context: pytest.fail("it ran"))
    assert (outcome["executed"], outcome["decision"]["reason_code"]) == (False, "actpass.invalid_argument")
    assert isinstance(outcome["error"], ActPassArgumentError)
    text = "stripe.refund.create was not run: deny (actpass.invalid_argument). "
    assert blocked_text(outcome) == f"{text}{problem}. Correct the argument. Then call it again."
    assert gateway.seen() == []


def test_deeply_nested_arguments_block(gateway: Played) -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    outcome = run_guarded(
        new_client(gateway.base_url), REFUND, {"charge": "c", "deep": deep}, lambda *_: pytest.fail("it ran")
    )
    assert outcome["decision"]["reason_code"] == "actpass.invalid_argument"


class Interrupt(Exception):  # noqa: N818
    """The control flow of a framework."""


class Stop(BaseException):
    """The control flow of another framework."""


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("signal", [Interrupt("x"), Stop("x")], ids=["Exception", "BaseException"])
def test_control_flow_of_framework_propagates(
    hostile: Hostile, kind: int, asynchronous: bool, signal: BaseException
) -> None:
    action = ToolAction("demo.tool", goal="demo", record_outcome=True)

    def execute(args: Any, context: Any) -> None:
        raise signal

    with hostile.play(answer(ALLOW), RECORDED) as gateway:
        client = clients(gateway)[kind]
        with pytest.raises(type(signal)) as caught:
            guarded(client, asynchronous, action, {}, execute, suspends=(Interrupt, Stop))
        assert caught.value is signal
        wait_until(gateway.has_seen(2))
        assert sent(gateway)["metadata"]["ended"] == "suspended"


@pytest.mark.parametrize("asynchronous", [True, False])
def test_exception_of_tool_is_same_object(gateway: Played, asynchronous: bool) -> None:
    error = Interrupt("of the tool")

    def execute(args: Any, context: Any) -> None:
        raise error

    outcome = guarded(new_client(gateway.base_url), asynchronous, REFUND, ARGS, execute)
    assert (outcome["executed"], outcome["error"]) == (True, error)
    with pytest.raises(Interrupt) as caught:
        outcome.unwrap()
    assert caught.value is error


def test_cancellation_during_the_decision_runs_nothing(hostile: Hostile) -> None:
    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:
            task = asyncio.ensure_future(run_guarded_async(client, REFUND, ARGS, lambda *_: pytest.fail("it ran")))
            await asyncio.sleep(0.1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()

    with hostile.play(answer(ALLOW, delay_ms=500)) as gateway:
        run_loop(main())


def test_pending_approval(hostile: Hostile) -> None:
    with hostile.play(APPROVAL) as gateway:
        outcome = run_guarded(new_client(gateway.base_url), REFUND, ARGS, lambda *_: pytest.fail("it ran"))
    pending = pending_of(outcome)
    assert pending is not None
    assert (pending["approval_request_id"], pending["args"]) == ("apr_1", ARGS)
    assert "A person must approve this first (approval apr_1)" in blocked_text(outcome)
    assert pending_of(ToolMap(ActPassClient("k"), {}).unmapped("rm")) is None


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("kind", [0, 1])
def test_hold_waits_for_the_human_decision(hostile: Hostile, kind: int, asynchronous: bool) -> None:
    approved = answer({"id": "apr_1", "status": "approved"})
    with hostile.play(APPROVAL, approved, answer(ALLOW)) as gateway:
        tools = ToolMap(clients(gateway)[kind], {"refund": REFUND}, approvals="hold", hold=5)
        if asynchronous:
            outcome = run_loop(tools.run_async(REFUND, ARGS, lambda args, context: "ran"))
        else:
            outcome = tools.run(REFUND, ARGS, lambda args, context: "ran")
        assert outcome["result"] == "ran"
        assert sent(gateway)["approval_request_id"] == "apr_1"


def test_lookup_resolves_aliases() -> None:
    tools = ToolMap(ActPassClient("k"), {"refund": REFUND, "search": UNGUARDED})
    assert tools.lookup("refund") is REFUND
    assert tools.lookup("pay_refund", "refund") is REFUND
    assert tools.lookup("search") is UNGUARDED
    assert tools.lookup("Refund") is None
    assert tools.lookup("pay_refund", "refund_") is None


def test_unmapped_tool_is_denied() -> None:
    outcome = ToolMap(ActPassClient("k"), {}).unmapped("rm")
    decision = outcome["decision"]
    assert (outcome["executed"], decision["decision"], decision["reason_code"]) == (
        False,
        "deny",
        "actpass.unmapped_tool",
    )
    assert decision["explain"] == {
        "summary": "No action is mapped to this tool.",
        "matched_rules": [],
        "next_steps": ["Map the tool to an action, or mark it as unguarded."],
    }
    text = (
        "rm was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. Do not call it again."
    )
    assert blocked_text(outcome) == text
    with pytest.raises(ActionBlockedError, match="rm was not run"):
        outcome.unwrap()


def test_coverage_names_each_tool() -> None:
    tools = ToolMap(AsyncActPassClient("k"), {"refund": REFUND, "search": UNGUARDED})
    tools.check_coverage(["search"])
    tools.check_coverage(["refund", "search"], is_complete=True)
    expected = (
        "actions: expected an action for each tool, found none for 'rm', 'ls': map each to a ToolAction, or to "
        "UNGUARDED if it may run without a decision"
    )
    with pytest.raises(ActPassConfigError) as caught:
        tools.check_coverage(["rm", "refund", "ls", "rm"])
    assert str(caught.value) == expected
    with pytest.raises(ActPassConfigError) as caught:
        tools.check_coverage(["rm", "ls", "search"], is_complete=True)
    assert str(caught.value) == (
        f"{expected}; expected names of tools, found 'refund': use the names in 'rm', 'ls', 'search'"
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"client": 3}, "client: expected an ActPassClient or AsyncActPassClient, found int"),
        ({"actions": [REFUND]}, "actions: expected a mapping from tool names to ToolAction, found list"),
        ({"actions": {3: REFUND}}, "actions: expected names of tools, found 3"),
        ({"actions": {"": REFUND}}, "actions: expected names of tools, found ''"),
        ({"actions": {"rm": None}}, "actions['rm']: expected a ToolAction or UNGUARDED, found NoneType"),
        ({"actions": {"rm": {"tool": "x"}}}, "actions['rm']: expected a ToolAction or UNGUARDED, found dict"),
        ({"approvals": "interrupt"}, "approvals: expected 'tell' or 'hold', found 'interrupt'"),
        ({"approvals": ["hold"]}, "approvals: expected 'tell' or 'hold', found ['hold']"),
        ({"approvals": "hold"}, "hold: expected seconds, found nothing: approvals='hold' needs them"),
        ({"hold": 3}, "hold: expected no value with approvals='tell', found 3"),
        ({"approvals": "hold", "hold": -1}, "hold: expected "),
        ({"approvals": "hold", "hold": "3"}, "hold: expected "),
    ],
)
def test_rejects_invalid_mapping(given: dict[str, Any], problem: str) -> None:
    given = {"client": ActPassClient("k"), "actions": {}, **given}
    with pytest.raises(ActPassConfigError) as caught:
        ToolMap(given.pop("client"), given.pop("actions"), **given)
    assert str(caught.value).startswith(problem)
