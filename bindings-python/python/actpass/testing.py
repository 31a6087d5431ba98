"""A test kit for agents: a gateway that answers by script, in the test's own process.

    def test_a_large_refund_is_not_made(actpass_gateway):
        actpass_gateway.deny("stripe.refund.create", reason_code="refund.over_limit")
        my_agent.handle("please refund 900 dollars")     # makes its own ActPassClient(), or is given one
        actpass_gateway.assert_not_executed("stripe.refund.create")

The pytest fixture ``actpass_gateway`` is there as soon as the package is installed. While a test uses it,
``ACTPASS_API_KEY`` and ``ACTPASS_API_BASE_URL`` lead clients to it that the test or its subject makes without settings
of their own. Elsewhere, :class:`ScriptedGateway` is a context manager. It listens on this machine only and runs in the
test's process; the client, its transport and its guard are the real ones. A gateway that was told nothing denies
everything. With ``pytest --actpass-gateway=PROGRAM`` the fixture is the real gateway instead, in its development mode,
with its own policy.

**What counts as executed.** A guarded function that was called, or a permit that was spent, in this process or in one
that this process started after the gateway: by ``fork``, ``spawn``, ``subprocess``, a pool. (``spawn`` and
``subprocess`` pass the environment on; if you pass another, merge ``gateway.environment`` into it.) If the gateway
allowed an action and no process has told whether it ran, the helpers raise :class:`UnknownExecution`, an
``AssertionError``, instead of a guess: such as after a request by another program, or by a process that was started
before the gateway. Every helper that fails raises an ``AssertionError``, also under ``python -O``.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pathlib
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn, Optional, TypeVar

from . import _run
from ._async import AsyncActPassClient
from ._client import ActPassClient
from ._errors import ActPassConfigError
from ._json import name_of

with contextlib.suppress(ImportError):  # The kit itself does not need pytest.
    from _actpass_pytest import actpass_gateway as actpass_gateway  # noqa: PLC0414

__all__ = [
    "Answer",
    "RealGateway",
    "ScriptedGateway",
    "UnknownExecution",
    "allow",
    "assert_executed",
    "assert_not_executed",
    "deny",
    "require_approval",
    "unreachable",
    "warn",
]

#: The key that clients of a test's gateway have.
API_KEY = "apk_test"
#: For how many seconds an action that was allowed may be on its way to the function or to its end.
_SETTLED_WITHIN = 2.0

Gateway = TypeVar("Gateway", bound="_Gateway")


class UnknownExecution(AssertionError):  # noqa: N818
    """The gateway cannot know whether an action ran, so that neither answer would be right."""


class Answer:
    """What a scripted gateway answers to a preflight; made by :func:`allow` and its like."""

    def __init__(self, decision: Optional[Mapping[str, Any]], status: int = 200) -> None:
        """Answer ``decision``, or hang up where it is ``None``."""
        self.decision = None if decision is None else dict(decision)
        self.status = status

    def __repr__(self) -> str:
        """Show what is answered."""
        return "unreachable()" if self.decision is None else f"Answer({self.decision.get('decision')!r})"


def allow(reason_code: str = "test.allow", *, credential: Optional[str] = None, **members: Any) -> Answer:
    """Return an answer that allows, with a vaulted credential of this token if one is given.

    >>> allow(credential="sk_test")
    Answer('allow')
    """
    vaulted = {} if credential is None else {"credential": {"token": credential, "expires_at": None}}
    return _decision("allow", reason_code, vaulted, members)


def deny(
    reason_code: str = "test.deny", *, summary: str = "", next_steps: Optional[list[str]] = None, **m: Any
) -> Answer:
    """Return an answer that denies.

    >>> deny("refund.over_limit", summary="Refunds end at 100 dollars.").decision["explain"]["summary"]
    'Refunds end at 100 dollars.'
    """
    explain = {"explain": {"summary": summary, "matched_rules": [], "next_steps": next_steps or []}}
    return _decision("deny", reason_code, explain, m)


def warn(reason_code: str = "test.warn", **members: Any) -> Answer:
    """Return an answer that warns: it runs in the modes ``warn`` and ``monitor`` only.

    >>> warn("refund.unusual").decision["reason_code"]
    'refund.unusual'
    """
    return _decision("warn", reason_code, {}, members)


def require_approval(reason_code: str = "test.require_approval", *, id: str = "apr_test", **members: Any) -> Answer:  # noqa: A002
    """Return an answer that wants a person's approval first; see :meth:`ScriptedGateway.approve`.

    >>> require_approval(id="apr_7").decision["approval_request_id"]
    'apr_7'
    """
    return _decision("require_approval", reason_code, {"approval_request_id": id}, members)


def unreachable() -> Answer:
    """Return the answer of a gateway that cannot be reached: none, the connection is closed.

    >>> unreachable()
    unreachable()
    """
    return Answer(None)


def _decision(word: str, reason_code: str, more: Mapping[str, Any], members: Mapping[str, Any]) -> Answer:
    if "decision" in members:
        raise TypeError(f"decision: expected no such member of an answer that is {word!r}")
    return Answer({"decision": word, "reason_code": reason_code, **more, **members})


def assert_not_executed(outcome: Any, tool: Optional[str] = None) -> None:
    """Fail if something ran: ``outcome`` is what ``guard`` reported, or a test's gateway.

    Raises:
        AssertionError: It ran, or the gateway cannot know (:class:`UnknownExecution`).
        TypeError: ``outcome`` is neither.

    >>> assert_not_executed({"decision": {"decision": "deny"}, "executed": False})
    """
    if isinstance(outcome, _Gateway):
        outcome.assert_not_executed(tool)
    elif _executed(outcome, tool):
        raise AssertionError(f"it ran: {outcome.get('decision')}")


def assert_executed(outcome: Any, tool: Optional[str] = None) -> None:
    """Fail if nothing ran: ``outcome`` is what ``guard`` reported, or a test's gateway.

    Raises:
        AssertionError: It did not run, or the gateway cannot know (:class:`UnknownExecution`).
        TypeError: ``outcome`` is neither.

    >>> assert_executed({"decision": {"decision": "allow"}, "executed": True, "result": 7})
    """
    if isinstance(outcome, _Gateway):
        outcome.assert_executed(tool)
    elif not _executed(outcome, tool):
        raise AssertionError(f"it did not run: {outcome.get('decision')}")


def _executed(outcome: Any, tool: Optional[str]) -> bool:
    executed = outcome.get("executed") if isinstance(outcome, Mapping) else None
    if not isinstance(executed, bool):
        raise TypeError(
            f"outcome: expected what guard reported, or a test's gateway, found {name_of(outcome)} "
            "without a boolean 'executed'"
        )
    if tool is not None and getattr(outcome, "_tool", None) != tool:
        raise TypeError(f"tool: expected the tool of the outcome, {getattr(outcome, '_tool', None)!r}, found {tool!r}")
    return executed


class _Gateway:
    """What a test can ask of either gateway."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self.api_key = api_key
        self._process_id = os.getpid()
        self._closed = False
        self._journal = _journal()
        _keep(self)
        #: What is noted behind this ran while the gateway was there.
        self._begins = self._journal.stat().st_size
        #: How many answers are not counted any more.
        self._skipped = 0

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a process to this gateway and have it note what it executes."""
        return {
            "ACTPASS_API_KEY": self.api_key,
            "ACTPASS_API_BASE_URL": self.base_url,
            _run.JOURNAL: str(self._journal),
        }

    @property
    def executed(self) -> list[str]:
        """The tools of the guarded functions that ran since the gateway was made, in their order.

        Raises:
            UnknownExecution: The gateway allowed an action, and no process has told what came of it.
        """
        until = time.monotonic() + _SETTLED_WITHIN
        while True:
            # In this order: what is answered after the journal was read is not unknown, but later.
            allowed = self._allowed()[self._skipped :]
            noted = self._noted()
            unknown = _unmatched(allowed, noted)
            if not unknown or time.monotonic() > until:
                break
            time.sleep(0.01)
        ran = [note["tool"] for note in noted if note["ran"]]
        if unknown:
            raise UnknownExecution(
                f"{', '.join(unknown)}: allowed, and it is not known whether it ran: no process has told. Give the "
                "processes that ask, and those that they start, the environment of the gateway (`environment`); what "
                "another program does with an answer cannot be seen. Assert on the effect of the action instead. "
                f"Known to have run: {ran}"
            )
        return ran

    @executed.setter
    def executed(self, executed: Optional[list[str]]) -> None:
        """Begin anew: of what ran so far, nothing is counted any more."""
        if executed:
            raise TypeError(f"executed: expected [], which begins anew, found {executed!r}")
        self._begins = self._journal.stat().st_size
        self._skipped = len(self._allowed())

    def client(self, **settings: Any) -> ActPassClient:
        """Return a client of this gateway that gives up quickly."""
        return ActPassClient(**self._settings(settings))

    def async_client(self, **settings: Any) -> AsyncActPassClient:
        """Return the same for an event loop."""
        return AsyncActPassClient(**self._settings(settings))

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"api_key": self.api_key, "base_url": self.base_url, "timeout": 5, "max_retries": 0, **settings}

    def assert_executed(self, tool: Optional[str] = None, times: Optional[int] = None) -> None:
        """Fail unless a guarded function ran, of ``tool`` if one is named, and exactly ``times`` if that is given.

        Raises:
            AssertionError: It did not run, or the gateway cannot know (:class:`UnknownExecution`).
        """
        _check(tool, times)
        executed = self.executed
        ran = [one for one in executed if tool in {None, one}]
        if not (ran if times is None else len(ran) == times):
            often = "" if times is None else f" {times} times"
            raise AssertionError(f"{tool or 'something'} should have run{often}; ran: {executed}")

    def assert_not_executed(self, tool: Optional[str] = None) -> None:
        """Fail if any guarded function ran, of ``tool`` if one is named, in whatever process.

        It says nothing of a tool that nobody asked about, such as one that is misspelled: see ``assert_asked``.

        Raises:
            AssertionError: It ran, or the gateway cannot know (:class:`UnknownExecution`).
        """
        _check(tool)
        executed = self.executed
        if any(tool in {None, one} for one in executed):
            raise AssertionError(f"ran: {executed}")

    def close(self) -> None:
        """Stop it."""
        self._closed = True
        _drop(self)

    def __enter__(self: Gateway) -> Gateway:
        """Return the gateway itself."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Stop it."""
        self.close()

    def _allowed(self) -> list[_Allowed]:
        """Return the answers by which an action may have run."""
        raise NotImplementedError

    def _noted(self) -> list[dict[str, Any]]:
        if os.getpid() != self._process_id:
            raise UnknownExecution("a forked process cannot know: ask the gateway in the process that made it")
        if self._closed:
            raise UnknownExecution("the gateway is closed: ask it while it is open")
        try:
            noted = self._journal.read_bytes()[self._begins :]
        except OSError as error:
            raise UnknownExecution(f"what ran cannot be read: {error}") from error
        return [json.loads(line) for line in noted.splitlines()]


