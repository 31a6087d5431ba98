"""What a user's editor, type checker and ``help()`` see."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import actpass
import pytest
from actpass import ActPassClient, _client, _native
from support import PACKAGE, Published

GOOD = """
from typing import Any, Dict, Optional

import actpass
from actpass import ActPassClient, ActPassError, Decision, ExecutionContext, GuardOutput, Mode, create_actpass
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
    number = client.guard("g", "t", {}, execute_fn=lambda ctx: 7)["result"]
    assert_type(number, int)
    token: str = client.issue_passport("a", "g", ["t"], resource_constraints={"max": 1}, ttl_seconds=60)["token"]
    valid: bool = client.verify_passport(token, "a")["valid"]
    revoked: bool = client.revoke_passport("ap_1", "over")["revoked"]
    event: str = client.record_evidence("e", "c", metadata={"a": 1})["event_id"]
    digest: str = ActPassClient.hash_payload([1, "a", None])
    signature: str = client.sign_payload("key", {"a": 1})
    canonical: str = actpass.canonical_outcome(out)
    url: str = create_actpass("apk", base_url=actpass.DEFAULT_BASE_URL).base_url

try:
    client.close()
except actpass.ActPassConfigError as problem:
    print(problem.kind, problem.operation, problem.request_id, problem.retryable)
arguments: Dict[str, Any] = {}
client.preflight("g", "t", arguments)
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


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give a function that checks a program strictly and returns the lines with errors."""
    directory = tmp_path_factory.mktemp("mypy")
    environment = dict(os.environ)
    # Where the package is installed, mypy finds it by itself, by its `py.typed`.
    installed = any(part in {"site-packages", "dist-packages"} for part in PACKAGE.parts)
    environment["MYPYPATH"] = "" if installed else str(PACKAGE)

    def check(program: str) -> dict[int, str]:
        (directory / "program.py").write_text(program, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", "program.py"]
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        errors = re.findall(r"^(.*?):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
        assert {file for file, _, _ in errors} <= {"program.py"}, done.stdout
        return {int(line): text for _, line, text in errors}

    return check


def test_a_program_without_mistakes(mypy: Any) -> None:
    assert mypy(GOOD) == {}


def test_a_program_of_mistakes(mypy: Any) -> None:
    errors = mypy(BAD)
    lines = BAD.splitlines()
    mistakes = {number for number, line in enumerate(lines, 1) if number > 3 and line}
    assert {lines[number - 1] for number in mistakes - errors.keys()} == set(), "mistakes that nobody sees"
    assert errors.keys() <= mistakes


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(actpass.__file__).parent / "py.typed").is_file()


def test_doctests() -> None:
    results = [doctest.testmod(module) for module in (actpass, _client)]
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
    assert stub.keys() == public(_native)
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
