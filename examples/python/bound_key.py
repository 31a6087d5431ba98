"""An API key that is bound to a private key (DPoP): with the private key it works, and a thief's copy does not.

The gateway's program makes the private key and prints its thumbprint, to which the settings bind the API key. Nonces
of the gateway are on, so the first request is repeated with one.

Usage: bound_key.py GATEWAY, the path of the program ``actpass-gateway``.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from actpass import ActPassClient, dpop_thumbprint
from own_gateway import serving

POLICY = Path(__file__).parents[2] / "policies" / "dev.json"


def main(gateway: str) -> None:
    """Refund with both keys, with the API key alone, and with the API key and another private key."""
    api_key = f"apk_{secrets.token_hex(32)}"
    own, foreign = new_key(gateway), new_key(gateway)
    with serving(gateway, settings(api_key, dpop_thumbprint(own))) as base_url:
        for holder, key in [("agent", own), ("thief without a key", None), ("thief with a key", foreign)]:
            with ActPassClient(api_key, agent_id="support_agent", base_url=base_url, dpop_key=key) as client:
                out = client.guard(
                    goal="resolve_refund_request",
                    tool="stripe.refund.create",
                    resource="stripe:charge:ch_1",
                    args={"amount": 4900, "currency": "usd"},
                    execute_fn=lambda ctx: "refunded",
                    record_outcome=True,
                )
            print(f"{holder:<20} {out['decision']['reason_code']:<24} {out.get('result', 'did not run')}")


def new_key(gateway: str) -> str:
    """Return a new private key in PEM."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dpop.pem")
        subprocess.run([gateway, "key", "dpop", path, "--new"], check=True, stdout=subprocess.DEVNULL)
        return path.read_text(encoding="ascii")


def settings(api_key: str, thumbprint: str) -> str:
    """Return the gateway's settings with one key, which is bound."""
    digest = hashlib.sha256(api_key.encode()).hexdigest()
    return (
        "dpop_nonce = true\n"
        f'[[tenants]]\nid = "acme"\npolicy = {json.dumps(str(POLICY))}\n'
        f'[[keys]]\nname = "support-agent"\nhash = "sha256:{digest}"\ntenant = "acme"\nrole = "agent"\n'
        f'agent = "support_agent"\ndpop_jkt = "{thumbprint}"\n'
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: bound_key.py GATEWAY")
    main(sys.argv[1])
