"""An agent has a budget of 500 dollars a day for small refunds. Its sixth refund of 100 dollars needs human approval.

The budget is in the policy ``policies/refunds.json``. Approve the refund within a minute, on the page that the example
prints. With ``--approve`` the example approves it itself.

Usage: daily_budget.py GATEWAY [--approve], the path of the program ``actpass-gateway``.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from actpass import ActPassClient
from approval import attend
from own_gateway import AGENT_KEY, running

POLICY = Path(__file__).resolve().parents[2] / "policies" / "refunds.json"


def main(gateway: str, *, approve: bool) -> None:
    """Refund 100 dollars six times, then a seventh time."""
    with (
        running(gateway, str(POLICY)) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
    ):
        for charge in range(1, 6):
            report(charge, refund(client, charge))
        person = threading.Thread(target=attend, args=(base_url, approve, []), daemon=True)
        person.start()
        report(6, refund(client, 6, wait_for_approval=60))
        person.join(timeout=10)
        report(7, refund(client, 7))


def refund(client: ActPassClient, charge: int, **more: Any) -> Any:
    """Refund 100 dollars of a charge if the gateway allows it."""
    return client.guard(
        goal="resolve_refund_request",
        tool="stripe.refund.create",
        resource=f"stripe:charge:ch_{charge}",
        args={"amount": 10000, "charge": f"ch_{charge}", "currency": "usd"},
        execute_fn=lambda ctx: "refunded",
        **more,
    )


def report(charge: int, out: Any) -> None:
    """Print a row about an outcome."""
    decision = out["decision"]
    used = decision["explain"]["budgets"][0]["used"] / 100
    said = f"{decision['decision']:<17} {decision['reason_code']:<24} {used:6.2f} used"
    print(f"ch_{charge}  {said}  {out.get('result', 'did not run')}", flush=True)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--approve"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], approve="--approve" in sys.argv)
