"""A passport bounds what an agent may refund, by value, and is used once.

The policy alone would send a refund of 250 dollars to a person. Under a passport of at most 100 dollars it is denied by
that value. A refund of 49 dollars runs, and the same passport shown again is denied.

Usage: passport.py GATEWAY, the path of the program ``actpass-gateway``.
"""

from __future__ import annotations

import sys
from typing import Any

from actpass import ActPassClient
from own_gateway import AGENT_KEY, running

AUDIENCE = "mcp://stripe-production"


def main(gateway: str) -> None:
    """Try three refunds under one passport."""
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
        print(f"passport {issued.get('jti')}, valid here without asking: {verified['valid']}")
        for cents in (25000, 4900, 4900):
            out: Any = client.guard(
                goal="resolve_refund_request",
                tool="stripe.refund.create",
                resource="stripe:charge:ch_123",
                args={"amount": cents, "currency": "usd"},
                passport=token,
                audience=AUDIENCE,
                execute_fn=lambda ctx: print("  ... the money goes back"),
            )
            ran = "ran" if out["executed"] else "did not run"
            print(f"{cents / 100:>8.2f}  {out['decision']['decision']:<6} {out['decision']['reason_code']:<24} {ran}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
