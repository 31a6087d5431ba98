"""The package in a user's editor, type checker and ``help()``."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import actpass
import pytest
from actpass import ActPassClient, GuardOutcome, _async, _client, _functions, _native
from support import ALLOW, PACKAGE, TESTS, Hostile, Published, answer

GOOD = """
import datetime
import json
from typing import Any, Dict, List, Literal, Optional, cast

import actpass
from actpass import ActPassClient, ActPassError, Decision, DecisionWord, ExecutionContext, GuardOutcome, Mode
from actpass import PendingApproval, Permit, create_actpass
from typing_extensions import assert_type


class Refund:
    id: str


def refund(ctx: ExecutionContext) -> Refund:
    credential = ctx["credential"]
    token: Optional[str] = credential["token"] if credential is not None else None
    word: str = ctx["decision"]["decision"]
    print(token, word)
    return Refund()


mode: Mode = "strict"
with ActPassClient("apk", timeout=5, mode=mode, ca=b"pem", max_retries=0) as client:
    decision = client.preflight(goal="g", tool="t", args={"amount": 1}, resource="r", mode="monitor")
    assert_type(decision, Decision)
    summary: str = decision["explain"]["summary"]
    rules: List[str] = decision["explain"]["matched_rules"] + decision["explain"]["next_steps"]
    reason: str = decision["reason_code"]
    tier: Optional[str] = decision.get("risk_tier")
    chain: Optional[str] = decision.get("evidence_chain_id")
    approval: Optional[str] = decision.get("approval_request_id")
    out = client.guard("g", "t", {"amount": 1}, refund, passport="p")
    assert_type(out, GuardOutcome[Refund])
    if out["executed"] and "result" in out:
        assert_type(out["result"], Refund)
        print(out["result"].id)
    error = out.get("error")
    if isinstance(error, ActPassError):
        code: Optional[str] = error.code
        status: Optional[int] = error.status
        wait: Optional[float] = error.retry_after
        data: Dict[str, Any] = {**error.to_dict()}
    number = client.guard("g", "t", {}, execute_fn=lambda ctx: 7)
    assert_type(number, GuardOutcome[int])
    assert_type(number.unwrap(), int)
    assert_type(number.to_dict(), Dict[str, Any])
    assert_type(number.get("result"), Optional[int])
    assert_type(number.get("result", "none"), "int | str")
    assert_type(number.get("approval"), Optional[PendingApproval])
    print(json.dumps(number.to_dict()), number.to_json(default=str), number.request_id, len(number), "error" in number)
    quick = client.with_options(timeout=2.5, max_retries=0, default=str)
    assert_type(quick, ActPassClient)
    when = quick.guard("g", "t", {"when": datetime.date.today()}, lambda ctx: 1, timeout=1, max_retries=1, default=str)
    untyped = client.guard("g", "t", {}, cast(Any, refund))
    made: GuardOutcome[int] = GuardOutcome({"decision": decision, "executed": True, "result": 1}, tool="t")
    token: str = client.issue_passport("a", "g", ["t"], resource_constraints={"max": 1}, ttl_seconds=60)["token"]
    valid: bool = client.verify_passport(token, "a")["valid"]
    revoked: bool = client.revoke_passport("ap_1", "over")["revoked"]
    event: str = client.record_evidence("e", "c", metadata={"a": 1})["event_id"]
    digest: str = ActPassClient.hash_payload([1, "a", None])
    signature: str = client.sign_payload("key", {"a": 1})
    canonical: str = actpass.canonical_outcome(out)
    permit = client.authorize("g", "t", {"amount": 1}, mode="warn", passport="p", record_outcome=True, timeout=1)
    assert_type(permit, "Permit | GuardOutcome[Any]")
    if isinstance(permit, Permit):
        assert_type(permit.spend({"amount": 1}), ExecutionContext)
        assert_type(permit.returned(7), GuardOutcome[int])
        assert_type(permit.failed(ValueError()), GuardOutcome[Any])
        permit.cancelled()
        tool: str = permit.tool
    assert_type(client.mode, Mode)
    assert_type(client.circuit, Literal["closed", "open", "half_open"])
    url: str = create_actpass("apk", base_url=actpass.DEFAULT_BASE_URL).base_url

try:
    client.close()
except actpass.ActPassConfigError as problem:
    print(problem.kind, problem.operation, problem.request_id, problem.retryable)
