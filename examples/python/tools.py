"""Two protected tools on an event loop: each call is authorized first; the message of a denial instructs the model.

python examples/python/tools.py target/release/actpass-gateway
"""

from __future__ import annotations

import asyncio
import sys

from actpass import ActionBlockedError, AsyncActPassClient
from own_gateway import AGENT_KEY, running


async def main(base_url: str) -> None:
    """Run concurrent tool calls of a model."""
    async with AsyncActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client:

        @client.protect(tool="stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
        async def refund(charge: str, amount: int, currency: str = "usd") -> str:
            """Refund a charge."""
            await asyncio.sleep(0.01)  # Call the payment provider here.
            return f"refunded {amount / 100:.2f} {currency} of {charge}"

        @client.protect(tool="crm.note.add", goal="resolve_refund_request", redact=["text"])
        async def note(customer: str, text: str) -> str:
            """Add a note to a customer."""
            return f"noted {len(text)} letters about {customer}"

        calls = [refund("ch_123", 4900), refund("ch_123", 25000), refund("ch_123", 90000), note("cus_1", "paid back")]
        for said in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(said, BaseException) and not isinstance(said, ActionBlockedError):
                raise said
            print(said)


if __name__ == "__main__":
    with running(sys.argv[1]) as (url, _):
        asyncio.run(main(url))
