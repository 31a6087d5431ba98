"""Calls of the native module, awaited."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import _native


async def answer(call: _native.Call) -> Any:
    """Await a call; cancel it if the task stops waiting."""
    try:
        return await call.future
    except BaseException:
        call.cancel()
        raise