arguments: Dict[str, Any] = {}
client.preflight("g", "t", arguments)
more: object = decision.get("a_member_of_tomorrow")
word: DecisionWord = "require_approval"
if decision["decision"] == word or decision["decision"] == "a_word_of_tomorrow":
    pass
"""

GOOD_ASYNC = """
import asyncio
from typing import Optional

from actpass import ActionBlockedError, AsyncActPassClient, AsyncPermit, Decision, ExecutionContext, GuardOutcome
from actpass import PendingApproval
from typing_extensions import assert_type


class Refund:
    id: str


async def refund(ctx: ExecutionContext) -> Refund:
    return Refund()


def plain(ctx: ExecutionContext) -> int:
    return 7


async def main() -> None:
    async with AsyncActPassClient("apk", timeout=5, mode="strict", max_retries=0) as client:
        decision = await client.preflight(goal="g", tool="t", args={"amount": 1}, mode="monitor")
        assert_type(decision, Decision)
        out = await client.guard("g", "t", {"amount": 1}, refund, passport="p", record_outcome=True)
        assert_type(out, GuardOutcome[Refund])
        number = await client.guard("g", "t", {}, plain)
        assert_type(number, GuardOutcome[int])
        if "result" in out:
            assert_type(out["result"], Refund)
        assert "approval" in out
        pending: PendingApproval = out["approval"]
        resumed = await client.resume(pending, refund, wait_for_approval=3.5)
        assert_type(resumed, GuardOutcome[Refund])
        status: str = (await client.wait_for_approval(pending, 1))["status"]
        token: str = (await client.issue_passport("a", "g", ["t"]))["token"]
        event: str = (await client.record_evidence("e", "c"))["event_id"]
        url: str = client.base_url
        permit = await client.authorize("g", "t", {"amount": 1}, resource="r", user_id="u", audience="a")
        if isinstance(permit, AsyncPermit):
            assert_type(permit.spend(), ExecutionContext)
            assert_type(await permit.returned(7), GuardOutcome[int])
            permit.cancelled()
        else:
            permit.unwrap()

    @client.protect(tool="t", goal="g", resource="charge:{charge}", exclude=["amount"], redact={"charge": len})
    async def pay(charge: str, amount: int = 3) -> Refund:
        return Refund()

    paid = await pay("ch_1", amount=4)
    assert_type(paid, Refund)
    try:
        await pay("ch_1")
    except ActionBlockedError as blocked:
        assert_type(blocked.decision, Decision)
        assert_type(blocked.retryable, bool)
        assert_type(blocked.developer_text, str)
        assert_type(blocked.approval, Optional[PendingApproval])


asyncio.run(main())
"""

GOOD_PROTECT = """
from typing import Union

from actpass import (
    UNGUARDED,
    ActionBlockedError,
    ActPassClient,
    AsyncActPassClient,
    ExecutionContext,
    Permit,
    ToolAction,
)
from actpass.testing import ScriptedGateway, allow, assert_not_executed, deny, unreachable
from typing_extensions import assert_type

client = ActPassClient("apk")


@client.protect(tool="t", goal="g", resource=lambda charge: f"charge:{charge}", user_id=lambda: "u")
def pay(charge: str, amount: int = 3) -> bytes:
    return b""


assert_type(pay("ch_1", 4), bytes)
assert_type(pay(charge="ch_1"), bytes)


class Desk:
    @client.protect(tool="t", goal="g")
    def pay(self, amount: int) -> float:
        return 1.0

    @client.protect(tool="t", goal="g")
    async def pay_later(self, amount: int) -> float:
        return 1.0


def count(error: ActionBlockedError) -> int:
    return len(error.tool)


@client.protect(tool="t", goal="for {charge}", on_blocked=count)
def pay_or_count(charge: str) -> bytes:
    return b""


assert_type(pay_or_count("ch_1"), Union[bytes, int])


@client.protect(tool="t", goal=lambda charge: charge, on_blocked=str, approval_request_id=lambda charge: None)
async def pay_or_say(charge: str) -> bytes:
    return b""


@client.protect(tool="t", context="ctx", on_blocked=str)
def pay_with(charge: str, ctx: ExecutionContext) -> bytes:
    return b""


