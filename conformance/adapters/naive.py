"""A guard with the usual mistakes, for the tests of actpass-conformance. Do not copy it.

It runs the function if the gateway is unreachable, and after any response with status 200.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any


def is_allowed(case: dict[str, Any]) -> bool:
    request = urllib.request.Request(
        case["base_url"] + "/api/v1/actions/preflight",
        json.dumps({**case["action"], "mode": case["mode"], "agent_id": case["agent_id"]}).encode(),
        {"authorization": f"Bearer {case['api_key']}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=case["options"]["timeout"]) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError:
        return False
    except Exception:
        return True


for line in sys.stdin:
    case = json.loads(line)
    allowed = is_allowed(case)
    if allowed:
        with open(case["run_log"], "ab") as log:
            log.write(b"x")
    decision = {"decision": "allow" if allowed else "deny"}
    reply = {"executed": int(allowed), "outcome": "returned" if allowed else "blocked", "decision": decision}
    print(json.dumps(reply), flush=True)
