"""The pytest plugin ``actpass.testing``, in a separate pytest process, as in a user's tests."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from actpass import ActPassConfigError, _run
from actpass.testing import ScriptedGateway, installed_gateway
from support import PACKAGE, WATCH, Child, binary, within

AGENT = """
from actpass import ActPassClient, AsyncActPassClient

ran = []

def refund(amount, mode=None, wait=None, base_url=None):
    client = ActPassClient(base_url=base_url)  # Configured by the environment.
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
from actpass import ActionBlockedError, ActPassArgumentError, ActPassConnectionError
from actpass.testing import ScriptedGateway, allow, assert_executed, assert_not_executed, deny, require_approval
from actpass.testing import unreachable, warn
import agent


def test_denies_unscripted_action(actpass_gateway):
    out = agent.refund(1)
    assert out["decision"]["reason_code"] == "test.unscripted"
    assert_not_executed(out)
    actpass_gateway.assert_not_executed()
    actpass_gateway.assert_asked("stripe.refund.create", times=1)


def test_allowed_action_runs(actpass_gateway):
    actpass_gateway.allow("stripe.refund.create", credential="cred_vaulted")
    out = agent.refund(7)
    assert (out["result"], agent.ran[-1]["credential"]["token"]) == (7, "cred_vaulted")
    assert asyncio.run(agent.refund_later(8))["result"] == 8
    assert_executed(out)
    actpass_gateway.assert_executed("stripe.refund.create", times=2)
    actpass_gateway.assert_not_executed("email.send")
    assert [one["args"] for one in actpass_gateway.actions] == [{"amount": 7}, {"amount": 8}]


def test_strict_accepts_scripted_allow(actpass_gateway):
    actpass_gateway.allow()
    assert agent.refund(1, mode="strict")["executed"]


def test_only_allowed_actions_run(actpass_gateway):
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


def test_unreachable_gateway_blocks(actpass_gateway):
    actpass_gateway.unreachable()
    client = actpass_gateway.client()

    @client.protect(tool="stripe.refund.create", goal="refund")
    def pay(amount: int) -> int:
        return amount

    with pytest.raises(ActionBlockedError) as caught:
        pay(1)
    assert isinstance(caught.value.__cause__, ActPassConnectionError)
    actpass_gateway.assert_not_executed()
    actpass_gateway.allow()
    assert pay(1) == 1


def test_approved_action_runs_once(actpass_gateway):
    actpass_gateway.require_approval()
    out = agent.refund(1)
    assert_not_executed(out)
    client = actpass_gateway.client()
    assert client.wait_for_approval(out["approval"])["status"] == "pending"
    actpass_gateway.approve()
    assert client.resume(out["approval"], lambda ctx: 1)["executed"]
    assert_not_executed(client.resume(out["approval"], lambda ctx: 1))
    assert actpass_gateway.approvals[0]["spent"]
    actpass_gateway.answer_next(require_approval(id="apr_2"))
    threading.Timer(0.2, actpass_gateway.approve, ["apr_2"]).start()
    assert agent.refund(1, wait=20)["executed"]
    actpass_gateway.answer_next(require_approval(id="apr_3"))
    actpass_gateway.reject("apr_3")
    assert agent.refund(1, wait=20)["decision"]["reason_code"] == "approval.rejected"


def test_an_approval_is_bound_to_its_action(actpass_gateway):
    actpass_gateway.require_approval("stripe.refund.create")
    assert agent.refund(1)["approval"]["approval_request_id"] == "apr_test"
    assert agent.refund(1)["approval"]["approval_request_id"] == "apr_test"
    assert agent.refund(2)["approval"]["approval_request_id"] == "apr_test_2"
    actpass_gateway.approve("apr_test")
    assert_not_executed(agent.refund(2))
    client = actpass_gateway.client(agent_id="sdk")
    changed = {"goal": "refund", "tool": "stripe.refund.create", "args": {"amount": 3}}
    changed["approval_request_id"] = "apr_test"
    out = client.guard(**changed, execute_fn=print)
    assert out["decision"]["reason_code"] == "approval.action_mismatch"
    actpass_gateway.assert_not_executed()
    assert agent.refund(1)["executed"]
    spent = client.guard(**{**changed, "args": {"amount": 1}}, execute_fn=print)
    assert spent["decision"]["reason_code"] == "approval.spent"
    assert actpass_gateway.approve("stripe.refund.create") == "apr_test_2"
    actpass_gateway.expire("apr_test_2")
    assert_not_executed(agent.refund(2))
    actpass_gateway.assert_executed("stripe.refund.create", times=1)
    with pytest.raises(ActPassArgumentError, match="approval: expected the id of a pending.*apr_test of stripe"):
        actpass_gateway.approve("apr_9")


