"""The pytest plugin ``actpass.testing``, used as a user's tests use it: in a pytest of their own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import PACKAGE, WATCH, binary, within

AGENT = """
from actpass import ActPassClient, AsyncActPassClient

ran = []

def refund(amount, mode=None, wait=None):
    client = ActPassClient()  # By the environment, as the program makes it.
    return client.guard("refund", "stripe.refund.create", {"amount": amount}, lambda ctx: ran.append(ctx) or amount,
                        mode=mode, wait_for_approval=wait)

async def refund_later(amount):
    async with AsyncActPassClient() as client:
        return await client.guard("refund", "stripe.refund.create", {"amount": amount}, lambda ctx: amount)
"""

PASSING = """
import asyncio
import threading

import pytest
from actpass import ActionBlocked, ActPassConnectionError
from actpass.testing import allow, assert_executed, assert_not_executed, deny, require_approval, unreachable, warn
import agent


def test_unscripted_is_denied(actpass_gateway):
    out = agent.refund(1)
    assert out["decision"]["reason_code"] == "test.unscripted"
    assert_not_executed(out)
    actpass_gateway.assert_not_executed()
    actpass_gateway.assert_asked("stripe.refund.create", times=1)


def test_allow(actpass_gateway):
    actpass_gateway.allow("stripe.refund.create", credential="cred_vaulted")
    out = agent.refund(7)
    assert (out["result"], agent.ran[-1]["credential"]["token"]) == (7, "cred_vaulted")
    assert asyncio.run(agent.refund_later(8))["result"] == 8
    assert_executed(out)
    actpass_gateway.assert_executed("stripe.refund.create", times=2)
    actpass_gateway.assert_not_executed("email.send")
    assert [one["args"] for one in actpass_gateway.actions] == [{"amount": 7}, {"amount": 8}]


def test_strict_takes_its_answers(actpass_gateway):
    actpass_gateway.allow()
    assert agent.refund(1, mode="strict")["executed"]


def test_deny_and_the_rest(actpass_gateway):
    actpass_gateway.deny(reason_code="refund.over_limit", summary="Too much.")
    assert agent.refund(1)["decision"]["reason_code"] == "refund.over_limit"
    actpass_gateway.warn()
    assert_not_executed(agent.refund(1))
    assert_executed(agent.refund(1, mode="warn"))
    actpass_gateway.answer(allow())
    actpass_gateway.answer(deny("email.no"), "email.send")
    assert agent.refund(1)["executed"]
    actpass_gateway.answer_next(deny("once"), warn())
    assert [agent.refund(1)["decision"]["decision"] for _ in range(3)] == ["deny", "warn", "allow"]


def test_unreachable(actpass_gateway):
    actpass_gateway.unreachable()
    client = actpass_gateway.client()

    @client.protect(tool="stripe.refund.create", goal="refund")
    def pay(amount: int) -> int:
        return amount

    with pytest.raises(ActionBlocked) as caught:
        pay(1)
    assert isinstance(caught.value.__cause__, ActPassConnectionError)
    actpass_gateway.assert_not_executed()
    actpass_gateway.allow()
    assert pay(1) == 1


def test_approvals(actpass_gateway):
    actpass_gateway.require_approval()
    out = agent.refund(1)
    assert_not_executed(out)
    client = actpass_gateway.client()
    assert client.wait_for_approval(out["approval"])["status"] == "pending"
    actpass_gateway.approve()
    assert client.resume(out["approval"], lambda ctx: 1)["executed"]
    assert_not_executed(client.resume(out["approval"], lambda ctx: 1))
    actpass_gateway.answer_next(require_approval(id="apr_2"))
    threading.Timer(0.2, actpass_gateway.approve, ["apr_2"]).start()
    assert agent.refund(1, wait=20)["executed"]
    actpass_gateway.answer_next(require_approval(id="apr_3"))
    actpass_gateway.reject("apr_3")
    assert agent.refund(1, wait=20)["decision"]["reason_code"] == "approval.rejected"


def test_the_other_calls(actpass_gateway):
    client = actpass_gateway.client()
    token = client.issue_passport("a", "g", ["t"])["token"]
    assert client.verify_passport(token, "a")["valid"]
    assert client.revoke_passport("ap_1")["revoked"]
    assert client.record_evidence("e", "c")["event_id"]
    actpass_gateway.allow()
    assert client.guard("g", "t", {}, lambda ctx: 1, record_outcome=True)["evidence"]["event_id"]
    with pytest.raises(AssertionError):
        actpass_gateway.assert_not_executed("t")
"""

FAILING = """
from actpass.testing import assert_executed, assert_not_executed
import agent


def test_a(actpass_gateway):
    actpass_gateway.allow()
    agent.refund(1)
    actpass_gateway.assert_not_executed()


def test_b(actpass_gateway):
    actpass_gateway.allow()
    agent.refund(1)
    assert_not_executed(actpass_gateway, "stripe.refund.create")


def test_c(actpass_gateway):
    actpass_gateway.allow()
    assert_not_executed(agent.refund(1))


def test_d(actpass_gateway):
    assert_executed(agent.refund(1))


def test_e(actpass_gateway):
    actpass_gateway.assert_executed()


def test_f(actpass_gateway):
    actpass_gateway.assert_asked()


def test_g(actpass_gateway):
    agent.refund(1)
    actpass_gateway.assert_asked(times=2)
"""

REAL = """
import agent


def test_it(actpass_gateway):
    assert agent.refund(4900)["decision"]["reason_code"] != "test.unscripted"
    assert actpass_gateway.executed == [] or actpass_gateway.executed == ["stripe.refund.create"]
    actpass_gateway.client().preflight("g", "t", {})
"""


def run_tests(directory: Path, tests: str, *options: str) -> str:
    (directory / "agent.py").write_text(AGENT, encoding="utf-8")
    (directory / "test_agent.py").write_text(tests, encoding="utf-8")
    installed = importlib.metadata.entry_points()
    found = installed.select(group="pytest11") if hasattr(installed, "select") else installed.get("pytest11", [])
    # An installed package brings its plugin by itself.
    plugin = [] if any(one.value == "actpass.testing" for one in found) else ["-p", "actpass.testing"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACTPASS_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE), str(directory)])
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *options, "."]
    with within(60):
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    WATCH.note(done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_a_users_tests(tmp_path: Path) -> None:
    assert "7 passed" in run_tests(tmp_path, PASSING)


def test_a_users_tests_fail_where_they_should(tmp_path: Path) -> None:
    assert "7 failed" in run_tests(tmp_path, FAILING)


def test_the_real_gateway(tmp_path: Path) -> None:
    said = run_tests(tmp_path, REAL, f"--actpass-gateway={binary('ACTPASS_GATEWAY')}")
    assert "1 passed" in said, said


def test_a_gateway_that_does_not_start_says_why(tmp_path: Path) -> None:
    program = tmp_path / "gateway"
    program.write_text("#!/bin/sh\necho 'error: data: expected a file' >&2\nexit 2\n", encoding="utf-8")
    program.chmod(0o755)
    said = run_tests(tmp_path, REAL, f"--actpass-gateway={program}")
    assert "did not start: error: data: expected a file" in said


def test_an_action_that_the_test_said_nothing_about_says_what_to_do(actpass_gateway: Any) -> None:
    decision = actpass_gateway.client().preflight("g", "stripe.refund.create", {})
    [step] = decision["explain"]["next_steps"]
    assert "actpass_gateway.allow('stripe.refund.create')" in step