def _journal() -> pathlib.Path:
    """Return the journal of this process. All its gateways share it, for processes that outlive one: pools, servers."""
    mine = _journals.get(os.getpid())
    if mine is None:
        descriptor, path = tempfile.mkstemp(prefix="actpass-", suffix=".jsonl")
        os.close(descriptor)
        mine = _journals[os.getpid()] = pathlib.Path(path)
        atexit.register(_remove, mine, os.getpid())
    return mine


def _keep(gateway: _Gateway) -> None:
    """Have this process note what it executes as long as the gateway is open."""
    with _lock:
        _open.add(gateway)
        path = str(gateway._journal)
        if path not in _run.journals:
            _run.journals.append(path)


def _drop(gateway: _Gateway) -> None:
    """Have this process note nothing any more once its last gateway is closed: nobody will ask."""
    with _lock:
        _open.discard(gateway)
        mine = os.getpid()
        path = str(gateway._journal)
        # What a forked process does, its parent may still ask about.
        if gateway._process_id != mine or any(one._process_id == mine for one in _open):
            return
        if path in _run.journals:
            _run.journals.remove(path)


def _remove(journal: pathlib.Path, process_id: int) -> None:
    if os.getpid() == process_id:  # A forked process leaves it to the other.
        journal.unlink(missing_ok=True)