def test_a_repeated_key_runs_nothing(actpass_gateway):
    actpass_gateway.allow()
    client = actpass_gateway.client()
    guard = lambda: client.guard("g", "t", {}, lambda ctx: 1, idempotency_key="k")
    assert guard()["executed"]
    assert guard()["decision"]["reason_code"] == "actpass.replayed"
    actpass_gateway.assert_executed("t", times=1)


def test_answers_other_calls(actpass_gateway):
    client = actpass_gateway.client()
    issued = client.issue_passport("a", "g", ["t"])
    assert client.verify_passport(issued["token"], "a")["valid"]
    assert client.revoke_passport(issued["jti"])["revoked"]
    assert client.verify_passport(issued["token"], "a")["errors"] == ["passport.revoked"]
    assert client.record_evidence("e", "c")["event_id"]
    actpass_gateway.allow()
    assert client.guard("g", "t", {}, lambda ctx: 1, record_outcome=True)["evidence"]["event_id"]
    with pytest.raises(AssertionError):
        actpass_gateway.assert_not_executed("t")


def test_works_without_the_fixture():
    with ScriptedGateway() as gateway:
        gateway.allow("t")
        client = gateway.client()
        client.preflight("g", "t", {})
        client.preflight("g", "t", {}, mode="monitor")
        gateway.assert_not_executed("t")
        client.guard("g", "t", {}, lambda ctx: 1)
        with pytest.raises(AssertionError):
            gateway.assert_not_executed("t")
        gateway.assert_executed("t", times=1)
        gateway.assert_not_asked("other")


def test_executed_can_be_reset(actpass_gateway):
    actpass_gateway.allow()
    agent.refund(1)
    actpass_gateway.executed = []
    actpass_gateway.assert_not_executed()
    agent.refund(1)
    actpass_gateway.assert_executed(times=1)
    with pytest.raises(TypeError, match="which resets it"):
        actpass_gateway.executed = ["t"]


def test_blocked_allowed_action_is_not_executed(actpass_gateway):
    actpass_gateway.allow()
    items = [1]

    @actpass_gateway.client().protect(tool="t", goal="g", user_id=lambda: items.append(2))
    def pay(items):
        return items

    with pytest.raises(ActionBlockedError, match="arguments_changed"):
        pay(items)
    actpass_gateway.assert_not_executed()
    actpass_gateway.unreachable()
    with pytest.raises(ActPassConnectionError):
        actpass_gateway.client().preflight("g", "t", {}, mode="monitor")
    actpass_gateway.assert_not_executed()


def test_undone_patches_hide_no_run(actpass_gateway, monkeypatch):
    actpass_gateway.allow()
    monkeypatch.undo()
    agent.refund(1)
    with pytest.raises(AssertionError):
        actpass_gateway.assert_not_executed()
"""

FAILING = """
from actpass.testing import assert_executed, assert_not_executed
import agent


def test_method_detects_a_run(actpass_gateway):
    actpass_gateway.allow()
    agent.refund(1)
    actpass_gateway.assert_not_executed()


def test_function_detects_a_run_by_tool(actpass_gateway):
    actpass_gateway.allow()
    agent.refund(1)
    assert_not_executed(actpass_gateway, "stripe.refund.create")


def test_function_detects_a_run_by_outcome(actpass_gateway):
    actpass_gateway.allow()
    assert_not_executed(agent.refund(1))


def test_function_detects_a_blocked_outcome(actpass_gateway):
    assert_executed(agent.refund(1))


def test_method_detects_no_run(actpass_gateway):
    actpass_gateway.assert_executed()


def test_method_detects_no_request(actpass_gateway):
    actpass_gateway.assert_asked()


def test_method_detects_wrong_number_of_requests(actpass_gateway):
    agent.refund(1)
    actpass_gateway.assert_asked(times=2)
"""

REAL_ELSEWHERE = """
import os
import subprocess
import sys

import pytest
from actpass.testing import UnknownExecution


GUARD = ".guard('resolve_refund_request', 'stripe.refund.create', {'amount': 4900, 'currency': 'usd'}, print)"


