"""Runs a block of the documentation: reader.py FILE PLACE.

The names below are in the program of the reader around the block. A block of a test is run by pytest, and one
that awaits in an event loop.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import os
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from actpass import ActPassClient


def names() -> dict[str, Any]:
    client = ActPassClient(agent_id="support_agent")
    action = {
        "goal": "resolve_refund_request",
        "tool": "stripe.refund.create",
        "args": {"amount": 4900, "currency": "usd"},
    }

    def create(charge: str, amount: int) -> dict[str, Any]:
        return {"id": "re_1", "charge": charge, "amount": amount}

    stripe = SimpleNamespace(Refund=SimpleNamespace(create=create))
    return {"__name__": "block", "client": client, "action": action, "stripe": stripe, "os": os}


def main() -> None:
    file, place = sys.argv[1:]
    text = Path(file).read_text(encoding="utf-8")
    if "def test_" in text:
        import pytest  # noqa: PLC0415

        test = Path(file).with_suffix(".py")
        test.write_text(text)
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(test.parent), str(test)]))
    if "sys.stdin" in text:
        # It reads a chain, of which this is the first event.
        names()["client"].preflight(**names()["action"])
        chain = f"{os.environ['ACTPASS_API_BASE_URL']}/api/v1/evidence/chains/decisions"
        key = {"authorization": f"Bearer {os.environ['ACTPASS_API_KEY']}"}
        sys.stdin = io.TextIOWrapper(urllib.request.urlopen(urllib.request.Request(chain, headers=key)))
    code = compile(text, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    found = names()
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, found))
    else:
        exec(code, found)


if __name__ == "__main__":
    main()
