"""Policies with budgets and history conditions, whose limits no measurement reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def limiting_policy(tools: Sequence[str], budgets: int = 0, history_of: str | None = None) -> dict[str, Any]:
    """Return a policy that allows the tools, a rule each.

    Every budget has an account for each agent. With ``history_of``, each rule counts the calls of its tool with the
    same value at that path.
    """
    return {
        "id": "bench",
        "version": 1,
        "rules": [rule(f"r{number}", tool, history_of) for number, tool in enumerate(tools)],
        "budgets": [budget(number) for number in range(budgets)],
    }


def rule(name: str, tool: str, history_of: str | None) -> dict[str, Any]:
    """Return a rule that allows a tool."""
    is_tool = {"path": "tool", "operator": "==", "value": tool}
    when: list[dict[str, Any]] = [is_tool]
    if history_of is not None:
        counted = {"history": "count", "of": [is_tool], "within": "30d", "same": [history_of]}
        when.append({**counted, "operator": "<", "value": 10**9})
    return {"name": name, "when": when, "decision": "allow", "reason": "ok"}


def budget(number: int) -> dict[str, Any]:
    """Return a budget of each agent's amounts."""
    return {
        "name": f"budget_{number}",
        "when": [],
        "per": ["agent_id"],
        "sum": "args.amount",
        "limit": 10**17,
        "window": "30d",
        "on_exceed": "deny",
        "reason": "limit",
    }
