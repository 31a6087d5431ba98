"""A pytest plugin to test agents without a gateway: the fixture ``actpass_gateway`` is one that answers by script.

    def test_a_large_refund_is_not_made(actpass_gateway):
        actpass_gateway.deny("stripe.refund.create", reason_code="refund.over_limit")
        my_agent.handle("please refund 900 dollars")     # makes its own ActPassClient(), or is given one
        actpass_gateway.assert_not_executed("stripe.refund.create")

The plugin is there as soon as the package is installed. While a test uses the fixture, ``ACTPASS_API_KEY`` and
``ACTPASS_API_BASE_URL`` lead clients to it that the test or its subject makes without settings of their own. It
listens on this machine only and runs in the test's process; the client, its transport and its guard are the real ones.
A gateway that was told nothing denies everything. With ``pytest --actpass-gateway=PROGRAM`` the fixture is the real
gateway instead, in its development mode, with its own policy.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from . import _run
from ._telemetry import observe

if TYPE_CHECKING:
    from ._async import AsyncActPassClient
    from ._client import ActPassClient

__all__ = [
    "Answer",
    "RealGateway",
    "ScriptedGateway",
    "actpass_gateway",
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


class Answer:
    """What a scripted gateway answers to a preflight; made by :func:`allow` and its like."""

    def __init__(self, decision: Mapping[str, Any] | None, status: int = 200) -> None:
        """Answer ``decision``, or hang up where it is ``None``."""
        self.decision = None if decision is None else dict(decision)
        self.status = status

    def __repr__(self) -> str:
        """Show what is answered."""
        return "unreachable()" if self.decision is None else f"Answer({self.decision.get('decision')!r})"


def allow(reason_code: str = "test.allow", *, credential: str | None = None, **members: Any) -> Answer:
    """Return an answer that allows, with a vaulted credential of this token if one is given."""
    vaulted = {} if credential is None else {"credential": {"token": credential, "expires_at": None}}
    return _decision("allow", reason_code, vaulted, members)


def deny(reason_code: str = "test.deny", *, summary: str = "", next_steps: list[str] | None = None, **m: Any) -> Answer:
    """Return an answer that denies."""
    explain = {"explain": {"summary": summary, "matched_rules": [], "next_steps": next_steps or []}}
    return _decision("deny", reason_code, explain, m)


def warn(reason_code: str = "test.warn", **members: Any) -> Answer:
    """Return an answer that warns: it runs in the modes ``warn`` and ``monitor`` only."""
    return _decision("warn", reason_code, {}, members)


def require_approval(reason_code: str = "test.require_approval", *, id: str = "apr_test", **members: Any) -> Answer:  # noqa: A002
    """Return an answer that wants a person's approval first; see :meth:`ScriptedGateway.approve`."""
    return _decision("require_approval", reason_code, {"approval_request_id": id}, members)


def unreachable() -> Answer:
    """Return the answer of a gateway that cannot be reached: none, the connection is closed."""
    return Answer(None)


def _decision(word: str, reason_code: str, more: Mapping[str, Any], members: Mapping[str, Any]) -> Answer:
    return Answer({"decision": word, "reason_code": reason_code, **more, **members})


def assert_not_executed(outcome: Any, tool: str | None = None) -> None:
    """Fail if something ran: ``outcome`` is what ``guard`` reported, or a test's gateway."""
    if isinstance(outcome, Mapping):
        assert outcome["executed"] is False, f"it ran: {outcome['decision']}"
    else:
        outcome.assert_not_executed(tool)


def assert_executed(outcome: Any, tool: str | None = None) -> None:
    """Fail if nothing ran: ``outcome`` is what ``guard`` reported, or a test's gateway."""
    if isinstance(outcome, Mapping):
        assert outcome["executed"] is True, f"it did not run: {outcome['decision']}"
    else:
        outcome.assert_executed(tool)


