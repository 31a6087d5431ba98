"""The tools of an agent as one mapping, with an action for each."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from actpass import UNGUARDED, ActionBlockedError, ActPassConfigError, ToolAction
from support import ALLOW, PASSPORT, Hostile, Played, answer, new_async_client, new_client, run_loop


def test_tool_action_keeps_its_options() -> None:
    action = ToolAction(
        "stripe.refund.create", goal="refund", resource="stripe:charge:{charge}", exclude=["db"], redact=["card"]
    )
    assert (action.tool, action.goal, action.resource) == ("stripe.refund.create", "refund", "stripe:charge:{charge}")
    assert (action.include, action.exclude, action.redact["card"]("4242")) == (None, {"db"}, "[redacted]")
    assert action == ToolAction(
        tool="stripe.refund.create", goal="refund", resource="stripe:charge:{charge}", exclude={"db"}, redact={"card"}
    )
    assert action != ToolAction("stripe.refund.create", goal="refund")
    assert len({action, copy.copy(action), copy.deepcopy(action), pickle.loads(pickle.dumps(action))}) == 1


def test_tool_action_is_immutable() -> None:
    action = ToolAction("demo.tool")
    with pytest.raises(AttributeError, match="mode: expected no change, a ToolAction is immutable"):
        action.mode = "monitor"
    with pytest.raises(AttributeError, match="mode: expected no change"):
        del action.mode
    with pytest.raises(AttributeError):
        action.tpyo = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        ToolAction("demo.tool", "demo")  # type: ignore[misc]


def test_tool_action_shows_no_passport() -> None:
    assert repr(ToolAction("demo.tool", passport=PASSPORT)) == "ToolAction('demo.tool')"


@pytest.mark.parametrize(
    ("member", "values"),
    [
        ("tool", ("", None, 3, b"t", ["t"], "a\ud800")),
        ("goal", ("", 3, b"g", "{", "{a.b}", "{}")),
        ("mode", ("enforec", "", "Enforce", 3, ["strict"])),
        ("include", (3, "amount", b"amount", object())),
        ("exclude", (3, "amount", None)),
        ("redact", (3, "amount", {"amount": "x"}, None)),
        ("resource", (3, None, b"r", "{", "{a.b}", "{}")),
        ("user_id", (3, b"u")),
        ("passport", (3, b"p")),
        ("audience", (3, b"a", ["a"])),
        ("tool_manifest_hash", (3, b"a")),
        ("approval_request_id", (3, b"a")),
        ("wait_for_approval", (-1, "1", True, float("nan"), float("inf"))),
        ("record_outcome", (1, "yes", None)),
        ("default", (3, "str")),
        ("timeout", (0, -1, "1", True, float("nan"))),
        ("max_retries", (-1, 11, 1.5, "1", True)),
    ],
)
def test_tool_action_rejects_invalid_options(member: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ActPassConfigError, match=rf"\A{member}: expected"):
            ToolAction(**{"tool": "demo.tool", member: value})


def test_unguarded_is_one_object() -> None:
    assert repr(UNGUARDED) == "UNGUARDED"
    copies = [copy.copy(UNGUARDED), copy.deepcopy(UNGUARDED)]
    copies += [pickle.loads(pickle.dumps(UNGUARDED, version)) for version in range(pickle.HIGHEST_PROTOCOL + 1)]
    assert all(one is UNGUARDED for one in copies)


def test_import_loads_no_heavy_modules() -> None:
    heavy = ["asyncio", "copy", "dataclasses", "inspect", "string", "actpass._protect"]
    code = "import sys; before = {*sys.modules}; import actpass; print({*sys.modules} - before & set(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture
def gateway(hostile: Hostile) -> Iterator[Played]:
    with hostile.play(answer(ALLOW)) as gateway:
        yield gateway


ACTIONS = {"refund": ToolAction("stripe.refund.create", goal="refund", resource="{charge}"), "today": UNGUARDED}


class Desk:
    """Tools that record their calls, as plain and as coroutine functions."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def tools(self, asynchronous: bool) -> dict[str, Any]:
        def refund(charge: str) -> str:
            self.ran.append(charge)
            return f"refunded {charge}"

        def today() -> str:
            return "2026-11-28"

        async def refund_later(charge: str) -> str:
            return refund(charge)

        async def today_later() -> str:
            return today()

        return {"refund": refund_later, "today": today_later} if asynchronous else {"refund": refund, "today": today}


