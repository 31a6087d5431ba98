"""A refund needs human approval. The approved refund runs once; another amount does not run under that approval.

Approve it within a minute, on the page or with the command that the example prints. With ``--approve`` the example
approves it itself.

Usage: approval.py GATEWAY [--approve], the path of the program ``actpass-gateway``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from typing import Any

from actpass import ActPassClient
from own_gateway import AGENT_KEY, OPERATOR_KEY, running


def main(gateway: str, *, approve: bool) -> None:
    """Wait for the approval of a refund, then try refunds that it does not cover."""
    with (
        running(gateway) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
    ):
        waiting: list[str] = []
        person = threading.Thread(target=attend, args=(base_url, approve, waiting), daemon=True)
        person.start()
        held = refund(client, 25000, wait_for_approval=60, record_outcome=True)
        report("250.00, held", held)
        person.join(timeout=10)
        for approval_request_id in waiting:
            report("250.00, again", refund(client, 25000, approval_request_id=approval_request_id))
            report("260.00, by that approval", refund(client, 26000, approval_request_id=approval_request_id))


def refund(client: ActPassClient, cents: int, **more: Any) -> Any:
    """Refund ``cents`` if the gateway allows it."""
    return client.guard(
        goal="resolve_refund_request",
        tool="stripe.refund.create",
        resource="stripe:charge:ch_123",
        args={"amount": cents, "currency": "usd"},
        execute_fn=lambda ctx: f"refunded {cents / 100:.2f}",
        **more,
    )


def report(what: str, out: Any) -> None:
    """Print a row about an outcome."""
    decision = out["decision"]
    said = f"{decision['decision']:<17} {decision['reason_code']:<26}"
    print(f"{what:<26} {said} {out.get('result', 'did not run')}", flush=True)


def attend(base_url: str, approve: bool, waiting: list[str]) -> None:
    """Poll pending approvals as an operator; print how to approve one, or approve it."""
    while not waiting:
        waiting += [one["id"] for one in ask(f"{base_url}/api/v1/approvals?status=pending")["approvals"]]
        time.sleep(0.1)
    url = f"{base_url}/api/v1/approvals/{waiting[0]}/approve"
    print(f"The refund needs approval: approve it at {base_url}/ with the key {OPERATOR_KEY}, or run")
    print(
        f"  curl -H 'authorization: Bearer {OPERATOR_KEY}' -H 'content-type: application/json' -d '{{}}' {url}",
        flush=True,
    )
    if approve:
        ask(url, b'{"note": "the parcel is back"}')


def ask(url: str, body: bytes | None = None) -> Any:
    """Call the gateway as an operator."""
    headers = {"authorization": f"Bearer {OPERATOR_KEY}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
        return json.load(answer)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--approve"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], approve="--approve" in sys.argv)
