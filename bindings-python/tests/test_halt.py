"""Stops: the signal of a running function, refused permits, and the test kit."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from actpass import ActionBlockedError, HaltedError, HaltSignal
from actpass.testing import ScriptedGateway, allow, require_approval

REFUND = ("resolve_refund_request", "stripe.refund.create", {"amount": 4900})
NOTE = ("resolve_refund_request", "crm.note.add", {})


@pytest.fixture
def gateway():
    with ScriptedGateway() as gateway:
        gateway.allow()
        yield gateway


def acknowledged(gateway: ScriptedGateway, count: int) -> list[tuple[int, int]]:
    until = time.monotonic() + 20
    while len(gateway.acknowledgements) < count and time.monotonic() < until:
        time.sleep(0.01)
    return [(one["epoch"], one["in_flight"]) for one in gateway.acknowledgements]


def watched(gateway: ScriptedGateway) -> bool:
    return any(path.startswith("/api/v1/halts/watch") for _, path, _ in gateway._state.requests())


def test_signals_running_function_of_blocking_client(gateway: ScriptedGateway) -> None:
    seen = []

    def refund(ctx):
        seen.append(ctx["halt"].halted)
        while not watched(gateway):
            time.sleep(0.01)
        gateway.halt("tool", "stripe.refund.create", reason="wrong amounts")
        seen.append(ctx["halt"].wait(timeout=20))
        seen.append(ctx["halt"].halted)
        return "re_1"

    out = gateway.client(agent_id="refunds").guard(*REFUND, refund)
    assert (out["result"], out["decision"]["decision"], seen) == ("re_1", "allow", [False, True, True])
    assert acknowledged(gateway, 2) == [(1, 1), (1, 0)]
    assert {one["agent_id"] for one in gateway.acknowledgements} == {"refunds"}


def test_other_tool_is_not_signalled(gateway: ScriptedGateway) -> None:
    def refund(ctx):
        while not watched(gateway):
            time.sleep(0.01)
        gateway.halt("tool", "crm.note.add")
        acknowledged(gateway, 1)
        return ctx["halt"].wait(timeout=0)

    assert gateway.client().guard(*REFUND, refund)["result"] is False
    assert acknowledged(gateway, 2) == [(1, 1), (1, 0)]


def test_signals_running_function_of_async_client(gateway: ScriptedGateway) -> None:
    async def main():
        async with gateway.async_client() as client:

            async def refund(ctx):
                while not watched(gateway):
                    await asyncio.sleep(0.01)
                gateway.halt("all")
                await asyncio.wait_for(ctx["halt"].wait_async(), 20)
                await ctx["halt"].wait_async()
                return ctx["halt"].halted

            async def note(ctx):
                return await ctx["halt"].cancelling(asyncio.sleep(60))

            return await asyncio.gather(client.guard(*REFUND, refund), client.guard(*NOTE, note))

    refunded, noted = asyncio.run(main())
    assert refunded["result"] is True
    assert noted["executed"] is True
    assert (type(noted["error"]), str(noted["error"])) == (HaltedError, "the action was stopped")


def test_cancelling_returns_result_and_raises_its_error() -> None:
    async def fail():
        raise ValueError("its own")

    async def main():
        signal = HaltSignal()
        assert not signal.halted
        assert await signal.cancelling(asyncio.sleep(0, "result")) == "result"
        with pytest.raises(ValueError, match="its own"):
            await signal.cancelling(fail())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(signal.wait_async(), 0.01)

    asyncio.run(main())
    assert HaltSignal().wait(timeout=0) is False
    assert repr(HaltSignal()) == "HaltSignal(halted=False)"


def test_permit_of_older_epoch_is_refused(gateway: ScriptedGateway) -> None:
    with gateway.client() as client:
        permit = client.authorize(*REFUND)
        gateway.halt("tool", "crm.note.add")
        assert client.preflight(*NOTE)["reason_code"] == "halted"
        with pytest.raises(ActionBlockedError) as raised:
            permit.spend()
        blocked = raised.value
        assert (blocked.code, blocked.retryable, blocked.__cause__) == ("actpass.halted", True, None)
        assert str(blocked).endswith("but a stop was issued or lifted before it ran. Retry the same call.")
        assert client.guard(*REFUND, lambda ctx: "re_1")["result"] == "re_1"


def test_stop_ends_wait_and_keeps_handle() -> None:
    with ScriptedGateway() as gateway, gateway.client() as client:
        gateway.answer(require_approval(id="apr_1"))
        stop = threading.Timer(0.2, gateway.halt, ["all"], {"reason": "wrong amounts"})
        stop.start()
        out = client.guard(*REFUND, lambda ctx: "re_1", wait_for_approval=60)
        stop.join()
        assert (out["executed"], out["decision"]["reason_code"]) == (False, "halted")
        assert out["decision"]["explain"]["summary"] == "Stopped by test: wrong amounts"
        assert out["approval"]["approval_request_id"] == "apr_1"
        gateway.lift()
        gateway.approve("apr_1")
        assert client.resume(out["approval"], lambda ctx: "re_1")["result"] == "re_1"


def test_context_without_stops_is_never_signalled(gateway: ScriptedGateway) -> None:
    gateway.answer(allow(halt_epoch=None))
    out = gateway.client().guard(*REFUND, lambda ctx: ctx["halt"].wait(timeout=1.5))
    assert out["result"] is False
    assert not watched(gateway)
