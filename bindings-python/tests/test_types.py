"""What a user's editor, type checker and ``help()`` see."""

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
from pathlib import Path
from typing import Any

import actpass
import pytest
from actpass import ActPassClient, _async, _client, _native
from support import PACKAGE, TESTS, Published

GOOD = """
from typing import Any, Dict, Literal, Optional

import actpass
from actpass import ActPassClient, ActPassError, Decision, DecisionWord, ExecutionContext, GuardOutput, Mode
from actpass import create_actpass
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
    summary: Optional[str] = decision["explain"].get("summary") if "explain" in decision else None
    approval: Optional[str] = decision.get("approval_request_id")
    out = client.guard("g", "t", {"amount": 1}, refund, passport="p")
    assert_type(out, GuardOutput[Refund])
    if out["executed"] and "result" in out:
        assert_type(out["result"], Refund)
        print(out["result"].id)
    error = out.get("error")
    if isinstance(error, ActPassError):
        code: Optional[str] = error.code
        status: Optional[int] = error.status
        wait: Optional[float] = error.retry_after
    number = client.guard("g", "t", {}, execute_fn=lambda ctx: 7)
    assert_type(number, GuardOutput[int])
    token: str = client.issue_passport("a", "g", ["t"], resource_constraints={"max": 1}, ttl_seconds=60)["token"]
    valid: bool = client.verify_passport(token, "a")["valid"]
    revoked: bool = client.revoke_passport("ap_1", "over")["revoked"]
    event: str = client.record_evidence("e", "c", metadata={"a": 1})["event_id"]
    digest: str = ActPassClient.hash_payload([1, "a", None])
    signature: str = client.sign_payload("key", {"a": 1})
    canonical: str = actpass.canonical_outcome(out)
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

from actpass import ActionBlocked, AsyncActPassClient, Decision, ExecutionContext, GuardOutput, PendingApproval
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
        assert_type(out, GuardOutput[Refund])
        number = await client.guard("g", "t", {}, plain)
        assert_type(number, GuardOutput[int])
        if "result" in out:
            assert_type(out["result"], Refund)
        assert "approval" in out
        pending: PendingApproval = out["approval"]
        resumed = await client.resume(pending, refund, wait_for_approval=3.5)
        assert_type(resumed, GuardOutput[Refund])
        status: str = (await client.wait_for_approval(pending, 1))["status"]
        token: str = (await client.issue_passport("a", "g", ["t"]))["token"]
        event: str = (await client.record_evidence("e", "c"))["event_id"]
        url: str = client.base_url

    @client.protect(tool="t", goal="g", resource="charge:{charge}", exclude=["amount"], redact={"charge": len})
    async def pay(charge: str, amount: int = 3) -> Refund:
        return Refund()

    paid = await pay("ch_1", amount=4)
    assert_type(paid, Refund)
    try:
        await pay("ch_1")
    except ActionBlocked as blocked:
        assert_type(blocked.decision, Decision)
        assert_type(blocked.retryable, bool)
        assert_type(blocked.approval, Optional[PendingApproval])


asyncio.run(main())
"""

GOOD_PROTECT = """
from actpass import ActPassClient
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


async def main() -> None:
    assert_type(await Desk().pay_later(3), float)


assert_type(Desk().pay(3), float)


def test_it(actpass_gateway: ScriptedGateway) -> None:
    actpass_gateway.deny("t", reason_code="no")
    actpass_gateway.answer_next(allow(), deny(summary="No."), unreachable())
    assert_not_executed(actpass_gateway.client().guard("g", "t", {}, lambda ctx: 1))
    actpass_gateway.assert_not_executed("t")
"""

#: Each line is one mistake.
BAD = """
from actpass import ActPassClient, ActPassError
client = ActPassClient("apk")
client.preflight("g", "t")
client.preflight("g", "t", [])
client.preflight("g", "t", {}, mode="off")
client.guard("g", "t", {}, execute_fn=lambda: 1)
client.guard("g", "t", {}, execute_fn=None)
client.guard("g", "t", {}, lambda ctx: ctx["credentials"])
client.guard("g", "t", {}, lambda ctx: ctx["credential"]["token"])
client.guard("g", "t", {}, lambda ctx: 1)["result"].upper()
client.guard("g", "t", {}, lambda ctx: 1)["results"]
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
from actpass import ActionBlocked, ActPassClient, AsyncActPassClient, ExecutionContext
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
    client.protect(tool="t")
    client.protect("t", "g")
    client.protect(tool="t", goal="g", mode="off")
    client.protect(tool="t", goal="g", include=3)
    client.protect(tool="t", goal="g")(pay)("a")
    client.protect(tool="t", goal="g")(pay)(amuont=1)
    (await client.protect(tool="t", goal="g")(pay)(1)).upper()
    ActPassClient("apk").protect(tool="t", goal="g")(lambda amount: amount + 1)()
    ActionBlocked("t")
"""


# Where the package is installed, checkers find it by themselves, by its `py.typed`.
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
def test_a_program_without_mistakes(check: Any, program: str) -> None:
    assert check(program) == {}


@pytest.mark.parametrize(("program", "begins"), [(BAD, 4), (BAD_ASYNC, 7)], ids=["blocking", "async"])
def test_a_program_of_mistakes(check: Any, program: str, begins: int) -> None:
    errors = check(program)
    lines = program.splitlines()
    mistakes = {number for number, line in enumerate(lines, 1) if number >= begins and line}
    assert {lines[number - 1] for number in mistakes - errors.keys()} == set(), "mistakes that nobody sees"
    assert errors.keys() <= mistakes


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_examples(tmp_path: Path, checker: str) -> None:
    examples = TESTS.parents[1] / "examples" / "python"
    for example in examples.glob("*.py"):
        shutil.copy(example, tmp_path)
    assert CHECKERS[checker](tmp_path, sorted(tmp_path.glob("*.py"))) == {}


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(actpass.__file__).parent / "py.typed").is_file()


def test_doctests() -> None:
    results = [doctest.testmod(module) for module in (actpass, _async, _client)]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 10


def public(thing: Any) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


def test_all_is_complete() -> None:
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
        if inspect.isclass(value) and value.__module__ == "actpass._client":
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


def test_the_stub_matches_the_native_module() -> None:
    stub = stub_names(ast.parse((Path(actpass.__file__).parent / "_native.pyi").read_text(encoding="utf-8")).body)
    # The hooks of the tests are in no wheel that is shipped.
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
                continue  # Python 3.9 keeps no signature of such a class.
            if isinstance(definition, ast.FunctionDef) and not definition.decorator_list:
                signature = inspect.signature(value if member == "__new__" else getattr(value, member))
                assert [one for one in signature.parameters if one != "self"] == parameters_of(definition), member


def test_positions_are_those_of_the_published_client(published: Published) -> None:
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