#: By the process that made it.
_journals: dict[int, pathlib.Path] = {}
#: The gateways that are not closed.
_open: weakref.WeakSet[_Gateway] = weakref.WeakSet()
#: Held while the gateways that are open and the journals change together.
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # No child is to find it held by a thread that it does not have.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


#: The tool of an answer, its request id and its event; neither where the connection was closed.
_Allowed = tuple[str, Optional[str], Optional[str]]


def _unmatched(allowed: list[_Allowed], noted: list[dict[str, Any]]) -> list[str]:
    """Return the tools of the answers of which no process has told what came."""
    requests = {note["request"] for note in noted if note["request"] is not None}
    # By their events: what the ledger has, and the notes of `preflight`, which do not know the request.
    by_request = {request for _, request, _ in allowed if request is not None} & requests
    events = Counter((note["tool"], note["event"]) for note in noted if note["request"] not in by_request)
    unknown = []
    for tool, request, event in allowed:
        if request in by_request:
            continue
        if events[tool, event]:
            events[tool, event] -= 1
            continue
        unknown.append(tool)
    return unknown


def _check(tool: Optional[str], times: Optional[int] = None) -> None:
    if tool is not None and not (isinstance(tool, str) and tool):
        raise TypeError(f"tool: expected the name of a tool, found {tool!r}")
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 0):
        raise TypeError(f"times: expected a non-negative integer, found {times!r}")


