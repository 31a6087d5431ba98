"""The examples of the repository, run by the commands in their first lines."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

from support import TESTS, WATCH, binary

EXAMPLES = TESTS.parents[1] / "examples" / "python"


def rows(name: str, *arguments: str) -> list[list[str]]:
    """Run an example against the real gateway and return the words of each output line."""
    command = [sys.executable, str(EXAMPLES / name), binary("ACTPASS_GATEWAY"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    WATCH.note(done.stdout, done.stderr)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


def test_refund_example_prints_each_decision(tmp_path: Path) -> None:
    table = rows("refund.py", str(tmp_path / "refunds.jsonl"))
    assert [(row[0], row[2], row[-1]) for row in table[1:6]] == [
        ("49.00", "allow", "yes"),
        ("250.00", "require_approval", "no"),
        ("900.00", "deny", "no"),
        ("12.00", "deny", "no"),
        ("12.00", "deny", "yes"),
    ]


def test_tools_example_explains_blocked_calls() -> None:
    said = [" ".join(words) for words in rows("tools.py")]
    assert said[0] == "refunded 49.00 usd of ch_123"
    assert [line.split(":")[0] for line in said[1:3]] == ["stripe.refund.create was not run"] * 2
    assert "A person must approve this first (approval apr_" in said[1]
    assert "Do not call it again with the same arguments" in said[2]
    assert said[3].startswith("crm.note.add was not run: deny")


def test_passport_example_constrains_value_and_is_single_use() -> None:
    first, over, ran, small, again = rows("passport.py")
    assert first[-1] == "True"
    assert over == ["250.00", "deny", "passport.constraint", "did", "not", "run"]
    assert ran[-1] == "refunded"
    assert small == ["49.00", "allow", "refund.small_in_scope", "ran"]
    assert again == ["49.00", "deny", "passport.replayed", "did", "not", "run"]


APPROVED = [
    ["250.00,", "held", "allow", "approval.approved", "refunded", "250.00"],
    ["250.00,", "again", "deny", "approval.spent", "did", "not", "run"],
    ["260.00,", "by", "that", "approval", "deny", "approval.action_mismatch", "did", "not", "run"],
]


def test_approval_example_runs_after_approval() -> None:
    assert rows("approval.py", "--approve")[2:] == APPROVED


def test_daily_budget_example_requires_approval_of_sixth_refund() -> None:
    table = [words for words in rows("daily_budget.py", "--approve") if words[0].startswith("ch_")]
    allowed = [f"{used}.00" for used in range(100, 600, 100)]
    assert [(row[1], row[3], row[-1]) for row in table] == [
        *(("allow", used, "refunded") for used in allowed),
        ("allow", "600.00", "refunded"),
        ("require_approval", "600.00", "run"),
    ]
    assert table[5][2] == "approval.approved"


def test_two_people_example_refuses_the_requester() -> None:
    assert rows("two_people.py") == [
        ["alice", "refused:", "approval.self"],
        ["bob", "pending,", "still", "needed:", "security"],
        ["carol", "approved"],
        ["refund", "approval.approved", "refunded"],
    ]


def test_bound_key_example_refuses_the_stolen_key() -> None:
    assert rows("bound_key.py") == [
        ["agent", "refund.small_in_scope", "refunded"],
        ["thief", "without", "a", "key", "actpass.unauthenticated", "did", "not", "run"],
        ["thief", "with", "a", "key", "actpass.unauthenticated", "did", "not", "run"],
    ]


def test_after_lookup_example_refunds_looked_up_order_once() -> None:
    assert [(row[0], row[1], row[2], row[3], row[-1]) for row in rows("after_lookup.py")] == [
        ("refunds.create", "ord_1", "deny", "policy.no_match", "run"),
        ("orders.lookup", "ord_1", "allow", "order.read", "ran"),
        ("refunds.create", "ord_2", "deny", "policy.no_match", "run"),
        ("refunds.create", "ord_1", "allow", "refund.after_lookup", "ran"),
        ("refunds.create", "ord_1", "deny", "refund.repeated", "run"),
    ]


def test_approval_example_prints_working_command() -> None:
    command = [sys.executable, str(EXAMPLES / "approval.py"), binary("ACTPASS_GATEWAY")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(60, process.kill)
        limit.start()
        assert process.stdout is not None
        process.stdout.readline()
        words: Any = process.stdout.readline().split()
        assert words[0] == "curl"
        headers = {"authorization": "Bearer apdv_dev", "content-type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(words[-1], b"{}", headers), timeout=10).close()
        said = process.stdout.read()
        limit.cancel()
    WATCH.note(said)
    assert [line.split() for line in said.splitlines()] == APPROVED


def test_stopped_refunds_example_finishes_one_refund_and_goes_on_when_lifted() -> None:
    stopped, again, confirmed, lifted, rest = [" ".join(row) for row in rows("stopped_refunds.py")]
    count = re.fullmatch(r"allow refund.small_in_scope stopped after (\d+) of 10 refunds", stopped)
    assert count is not None and 4 <= int(count[1]) < 10, stopped
    assert again.startswith("deny halted ")
    assert "amounts are wrong" in again
    assert confirmed == "confirmed by the client: [(1, 1), (1, 0)]"
    assert lifted.startswith("lifted by ")
    assert rest == "allow refund.small_in_scope 10 of 10 refunds"
