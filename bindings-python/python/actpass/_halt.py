"""The signal that the action of a running function was stopped."""

from __future__ import annotations

import sys

from . import _native
from ._call import answer

TYPE_CHECKING = False
if not TYPE_CHECKING:
    from ._lazy import _variables, abc, typing
else:
    import typing
    from collections import abc

    from . import _variables


class HaltedError(Exception):
    """A part of a function was cancelled because its action was stopped; see :meth:`HaltSignal.cancelling`."""


class HaltSignal:
    """Signals a running function that its action was stopped: ``ctx["halt"]``.

    The function decides what to do: it can finish, or end early. It is signalled if it has run for longer than a
    second, or if another response shows the stop; the gateway must support stops. Nothing is cancelled unless the
    function uses :meth:`cancelling`. Safe to use from any thread.

    >>> from actpass.testing import ScriptedGateway, allow
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(allow())
    ...     def refund_all(ctx):
    ...         gateway.halt("all", reason="wrong amounts")
    ...         return "stopped" if ctx["halt"].wait(timeout=10) else "refunded"
    ...     gateway.client().guard("resolve_refund_requests", "stripe.refund.create", {}, refund_all)["result"]
    'stopped'
    """

    __slots__ = ("_native",)

    def __init__(self, native: typing.Optional[_native.NativeHaltSignal] = None) -> None:
        """Create a signal that is never set, for tests."""
        self._native = native

    @property
    def halted(self) -> bool:
        """Whether the action was stopped. Never becomes ``False`` again."""
        return self._native is not None and self._native.halted

    def wait(self, timeout: typing.Optional[float] = None) -> bool:
        """Block until the action is stopped, at most ``timeout`` seconds. Return whether it was stopped.

        For threads; in an event loop, use :meth:`wait_async`. Ctrl-C ends the wait.
        """
        if self._native is None:
            import time  # noqa: PLC0415

            time.sleep(sys.maxsize if timeout is None else timeout)
            return False
        return self._native.wait(timeout)

    async def wait_async(self) -> None:
        """Wait until the action is stopped; for event loops. Use ``asyncio.wait_for`` for a timeout."""
        if self._native is None:
            await sys.modules["asyncio"].get_running_loop().create_future()
        else:
            await answer(self._native.call())

    async def cancelling(self, part: abc.Awaitable[_variables.T]) -> _variables.T:
        """Await ``part``, a part of the function that may be stopped at any point; cancel it if the action is stopped.

        Raises:
            HaltedError: ``part`` was cancelled. The outcome of the guard reports it as the function's error.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway, allow
        >>> async def main(gateway):
        ...     async with gateway.async_client() as client:
        ...         async def summarize(ctx):
        ...             asyncio.get_running_loop().call_later(0.1, gateway.halt, "all")
        ...             return await ctx["halt"].cancelling(asyncio.sleep(60))
        ...         return await client.guard("summarize_tickets", "crm.tickets.read", {}, summarize)
        >>> with ScriptedGateway() as gateway:
        ...     gateway.answer(allow())
        ...     asyncio.run(main(gateway))["error"]
        HaltedError('the action was stopped')
        """
        import asyncio  # noqa: PLC0415

        running = asyncio.ensure_future(part)
        halted = asyncio.ensure_future(self.wait_async())
        try:
            await asyncio.wait({running, halted}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            running.cancel()
            await asyncio.wait({running})
            if not running.cancelled():
                # It ended despite the cancellation.
                return running.result()
            raise HaltedError("the action was stopped")
        finally:
            halted.cancel()
            running.cancel()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: typing.Any, handler: typing.Any) -> typing.Any:
        """Return the pydantic schema: an instance, or its data with the member ``halted``."""
        from ._pydantic import halt_schema  # noqa: PLC0415

        return halt_schema(cls)

    def __repr__(self) -> str:
        """Show whether the action was stopped."""
        return f"HaltSignal(halted={self.halted})"
