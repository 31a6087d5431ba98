"""A support agent refunds customers, guarded by a local gateway.

The example tries refunds of 49, 250 and 900 dollars under the refund policy. Then it stops the gateway and tries one
refund in ``enforce`` and one in ``monitor``. The ledger file contains one line for each refund that ran.

Usage: refund.py GATEWAY LEDGER, the path of the program ``actpass-gateway`` and of a file to write.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from actpass import ActPassClient, GuardOutcome
from own_gateway import AGENT_KEY, running


def main(gateway: str, ledger: Path) -> None:
    """Try the refunds and print the decisions and what ran."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_text("")
    print_row("amount", "mode", "decision", "reason", "ran")
    with (
        running(gateway) as (base_url, stop),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
    ):
        for charge, cents in [("ch_1", 4900), ("ch_2", 25000), ("ch_3", 90000)]:
            guarded_refund(client, ledger, charge, cents, "enforce")
        chain = read_chain(base_url)
        stop()
        for charge, mode in [("ch_4", "enforce"), ("ch_5", "monitor")]:
            guarded_refund(client, ledger, charge, 1200, mode)
    print(f"\nevidence: {chain['length']} events, the chain {'verifies' if chain['valid'] else 'IS BROKEN'}")
    print(f"refunds that ran ({ledger}):")
    print(ledger.read_text(), end="")


def guarded_refund(client: ActPassClient, ledger: Path, charge: str, cents: int, mode: Any) -> None:
    """Refund ``charge`` if the gateway allows it, and print a row."""
    out: GuardOutcome[str] = client.guard(
        goal="resolve_refund_request",
        tool="stripe.refund.create",
        resource=f"stripe:charge:{charge}",
        args={"amount": cents, "currency": "usd"},
        execute_fn=lambda ctx: refund(ledger, charge, cents),
        mode=mode,
    )
    decision = out["decision"]
    print_row(
        f"{cents / 100:.2f}",
        mode,
        decision["decision"],
        decision["reason_code"],
        "yes" if out["executed"] else "no",
    )


def refund(ledger: Path, charge: str, cents: int) -> str:
    """Pay the refund; this example appends a line to a file instead."""
    with ledger.open("a") as file:
        file.write(json.dumps({"charge": charge, "amount": cents}) + "\n")
    return f"re_{charge}"


def read_chain(base_url: str) -> dict[str, Any]:
    """Have the gateway verify its chain of decisions."""
    request = urllib.request.Request(
        f"{base_url}/api/v1/evidence/chains/decisions/verify",
        headers={"authorization": f"Bearer {AGENT_KEY}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        chain: dict[str, Any] = json.load(answer)
        return chain


def print_row(amount: str, mode: str, decision: str, reason: str, ran: str) -> None:
    """Print a row of the table."""
    print(f"{amount:>8}  {mode:<8}  {decision:<17} {reason:<28} {ran}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
