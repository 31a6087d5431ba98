"""Two tools of an agent on an event loop: each call is judged first, and a refusal tells the model what to do.

python examples/python/tools.py target/release/actpass-gateway
"""

from __future__ import annotations

import asyncio
import sys

from actpass import ActionBlockedError, AsyncActPassClient
from own_gateway import AGENT_KEY, running


async def main(base_url: str) -> None:
    """Let a model's calls of tools come in, all at once."""
    async with AsyncActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client:

        @client.protect(tool="stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
        async def refund(charge: str, amount: int, currency: str = "usd") -> str:
            """Pay a charge back."""
            await asyncio.sleep(0.01)  # Here the payment provider is called.
            return f"refunded {amount / 100:.2f} {currency} of {charge}"

        @client.protect(tool="crm.note.add", goal="resolve_refund_request", redact=["text"])
        async def note(customer: str, text: str) -> str:
            """Write down what was done."""
            return f"noted {len(text)} letters about {customer}"

        calls = [refund("ch_123", 4900), refund("ch_123", 25000), refund("ch_123", 90000), note("cus_1", "paid back")]
        for said in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(said, BaseException) and not isinstance(said, ActionBlockedError):
                raise said
            print(said)


if __name__ == "__main__":
    with running(sys.argv[1]) as (url, _):
        asyncio.run(main(url))