class ScriptedGateway(_Gateway):
    """A gateway in the test's own process that answers what the test says; a context manager.

    >>> with ScriptedGateway() as gateway:
    ...     gateway.allow("crm.note.add")
    ...     out = gateway.client().guard("demo", "crm.note.add", {"text": "hi"}, lambda ctx: "added")
    ...     gateway.assert_executed("crm.note.add", times=1)
    ...     out["result"], gateway.actions[0]["args"]
    ('added', {'text': 'hi'})
    """

    def __init__(self) -> None:
        """Listen on a port of this machine."""
        from ._scripted import Server  # noqa: PLC0415

        #: The bodies of the preflights so far, each retry among them.
        self.actions: list[dict[str, Any]] = []
        self._always: dict[Optional[str], Answer] = {}
        self._next: list[Answer] = []
        self._may_run: list[_Allowed] = []
        self._hung_up: set[tuple[str, str]] = set()
        self._server = Server(self._decide, self._answered)
        super().__init__(self._server.base_url, API_KEY)

    def answer(self, answer: Answer, tool: Optional[str] = None) -> None:
        """Answer so from now on, to actions of ``tool`` or, if none is named, of any."""
        if tool is None:
            self._always.clear()
        self._always[tool] = answer

    def answer_next(self, *answers: Answer) -> None:
        """Answer the next actions so, of whatever tool, one each; then as before."""
        self._next += answers

    def allow(self, tool: Optional[str] = None, reason_code: str = "test.allow", **members: Any) -> None:
        """Allow from now on: see :func:`allow`."""
        self.answer(allow(reason_code, **members), tool)

    def deny(self, tool: Optional[str] = None, reason_code: str = "test.deny", **members: Any) -> None:
        """Deny from now on: see :func:`deny`."""
        self.answer(deny(reason_code, **members), tool)

    def warn(self, tool: Optional[str] = None, reason_code: str = "test.warn", **members: Any) -> None:
        """Warn from now on: see :func:`warn`."""
        self.answer(warn(reason_code, **members), tool)

    def require_approval(self, tool: Optional[str] = None, **members: Any) -> None:
        """Want an approval from now on: see :func:`require_approval`."""
        self.answer(require_approval(**members), tool)

    def approve(self, id: str = "apr_test") -> None:  # noqa: A002
        """Approve: what names this approval is allowed, once."""
        self._server.approvals[id] = "approved"

    def reject(self, id: str = "apr_test") -> None:  # noqa: A002
        """Reject what was to be approved."""
        self._server.approvals[id] = "rejected"

    def unreachable(self, tool: Optional[str] = None) -> None:
        """Cannot be reached from now on."""
        self.answer(unreachable(), tool)

    def assert_asked(self, tool: Optional[str] = None, times: Optional[int] = None) -> None:
        """Fail unless a decision was asked for, about ``tool`` if one is named, and so often if ``times`` is given."""
        _check(tool, times)
        self._noted()
        asked = [one["tool"] for one in self.actions]
        matching = [one for one in asked if tool in {None, one}]
        if not (matching if times is None else len(matching) == times):
            raise AssertionError(f"asked about: {asked}")

    def assert_not_asked(self, tool: Optional[str] = None) -> None:
        """Fail if a decision was asked for, about ``tool`` if one is named."""
        self.assert_asked(tool, times=0)

    def close(self) -> None:
        """Stop listening."""
        if os.getpid() == self._process_id:  # A forked process has no thread to stop.
            self._server.close()
        super().close()

    def _answered(
        self, asked: dict[str, Any], status: int, decision: Optional[dict[str, Any]], request_id: str
    ) -> None:
        tool, mode = str(asked.get("tool")), asked.get("mode")
        if decision is None:
            key = (tool, str(asked.get("idempotency_key")))
            if mode == "monitor" and key not in self._hung_up:  # A retry is the same action.
                self._hung_up.add(key)
                self._may_run.append((tool, None, None))
            return
        allows = decision["decision"] == "allow" or (decision["decision"] == "warn" and mode == "warn")
        if mode == "monitor" or (allows and 200 <= status < 300):  # noqa: PLR2004
            self._may_run.append((tool, request_id, decision.get("evidence_event_id")))

    def _allowed(self) -> list[_Allowed]:
        return list(self._may_run)

    def _decide(self, action: dict[str, Any]) -> tuple[int, Optional[dict[str, Any]]]:
        self.actions.append(action)
        approval = action.get("approval_request_id")
        if approval is not None and self._server.approvals.get(approval) == "approved":
            self._server.approvals[approval] = "spent"
            answer = allow("approval.approved")
        elif self._next:
            answer = self._next.pop(0)
        else:
            unscripted = deny(
                "test.unscripted",
                summary="The test said nothing about this action.",
                next_steps=[f"Say before what to answer, such as actpass_gateway.allow({action.get('tool')!r})."],
            )
            answer = self._always.get(action.get("tool"), self._always.get(None, unscripted))
        return answer.status, answer.decision


