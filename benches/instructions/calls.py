"""Make one kind of call of the Python package a given number of times and exit, for counts by valgrind.

Usage: calls.py FOLDER CASE CALLS URL

FOLDER has the package, URL is a server's. ``scripts/instructions`` runs it.
"""

import gc
import sys

ACTION = {
    "goal": "resolve_refund_request",
    "tool": "stripe.refund.create",
    "args": {"amount": 4900, "currency": "usd"},
    "resource": "stripe:charge:ch_123",
}


def main() -> None:
    """Make the calls."""
    folder, case, calls, url = sys.argv[1:]
    sys.path.insert(0, folder)
    # A collection costs more than a call, and the calls leave no cycles.
    gc.disable()
    {"python_guard": guard, "python_hash": hash_payload}[case](int(calls), url)


def guard(calls: int, url: str) -> None:
    """Guard a function that is created for each call, as a closure over its arguments."""
    from actpass import ActPassClient  # noqa: PLC0415

    client = ActPassClient("apk_bench", base_url=url)
    for _ in range(calls):
        outcome = client.guard(**ACTION, execute_fn=lambda _: None)
        if not outcome["executed"]:
            raise SystemExit(outcome["decision"])


def hash_payload(calls: int, _: str) -> None:
    """Hash the action."""
    from actpass import ActPassClient  # noqa: PLC0415

    for _ in range(calls):
        ActPassClient.hash_payload(ACTION)


main()
