"""Test kit for agents: a scripted gateway in the test's own process.

    def test_a_large_refund_is_not_made(actpass_gateway):
        actpass_gateway.deny("stripe.refund.create", reason_code="refund.over_limit")
        my_agent.handle("please refund 900 dollars")     # creates its own ActPassClient(), or receives one
        actpass_gateway.assert_not_executed("stripe.refund.create")

Installing the package registers the pytest fixture ``actpass_gateway``. During a test that uses it,
``ACTPASS_API_KEY`` and ``ACTPASS_API_BASE_URL`` point clients without own settings to it. Outside pytest,
:class:`ScriptedGateway` is a context manager. It listens on the loopback interface and runs in the test's process; the
client, its transport and its guard are the real ones. Without a script it denies every action. An approval is bound to
its action, as in a real gateway: it is found by the action, allows it once and no other. With
``pytest --actpass-gateway=PROGRAM`` the fixture starts the real gateway instead, in development mode.

**Executed** means: a guarded function that was called, or a permit that was spent, in this process or in one
that it started after creating the gateway: by ``fork``, ``spawn``, ``subprocess`` or a pool. (``spawn`` and
``subprocess`` pass on the environment; if you pass another one, merge ``gateway.environment`` into it.) If the gateway
allowed an action and no process reported whether it ran, the helpers raise :class:`UnknownExecution`, an
``AssertionError``. This happens, for example, after a request of another program, or of a process that was started
before the gateway. A failed helper always raises an ``AssertionError``, also under ``python -O``.
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

from . import _native, _run
from ._async import AsyncActPassClient
from ._client import ActPassClient
from ._errors import ActPassConfigError
from ._json import name_of

with contextlib.suppress(ImportError):  # pytest is optional.
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
    "installed_gateway",
    "require_approval",
    "unreachable",
    "warn",
]

#: The API key of the scripted gateway's clients.
API_KEY = "apk_test"
#: Seconds to wait for the report of an allowed action.
_SETTLED_WITHIN = 2.0

Gateway = TypeVar("Gateway", bound="_Gateway")


class UnknownExecution(AssertionError):  # noqa: N818
    """The gateway does not know whether an allowed action ran."""


class Answer:
    """A scripted response to a preflight; created by :func:`allow`, :func:`deny` and others."""

    def __init__(self, decision: Optional[Mapping[str, Any]], status: int = 200) -> None:
        """Respond with ``decision``; if ``None``, close the connection."""
        self.decision = None if decision is None else dict(decision)
        self.status = status

    def _text(self) -> tuple[Optional[str], int]:
        return None if self.decision is None else _native.json_text("answer", self.decision), self.status

    def __repr__(self) -> str:
        """Show the decision."""
        return "unreachable()" if self.decision is None else f"Answer({self.decision.get('decision')!r})"


def allow(reason_code: str = "test.allow", *, credential: Optional[str] = None, **members: Any) -> Answer:
    """Return an ``allow``, with a vaulted credential if a token is given.

    >>> allow(credential="sk_test")
    Answer('allow')
    """
    vaulted = {} if credential is None else {"credential": {"token": credential, "expires_at": None}}
    return _decision("allow", reason_code, vaulted, members)


def deny(
    reason_code: str = "test.deny", *, summary: str = "", next_steps: Optional[list[str]] = None, **m: Any
) -> Answer:
    """Return a ``deny``.

    >>> deny("refund.over_limit", summary="Refunds end at 100 dollars.").decision["explain"]["summary"]
    'Refunds end at 100 dollars.'
    """
    explain = {"explain": {"summary": summary, "matched_rules": [], "next_steps": next_steps or []}}
    return _decision("deny", reason_code, explain, m)


def warn(reason_code: str = "test.warn", **members: Any) -> Answer:
    """Return a ``warn``: the action runs in the modes ``warn`` and ``monitor`` only.

    >>> warn("refund.unusual").decision["reason_code"]
    'refund.unusual'
    """
    return _decision("warn", reason_code, {}, members)


def require_approval(reason_code: str = "test.require_approval", *, id: str = "apr_test", **members: Any) -> Answer:  # noqa: A002
    """Return a ``require_approval``, which opens an approval of the action; see :meth:`ScriptedGateway.approve`.

    The first approval has this ``id``; those of other actions have the suffixes ``_2``, ``_3`` and so on.

    >>> require_approval(id="apr_7").decision["approval_request_id"]
    'apr_7'
    """
    return _decision("require_approval", reason_code, {"approval_request_id": id}, members)


def unreachable() -> Answer:
    """Simulate an unreachable gateway: close the connection without a response.

    >>> unreachable()
    unreachable()
    """
    return Answer(None)


def _decision(word: str, reason_code: str, more: Mapping[str, Any], members: Mapping[str, Any]) -> Answer:
    if "decision" in members:
        raise TypeError(f"decision: unexpected member, the answer is {word!r}")
    return Answer({"decision": word, "reason_code": reason_code, **more, **members})


def assert_not_executed(outcome: Any, tool: Optional[str] = None) -> None:
    """Fail if an action ran: ``outcome`` is the outcome of ``guard`` or a gateway of this module.

    Raises:
        AssertionError: It ran, or the gateway does not know (:class:`UnknownExecution`).
        TypeError: ``outcome`` is neither.

    >>> assert_not_executed({"decision": {"decision": "deny"}, "executed": False})
    """
    if isinstance(outcome, _Gateway):
        outcome.assert_not_executed(tool)
    elif _executed(outcome, tool):
        raise AssertionError(f"it ran: {outcome.get('decision')}")


def assert_executed(outcome: Any, tool: Optional[str] = None) -> None:
    """Fail if no action ran: ``outcome`` is the outcome of ``guard`` or a gateway of this module.

    Raises:
        AssertionError: It did not run, or the gateway does not know (:class:`UnknownExecution`).
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
            f"outcome: expected an outcome of guard or a gateway, found {name_of(outcome)} without a boolean 'executed'"
        )
    if tool is not None and getattr(outcome, "_tool", None) != tool:
        raise TypeError(f"tool: expected the tool of the outcome, {getattr(outcome, '_tool', None)!r}, found {tool!r}")
    return executed