def test_detects_run_in_child_process(actpass_gateway):
    code = "import agent; agent.ActPassClient()" + GUARD
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AssertionError):
        actpass_gateway.assert_not_executed()
    actpass_gateway.assert_executed("stripe.refund.create", times=1)


def test_raises_for_unknown_process(actpass_gateway, monkeypatch):
    monkeypatch.setattr("actpass.testing._SETTLED_WITHIN", 0.1)
    actpass_gateway.assert_not_executed()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTPASS_")}
    code = "import agent, sys; agent.ActPassClient('apk_dev', base_url=sys.argv[1])" + GUARD
    subprocess.run([sys.executable, "-c", code, actpass_gateway.base_url], check=True, env=environment)
    with pytest.raises(UnknownExecution):
        actpass_gateway.assert_not_executed()
"""

REAL = """
import agent


def test_uses_the_real_gateway(actpass_gateway):
    assert agent.refund(4900)["decision"]["reason_code"] != "test.unscripted"
    assert actpass_gateway.executed == [] or actpass_gateway.executed == ["stripe.refund.create"]
    actpass_gateway.client().preflight("g", "t", {})
"""


def run_tests(
    directory: Path, tests: str, *options: str, python: Sequence[str] = (), plugin: str = "actpass.testing"
) -> str:
    (directory / "agent.py").write_text(AGENT, encoding="utf-8")
    (directory / "test_agent.py").write_text(tests, encoding="utf-8")
    installed = importlib.metadata.entry_points()
    found = installed.select(group="pytest11") if hasattr(installed, "select") else installed.get("pytest11", [])
    # An installed package registers its plugin.
    named = [] if any(one.value == "_actpass_pytest" for one in found) else ["-p", plugin]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACTPASS_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE), str(directory)])
    command = [sys.executable, "-W", "error", *python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    with within(120):
        done = subprocess.run(
            [*command, *named, *options, "."],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    WATCH.note(done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_closing_last_gateway_stops_the_journal() -> None:
    """A process that continues after its tests may have no file descriptor left for a journal."""
    before = list(_run.journals)
    first, second = ScriptedGateway(), ScriptedGateway()
    assert len(_run.journals) == len(before) + 1
    first.close()
    first.close()
    second.allow()
    assert second.client().guard("g", "t", {}, lambda ctx: 1)["executed"]
    assert second.executed == ["t"]
    second.close()
    assert _run.journals == before
    with ScriptedGateway() as third:
        third.allow()
        assert third.client().guard("g", "t", {}, lambda ctx: 1)["executed"]
        assert third.executed == ["t"]
    assert _run.journals == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_closing_parents_gateway_in_child_keeps_the_journal() -> None:
    with ScriptedGateway() as gateway:
        gateway.allow()

        def child() -> None:
            noted = list(_run.journals)
            gateway.close()
            assert _run.journals == noted
            with ScriptedGateway() as own:
                assert len(_run.journals) == len(noted) + 1
                assert own.executed == []
            assert _run.journals == noted
            assert gateway.client().guard("g", "t", {}, lambda ctx: 1)["executed"]

        Child(child).ended_well()
        assert gateway.executed == ["t"]


def test_plugin_passes_correct_tests(tmp_path: Path) -> None:
    said = run_tests(tmp_path, PASSING)
    assert "13 passed" in said, said


def test_plugin_fails_incorrect_tests(tmp_path: Path) -> None:
    assert "7 failed" in run_tests(tmp_path, FAILING)


#: Ways to start a process in which an action runs, and their code.
ELSEWHERE = """
import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest
import agent
from actpass import ActPassClient
from actpass.testing import assert_not_executed


def by_thread():
    thread = threading.Thread(target=agent.refund, args=[1])
    thread.start()
    thread.join()

def by_task():
    asyncio.run(agent.refund_later(1))

def by_fork():
    pid = os.fork()
    if pid == 0:
        try:
            agent.refund(1)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

def by_subprocess():
    subprocess.run([sys.executable, "-c", "import agent; agent.refund(1)"], check=True)

def by_process_of_a_process():
    again = "['-O', '-c', 'import agent; agent.refund(1)']"
    code = f"import subprocess, sys; subprocess.run([sys.executable, *{again}], check=True)"
    subprocess.run([sys.executable, "-c", code], check=True)

def by_start_method(method):
    def run():
        # A server of forks keeps the environment of the first test.
        given = {"base_url": os.environ["ACTPASS_API_BASE_URL"]}
        process = multiprocessing.get_context(method).Process(target=agent.refund, args=[1], kwargs=given)
        process.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError("the child failed")
    run.__name__ = f"by_{method}"
    return run

