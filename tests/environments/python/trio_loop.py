"""A program on trio; an argument applies the documented line."""

from __future__ import annotations

import sys

import trio
from probe import probe, probe_async


async def main() -> None:
    """Run."""
    print(await trio.to_thread.run_sync(probe) if sys.argv[1:] else await probe_async())


trio.run(main)
