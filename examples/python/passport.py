"""A passport limits the amount that an agent may refund, and is single-use.

The policy alone requires approval for a refund of 250 dollars. A passport of at most 100 dollars denies it. A refund of
49 dollars runs; using the same passport again is denied.

Usage: passport.py GATEWAY, the path of the program ``actpass-gateway``.
"""

from __future__ import annotations

import sys
from typing import Any

from actpass import ActPassClient
from own_gateway import AGENT_KEY, running

AUDIENCE = "mcp://stripe-production"


def main(gateway: str) -> None:
    """Try three refunds with one passport."""
    with (
        running(gateway) as (base_url, _),
        ActPassClient(AGENT_KEY, tenant_id="dev", agent_id="support_agent", base_url=base_url) as client,
    ):
        issued = client.issue_passport(
            audience=AUDIENCE,
            goal="resolve_refund_request",
            allowed_tools=["stripe.refund.create"],
            allowed_resources=["stripe:charge:ch_123"],
            resource_constraints={"max_amount": 10000, "currency": "usd"},
        )
        token = issued["token"]
        verified = client.verify_passport_offline(token, AUDIENCE)
        print(f"passport {issued.get('jti')}, valid offline: {verified['valid']}")
        for cents in (25000, 4900, 4900):
            out: Any = client.guard(
                goal="resolve_refund_request",
                tool="stripe.refund.create",
                resource="stripe:charge:ch_123",
                args={"amount": cents, "currency": "usd"},
                passport=token,
                audience=AUDIENCE,
                execute_fn=lambda ctx: print("  ... refunded"),
            )
            ran = "ran" if out["executed"] else "did not run"
            print(f"{cents / 100:>8.2f}  {out['decision']['decision']:<6} {out['decision']['reason_code']:<24} {ran}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
