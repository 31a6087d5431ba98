"""Adapter of actpass-conformance for the Python package ``actpass``. With ``--async``, for its asyncio client."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from actpass import ActionBlockedError, ActPassClient, AsyncActPassClient


class Stopped(BaseException):
    """Stops the function, as KeyboardInterrupt does."""


class Suspended(Exception):  # noqa: N818
    """The control-flow signal of a framework."""


class Function:
    """The guarded function of a case. It logs its run before anything else."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.runs = 0
        self.credential: str | None = None
        self.decision: dict[str, Any] | None = None

    def __call__(self, context: Any) -> None:
        with open(self.case["run_log"], "ab") as log:
            log.write(b"x")
        self.runs += 1
        self.decision = context["decision"]
        self.credential = (context["credential"] or {}).get("token")
        if self.case["ends"] == "failed":
            raise ValueError("the card is closed")
        if self.case["ends"] == "cancelled":
            raise Stopped
        if self.case["ends"] == "suspended":
            raise Suspended


def client(cls: Any, case: dict[str, Any]) -> Any:
    return cls(
        api_key=case["api_key"],
        agent_id=case["agent_id"],
        base_url=case["base_url"],
        ca=case["ca_pem"],
        **case["options"],
    )


def guard(case: dict[str, Any], function: Function) -> Any:
    action = {**case["action"], "mode": case["mode"]}
    record = case["record_outcome"]
    with client(ActPassClient, case) as actpass:
        for _ in range(case["calls_before"]):
            actpass.guard(execute_fn=lambda _: None, **action)
        if case["changed_args"] is None and case["ends"] != "suspended":
            return actpass.guard(execute_fn=function, record_outcome=record, **action)
        permit = actpass.authorize(record_outcome=record, **action)
        if isinstance(permit, dict):
            return permit
        context = permit.spend(case["changed_args"])
        try:
            return permit.returned(function(context))
        except Suspended:
            permit.suspended()
            raise


async def guard_async(case: dict[str, Any], function: Function) -> Any:
    action = {**case["action"], "mode": case["mode"]}
    record = case["record_outcome"]
    async with client(AsyncActPassClient, case) as actpass:
        for _ in range(case["calls_before"]):
            await actpass.guard(execute_fn=lambda _: None, **action)
        if case["changed_args"] is None and case["ends"] != "suspended":
            return await actpass.guard(execute_fn=function, record_outcome=record, **action)
        permit = await actpass.authorize(record_outcome=record, **action)
        if isinstance(permit, dict):
            return permit
        context = permit.spend(case["changed_args"])
        try:
            return await permit.returned(function(context))
        except Suspended:
            permit.suspended()
            raise


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    function = Function(case)
    reply: dict[str, Any] = {"decision": None, "reason": None}
    try:
        outcome = asyncio.run(guard_async(case, function)) if "--async" in sys.argv else guard(case, function)
        reply["decision"] = outcome["decision"]
        reply["outcome"] = "blocked" if not outcome["executed"] else "returned" if "result" in outcome else "failed"
        reply["reason"] = repr(outcome["error"]) if "error" in outcome else None
    except ActionBlockedError as blocked:
        reply.update(outcome="blocked", decision=blocked.decision)
    except (Exception, Stopped) as error:
        reply.update(outcome="failed", decision=function.decision, reason=repr(error))
    return {"executed": function.runs, "credential": function.credential, **reply}


for line in sys.stdin:
    print(json.dumps(run_case(json.loads(line))), flush=True)
