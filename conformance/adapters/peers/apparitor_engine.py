"""``apparitor``: its engine and its predicate for calls inside an agent, over AuthZEN, without retries."""

from __future__ import annotations

import asyncio
from typing import Any, Callable

from apparitor import AuthorizationEngine, ScannerConfig
from apparitor.decision import is_allowed_inline
from kit import Blocked, serve


def guard(case: dict[str, Any], run: Callable[[], None]) -> Any:
    config = ScannerConfig(
        pdp_url=case["base_url"],
        agent_id=case["agent_id"],
        default_headers={"authorization": f"Bearer {case['api_key']}"},
        request_budget_s=case["options"]["timeout"],
        max_retries=case["options"]["max_retries"],
        allow_insecure_pdp=True,
    )
    call = {"id": "call_1", "name": case["action"]["tool"], "args": case["action"]["args"]}
    verdict = asyncio.run(AuthorizationEngine(config).evaluate_tool_calls([call]))
    decision = {"decision": verdict.verdict.value, "reason": verdict.reason, "status": verdict.status.value}
    if not is_allowed_inline(verdict):
        raise Blocked(decision)
    run()
    return decision


serve(guard)
