"""Defaults that ``client.bind`` sets for the calls of a block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from actpass import ActPassArgumentError, ActPassConfigError, ToolAction
from actpass.integrations._common import run_guarded
from support import ALLOW, PASSPORT, Hostile, Played, answer, new_async_client, new_client, run_loop

DEMO = ("demo", "demo.tool", {})
MEMBERS = {"user_id": "u_7", "passport": PASSPORT, "audience": "mcp://stripe"}


@pytest.fixture
def gateway(hostile: Hostile) -> Iterator[Played]:
    with hostile.play(answer(ALLOW)) as gateway:
        yield gateway


def sent(gateway: Played, name: str) -> list[Any]:
    return [json.loads(one["body"]).get(name) for one in gateway.seen()]


def test_defaults_apply_to_each_call(gateway: Played) -> None:
    client = new_client(gateway.base_url)
    protected: Any = client.protect(tool="demo.tool")(lambda: 1)
    with client.bind(goal="refund", **MEMBERS) as bound:
        assert bound is client
        client.preflight(*DEMO)
        client.guard(*DEMO, lambda ctx: 1)
        client.authorize(*DEMO)
        protected()
        run_guarded(client, ToolAction("demo.tool"), {}, lambda *_: 1)
        client.with_options(timeout=3).preflight(*DEMO)
    client.preflight(*DEMO)
    assert sent(gateway, "goal") == ["demo", "demo", "demo", "refund", "refund", "demo", "demo"]
    for name, value in MEMBERS.items():
        assert sent(gateway, name) == [value] * 6 + [None]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_resumed_action_spends_bound_passport(gateway: Played, asynchronous: bool) -> None:
    """Its other members are those of the pending action."""
    pending: Any = {"approval_request_id": "apr_1", "goal": "g", "tool": "demo.tool", "args": {}, "user_id": "u_1"}

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:
            with client.bind(goal="refund", **MEMBERS):
                await client.resume(pending, lambda ctx: 1)

    if asynchronous:
        run_loop(main())
    else:
        client = new_client(gateway.base_url)
        with client.bind(goal="refund", **MEMBERS):
            client.resume(pending, lambda ctx: 1)
    names = ("goal", "user_id", "passport", "audience")
    assert [sent(gateway, name) for name in names] == [["g"], ["u_1"], [PASSPORT], [None]]


def test_defaults_apply_to_issued_passports(hostile: Hostile) -> None:
    with hostile.play(answer({"token": "t", "jwks_uri": "https://gate.example/jwks"})) as gateway:
        client = new_client(gateway.base_url)
        with client.bind(user_id="u_7"):
            client.issue_passport("mcp://stripe", "refund", ["demo.tool"])
        assert sent(gateway, "user_id") == ["u_7"]


def test_options_win_over_defaults(gateway: Played) -> None:
    client = new_client(gateway.base_url)
    protected: Any = client.protect(tool="demo.tool", goal="mine", user_id="u_1")(lambda: 1)
    with client.bind(goal="bound", user_id="u_7"):
        client.preflight(*DEMO, user_id="u_1")
        protected()
        run_guarded(client, ToolAction("demo.tool", goal="mine", user_id=lambda: "u_1"), {}, lambda *_: 1)
    assert sent(gateway, "user_id") == ["u_1"] * 3
    assert sent(gateway, "goal") == ["demo", "mine", "mine"]


def test_inner_block_wins(gateway: Played) -> None:
    client = new_client(gateway.base_url)
    with client.bind(user_id="u_1", audience="a"), client.bind(user_id="u_2"):
        client.preflight(*DEMO)
    with contextlib.suppress(KeyError), client.bind(user_id="u_3"):
        raise KeyError
    client.preflight(*DEMO)
    assert (sent(gateway, "user_id"), sent(gateway, "audience")) == (["u_2", None], ["a", None])


def test_other_clients_are_not_affected(gateway: Played) -> None:
    client, other = new_client(gateway.base_url), new_client(gateway.base_url)
    with client.bind(user_id="u_1"), other.bind(audience="a"):
        client.preflight(*DEMO)
        other.preflight(*DEMO)
    assert (sent(gateway, "user_id"), sent(gateway, "audience")) == (["u_1", None], [None, "a"])


@pytest.mark.parametrize("asynchronous", [True, False])
def test_tasks_do_not_share_defaults(gateway: Played, asynchronous: bool) -> None:
    """Each of many concurrent tasks sends its own user, also after others entered and left their blocks."""

    async def main() -> None:
        client: Any = (new_async_client if asynchronous else new_client)(gateway.base_url)

        @client.protect(tool="demo.tool", goal="demo")
        async def ask(expected: str | None) -> None:
            await asyncio.sleep(0)

        async def agent(user: str) -> None:
            await ask(None)
            with client.bind(user_id=user):
                await asyncio.sleep(0.01)
                await asyncio.gather(ask(user), ask(user))
                await asyncio.sleep(0.01)
                await ask(user)
            await ask(None)

        await asyncio.gather(*(agent(f"u_{n}") for n in range(20)))

    run_loop(main())
    bodies = [json.loads(one["body"]) for one in gateway.seen()]
    assert len(bodies) == 100
    assert [(one.get("user_id"), one["args"]) for one in bodies] == [
        (one["args"]["expected"], one["args"]) for one in bodies
    ]


def test_threads_start_without_defaults(gateway: Played) -> None:
    client = new_client(gateway.base_url)
    with client.bind(user_id="u_7"):
        for ask in (
            contextvars.Context().run,
            contextvars.copy_context().run,
        ):
            thread = threading.Thread(target=ask, args=(client.preflight, *DEMO))
            thread.start()
            thread.join()
    assert sent(gateway, "user_id") == [None, "u_7"]


def test_a_missing_goal_is_named(gateway: Played) -> None:
    client = new_client(gateway.base_url)
    protected: Any = client.protect(tool="demo.tool")(lambda: pytest.fail("it ran"))
    with client.bind(user_id="u_7"):
        with pytest.raises(
            ActPassConfigError, match=r"\Agoal: expected a goal, found none: pass goal=, or bind one by"
        ):
            protected()
        with pytest.raises(ActPassConfigError, match=r"\Agoal: expected a goal, found none"):
            run_guarded(client, ToolAction("demo.tool"), {}, lambda *_: pytest.fail("it ran"))
    assert gateway.seen() == []


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize(
    ("member", "value"), [("goal", ""), ("goal", 3), ("user_id", 3), ("passport", b"p"), ("audience", ["a"])]
)
def test_rejects_invalid_defaults(member: str, value: Any, asynchronous: bool) -> None:
    client: Any = (new_async_client if asynchronous else new_client)("http://127.0.0.1:9")
    with pytest.raises(ActPassArgumentError, match=rf"\A{member}: expected") as caught:
        client.bind(**{member: value})
    assert caught.value.operation == "bind"


def test_a_block_is_entered_once() -> None:
    scope = new_client("http://127.0.0.1:9").bind(user_id="u_7")
    with scope, pytest.raises(ActPassArgumentError, match="bind: expected to be entered once"):
        scope.__enter__()
    with pytest.raises(ActPassArgumentError, match="bind: expected to be entered once"):
        scope.__enter__()


def test_a_block_is_left_where_it_was_entered() -> None:
    scope = new_client("http://127.0.0.1:9").bind(user_id="u_7")
    contextvars.Context().run(scope.__enter__)
    with pytest.raises(ActPassArgumentError, match="bind: expected to be left in the task or thread that entered it"):
        scope.__exit__(None, None, None)