class RealGateway(_Gateway):
    """The real gateway in its development mode, as a child process with an empty ledger and its own policy."""

    def __init__(self, program: str, directory: str) -> None:
        """Start ``program``, which keeps its data in ``directory``."""
        import subprocess  # noqa: PLC0415

        command = [program, "dev", "--listen", "127.0.0.1:0", "--data", f"{directory}/actpass.db"]
        log = pathlib.Path(directory, "gateway.log")
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        said = self._process.stdout.readline().strip() if self._process.stdout is not None else ""
        prefix = "listening on "
        if not said.startswith(prefix):
            self._stop()
            why = log.read_text(encoding="utf-8", errors="replace").strip() or f"its first line is {said!r}"
            _fail(f"{program} did not start: {why}")
        super().__init__(said[len(prefix) :], "apk_dev")

    def close(self) -> None:
        """Stop it."""
        if os.getpid() == self._process_id:
            self._stop()
        super().close()

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _allowed(self) -> list[_Allowed]:
        import urllib.request  # noqa: PLC0415

        request = urllib.request.Request(
            f"{self.base_url}/api/v1/evidence/chains/decisions", headers={"authorization": "Bearer apdv_dev"}
        )
        # The ledger has the decision of enforce, whatever the mode.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as answer:
                events = json.loads(answer.read())["events"]
        except OSError as error:
            if getattr(error, "code", None) == 404:  # noqa: PLR2004
                return []  # Nothing was decided yet.
            raise UnknownExecution(f"what was decided cannot be read: {error}") from error
        return [
            (str(event.get("tool_id")), None, event["event_id"])
            for event in events
            if "mode" in event and (event.get("decision") == "allow" or event["mode"] in {"monitor", "warn"})
        ]


def _fail(problem: str) -> NoReturn:
    try:
        import pytest  # noqa: PLC0415
    except ImportError:
        raise ActPassConfigError(problem, code="actpass.invalid_config") from None
    pytest.fail(problem, pytrace=False)
