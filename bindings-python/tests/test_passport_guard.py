"""Passports at the server's side, over the table that the proxy and Node share."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Optional

import pytest
from actpass import ActPassConfigError, ActPassConnectionError, AsyncActPassClient, ToolAction
from actpass.integrations.passports import PassportGuard, passport_of
from support import Gateway, new_client

ROOT = Path(__file__).resolve().parents[2]
TABLE: dict[str, Any] = json.loads((ROOT / "mcp/tests/passports.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = TABLE["cases"]
ACTION = ToolAction(TABLE["tool"], goal="another goal", user_id="another user")


def test_table_is_complete() -> None:
    assert len(CASES) == 17


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_required_passports_are_verified_and_used_once(gateway: Gateway, case: dict[str, Any], kind: str) -> None:
    token = present(gateway, case)
    ran: list[Any] = []
    client: Any = gateway.client()
    if kind == "async":
        client = AsyncActPassClient("apk_dev", base_url=gateway.base_url)
    guard = PassportGuard(client, TABLE["audience"])
    for at, expected in enumerate(case["expected"]):
        arguments = case["calls"][at] if "calls" in case else case.get("arguments", TABLE["arguments"])
        before = len(ran)
        passport = passport_of(None if token is None else {"actpass/passport": token})
        if kind == "sync":
            outcome = guard.run(passport, ACTION, arguments, lambda args, _: ran.append(args))
        else:
            outcome = asyncio.run(guard.run_async(passport, ACTION, arguments, lambda args, _: ran.append(args)))
        if expected == "ran":
            assert outcome["executed"] and ran[before:] == [arguments], outcome
        else:
            assert (outcome["decision"]["decision"], outcome["decision"]["reason_code"]) == ("deny", expected)
            assert not outcome["executed"] and len(ran) == before


def issue(gateway: Any, case: dict[str, Any]) -> dict[str, Any]:
    request = {**TABLE["issue"], "agent_id": "planner", **case.get("issue", {})}
    issued: dict[str, Any] = gateway.post("/api/v1/passports/issue", request)
    return issued


def present(gateway: Any, case: dict[str, Any]) -> Optional[str]:
    issued = issue(gateway, case)
    token: str = issued["token"]
    way = case.get("present")
    if way is None:
        return token
    if way == "nothing":
        return None
    if way == "text":
        return "not a passport"
    if way == "changed":
        other = issue(gateway, {"issue": {"resource_constraints": {}}})["token"]
        return f"{other.rpartition('.')[0]}.{token.rpartition('.')[2]}"
    if way == "revoked":
        gateway.post("/api/v1/passports/revoke", {"jti": issued["jti"]}, operator=True)
        return token
    assert way == "expired"
    # Beyond the leeway of an offline verification.
    until = time.monotonic() + 12
    while time.monotonic() < until:
        time.sleep(0.1)
    return token


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_either_client_guards_either_way(gateway: Gateway, kind: str) -> None:
    client: Any = gateway.client()
    if kind == "async":
        client = AsyncActPassClient("apk_dev", base_url=gateway.base_url)
    guard = PassportGuard(client, TABLE["audience"])
    for is_async in (False, True):
        token = present(gateway, {})
        for expected in (True, False):
            if is_async:
                outcome = asyncio.run(guard.run_async(token, ACTION, TABLE["arguments"], lambda *_: 1))
            else:
                outcome = guard.run(token, ACTION, TABLE["arguments"], lambda *_: 1)
            assert outcome["executed"] is expected, outcome


@pytest.mark.parametrize(
    ("meta", "headers", "expected"),
    [
        ({"actpass/passport": "a.b.c"}, {"authorization": "Bearer d.e.f"}, "a.b.c"),
        ({}, {"authorization": "bearer  d.e.f"}, "d.e.f"),
        (None, {"authorization": "Basic d.e.f"}, None),
        (None, {"authorization": "Bearer "}, None),
        ({"actpass/passport": 7}, {"authorization": "Bearer d.e.f"}, None),
        (None, None, None),
    ],
)
def test_passport_is_read_from_meta_or_authorization(meta: Any, headers: Any, expected: Optional[str]) -> None:
    assert passport_of(meta, headers) == expected


@pytest.mark.parametrize("mode", ["warn", "monitor"])
def test_modes_that_do_not_spend_passports_are_rejected(gateway: Gateway, mode: Any) -> None:
    with pytest.raises(ActPassConfigError, match="mode: expected 'enforce' or 'strict'"):
        PassportGuard(gateway.client(mode=mode), "mcp://stripe")
    guard = PassportGuard(gateway.client(), "mcp://stripe")
    with pytest.raises(ActPassConfigError, match="mode: expected"):
        guard.run("a.b.c", ToolAction("t", goal="g", mode=mode), {}, lambda *_: pytest.fail("ran"))


def test_options_are_checked(gateway: Gateway) -> None:
    with pytest.raises(ActPassConfigError, match="audience: expected a non-empty string"):
        PassportGuard(gateway.client(), "")
    with pytest.raises(ActPassConfigError, match="client: expected an ActPassClient"):
        PassportGuard("client", "mcp://stripe")  # type: ignore[arg-type]


def test_unavailable_keys_run_nothing(gateway: Gateway) -> None:
    token = issue(gateway, {})["token"]
    guard = PassportGuard(new_client("http://127.0.0.1:9", max_retries=0), "mcp://stripe")
    with pytest.raises(ActPassConnectionError):
        guard.run(token, ACTION, TABLE["arguments"], lambda *_: pytest.fail("ran"))
