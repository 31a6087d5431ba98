"""What the two clients do each in its own way, beside waiting: all else is written once, in `_async`."""

from __future__ import annotations

import contextlib

from ._settings import Settings


class Awaited(Settings):
    """A client whose calls are awaited, while a background thread makes them."""

    __slots__ = ()

    _background = True

    def _asynchronous(self) -> Settings:
        """Return the client by which protected ``async def`` functions ask."""
        return self


class Blocking(Settings):
    """A client whose calls hold the calling thread, which makes them."""

    __slots__ = ("_beside",)

    _beside: Settings

    def _asynchronous(self) -> Settings:
        """Return the client by which protected ``async def`` functions ask."""
        from ._async import AsyncActPassClient  # noqa: PLC0415

        try:
            return self._beside
        except AttributeError:
            beside = AsyncActPassClient.__new__(AsyncActPassClient)
            beside._hold(self._native.background(), self._default)
            self._beside = beside
            return beside

    def _close(self) -> None:
        super()._close()
        with contextlib.suppress(AttributeError):
            self._beside._close()