class _Gateway:
    """What a test can ask of either gateway."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self.api_key = api_key
        #: The tools of the guarded functions that ran since the test began, in their order.
        self.executed: list[str] = []

    def client(self, **settings: Any) -> ActPassClient:
        """Return a client of this gateway that gives up quickly."""
        from ._client import ActPassClient  # noqa: PLC0415

        return ActPassClient(**self._settings(settings))

    def async_client(self, **settings: Any) -> AsyncActPassClient:
        """Return the same for an event loop."""
        from ._async import AsyncActPassClient  # noqa: PLC0415

        return AsyncActPassClient(**self._settings(settings))

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"api_key": self.api_key, "base_url": self.base_url, "timeout": 5, "max_retries": 0, **settings}

    def assert_executed(self, tool: str | None = None, times: int | None = None) -> None:
        """Fail unless a guarded function ran, of ``tool`` if one is named, and so often if ``times`` is given."""
        ran = [one for one in self.executed if tool in {None, one}]
        assert ran if times is None else len(ran) == times, (
            f"{tool or 'something'} should have run; ran: {self.executed}"
        )

    def assert_not_executed(self, tool: str | None = None) -> None:
        """Fail if any guarded function ran, of ``tool`` if one is named."""
        assert tool not in {None, *self.executed} if tool else not self.executed, f"ran: {self.executed}"


class ScriptedGateway(_Gateway):
    """A gateway in the test's own process that answers what the test says."""

    def __init__(self) -> None:
        """Listen on a port of this machine."""
        from ._scripted import Server  # noqa: PLC0415

        self._server = Server(self._decide)
        super().__init__(self._server.base_url, API_KEY)
        #: The bodies of the preflights so far.
        self.actions: list[dict[str, Any]] = []
        self._always: dict[str | None, Answer] = {}
        self._next: list[Answer] = []

    def answer(self, answer: Answer, tool: str | None = None) -> None:
        """Answer so from now on, to actions of ``tool`` or, if none is named, of any."""
        if tool is None:
            self._always.clear()
        self._always[tool] = answer

    def answer_next(self, *answers: Answer) -> None:
        """Answer the next actions so, of whatever tool, one each; then as before."""
        self._next += answers

    def allow(self, tool: str | None = None, reason_code: str = "test.allow", **members: Any) -> None:
        """Allow from now on: see :func:`allow`."""
        self.answer(allow(reason_code, **members), tool)

    def deny(self, tool: str | None = None, reason_code: str = "test.deny", **members: Any) -> None:
        """Deny from now on: see :func:`deny`."""
        self.answer(deny(reason_code, **members), tool)

    def warn(self, tool: str | None = None, reason_code: str = "test.warn", **members: Any) -> None:
        """Warn from now on: see :func:`warn`."""
        self.answer(warn(reason_code, **members), tool)

    def require_approval(self, tool: str | None = None, **members: Any) -> None:
        """Want an approval from now on: see :func:`require_approval`."""
        self.answer(require_approval(**members), tool)

    def approve(self, id: str = "apr_test") -> None:  # noqa: A002
        """Approve: what names this approval is allowed, once."""
        self._server.approvals[id] = "approved"

    def reject(self, id: str = "apr_test") -> None:  # noqa: A002
        """Reject what was to be approved."""
        self._server.approvals[id] = "rejected"

    def unreachable(self, tool: str | None = None) -> None:
        """Cannot be reached from now on."""
        self.answer(unreachable(), tool)

    def assert_asked(self, tool: str | None = None, times: int | None = None) -> None:
        """Fail unless a decision was asked for, about ``tool`` if one is named, and so often if ``times`` is given."""
        asked = [one["tool"] for one in self.actions]
        matching = [one for one in asked if tool in {None, one}]
        assert matching if times is None else len(matching) == times, f"asked about: {asked}"

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _decide(self, action: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
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
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        prefix = "listening on "
        if not said.startswith(prefix):
            self.close()
            why = log.read_text(encoding="utf-8", errors="replace").strip() or f"its first line is {said!r}"
            pytest.fail(f"{program} did not start: {why}", pytrace=False)
        super().__init__(said[len(prefix) :], "apk_dev")

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("actpass").addoption(
        "--actpass-gateway", metavar="PROGRAM", help="run the real gateway for the fixture actpass_gateway"
    )


@pytest.fixture
def actpass_gateway(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScriptedGateway | RealGateway]:
    """Give a gateway for this test, to which clients without settings of their own lead."""
    program = request.config.getoption("--actpass-gateway")
    gateway: ScriptedGateway | RealGateway
    gateway = RealGateway(program, str(tmp_path_factory.mktemp("actpass"))) if program else ScriptedGateway()
    spend = _run.spend

    def noting(permit: Any, tool: str) -> Any:
        context = spend(permit, tool)
        observe("actpass_gateway", lambda: gateway.executed.append(tool))
        return context

    with contextlib.closing(gateway):
        monkeypatch.setenv("ACTPASS_API_KEY", gateway.api_key)
        monkeypatch.setenv("ACTPASS_API_BASE_URL", gateway.base_url)
        monkeypatch.setattr(_run, "spend", noting)
        yield gateway
