"""An agent may refund an order only after it looked that order up, and only once.

The conditions on earlier decisions are in the policy ``after_lookup.json``.

Usage: after_lookup.py GATEWAY, the path of the program ``actpass-gateway``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from actpass import ActPassClient
from own_gateway import AGENT_KEY, running

POLICY = Path(__file__).with_suffix(".json")


def main(gateway: str) -> None:
    """Refund an order before and after its lookup, twice, and an order without lookup."""
    with (
        running(gateway, str(POLICY)) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
    ):
        act(client, "refunds.create", "ord_1")
        act(client, "orders.lookup", "ord_1")
        act(client, "refunds.create", "ord_2")
        act(client, "refunds.create", "ord_1")
        act(client, "refunds.create", "ord_1")


def act(client: ActPassClient, tool: str, order_id: str) -> None:
    """Run a tool if the gateway allows it, and print a row about the outcome."""
    out = client.guard(
        goal="resolve_refund_request",
        tool=tool,
        args={"order_id": order_id},
        execute_fn=lambda ctx: "ran",
    )
    decision = out["decision"]
    said = f"{decision['decision']:<6} {decision['reason_code']:<20}"
    print(f"{tool:<15} {order_id}  {said} {out.get('result', 'did not run')}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
