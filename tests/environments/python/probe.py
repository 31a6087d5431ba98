"""The program of every environment: an allowed refund and a denied refund."""

from __future__ import annotations

import json
import os

from actpass import ActPassClient, AsyncActPassClient

BASE_URL = os.environ.get("ACTPASS_API_BASE_URL")


def action(amount: int) -> dict[str, object]:
    """Return the action of a refund of ``amount`` cents."""
    return {
        "goal": "resolve_refund_request",
        "tool": "stripe.refund.create",
        "args": {"amount": amount, "currency": "usd"},
    }


def probe(client: ActPassClient | None = None) -> str:
    """Return the results of both refunds."""
    client = client or ActPassClient()
    ran: list[int] = []

    def refund(amount: int) -> int:
        ran.append(amount)
        return amount

    allowed = client.guard(**action(4900), execute_fn=lambda _: refund(4900))
    denied = client.guard(**action(90000), execute_fn=lambda _: refund(90000))
    return shown(allowed.get("result"), denied["decision"]["reason_code"], ran)


async def probe_async(client: AsyncActPassClient | None = None) -> str:
    """Return the results of both refunds with the async client."""
    client = client or AsyncActPassClient()
    ran: list[int] = []

    async def refund(amount: int) -> int:
        ran.append(amount)
        return amount

    allowed = await client.guard(**action(4900), execute_fn=lambda _: refund(4900))
    denied = await client.guard(**action(90000), execute_fn=lambda _: refund(90000))
    return shown(allowed.get("result"), denied["decision"]["reason_code"], ran)


def shown(result: object, denied: object, ran: list[int]) -> str:
    """Return the text that the environments compare, identical in every language."""
    return json.dumps({"result": result, "denied": denied, "ran": ran}, separators=(",", ":"))


if __name__ == "__main__":
    print(probe(), flush=True)
