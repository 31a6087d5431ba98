"""Panics inside the SDK deny the action and never reach the program."""

from __future__ import annotations

import asyncio
from typing import Any, Callable

import actpass
import pytest
from actpass import _native
from support import ACTION, ALLOW, MODES, Callback, Hostile, answer, new_async_client, new_client, within

breaks: Callable[[str], None] = getattr(_native, "break_next_call", pytest.fail)
pytestmark = pytest.mark.skipif(breaks is pytest.fail, reason="this build has no test hooks")

#: An address to which no call sends a request.
UNREACHABLE = "http://127.0.0.1:9"


def guard(base_url: str, how: str, callback: Callback, mode: Any) -> Any:
    with new_client(base_url) as client:
        breaks(how)
        return client.guard(execute_fn=callback, mode=mode, **ACTION)


def guard_async(base_url: str, how: str, callback: Callback, mode: Any) -> Any:
    async def main() -> Any:
        async with new_async_client(base_url) as client:
            breaks(how)
            return await client.guard(execute_fn=callback, mode=mode, **ACTION)

    return asyncio.run(main())


GUARD = pytest.mark.parametrize("guard", [guard, guard_async])


@GUARD
@pytest.mark.parametrize("mode", MODES)
def test_panic_in_the_sdk_denies(guard: Callable[..., Any], mode: str) -> None:
    callback = Callback()
    out = guard(UNREACHABLE, "panic", callback, mode)
    assert out["executed"] is (callback.runs == 1) is (mode == "monitor")
    assert (out["decision"]["decision"], out["decision"]["reason_code"]) == ("deny", "actpass.internal")
    assert isinstance(out["error"], actpass.ActPassInternalError)


@GUARD
@pytest.mark.parametrize("mode", ["enforce", "monitor"])
@pytest.mark.parametrize(("how", "asked"), [("conversion", 0), ("answer", 1)])
def test_panic_in_conversion_raises(
    hostile: Hostile, guard: Callable[..., Any], mode: str, how: str, asked: int
) -> None:
    callback = Callback()
    with hostile.play(answer(ALLOW)) as gateway:
        with pytest.raises(actpass.ActPassInternalError, match="a panic in the SDK"):
            guard(gateway.base_url, how, callback, mode)
        assert len(gateway.seen()) == asked
    assert callback.runs == 0


def test_hanging_call_can_be_cancelled() -> None:
    callback = Callback()

    async def main() -> None:
        async with new_async_client(UNREACHABLE) as client:
            breaks("hang")
            await asyncio.wait_for(client.guard(execute_fn=callback, mode="monitor", **ACTION), 0.1)

    with within(2), pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    assert callback.runs == 0