async def main() -> None:
    assert_type(await Desk().pay_later(3), float)
    assert_type(await pay_or_say("ch_1"), Union[bytes, str])
    tools = AsyncActPassClient("apk").protect_tools({"pay": pay_or_say}, {"pay": UNGUARDED})
    await tools["pay"]("ch_1")
    with AsyncActPassClient("apk").bind(goal="g") as bound:
        assert_type(bound, AsyncActPassClient)


pay_with("ch_1")
action = ToolAction("t", goal="g", resource=lambda args: "r", redact={"card": str}, mode="strict", include={"card"})
assert_type(action.tool, str)
tools = client.protect_tools({"pay": pay, "today": lambda: 1}, {"pay": action, "today": UNGUARDED}, on_blocked=str)
tools["pay"]("ch_1")
with client.bind(user_id="u", passport="p", goal="g", audience="a") as bound:
    assert_type(bound, ActPassClient)
permit = client.authorize("g", "t", {})
if isinstance(permit, Permit):
    permit.suspended()
assert_type(Desk().pay(3), float)


def test_it(actpass_gateway: ScriptedGateway) -> None:
    actpass_gateway.deny("t", reason_code="no")
    actpass_gateway.answer_next(allow(), deny(summary="No."), unreachable())
    assert_not_executed(actpass_gateway.client().guard("g", "t", {}, lambda ctx: 1))
    actpass_gateway.assert_not_executed("t")
"""

#: Each line contains one type error.
BAD = """
from actpass import ActPassClient, ActPassError, ExecutionContext, PendingApproval
client = ActPassClient("apk")
async def later(ctx: ExecutionContext) -> int: return 1
pending: PendingApproval = {"approval_request_id": "a", "goal": "g", "tool": "t", "args": {}}
client.preflight("g", "t")
client.preflight("g", "t", [])
client.preflight("g", "t", {}, mode="off")
client.guard("g", "t", {}, execute_fn=lambda: 1)
client.guard("g", "t", {}, execute_fn=None)
client.guard("g", "t", {}, lambda ctx: ctx["credentials"])
client.guard("g", "t", {}, lambda ctx: ctx["credential"]["token"])
client.guard("g", "t", {}, lambda ctx: 1)["result"].upper()
client.guard("g", "t", {}, lambda ctx: 1)["results"]
client.guard("g", "t", {}, lambda ctx: 1).unwrap().upper()
client.guard("g", "t", {}, later)
client.guard("g", "t", {}, later)["executed"]
client.resume(pending, later)
client.guard("g", "t", {}, lambda ctx: 1, timeout="1")
client.guard("g", "t", {}, lambda ctx: 1, default=3)
client.with_options(timeouts=1)
client.preflight("g", "t", {})["risk_tier"].upper().risk
client.preflight("g", "t", {})["explain"]["rules"]
client.preflight("g", "t", {})["reason"]
client.issue_passport("a", "g", "t")
client.sign_payload(b"key", {})
client.agent_id = "other"
client.api_key
ActPassClient("apk", mode="off")
ActPassClient("apk", None, None, None, 30.0, 5.0)
ActPassError("m").code.upper()
"""

BAD_ASYNC = """
from actpass import ActionBlockedError, ActPassClient, AsyncActPassClient, ExecutionContext, ToolAction
client = AsyncActPassClient("apk")
async def act(ctx: ExecutionContext) -> int: return 1
async def pay(amount: int) -> int: return amount
async def main() -> None:
    (await client.preflight("g", "t"))
    (await client.preflight("g", "t", {}, mode="off"))
    (await client.guard("g", "t", {}, execute_fn=None))
    (await client.guard("g", "t", {}, lambda: 1))
    (await client.guard("g", "t", {}, act))["result"].upper()
    (await client.guard("g", "t", {}, act))["results"]
    client.preflight("g", "t", {})["decision"]
    (await client.issue_passport("a", "g", "t"))
    with client: pass
    client.protect(goal="g")
    client.protect("t", "g")
    client.protect(tool="t", goal="g", mode="off")
    client.protect(tool="t", goal="g", include=3)
    client.protect(tool="t", goal="g")(pay)("a")
    client.protect(tool="t", goal="g")(pay)(amuont=1)
    (await client.protect(tool="t", goal="g")(pay)(1)).upper()
    (await client.protect(tool="t", on_blocked=str)(pay)(1)).upper()
    client.protect(tool="t", on_blocked=lambda: "")
    client.protect(tool="t", context=3)
    client.protect_tools({"pay": pay}, {"pay": None})
    client.bind(user="u")
    ToolAction("t", "g")
    ToolAction(goal="g")
    ToolAction("t", resource=3)
    ActPassClient("apk").protect(tool="t", goal="g")(lambda amount: amount + 1)()
    ActionBlockedError("t")
