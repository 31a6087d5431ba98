"""``decern``: a client of AuthZEN that runs nothing itself. The function runs if ``allowed`` is true."""

from __future__ import annotations

from typing import Any, Callable

from decern import Client
from kit import Blocked, serve


def guard(case: dict[str, Any], run: Callable[[], None]) -> Any:
    client = Client(case["base_url"], timeout=case["options"]["timeout"], token=case["api_key"])
    decision = client.evaluate(
        subject={"type": "agent", "id": case["agent_id"]},
        action=case["action"]["tool"],
        resource={"type": "tool", "id": case["action"]["resource"]},
        context=case["action"]["args"],
    )
    if not decision.allowed:
        raise Blocked({"decision": "deny", "reasons": decision.reasons})
    run()
    return {"decision": "allow", "reasons": decision.reasons}


serve(guard)