def by_pool():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(agent.refund, 1).result()

def by_a_fresh_import():
    mine = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "actpass"}
    try:
        import actpass
        out = actpass.ActPassClient().guard("g", "stripe.refund.create", {}, lambda ctx: 1)
    finally:
        sys.modules.update(mine)
    if not out["executed"]:
        raise RuntimeError("the action did not run")

WAYS = [by_thread, by_task, by_fork, by_subprocess, by_process_of_a_process, by_pool]
WAYS += [by_start_method(one) for one in multiprocessing.get_all_start_methods()]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_assertions_detect_a_run(actpass_gateway, way):
    actpass_gateway.allow()
    way()
    for tool in (None, "stripe.refund.create"):
        for ask in (actpass_gateway.assert_not_executed, lambda tool: assert_not_executed(actpass_gateway, tool)):
            try:
                ask(tool)
            except AssertionError:
                pass
            else:
                raise RuntimeError("the assertion passed although the action ran")
    actpass_gateway.assert_not_executed("another.tool")
    actpass_gateway.assert_executed("stripe.refund.create", times=1)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_assertions_accept_no_run(actpass_gateway, way):
    way()
    actpass_gateway.assert_not_executed()
    actpass_gateway.assert_asked("stripe.refund.create", times=1)


UNSEEN = "import agent, sys; client = agent.ActPassClient('apk_test', base_url=sys.argv[1]);"
GUARD = "client.guard('g', 't', {}, lambda ctx: 1, mode=sys.argv[2])"


@pytest.mark.parametrize(
    ("answer", "mode", "is_known"),
    [("allow", "enforce", False), ("deny", "enforce", True), ("deny", "monitor", False), ("warn", "warn", False),
     ("warn", "enforce", True), ("unreachable", "monitor", False), ("unreachable", "enforce", True)],
)
def test_unknown_execution_raises(actpass_gateway, answer, mode, is_known, monkeypatch):
    monkeypatch.setattr("actpass.testing._SETTLED_WITHIN", 0.1)
    getattr(actpass_gateway, answer)()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTPASS_")}
    command = [sys.executable, "-c", UNSEEN + GUARD, actpass_gateway.base_url, mode]
    subprocess.run(command, check=True, env=environment)
    asks = [
        lambda: actpass_gateway.assert_not_executed(),
        lambda: actpass_gateway.assert_executed("t"),
        lambda: actpass_gateway.executed,
    ]
    for ask in asks[:1] if is_known else asks:
        try:
            ask()
        except AssertionError as error:
            if type(error).__name__ != "UnknownExecution" or is_known:
                raise RuntimeError("an answer") from error
        else:
            if not is_known:
                raise RuntimeError("an answer")


def test_assertions_raise_in_forked_process(actpass_gateway):
    pid = os.fork()
    if pid == 0:
        try:
            actpass_gateway.assert_not_executed()
        except AssertionError:
            os._exit(3)
        finally:
            os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 3:
        raise RuntimeError("the assertion passed in the forked process")


@pytest.mark.skipif(sys.flags.optimize > 0, reason="requires unoptimized Python")
def test_detects_run_after_fresh_import(actpass_gateway):
    actpass_gateway.allow()
    by_a_fresh_import()
    with pytest.raises(AssertionError):
        actpass_gateway.assert_not_executed()
    actpass_gateway.assert_executed("stripe.refund.create")


def test_assertions_raise_after_close(actpass_gateway):
    actpass_gateway.close()
    with pytest.raises(AssertionError, match="closed"):
        actpass_gateway.assert_not_executed()
    with pytest.raises(AssertionError, match="closed"):
        actpass_gateway.assert_not_asked()


@pytest.mark.parametrize("wrong", ["", 3, True, b"t", ["t"]])
def test_helpers_reject_invalid_tool(actpass_gateway, wrong):
    for ask in (actpass_gateway.assert_not_executed, actpass_gateway.assert_executed, actpass_gateway.assert_asked):
        with pytest.raises(TypeError, match="tool: expected"):
            ask(wrong)
    for times in (True, -1, "1", 1.0):
        with pytest.raises(TypeError, match="times: expected"):
            actpass_gateway.assert_executed(times=times)


NO_OUTCOMES = [None, {}, {"executed": 0}, {"executed": None}, {"decision": "deny"}, "no", ActPassClient]