"""


# Checkers find an installed package by its `py.typed`.
INSTALLED = any(part in {"site-packages", "dist-packages"} for part in PACKAGE.parts)


def mypy(directory: Path, files: list[Path]) -> dict[int, str]:
    """Check strictly and return the lines with errors."""
    environment = {**os.environ, "MYPYPATH": "" if INSTALLED else str(PACKAGE)}
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", *map(str, files)]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    errors = re.findall(r"^(.*?):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert {Path(directory, file) for file, _, _ in errors} <= set(files), done.stdout
    return {int(line): text for _, line, text in errors}


def pyright(directory: Path, files: list[Path]) -> dict[int, str]:
    """Check strictly and return the lines with errors."""
    pytest.importorskip("pyright")
    settings: dict[str, Any] = {"typeCheckingMode": "standard", "reportMissingModuleSource": "none"}
    settings["extraPaths"] = [] if INSTALLED else [str(PACKAGE)]
    (directory / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, files)]
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = [one for one in json.loads(done.stdout)["generalDiagnostics"] if one["severity"] == "error"]
    assert {Path(one["file"]).resolve() for one in found} <= {file.resolve() for file in files}, found
    return {one["range"]["start"]["line"] + 1: one["message"] for one in found}


CHECKERS = {"mypy": mypy, "pyright": pyright}


@pytest.fixture(params=CHECKERS)
def check(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Give a function that checks a program and returns the lines with errors."""

    def check_program(program: str) -> dict[int, str]:
        path = tmp_path / "program.py"
        path.write_text(program, encoding="utf-8")
        return CHECKERS[request.param](tmp_path, [path])

    return check_program


@pytest.mark.parametrize("program", [GOOD, GOOD_ASYNC, GOOD_PROTECT], ids=["blocking", "async", "protect"])
def test_type_checkers_accept_correct_program(check: Any, program: str) -> None:
    assert check(program) == {}


@pytest.mark.parametrize(("program", "begins"), [(BAD, 6), (BAD_ASYNC, 7)], ids=["blocking", "async"])
def test_type_checkers_report_every_mistake(check: Any, program: str, begins: int) -> None:
    errors = check(program)
    lines = program.splitlines()
    mistakes = {number for number, line in enumerate(lines, 1) if number >= begins and line}
    assert {lines[number - 1] for number in mistakes - errors.keys()} == set(), "type errors that the checker missed"
    assert errors.keys() <= mistakes


@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_accept_examples(tmp_path: Path, checker: str) -> None:
    examples = TESTS.parents[1] / "examples" / "python"
    for example in examples.glob("*.py"):
        # tests/adapters checks the examples of frameworks.
        text = example.read_text(encoding="utf-8")
        if "actpass.integrations" not in text and "claude_agent_sdk" not in text:
            shutil.copy(example, tmp_path)
    assert CHECKERS[checker](tmp_path, sorted(tmp_path.glob("*.py"))) == {}


def test_package_has_py_typed_marker() -> None:
    assert (Path(actpass.__file__).parent / "py.typed").is_file()


def test_doctests_pass() -> None:
    import actpass.testing

    modules = (actpass, _async, _client, _functions, actpass._errors, actpass._outcome, actpass._tools, actpass.testing)
    results = [doctest.testmod(module) for module in modules]
    results.append(doctest.testmod(actpass._settings, extraglobs={"ActPassClient": ActPassClient}))
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 10


def test_each_exception_has_an_example() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    classes = [one for one in vars(actpass).values() if isinstance(one, type) and issubclass(one, actpass.ActPassError)]
    assert len(classes) >= 12
    for one in classes:
        (found,) = finder.find(one, one.__name__, module=False)
        assert found.examples, one.__name__


