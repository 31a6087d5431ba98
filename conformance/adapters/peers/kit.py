"""The loop of the adapters of peers, and the count of runs."""

from __future__ import annotations

import json
import sys
from typing import Any, Callable


class Unsupported(Exception):  # noqa: N818
    """The peer lacks a feature that the case needs."""


class Blocked(Exception):  # noqa: N818
    """The peer reported a decision and did not run the function."""

    def __init__(self, decision: dict[str, Any]) -> None:
        super().__init__(decision)
        self.decision = decision


def serve(guard: Callable[[dict[str, Any], Callable[[], None]], Any]) -> None:
    """Run each case of standard input: ``guard(case, run)`` calls ``run`` if the peer permits it."""
    for line in sys.stdin:
        case = json.loads(line)
        runs = 0

        def run(log: str = case["run_log"]) -> None:
            nonlocal runs
            with open(log, "ab") as file:
                file.write(b"x")
            runs += 1

        reply: dict[str, Any] = {}
        try:
            reply["decision"] = guard(case, run)
            reply["outcome"] = "returned"
        except Unsupported as reason:
            reply.update(outcome="unsupported", reason=str(reason))
        except Blocked as blocked:
            reply.update(outcome="blocked", decision=blocked.decision)
        except Exception as error:
            reply.update(outcome="failed", reason=repr(error))
        print(json.dumps({"executed": runs, **reply}), flush=True)