@pytest.mark.parametrize("wrong", NO_OUTCOMES)
def test_helpers_reject_other_values(wrong):
    with pytest.raises(TypeError, match="outcome: expected"):
        assert_not_executed(wrong)


def test_helpers_reject_outcome_of_other_tool(actpass_gateway):
    out = actpass_gateway.client().guard("g", "t", {}, lambda ctx: 1)
    assert_not_executed(out, "t")
    with pytest.raises(TypeError, match="tool: expected"):
        assert_not_executed(out, "other")
"""


@pytest.mark.parametrize("setting", ["plain", "optimized", "xdist"])
def test_detects_runs_in_any_process_or_thread(tmp_path: Path, setting: str) -> None:
    """Also in optimized mode, which removes `assert` statements."""
    options = []
    if setting == "xdist":
        pytest.importorskip("xdist")
        options = ["-n", "2", "-k", "detect_a_run or accept_no_run"]
    said = run_tests(tmp_path, ELSEWHERE, *options, python=["-O"] if setting == "optimized" else [])
    skipped = " 1 skipped," if setting == "optimized" else ""
    passed = re.search(r"(\d+) passed,?" + skipped, said)
    assert passed is not None and "failed" not in said and "error" not in said.lower(), said
    assert int(passed[1]) >= (8 if setting == "xdist" else 40)


def test_helpers_have_no_assert_statement() -> None:
    """`python -O` removes `assert` statements."""
    import _actpass_pytest
    import actpass._scripted
    import actpass.testing

    for module in (actpass.testing, _actpass_pytest, actpass._scripted, actpass._run):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], module.__name__


UNUSED = """
import sys

def test_actpass_is_not_imported():
    assert not [name for name in sys.modules if name.partition(".")[0] == "actpass"]
"""


def test_unused_plugin_imports_nothing(tmp_path: Path) -> None:
    assert "1 passed" in run_tests(tmp_path, UNUSED, plugin="_actpass_pytest")


def test_broken_native_module_does_not_break_pytest_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import sys\nsys.modules['actpass._native'] = None\n", encoding="utf-8")
    assert "1 passed" in run_tests(tmp_path, "def test_passes(): pass", plugin="_actpass_pytest")
    said = run_tests(tmp_path, REAL, plugin="_actpass_pytest")
    assert "1 error" in said or "errors" in said, said


def test_real_gateway_detects_runs_in_other_processes(tmp_path: Path) -> None:
    said = run_tests(tmp_path, REAL_ELSEWHERE, f"--actpass-gateway={binary('ACTPASS_GATEWAY')}")
    assert "2 passed" in said, said


def test_option_runs_given_gateway(tmp_path: Path) -> None:
    said = run_tests(tmp_path, REAL, f"--actpass-gateway={binary('ACTPASS_GATEWAY')}")
    assert "1 passed" in said, said


def test_finds_gateway_installed_by_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "actpass-gateway"
    program.parent.mkdir()
    program.touch()
    information = tmp_path / "site" / "actpass_gateway-2.0.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.4\nName: actpass-gateway\nVersion: 2.0.0\n")
    (information / "RECORD").write_text("../bin/actpass-gateway,,\nactpass_gateway-2.0.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert installed_gateway() == str(program.resolve())


def test_finds_gateway_on_path_or_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ActPassConfigError, match=r"^no gateway is installed: pip install actpass-gateway, or give"):
        installed_gateway()
    program = tmp_path / "actpass-gateway"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    assert installed_gateway() == str(program)


def test_option_runs_installed_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "actpass-gateway").symlink_to(Path(binary("ACTPASS_GATEWAY")).resolve())
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    said = run_tests(tmp_path, REAL, "--actpass-gateway=installed")
    assert "1 passed" in said, said


def test_failed_gateway_start_reports_its_error(tmp_path: Path) -> None:
    program = tmp_path / "gateway"
    program.write_text("#!/bin/sh\necho 'error: data: expected a file' >&2\nexit 2\n", encoding="utf-8")
    program.chmod(0o755)
    said = run_tests(tmp_path, REAL, f"--actpass-gateway={program}")
    assert "did not start: error: data: expected a file" in said


def test_unscripted_action_names_next_step(actpass_gateway: Any) -> None:
    decision = actpass_gateway.client().preflight("g", "stripe.refund.create", {})
    assert decision["reason_code"] == "test.unscripted"
    assert decision["explain"]["next_steps"] == ["Script an answer for the tool first."]