def public(thing: Any) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def test_all_lists_every_public_name() -> None:
    assert len(actpass.__all__) == len(set(actpass.__all__))
    for name in actpass.__all__:
        assert hasattr(actpass, name), name
    found = {name for name in public(actpass) if not isinstance(getattr(actpass, name), types.ModuleType)}
    assert found | {"__version__"} == set(actpass.__all__)
    errors = {name for name in public(actpass._errors) if name.endswith("Error")}
    assert errors <= set(actpass.__all__)


def test_every_public_name_has_a_docstring() -> None:
    bare = []
    for name in actpass.__all__:
        value = getattr(actpass, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if value.__module__.startswith("actpass") and not value.__doc__:
            bare.append(name)
        if inspect.isclass(value) and value.__module__ in {"actpass._client", "actpass._settings"}:
            bare += [f"{name}.{member}" for member in public(value) if not inspect.getdoc(getattr(value, member))]
    assert bare == []
    assert actpass.__doc__
    for method in ("preflight", "guard"):
        text = str(inspect.getdoc(getattr(ActPassClient, method)))
        assert "Raises:" in text
        assert "Returns:" in text
    parameters = inspect.signature(ActPassClient.preflight).parameters
    documented = str(inspect.getdoc(ActPassClient.preflight))
    assert [name for name in parameters if name != "self" and f"{name}:" not in documented] == []
    settings = inspect.signature(ActPassClient).parameters
    assert [name for name in settings if f"{name}:" not in str(ActPassClient.__doc__)] == []


@pytest.mark.parametrize(
    "kind", [ActPassClient, actpass.AsyncActPassClient, actpass.Permit, actpass.AsyncPermit, GuardOutcome]
)
def test_every_method_has_an_example(kind: Any) -> None:
    bare = []
    for name in dir(kind):
        value = inspect.getattr_static(kind, name)
        if name.startswith("_") or isinstance(value, type(dict.get)) or name in {"aclose", "copy", "fromkeys"}:
            continue
        if inspect.isroutine(getattr(kind, name)) or isinstance(value, property):
            document = inspect.getdoc(getattr(kind, name)) or ""
            if ">>> " not in document and not hasattr(dict, name):
                bare.append(name)
    assert bare == []


def stub_names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return names


def parameters_of(node: ast.FunctionDef | Any) -> list[str]:
    given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return [one.arg for one in given if one.arg not in {"self", "cls"}]


def test_stub_matches_native_module() -> None:
    stub = stub_names(ast.parse((Path(actpass.__file__).parent / "_native.pyi").read_text(encoding="utf-8")).body)
    # Released wheels have no test hooks.
    assert stub.keys() == public(_native) - {"break_next_call"}
    for name, node in stub.items():
        value = getattr(_native, name)
        if isinstance(node, ast.FunctionDef):
            assert list(inspect.signature(value).parameters) == parameters_of(node), name
        if not isinstance(node, ast.ClassDef):
            continue
        members = stub_names(node.body)
        assert members.keys() - {"__new__"} == public(value), name
        for member, definition in members.items():
            if member == "__new__" and sys.version_info < (3, 10):
                continue  # Python 3.9 keeps no signature of a native class.
            if isinstance(definition, ast.FunctionDef) and not definition.decorator_list:
                signature = inspect.signature(value if member == "__new__" else getattr(value, member))
                assert [one for one in signature.parameters if one != "self"] == parameters_of(definition), member


def test_parameter_order_matches_1_1_3(published: Published) -> None:
    code = (
        "import actpass, inspect, json\n"
        "client = actpass.ActPassClient\n"
        "found = {name: value for name, value in vars(client).items() if name == '__init__' or name[0] != '_'}\n"
        "found = {name: list(inspect.signature(getattr(client, name)).parameters) for name in found}\n"
        "found['create_actpass'] = list(inspect.signature(actpass.create_actpass).parameters)\n"
        "print(json.dumps({'methods': found, 'names': actpass.__all__, 'url': actpass.DEFAULT_BASE_URL}))\n"
    )
    done = subprocess.run([published.python, "-I", "-c", code], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    assert len(theirs["methods"]) == 10
    for name, their in theirs["methods"].items():
        our = inspect.signature(getattr(actpass if name == "create_actpass" else ActPassClient, name)).parameters
        assert list(our)[: len(their)] == their, name
        more = list(our.values())[len(their) :]
        assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in more), name
        assert all(one.default is not inspect.Parameter.empty for one in more), name
    assert set(theirs["names"]) <= set(actpass.__all__)
    assert theirs["url"] == actpass.DEFAULT_BASE_URL


EXPORTED = [name for name in actpass.__all__ if not isinstance(getattr(actpass, name), str)]
CLASSES = [name for name in EXPORTED if inspect.isclass(getattr(actpass, name))]


def callables() -> dict[str, Any]:
    """Return every exported function and method."""
    import actpass.testing

    found: dict[str, Any] = {}
    for module in (actpass, actpass.testing):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                for member in dir(value):
                    method = inspect.getattr_static(value, member)
                    method = getattr(method, "__func__", method)
                    if inspect.isfunction(method) and (
                        not member.startswith("_") or member in {"__init__", "__enter__"}
                    ):
                        found[f"{module.__name__}.{name}.{member}"] = method
    return found


@pytest.mark.parametrize("name", callables())
def test_resolves_type_hints_and_signatures_at_run_time(name: str) -> None:
    function = callables()[name]
    inspect.signature(function)
    typing.get_type_hints(function)


@pytest.mark.parametrize("name", CLASSES)
def test_resolves_type_hints_of_classes_at_run_time(name: str) -> None:
    typing.get_type_hints(getattr(actpass, name))


def test_outcomes_are_generic_at_run_time() -> None:
    alias: Any = GuardOutcome[int]
    assert typing.get_args(alias) == (int,)
    assert typing.get_origin(alias) is GuardOutcome
    assert typing.get_args(typing.Optional[alias])[0] == alias
    made = GuardOutcome[int]({"decision": {"decision": "allow"}, "executed": True, "result": 1})
    assert (type(made), made.unwrap(), isinstance(made, dict)) == (GuardOutcome, 1, True)


EXPLAIN = {"summary": "", "matched_rules": [], "next_steps": []}
BUDGET = {"name": "b", "account": {"agent_id": "a"}, "limit": 5, "used": 1.5, "remaining": 3.5, "window": "24h"}
DECISION = {"decision": "deny", "reason_code": "x", "explain": EXPLAIN}
ERROR: dict[str, Any] = {
    **dict.fromkeys(("code", "operation", "status", "request_id", "retry_after", "cause")),
    "type": "ActPassError",
    "message": "m",
    "kind": "internal",
    "retryable": False,
}
#: A valid value of each exported type; validation keeps it unchanged.
VALID: dict[str, Any] = {
    "Approval": {"id": "apr_1", "status": "pending", "of_tomorrow": 1},
    "BudgetUse": BUDGET,
    "Credential": {"token": "t", "of_tomorrow": 1},
    "Decision": {**DECISION, "of_tomorrow": {"a": 1}},
    "DecisionWord": "deny",
    "ErrorData": {**ERROR, "cause": ERROR},
    "ExecutionContext": {"credential": None, "decision": DECISION, "halt": {"halted": False}},
    "Explain": {**EXPLAIN, "budgets": [BUDGET]},
    "GuardOutcome": {"decision": DECISION, "executed": False, "error": ERROR, "request_id": "req_1"},
    "IssuedPassport": {"token": "t", "of_tomorrow": 1},
    "Mode": "strict",
    "PassportClaims": {"iss": "i", "of_tomorrow": 1},
    "PassportRevocation": {"revoked": True},
    "PassportVerification": {"valid": True, "claims": {"jti": "ap_1"}},
    "PendingApproval": {"approval_request_id": "a", "goal": "g", "tool": "t", "args": {"a": [1]}},
    "RecordedEvidence": {"event_id": "ev_1", "of_tomorrow": 1},
    "RiskTier": "low",
}


def test_pydantic_validates_every_exported_type() -> None:
    pydantic = pytest.importorskip("pydantic")
    errors = {name for name in CLASSES if issubclass(getattr(actpass, name), BaseException)} - {"HaltedError"}
    assert set(EXPORTED) - errors - set(VALID) == {
        "ActPassClient",
        "AsyncActPassClient",
        "AsyncPermit",
        "HaltSignal",
        "HaltedError",
        "Permit",
        "ToolAction",
        "UNGUARDED",
        "canonical_outcome",
        "create_actpass",
        "dpop_thumbprint",
    }
    for name, value in VALID.items():
        adapter = pydantic.TypeAdapter(getattr(actpass, name))
        assert json.loads(adapter.dump_json(adapter.validate_python(value))) == value, name
        assert json.loads(adapter.dump_json(adapter.validate_json(json.dumps(value)))) == value, name
        assert adapter.json_schema(mode="serialization"), name
    for name in errors:
        adapter = pydantic.TypeAdapter(getattr(actpass, name))
        assert adapter.json_schema(mode="serialization")["properties"].keys() == ERROR.keys()
    error = actpass.ActPassTimeoutError("m", code="actpass.timeout")
    assert pydantic.TypeAdapter(actpass.ActPassError).dump_python(error) == error.to_dict()
    for kind in (actpass.ActPassClient, actpass.AsyncActPassClient):
        client = kind("apk", base_url="http://127.0.0.1:9")
        assert pydantic.TypeAdapter(kind).validate_python(client) is client
        with pytest.raises(pydantic.ValidationError):
            pydantic.TypeAdapter(kind).validate_python("client")


def test_pydantic_validates_typed_outcomes() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        outcome: GuardOutcome[int]
        decision: actpass.Decision

    whole = {"decision": DECISION, "executed": True, "result": 7}
    made = Answer(outcome=GuardOutcome(whole, tool="t", request_id="req_1"), decision=DECISION)
    assert (type(made.outcome), made.outcome.unwrap(), made.outcome.request_id) == (GuardOutcome, 7, "req_1")
    assert json.loads(made.model_dump_json())["outcome"] == {**whole, "request_id": "req_1"}
    for wrong in ({**whole, "result": "seven"}, {**whole, "executed": "yes"}, {"executed": True}, "no", None):
        with pytest.raises(pydantic.ValidationError):
            Answer(outcome=wrong, decision=DECISION)


def test_pydantic_validates_calls() -> None:
    pydantic = pytest.importorskip("pydantic")
    client = ActPassClient("apk", base_url="http://127.0.0.1:9", max_retries=0)
    guard = pydantic.validate_call(client.guard)
    assert guard("g", "t", {}, lambda ctx: 1)["decision"]["reason_code"] == "actpass.unreachable"
    with pytest.raises(pydantic.ValidationError):
        guard("g", "t", [], lambda ctx: 1)
    with pytest.raises(pydantic.ValidationError):
        pydantic.validate_call(client.preflight)("g", "t", {}, mode="off")


def test_fastapi_serializes_every_exported_type() -> None:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()
    for name, value in VALID.items():
        app.get(f"/{name}", response_model=getattr(actpass, name))(lambda value=value: value)
    app.get("/Typed")(typed_answer)
    schema = app.openapi()
    assert len(schema["paths"]) == len(VALID) + 1
    for route in app.routes:
        value = VALID.get(getattr(route, "path", "/")[1:])
        if value is not None:
            field = route.response_field
            content = field.validate(value, {}, loc=("response",))
            assert content[1] in (None, [])
            assert json.loads(json.dumps(field.serialize(content[0]))) == value


def typed_answer() -> GuardOutcome[int]:
    raise NotImplementedError


#: The first example of the package's documentation.
PAGE = TESTS.parents[1] / "bindings-python" / "README.md"


@pytest.mark.parametrize(
    "said", [{"decision": "deny"}, {"decision": "allow"}, ALLOW, {"decision": "deny", "explain": None}]
)
def test_first_example_handles_every_decision(
    hostile: Hostile, said: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    refunds = types.SimpleNamespace(Refund=types.SimpleNamespace(create=lambda **given: given))
    with hostile.play(answer(said)) as gateway:
        monkeypatch.setenv("ACTPASS_API_KEY", "apk_dev")
        monkeypatch.setenv("ACTPASS_API_BASE_URL", gateway.base_url)
        names: dict[str, Any] = {"stripe": refunds}
        exec(compile(example, "README.md", "exec"), names)
        names["client"].close()
    assert capsys.readouterr().out == f"{said['decision']} {said.get('reason_code', 'unspecified')}\n"
    for decision in (names["d"], names["out"]["decision"]):
        assert isinstance(decision["explain"]["summary"], str)
        assert isinstance(decision["explain"]["matched_rules"], list)
        assert isinstance(decision["explain"]["next_steps"], list)
        assert decision.get("risk_tier") == said.get("risk_tier")
    assert names["out"]["executed"] == (said["decision"] == "allow")