def called(function: Any, *args: Any) -> Any:
    """Call a plain or a coroutine function."""
    if not inspect.iscoroutinefunction(function):
        return function(*args)
    return run_loop(function(*args))


#: Kind of the client, and of the tools.
KINDS = [(new_client, False), (new_client, True), (new_async_client, True)]


@pytest.mark.parametrize(("new", "asynchronous"), KINDS)
def test_protect_tools(gateway: Played, new: Any, asynchronous: bool) -> None:
    desk = Desk()
    given = desk.tools(asynchronous)
    tools = new(gateway.base_url).protect_tools(given, ACTIONS)
    assert called(tools["refund"], "ch_1") == "refunded ch_1"
    asked = json.loads(gateway.seen()[-1]["body"])
    assert (asked["tool"], asked["resource"], asked["args"]) == ("stripe.refund.create", "ch_1", {"charge": "ch_1"})
    assert tools["today"] is given["today"]
    assert called(tools["today"]) == "2026-11-28"
    assert len(gateway.seen()) == 1
    assert (list(tools), len(tools), "refund" in tools, "rm" in tools) == (["refund", "today"], 2, True, False)
    assert repr(tools) == "protect_tools(['refund', 'today'])"


@pytest.mark.parametrize(("new", "asynchronous"), KINDS)
def test_unmapped_tool_is_denied(gateway: Played, new: Any, asynchronous: bool) -> None:
    """Also one that is added later, to the mapping that was given; the returned one is read-only."""
    given = Desk().tools(asynchronous)
    client = new(gateway.base_url, mode="monitor")
    for on_blocked in (None, str):
        tools = client.protect_tools(given, ACTIONS, on_blocked=on_blocked)
        given["rm"] = lambda *_: pytest.fail("it ran")
        for function in (tools["rm"], tools.get("rm")):
            if on_blocked is not None:
                assert called(function, "/", 1).startswith("rm was not run: deny (actpass.unmapped_tool). The tool is ")
                continue
            with pytest.raises(
                ActionBlockedError, match=r"\Arm was not run: deny \(actpass\.unmapped_tool\)"
            ) as caught:
                called(function, "/")
            assert (caught.value.code, caught.value.tool) == ("actpass.unmapped_tool", "rm")
        del given["rm"]
        with pytest.raises(TypeError):
            tools["rm"] = print
    assert gateway.seen() == []


@pytest.mark.parametrize(("new", "asynchronous"), KINDS)
def test_blocked_tool_returns_text(hostile: Hostile, new: Any, asynchronous: bool) -> None:
    denied = {"decision": "deny", "reason_code": "refund.closed"}
    with hostile.play(answer(denied)) as gateway:
        desk = Desk()
        tools = new(gateway.base_url).protect_tools(desk.tools(asynchronous), ACTIONS, on_blocked=str)
        text = called(tools["refund"], "ch_1")
    assert text.startswith("stripe.refund.create was not run: deny (refund.closed).")
    assert desk.ran == []


@pytest.mark.parametrize(
    ("tools", "actions", "problem"),
    [
        (
            {"refund": print, "rm": print, "ls": print},
            {"refund": UNGUARDED, "mv": UNGUARDED, "cp": ToolAction("cp")},
            "actions: expected an action for each tool, found none for 'rm', 'ls': map each to a ToolAction, or to "
            "UNGUARDED if it may run without a decision; expected names of tools, found 'mv', 'cp': use the names in "
            "'refund', 'rm', 'ls'",
        ),
        ({}, {"rm": None}, "actions['rm']: expected a ToolAction or UNGUARDED, found NoneType"),
        ([print], {}, "tools: expected a mapping from names to functions, found list"),
        ({"rm": 3}, {"rm": ToolAction("rm")}, "actions['rm']: protect: expected a function, found int"),
        (
            {"rm": lambda path: None},
            {"rm": ToolAction("rm", exclude=["pth"])},
            "actions['rm']: exclude: expected names of the function's parameters, found 'pth'",
        ),
    ],
)
def test_protect_tools_rejects_invalid_mappings(tools: Any, actions: Any, problem: str) -> None:
    client = new_client("http://127.0.0.1:9")
    with pytest.raises(ActPassConfigError) as caught:
        client.protect_tools(tools, actions)
    assert str(caught.value) == problem
    with pytest.raises(ActPassConfigError, match="on_blocked: expected a plain function of the error, found int"):
        client.protect_tools({}, {}, on_blocked=3)  # type: ignore[arg-type]