class _Gateway:
    """Base of the scripted and the real gateway."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self.api_key = api_key
        self._process_id = os.getpid()
        self._closed = False
        self._journal = _journal()
        _keep(self)
        #: Journal entries after this offset belong to this gateway.
        self._begins = self._journal.stat().st_size
        #: The number of earlier responses that no longer count.
        self._skipped = 0

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that point a process to this gateway and make it report executions."""
        return {
            "ACTPASS_API_KEY": self.api_key,
            "ACTPASS_API_BASE_URL": self.base_url,
            _run.JOURNAL: str(self._journal),
        }

    @property
    def executed(self) -> list[str]:
        """The tools of the guarded functions that ran since the gateway was created, in order. Assign ``[]`` to reset.

        Raises:
            UnknownExecution: The gateway allowed an action and no process reported whether it ran.
        """
        until = time.monotonic() + _SETTLED_WITHIN
        while True:
            # In this order: a response after the journal was read is not unknown, only later.
            allowed = self._allowed()[self._skipped :]
            noted = self._noted()
            unknown = _unmatched(allowed, noted)
            if not unknown or time.monotonic() > until:
                break
            time.sleep(0.01)
        ran = [note["tool"] for note in noted if note["ran"]]
        if unknown:
            raise UnknownExecution(
                f"{', '.join(unknown)}: allowed, but no process reported whether it ran. Pass the gateway's "
                "`environment` to the processes that use it and to their children. Executions of other programs are "
                f"not visible: assert on the effect of the action instead. Known to have run: {ran}"
            )
        return ran

    @executed.setter
    def executed(self, executed: Optional[list[str]]) -> None:
        """Reset: ignore all executions so far."""
        if executed:
            raise TypeError(f"executed: expected [], which resets it, found {executed!r}")
        self._begins = self._journal.stat().st_size
        self._skipped = len(self._allowed())

    def client(self, **settings: Any) -> ActPassClient:
        """Return a client of this gateway, with a timeout of 5 seconds and no retries by default."""
        return ActPassClient(**self._settings(settings))

    def async_client(self, **settings: Any) -> AsyncActPassClient:
        """Return an asynchronous client of this gateway; see :meth:`client`."""
        return AsyncActPassClient(**self._settings(settings))

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"api_key": self.api_key, "base_url": self.base_url, "timeout": 5, "max_retries": 0, **settings}

    def assert_executed(self, tool: Optional[str] = None, times: Optional[int] = None) -> None:
        """Fail unless a guarded function (of ``tool``, if given) ran at least once, or exactly ``times`` if given.

        Raises:
            AssertionError: It did not run, or the gateway does not know (:class:`UnknownExecution`).
        """
        _check(tool, times)
        executed = self.executed
        ran = [one for one in executed if tool in {None, one}]
        if not (ran if times is None else len(ran) == times):
            often = "" if times is None else f" {times} times"
            raise AssertionError(f"expected {tool or 'an action'} to run{often}; ran: {executed}")

    def assert_not_executed(self, tool: Optional[str] = None) -> None:
        """Fail if a guarded function (of ``tool``, if given) ran in any process.

        Does not detect a misspelled tool name; use ``assert_asked`` for that.

        Raises:
            AssertionError: It ran, or the gateway does not know (:class:`UnknownExecution`).
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
        """Return the responses after which an action may have run."""
        raise NotImplementedError

    def _noted(self) -> list[dict[str, Any]]:
        if os.getpid() != self._process_id:
            raise UnknownExecution("the gateway was created in another process: use it in that process")
        if self._closed:
            raise UnknownExecution("the gateway is closed")
        try:
            noted = self._journal.read_bytes()[self._begins :]
        except OSError as error:
            raise UnknownExecution(f"cannot read the journal of executions: {error}") from error
        return [json.loads(line) for line in noted.splitlines()]


def _journal() -> pathlib.Path:
    """Return the journal of this process. Its gateways share it, because pools and servers may outlive one."""
    mine = _journals.get(os.getpid())
    if mine is None:
        descriptor, path = tempfile.mkstemp(prefix="actpass-", suffix=".jsonl")
        os.close(descriptor)
        mine = _journals[os.getpid()] = pathlib.Path(path)
        atexit.register(_remove, mine, os.getpid())
    return mine


def _keep(gateway: _Gateway) -> None:
    """Record executions of this process while the gateway is open."""
    with _lock:
        _open.add(gateway)
        path = str(gateway._journal)
        if path not in _run.journals:
            _run.journals.append(path)


def _drop(gateway: _Gateway) -> None:
    """Stop recording executions when the last gateway of this process is closed."""
    with _lock:
        _open.discard(gateway)
        mine = os.getpid()
        path = str(gateway._journal)
        # The parent of a forked process may still need its records.
        if gateway._process_id != mine or any(one._process_id == mine for one in _open):
            return
        if path in _run.journals:
            _run.journals.remove(path)


def _remove(journal: pathlib.Path, process_id: int) -> None:
    if os.getpid() == process_id:  # Not in a forked child.
        journal.unlink(missing_ok=True)


#: Journals by process id.
_journals: dict[int, pathlib.Path] = {}
#: Open gateways.
_open: weakref.WeakSet[_Gateway] = weakref.WeakSet()
#: Guards the open gateways and the journals.
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # A child must not inherit a locked lock.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


#: Tool, request id and event id of a response; no ids if the connection was closed.
_Allowed = tuple[str, Optional[str], Optional[str]]


def _unmatched(allowed: list[_Allowed], noted: list[dict[str, Any]]) -> list[str]:
    """Return the tools of responses without a report."""
    requests = {note["request"] for note in noted if note["request"] is not None}
    # Match the others by event: `preflight` reports no request id.
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
    """A scripted gateway in the test's process; a context manager.

    >>> with ScriptedGateway() as gateway:
    ...     gateway.allow("crm.note.add")
    ...     out = gateway.client().guard("demo", "crm.note.add", {"text": "hi"}, lambda ctx: "added")
    ...     gateway.assert_executed("crm.note.add", times=1)
    ...     out["result"], gateway.actions[0]["args"]
    ('added', {'text': 'hi'})
    """

    def __init__(self) -> None:
        """Listen on a free loopback port."""
        from ._scripted import Server  # noqa: PLC0415

        self._state = _native.ScriptedGatewayState()
        self._may_run: list[_Allowed] = []
        self._hung_up: set[tuple[str, str]] = set()
        self._server = Server(self._state, self._answered)
        super().__init__(self._server.base_url, API_KEY)

    @property
    def actions(self) -> list[dict[str, Any]]:
        """The bodies of all preflights so far, including retries."""
        from ._scripted import PREFLIGHT  # noqa: PLC0415

        return [json.loads(body) for _, path, body in self._state.requests() if path == PREFLIGHT]

    @property
    def approvals(self) -> list[dict[str, Any]]:
        """The approvals so far: ``id``, ``tool``, ``action_hash``, ``status`` and ``spent``."""
        return self._state.approvals()

    def answer(self, answer: Answer, tool: Optional[str] = None) -> None:
        """Answer all following preflights of ``tool``, or of every tool, with ``answer``."""
        self._state.script(tool, *answer._text())

    def answer_next(self, *answers: Answer) -> None:
        """Answer the next preflights, of any tool, with one answer each; then as before."""
        for answer in answers:
            self._state.script_next(*answer._text())

    def allow(self, tool: Optional[str] = None, reason_code: str = "test.allow", **members: Any) -> None:
        """Allow all following actions; see :func:`allow`."""
        self.answer(allow(reason_code, **members), tool)

    def deny(self, tool: Optional[str] = None, reason_code: str = "test.deny", **members: Any) -> None:
        """Deny all following actions; see :func:`deny`."""
        self.answer(deny(reason_code, **members), tool)

    def warn(self, tool: Optional[str] = None, reason_code: str = "test.warn", **members: Any) -> None:
        """Answer all following actions with ``warn``; see :func:`warn`."""
        self.answer(warn(reason_code, **members), tool)

    def require_approval(self, tool: Optional[str] = None, **members: Any) -> None:
        """Require approval for all following actions; see :func:`require_approval`."""
        self.answer(require_approval(**members), tool)

    def approve(self, id: str = "apr_test") -> str:  # noqa: A002
        """Approve an action: the gateway then allows this action, with the same arguments, once.

        Args:
            id: The id of the approval, or a tool: then the latest pending approval of the tool. An id that a scripted
                answer sets may be decided before the action is requested.

        Returns:
            The id.

        Raises:
            ActPassArgumentError: No such approval is pending; the message lists the approvals.

        >>> with ScriptedGateway() as gateway, gateway.client() as client:
        ...     gateway.require_approval("crm.note.add")
        ...     out = client.guard("demo", "crm.note.add", {"n": 1}, lambda ctx: "ran")
        ...     gateway.approve("crm.note.add")
        ...     client.guard("demo", "crm.note.add", {"n": 2}, lambda ctx: "ran")["executed"]
        ...     client.guard("demo", "crm.note.add", {"n": 1}, lambda ctx: "ran")["executed"]
        'apr_test'
        False
        True
        """
        return self._state.decide(id, approved=True)

    def reject(self, id: str = "apr_test") -> str:  # noqa: A002
        """Reject an action; see :meth:`approve`."""
        return self._state.decide(id, approved=False)

    def expire(self, id: str = "apr_test") -> str:  # noqa: A002
        """Let an approval expire, also after it was approved; see :meth:`approve`."""
        return self._state.expire(id)

    def halt(self, scope: str, id: Optional[str] = None, *, reason: str = "test") -> int:  # noqa: A002
        """Stop actions, and signal their running functions (``ctx["halt"]``). Return the new ``halt_epoch``.

        Args:
            scope: ``agent``, ``tool`` or ``user``, named by ``id``; or ``tenant`` or ``all``.
            id: The agent, the tool or the user.
            reason: Why; the summary of the denials contains it.

        Raises:
            ActPassArgumentError: The scope is unknown, or the id is missing or superfluous.

        >>> with ScriptedGateway() as gateway, gateway.client() as client:
        ...     gateway.allow()
        ...     epoch = gateway.halt("tool", "crm.note.add", reason="wrong notes")
        ...     out = client.guard("demo", "crm.note.add", {}, lambda ctx: "ran")
        ...     out["decision"]["reason_code"], out["decision"]["explain"]["summary"]
        ...     epoch = gateway.lift()
        ...     client.guard("demo", "crm.note.add", {}, lambda ctx: "ran")["result"]
        ('halted', 'Stopped by test: wrong notes')
        'ran'
        """
        return self._state.halt(scope, id, reason)

    def lift(self) -> int:
        """Lift all stops. Return the new ``halt_epoch``."""
        return self._state.lift()

    @property
    def acknowledgements(self) -> list[dict[str, Any]]:
        """The acknowledgements of stops so far: ``epoch``, ``in_flight``, ``agent_id`` and ``instance``."""
        return [json.loads(body) for _, path, body in self._state.requests() if path == "/api/v1/halts/ack"]

    def unreachable(self, tool: Optional[str] = None) -> None:
        """Close the connection of all following preflights."""
        self.answer(unreachable(), tool)

    def assert_asked(self, tool: Optional[str] = None, times: Optional[int] = None) -> None:
        """Fail unless a preflight (of ``tool``, if given) was received, or exactly ``times`` if given."""
        _check(tool, times)
        self._noted()
        asked = [one["tool"] for one in self.actions]
        matching = [one for one in asked if tool in {None, one}]
        if not (matching if times is None else len(matching) == times):
            raise AssertionError(f"preflights received: {asked}")

    def assert_not_asked(self, tool: Optional[str] = None) -> None:
        """Fail if a preflight (of ``tool``, if given) was received."""
        self.assert_asked(tool, times=0)

    def close(self) -> None:
        """Stop listening."""
        if os.getpid() == self._process_id:  # A forked child has no server thread.
            self._server.close()
        super().close()

    def _answered(
        self, asked: dict[str, Any], status: int, decision: Optional[dict[str, Any]], request_id: str
    ) -> None:
        tool, mode = str(asked.get("tool")), asked.get("mode")
        if decision is None:
            key = (tool, str(asked.get("idempotency_key")))
            if mode == "monitor" and key not in self._hung_up:  # Retries are the same action.
                self._hung_up.add(key)
                self._may_run.append((tool, None, None))
            return
        allows = decision["decision"] == "allow" or (decision["decision"] == "warn" and mode == "warn")
        if mode == "monitor" or (allows and 200 <= status < 300):  # noqa: PLR2004
            self._may_run.append((tool, request_id, decision.get("evidence_event_id")))

    def _allowed(self) -> list[_Allowed]:
        return list(self._may_run)


class RealGateway(_Gateway):
    """The real gateway in development mode, as a child process with an empty ledger and its own policy."""

    def __init__(self, program: str, directory: str) -> None:
        """Start ``program`` with its data in ``directory``."""
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
        # The ledger contains the decision of `enforce`, independent of the mode.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as answer:
                events = json.loads(answer.read())["events"]
        except OSError as error:
            if getattr(error, "code", None) == 404:  # noqa: PLR2004
                return []  # No decision yet.
            raise UnknownExecution(f"cannot read the ledger: {error}") from error
        return [
            (str(event.get("tool_id")), None, event["event_id"])
            for event in events
            if "mode" in event and (event.get("decision") == "allow" or event["mode"] in {"monitor", "warn"})
        ]


def installed_gateway() -> str:
    """Return the path of the gateway: of the package ``actpass-gateway``, or else the one on the ``PATH``.

    Raises:
        ActPassConfigError: No gateway is installed.

    >>> RealGateway(installed_gateway(), "/tmp/ledger")  # doctest: +SKIP
    """
    import importlib.metadata  # noqa: PLC0415
    import shutil  # noqa: PLC0415

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.distribution("actpass-gateway").files or []:
            program = pathlib.Path(str(file.locate())).resolve()
            if program.stem == "actpass-gateway" and program.suffix in {"", ".exe"} and program.is_file():
                return str(program)
    found = shutil.which("actpass-gateway")
    if found is None:
        raise ActPassConfigError(
            "no gateway is installed: pip install actpass-gateway, or give the path of the program",
            code="actpass.invalid_config",
        )
    return found


def _fail(problem: str) -> NoReturn:
    try:
        import pytest  # noqa: PLC0415
    except ImportError:
        raise ActPassConfigError(problem, code="actpass.invalid_config") from None
    pytest.fail(problem, pytrace=False)
