"""A refund needs approval by two people, one of finance and one of security, and not by its requester, Alice.

Alice's approval is refused, although she is of finance. The refund runs once Bob and Carol have approved it.

Usage: two_people.py GATEWAY, the path of the program ``actpass-gateway``.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from actpass import ActPassClient
from own_gateway import serving

POLICY = Path(__file__).with_suffix(".json")

#: Name, role and further settings of each key.
KEYS = {
    "agent-of-alice": 'role = "agent"\nagent = "support_agent"\nperson = "alice"',
    "alice": 'role = "approver"\ngroups = ["finance"]',
    "bob": 'role = "approver"\ngroups = ["finance"]',
    "carol": 'role = "approver"\ngroups = ["security"]',
}


def main(gateway: str) -> None:
    """Request a refund and let people vote on it."""
    keys = {name: f"apdv_{secrets.token_hex(32)}" for name in KEYS}
    with (
        serving(gateway, settings(keys)) as base_url,
        ActPassClient(keys["agent-of-alice"], agent_id="support_agent", base_url=base_url) as client,
    ):
        people = threading.Thread(target=vote, args=(base_url, keys), daemon=True)
        people.start()
        out = client.guard(
            goal="resolve_refund_request",
            tool="stripe.refund.create",
            args={"amount": 90000, "charge": "ch_1", "currency": "usd"},
            execute_fn=lambda ctx: "refunded",
            wait_for_approval=60,
        )
        people.join(timeout=10)
        print(f"refund  {out['decision']['reason_code']}  {out.get('result', 'did not run')}", flush=True)


def settings(keys: dict[str, str]) -> str:
    """Return the gateway's settings with these keys."""
    text = f'[[tenants]]\nid = "acme"\npolicy = {json.dumps(str(POLICY))}\n'
    for name, more in KEYS.items():
        digest = hashlib.sha256(keys[name].encode()).hexdigest()
        text += f'[[keys]]\nname = "{name}"\nhash = "sha256:{digest}"\ntenant = "acme"\n{more}\n'
    return text


def vote(base_url: str, keys: dict[str, str]) -> None:
    """Wait for the request, and let Alice, Bob and Carol approve it."""
    waiting: list[Any] = []
    while not waiting:
        waiting = ask(f"{base_url}/api/v1/approvals", keys["bob"])["approvals"]
        time.sleep(0.1)
    for person in ("alice", "bob", "carol"):
        answer = ask(f"{base_url}/api/v1/approvals/{waiting[0]['id']}/approve", keys[person], b"{}")
        if "error" in answer:
            print(f"{person:<6}  refused: {answer['error']['code']}", flush=True)
        else:
            needed = [group for seat in answer["still_needed"] for group in seat["groups"]]
            more = f", still needed: {', '.join(needed)}" if needed else ""
            print(f"{person:<6}  {answer['status']}{more}", flush=True)


def ask(url: str, key: str, body: bytes | None = None) -> Any:
    """Call the gateway; return the response, also if it is an error."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
