"""The tools of an agent as one mapping, with an action for each."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
from actpass import UNGUARDED, ActPassConfigError, ToolAction
from support import PASSPORT


def test_tool_action_keeps_its_options() -> None:
    action = ToolAction(
        "stripe.refund.create", goal="refund", resource="stripe:charge:{charge}", exclude=["db"], redact=["card"]
    )
    assert (action.tool, action.goal, action.resource) == ("stripe.refund.create", "refund", "stripe:charge:{charge}")
    assert (action.include, action.exclude, action.redact["card"]("4242")) == (None, {"db"}, "[redacted]")
    assert action == ToolAction(
        tool="stripe.refund.create", goal="refund", resource="stripe:charge:{charge}", exclude={"db"}, redact={"card"}
    )
    assert action != ToolAction("stripe.refund.create", goal="refund")
    assert len({action, copy.copy(action), copy.deepcopy(action), pickle.loads(pickle.dumps(action))}) == 1


def test_tool_action_is_immutable() -> None:
    action = ToolAction("demo.tool")
    with pytest.raises(AttributeError, match="mode: expected no change, a ToolAction is immutable"):
        action.mode = "monitor"
    with pytest.raises(AttributeError, match="mode: expected no change"):
        del action.mode
    with pytest.raises(AttributeError):
        action.tpyo = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        ToolAction("demo.tool", "demo")  # type: ignore[misc]


def test_tool_action_shows_no_passport() -> None:
    assert repr(ToolAction("demo.tool", passport=PASSPORT)) == "ToolAction('demo.tool')"


@pytest.mark.parametrize(
    ("member", "values"),
    [
        ("tool", ("", None, 3, b"t", ["t"], "a\ud800")),
        ("goal", ("", 3, b"g", "{", "{a.b}", "{}")),
        ("mode", ("enforec", "", "Enforce", 3, ["strict"])),
        ("include", (3, "amount", b"amount", object())),
        ("exclude", (3, "amount", None)),
        ("redact", (3, "amount", {"amount": "x"}, None)),
        ("resource", (3, None, b"r", "{", "{a.b}", "{}")),
        ("user_id", (3, b"u")),
        ("passport", (3, b"p")),
        ("audience", (3, b"a", ["a"])),
        ("tool_manifest_hash", (3, b"a")),
        ("approval_request_id", (3, b"a")),
        ("wait_for_approval", (-1, "1", True, float("nan"), float("inf"))),
        ("record_outcome", (1, "yes", None)),
        ("default", (3, "str")),
        ("timeout", (0, -1, "1", True, float("nan"))),
        ("max_retries", (-1, 11, 1.5, "1", True)),
    ],
)
def test_tool_action_rejects_invalid_options(member: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ActPassConfigError, match=rf"\A{member}: expected"):
            ToolAction(**{"tool": "demo.tool", member: value})


def test_unguarded_is_one_object() -> None:
    assert repr(UNGUARDED) == "UNGUARDED"
    copies = [copy.copy(UNGUARDED), copy.deepcopy(UNGUARDED)]
    copies += [pickle.loads(pickle.dumps(UNGUARDED, version)) for version in range(pickle.HIGHEST_PROTOCOL + 1)]
    assert all(one is UNGUARDED for one in copies)


def test_import_loads_no_heavy_modules() -> None:
    heavy = ["asyncio", "copy", "dataclasses", "inspect", "string", "actpass._protect"]
    code = "import sys; before = {*sys.modules}; import actpass; print({*sys.modules} - before & set(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
