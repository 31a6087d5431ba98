"""The client 1.1.3 of the package index, which has the same protocol."""

from __future__ import annotations

from typing import Any, Callable

from actpass import ActPassClient
from kit import Blocked, Unsupported, serve


def guard(case: dict[str, Any], run: Callable[[], None]) -> Any:
    options, action = case["options"], case["action"]
    if case["ca_pem"] is not None or options.keys() - {"timeout", "connect_timeout", "max_retries"}:
        raise Unsupported("no setting for certificate authorities, circuit breakers and approval keys")
    if options["max_retries"] or case["changed_args"] or case["record_outcome"] or case["ends"] != "returned":
        raise Unsupported("no retries, permits and records of outcomes")
    if action.keys() & {"approval_request_id", "tool_manifest_hash"}:
        raise Unsupported("no such member of an action")
    client = ActPassClient(case["api_key"], None, case["agent_id"], case["base_url"], timeout=options["timeout"])
    for _ in range(case["calls_before"]):
        client.preflight(**action, mode=case["mode"])
    outcome = client.guard(execute_fn=lambda _: run(), **action, mode=case["mode"])
    if "result" not in outcome and "error" not in outcome:
        raise Blocked(outcome["decision"])
    return outcome["decision"]


serve(guard)
