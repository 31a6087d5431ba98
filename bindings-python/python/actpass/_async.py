"""The client for programs with an event loop. `make generate` writes `_client`, the blocking one, from this file."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from types import TracebackType
from typing import Any, Callable, NoReturn, Optional, Union, overload

from . import _native, _run
from ._errors import ActPassError
from ._kinds import Awaited
from ._outcome import GuardOutput
from ._run import answer
from ._settings import Self, limits
from ._telemetry import operation
from ._types import (
    Approval,
    Decision,
    ExecutionContext,
    IssuedPassport,
    Mode,
    P,
    PassportRevocation,
    PassportVerification,
    PendingApproval,
    R,
    RecordedEvidence,
    T,
)


class AsyncPermit:
    """Leave to run one action, once. :meth:`AsyncActPassClient.authorize` gives it; a program cannot make one.

    Call :meth:`spend` right before the action runs. When the action has ended, call :meth:`returned` or :meth:`failed`;
    if it was stopped, :meth:`cancelled`. A permit is void after five minutes, and once its credential has expired. It
    can be neither pickled nor copied, nor spent in a process that was forked since.

    >>> import asyncio
    >>> from actpass.testing import ScriptedGateway
    >>> async def main():
    ...     with ScriptedGateway() as gateway:
    ...         gateway.allow()
    ...         async with gateway.async_client() as client:
    ...             return await client.authorize("demo", "demo.tool", {})
    >>> asyncio.run(main())
    AsyncPermit(tool='demo.tool', decision='allow')
    """

    __slots__ = ("_decision", "_default", "_session", "_tool")

    def __init__(self, session: _native.GuardSession, tool: str, default: Optional[Callable[[Any], Any]]) -> None:
        """Hold what the native half permits."""
        self._session = session
        self._default = default
        self._tool = tool
        self._decision: Decision = session.decision
        _run.note(tool, self._decision, session.request_id, ran=False)

    @property
    def tool(self) -> str:
        """The tool that may be used.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     gateway.client().authorize("demo", "demo.tool", {}).tool
        'demo.tool'
        """
        return self._tool

    @property
    def decision(self) -> Decision:
        """The decision under which the action may run.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     gateway.client().authorize("demo", "demo.tool", {}).decision["reason_code"]
        'test.allow'
        """
        return self._decision

    def spend(self, args: Optional[dict[str, Any]] = None) -> ExecutionContext:
        """Return what the action is given: its credential, if there is one, and the decision. Run it then, once.

        Args:
            args: The arguments with which the action is about to run, if they may have changed since the question: a
                difference blocks with ``actpass.arguments_changed``. Default: they are not compared.

        Raises:
            ActPassArgumentError: The permit is spent, or the process was forked since. Do not run the action.
            ActionBlocked: The arguments have changed, or the permit is void (``actpass.permit_expired``). In
                ``monitor`` the action may run, without a credential.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         gateway.allow()
        ...         async with gateway.async_client() as client:
        ...             permit = await client.authorize("demo", "demo.tool", {"n": 1})
        ...             try:
        ...                 permit.spend({"n": 2})
        ...             except Exception as error:
        ...                 return error.code
        >>> asyncio.run(main())
        'actpass.arguments_changed'
        """
        context, blocked = _run.begin(self._session, self.tool, (args, None, self._default))
        if context is None:
            blocked._tool = self.tool
            blocked.unwrap()
        spent: ExecutionContext = context
        return spent

    async def returned(self, result: T) -> GuardOutput[T]:
        """Report that the action returned ``result``, and record that with ``record_outcome``.

        Returns:
            The outcome, as :meth:`AsyncActPassClient.guard` reports it.

        Raises:
            ActPassArgumentError: The permit is not spent, or its end was reported before.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         gateway.allow()
        ...         async with gateway.async_client() as client:
        ...             permit = await client.authorize("demo", "demo.tool", {}, record_outcome=True)
        ...             context = permit.spend()
        ...             return (await permit.returned("ran"))["evidence"]["event_id"]
        >>> asyncio.run(main())
        'ev_2'
        """
        return self._ended(await _run.reported_async(_run.returned(self._session, result)))

    async def failed(self, error: Exception) -> GuardOutput[Any]:
        """Report that the action raised ``error``, and record that with ``record_outcome``.

        Returns:
            The outcome, as :meth:`AsyncActPassClient.guard` reports it.

        Raises:
            ActPassArgumentError: ``error`` is no exception, the permit is not spent, or its end was reported before.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         gateway.allow()
        ...         async with gateway.async_client() as client:
        ...             permit = await client.authorize("demo", "demo.tool", {})
        ...             context = permit.spend()
        ...             return (await permit.failed(ValueError("no such charge")))["error"]
        >>> asyncio.run(main())
        ValueError('no such charge')
        """
        return self._ended(await _run.reported_async(_run.failed(self._session, error)))

    def cancelled(self) -> None:
        """Report that the action was stopped while it ran; with ``record_outcome`` that is recorded in the background.

        It waits for nothing and replaces no exception: call it where the stop is caught, then raise the stop again.

        Raises:
            ActPassArgumentError: The permit is not spent, or its end was reported before.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         gateway.allow()
        ...         async with gateway.async_client() as client:
        ...             permit = await client.authorize("demo", "demo.tool", {})
        ...             context = permit.spend()
        ...             permit.cancelled()
        >>> asyncio.run(main())
        """
        self._session.cancelled()

    def _ended(self, outcome: GuardOutput[Any]) -> GuardOutput[Any]:
        outcome._tool = self.tool
        return outcome

    def __repr__(self) -> str:
        """Show the tool and the decision's word, and nothing secret."""
        return f"{type(self).__name__}(tool={self.tool!r}, decision={self.decision['decision']!r})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: a permit is spent once."""
        raise _run.wrong(
            "expected something that can be pickled or copied, found a permit, which is spent once: spend it in the "
            "process that was given it",
            "permit",
        )


class AsyncActPassClient(Awaited):
    """A client of an ActPass gateway for asyncio, also on uvloop and under anyio; not for trio.

    One background thread, which all clients of the process share, makes the calls; it starts with the first call and
    never needs the interpreter. One client may be used from several event loops, and on both sides of ``os.fork()``.
    Cancelling a task ends its call at once: its connection is closed, and nothing runs.

    Connections are kept open and shared by all calls; :meth:`close` (or leaving an ``async with`` block) lets them go.

    Args:
        api_key: The key, which is the identity: ``apk_…`` or ``apdv_…``. Default: the environment variable
            ``ACTPASS_API_KEY``.
        tenant_id: The tenant, a routing hint that the gateway does not trust. Default: none.
        agent_id: The agent's name. Default: ``"sdk"``.
        base_url: The gateway's URL. Default: the environment variable ``ACTPASS_API_BASE_URL``, else
            :data:`DEFAULT_BASE_URL`. Plain ``http`` is accepted to this machine only.
        timeout: The total deadline of a call in seconds, retries and waits included; above 0, at most 86400.
        connect_timeout: The longest that one attempt may take to connect, in seconds. Default: 5, or ``timeout``
            if that is shorter.
        max_retries: How often a call is tried again at most, 0 to 10. Calls that are not safe to repeat are
            retried only where the gateway certainly did not take them.
        mode: The mode of calls that name none. Nothing in the environment can change it.
        ca: Certificates to trust as well, as authorities and as a server's own, in PEM, as ``str`` or ``bytes``.
        circuit_failures: How many calls in a row must fail to reach the gateway for the circuit to open; 0 is never.
            While it is open, calls fail at once as ``actpass.unreachable`` with a ``retry_after``; see :attr:`circuit`.
        danger_allow_insecure_http: Permits plain ``http`` to another machine, where everyone on the way can read the
            key and forge decisions.
        default: A function that converts what in arguments is not JSON, as for ``json.dumps``: see :meth:`guard`.

    Raises:
        ActPassConfigError: A setting is missing or wrong; the message names it.

    >>> client = AsyncActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787", agent_id="support_agent")
    >>> client
    AsyncActPassClient(base_url='http://127.0.0.1:8787', tenant_id=None, agent_id='support_agent')
    """

    __slots__ = ()

    async def preflight(
        self,
        goal: str,
        tool: str,
        args: dict[str, Any],
        resource: str = "",
        user_id: Optional[str] = None,
        passport: Optional[str] = None,
        mode: Optional[Mode] = None,
        idempotency_key: Optional[str] = None,
        audience: Optional[str] = None,
        *,
        approval_request_id: Optional[str] = None,
        tool_manifest_hash: Optional[str] = None,
        default: Optional[Callable[[Any], Any]] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> Decision:
        """Ask for a decision, and run nothing.

        Args:
            goal: What the agent wants to achieve.
            tool: The tool that it is about to use.
            args: The tool's arguments: a dict of what is JSON, nested at most 127 deep.
            resource: What the tool acts on, such as ``stripe:charge:ch_123``.
            user_id: On whose behalf the agent acts.
            passport: The passport that the action spends.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            idempotency_key: What makes a repetition known as one. Default: a fresh UUIDv7, kept on retries.
            audience: To whom the passport is shown.
            approval_request_id: The approved request that the action spends.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            default: As for :meth:`guard`.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: How often this call is retried at most. Default: the client's.

        Returns:
            The decision. A 401 or 403 that explains itself with a decision other than
            ``allow`` is that decision.

        Raises:
            ActPassArgumentError: Something cannot be sent; nothing was.
            ActPassError: There is no decision; its class and ``code`` say why.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         async with gateway.async_client() as client:
        ...             return (await client.preflight("demo", "demo.tool", {"n": 1}))["reason_code"]
        >>> asyncio.run(main())
        'test.unscripted'
        """
        converter = self._converter(default, "preflight")
        with operation("preflight", tool, mode, self) as told:
            try:
                decision: Decision = await answer(
                    self._native.preflight(
                        {
                            "goal": goal,
                            "tool": tool,
                            "args": args,
                            "resource": resource,
                            "user_id": user_id,
                            "passport": passport,
                            "mode": mode,
                            "idempotency_key": idempotency_key,
                            "audience": audience,
                            "approval_request_id": approval_request_id,
                            "tool_manifest_hash": tool_manifest_hash,
                        },
                        converter,
                        limits(timeout, max_retries),
                    )
                )
            except ActPassError:
                if _run.journals and (mode or self.mode) == "monitor":
                    _run.note(tool, {}, ran=False)
                raise
            told.decided(decision)
            _run.note(tool, decision, ran=False)
            return decision

    @overload
    async def guard(
        self,
        goal: str,
        tool: str,
        args: dict[str, Any],
        execute_fn: Callable[[ExecutionContext], Awaitable[T]],
        resource: str = "",
        user_id: Optional[str] = None,
        passport: Optional[str] = None,
        mode: Optional[Mode] = None,
        idempotency_key: Optional[str] = None,
        audience: Optional[str] = None,
        *,
        approval_request_id: Optional[str] = None,
        tool_manifest_hash: Optional[str] = None,
        wait_for_approval: Optional[float] = None,
        record_outcome: bool = False,
        default: Optional[Callable[[Any], Any]] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> GuardOutput[T]: ...

    @overload
    async def guard(
        self,
        goal: str,
        tool: str,
        args: dict[str, Any],
        execute_fn: Callable[[ExecutionContext], T],
        resource: str = "",
        user_id: Optional[str] = None,
        passport: Optional[str] = None,
        mode: Optional[Mode] = None,
        idempotency_key: Optional[str] = None,
        audience: Optional[str] = None,
        *,
        approval_request_id: Optional[str] = None,
        tool_manifest_hash: Optional[str] = None,
        wait_for_approval: Optional[float] = None,
        record_outcome: bool = False,
        default: Optional[Callable[[Any], Any]] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> GuardOutput[T]: ...

    async def guard(
        self,
        goal: str,
        tool: str,
        args: dict[str, Any],
        execute_fn: Callable[[ExecutionContext], Any],
        resource: str = "",
        user_id: Optional[str] = None,
        passport: Optional[str] = None,
        mode: Optional[Mode] = None,
        idempotency_key: Optional[str] = None,
        audience: Optional[str] = None,
        *,
        approval_request_id: Optional[str] = None,
        tool_manifest_hash: Optional[str] = None,
        wait_for_approval: Optional[float] = None,
        record_outcome: bool = False,
        default: Optional[Callable[[Any], Any]] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> GuardOutput[Any]:
        """Ask for a decision, and run ``execute_fn`` only when the decision allows it.

        ``execute_fn``, ``async def`` or plain, is called with ``{"credential": {...} or None, "decision": {...}}``, at
        most once, in the caller's task and with its context variables, after the verdict; what it returns is awaited
        if it is awaitable. In ``enforce`` it runs on ``allow`` only; in ``strict`` only if the decision is
        recorded and bound to this request as well; in ``warn`` also on ``warn``; in ``monitor`` always.

        Args:
            goal: This and all that is not listed here: as for :meth:`preflight`.
            tool: The tool that it is about to use.
            args: The tool's arguments.
            execute_fn: What is to run: a function of one argument, the context. Generator functions are refused.
            resource: What the tool acts on.
            user_id: On whose behalf the agent acts.
            passport: The passport that the action spends.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            idempotency_key: What makes a repetition known as one: a second call with the same key runs nothing.
            audience: To whom the passport is shown.
            approval_request_id: The approved request that the action spends.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            wait_for_approval: For how many seconds an action that needs an approval is held until a person decided, on
                top of the client's ``timeout``, which is that of each request. Then the same action is asked about once
                more. Default: it is not held.
            record_outcome: Whether the ledger is told how the action ended, on the decision's chain.
            default: A function that converts what in ``args`` is not JSON, as for ``json.dumps``: it is called with
                each such value and returns what to send. What it raises is raised. Default: the client's, else such
                values are refused.
            timeout: The total deadline of each request of this call, in seconds. Default: the client's.
            max_retries: How often each is retried at most. Default: the client's.

        Returns:
            A dict: ``decision`` and ``executed`` always; ``result`` when the function ran and returned; ``error``
            when it ran and raised (that very exception) or when the gate failed (an
            :class:`~actpass.ActPassError`). A coroutine, generator or other body that it returned and that nobody would
            run is an ``error`` too (an :class:`~actpass.ActPassArgumentError`), and is closed.
            If the gate failed, the decision is one that the SDK made: ``deny`` with a ``reason_code`` such as
            ``actpass.unreachable``, and what to check in ``explain``. ``approval``, a small dict to keep and give to
            :meth:`resume`, when a person has to decide first. With ``record_outcome``,
            what came of that: ``evidence`` (the ledger's answer) or ``evidence_error``.

        Raises:
            ActPassArgumentError: Something cannot be sent, or ``execute_fn`` cannot be called with the context or would
                run later. Nothing was sent and nothing ran, in any mode.
            asyncio.CancelledError: The task was cancelled. Before the verdict: nothing runs. While the function ran: it
                has been cancelled too, and with ``record_outcome`` the ledger is told, as far as that still succeeds.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         gateway.allow()
        ...         async with gateway.async_client() as client:
        ...             return (await client.guard("demo", "demo.tool", {}, lambda ctx: "ran")).unwrap()
        >>> asyncio.run(main())
        'ran'
        """
        action = {
            "goal": goal,
            "tool": tool,
            "args": args,
            "resource": resource,
            "user_id": user_id,
            "passport": passport,
            "mode": mode,
            "idempotency_key": idempotency_key,
            "audience": audience,
            "approval_request_id": approval_request_id,
            "tool_manifest_hash": tool_manifest_hash,
            "wait_for_approval": wait_for_approval,
        }
        return await self._guard(
            action, execute_fn, default=default, record_outcome=record_outcome, options=limits(timeout, max_retries)
        )

    async def authorize(
        self,
        goal: str,
        tool: str,
        args: dict[str, Any],
        *,
        resource: str = "",
        user_id: Optional[str] = None,
        passport: Optional[str] = None,
        mode: Optional[Mode] = None,
        idempotency_key: Optional[str] = None,
        audience: Optional[str] = None,
        approval_request_id: Optional[str] = None,
        tool_manifest_hash: Optional[str] = None,
        wait_for_approval: Optional[float] = None,
        record_outcome: bool = False,
        default: Optional[Callable[[Any], Any]] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> Union[AsyncPermit, GuardOutput[Any]]:
        """Ask for a decision, and return a permit if the action may run: :meth:`guard` in steps.

        For code that cannot give its action as one function, such as a framework's hooks before and after a tool. A
        permit is spent once, right before the action runs; then the permit is told how the action ended.

        Args:
            goal: This and all that is not listed here: as for :meth:`guard`.
            tool: The tool that it is about to use.
            args: The tool's arguments.
            resource: What the tool acts on.
            user_id: On whose behalf the agent acts.
            passport: The passport that the action spends.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            idempotency_key: What makes a repetition known as one: a second call with the same key gives no permit.
            audience: To whom the passport is shown.
            approval_request_id: The approved request that the action spends.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            wait_for_approval: As for :meth:`guard`.
            record_outcome: Whether the ledger is told how the action ended, when the permit is.
            default: As for :meth:`guard`.
            timeout: The total deadline of each request of this call, in seconds. Default: the client's.
            max_retries: How often each is retried at most. Default: the client's.

        Returns:
            An :class:`~actpass.AsyncPermit`; or, if the action may not run, the outcome, as :meth:`guard` reports it.

        Raises:
            ActPassArgumentError: Something cannot be sent. Nothing was sent, in any mode.

        >>> import asyncio
        >>> from actpass import AsyncPermit
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         gateway.allow()
        ...         async with gateway.async_client() as client:
        ...             permit = await client.authorize("demo", "demo.tool", {"n": 1})
        ...             if not isinstance(permit, AsyncPermit):
        ...                 permit.unwrap()  # Raises ActionBlocked.
        ...             context = permit.spend()
        ...             out = await permit.returned("ran")
        ...             return context["credential"], out["result"]
        >>> asyncio.run(main())
        (None, 'ran')
        """
        action = {
            "goal": goal,
            "tool": tool,
            "args": args,
            "resource": resource,
            "user_id": user_id,
            "passport": passport,
            "mode": mode,
            "idempotency_key": idempotency_key,
            "audience": audience,
            "approval_request_id": approval_request_id,
            "tool_manifest_hash": tool_manifest_hash,
            "wait_for_approval": wait_for_approval,
        }
        converter, options = self._converter(default, "authorize"), limits(timeout, max_retries)
        with operation("authorize", tool, mode, self) as told:
            session, blocked = await answer(self._native.authorize(action, record_outcome, converter, options))
            if session is None:
                return _run.blocked(blocked, tool, told)
            permit = AsyncPermit(session, tool, converter)
            told.decided(permit.decision)
            return permit

    @overload
    async def resume(
        self,
        pending: PendingApproval,
        execute_fn: Callable[[ExecutionContext], Awaitable[T]],
        *,
        passport: Optional[str] = None,
        wait_for_approval: Optional[float] = None,
        record_outcome: bool = False,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> GuardOutput[T]: ...

    @overload
    async def resume(
        self,
        pending: PendingApproval,
        execute_fn: Callable[[ExecutionContext], T],
        *,
        passport: Optional[str] = None,
        wait_for_approval: Optional[float] = None,
        record_outcome: bool = False,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> GuardOutput[T]: ...

    async def resume(
        self,
        pending: PendingApproval,
        execute_fn: Callable[[ExecutionContext], Any],
        *,
        passport: Optional[str] = None,
        wait_for_approval: Optional[float] = None,
        record_outcome: bool = False,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> GuardOutput[Any]:
        """Guard an action again that waited for a person, in this process or another.

        The action is the one in ``pending``, its arguments in ``pending["args"]`` for ``execute_fn`` to use. The
        gateway holds it against the one that was approved, and lets an approval be used once; so what runs is what
        was approved, or nothing.

        Args:
            pending: What :meth:`guard` reported as ``approval``, also after a way through JSON.
            execute_fn: What is to run: a function of one argument, the context. Generator functions are refused.
            passport: A passport, if the action needs one: ``pending`` holds no secret.
            wait_for_approval: As for :meth:`guard`. Default: it is not held, and comes back as blocked if nobody has
                decided yet.
            record_outcome: As for :meth:`guard`.
            timeout: As for :meth:`guard`.
            max_retries: As for :meth:`guard`.

        Returns:
            As :meth:`guard`.

        Raises:
            ActPassArgumentError: ``pending`` is not such a dict; the message names the member.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> pending = {"approval_request_id": "apr_1", "goal": "demo", "tool": "demo.tool", "args": {}}
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         gateway.allow()
        ...         async with gateway.async_client() as client:
        ...             return (await client.resume(pending, lambda ctx: "ran"))["executed"]
        >>> asyncio.run(main())
        True
        """
        _run.check_callable(execute_fn, "resume", awaited=self._background)
        with operation("resume", *_run.shown(pending), self) as told:
            session, blocked = await answer(
                self._native.resume(pending, passport, wait_for_approval, record_outcome, limits(timeout, max_retries))
            )
            return await _run.run_async(session, blocked, pending["tool"], execute_fn, told)

    async def wait_for_approval(self, approval: Union[PendingApproval, str], timeout: float = 0.0) -> Approval:
        """Wait until a person decided, for ``timeout`` seconds at most, and return where the approval stands then.

        Args:
            approval: What :meth:`guard` reported as ``approval``, or its ``approval_request_id``.
            timeout: Seconds; 0 is one look.

        Returns:
            ``id``, ``status`` (``pending``, ``approved``, ``rejected`` or ``expired``), ``decided_by``, ``decided_at``.

        Raises:
            ActPassError: As :meth:`preflight`.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         async with gateway.async_client() as client:
        ...             return (await client.wait_for_approval("apr_1"))["status"]
        >>> asyncio.run(main())
        'pending'
        """
        with operation("wait_for_approval"):
            looked: Approval = await answer(self._native.wait_for_approval(approval, timeout))
            return looked

    async def issue_passport(
        self,
        audience: str,
        goal: str,
        allowed_tools: list[str],
        allowed_resources: Optional[list[str]] = None,
        resource_constraints: Optional[dict[str, Any]] = None,
        user_id: Optional[str] = None,
        ttl_seconds: Optional[int] = None,
        risk_tier: str = "medium",
        *,
        approval_request_id: Optional[str] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> IssuedPassport:
        """Ask for a passport: signed leave to ask for certain actions for a few minutes, once.

        Args:
            audience: Whom the passport is shown to, such as ``mcp://stripe-production``.
            goal: What the agent is to achieve.
            allowed_tools: The tools that it may ask for.
            allowed_resources: The resources that it may ask for.
            resource_constraints: Values that bound the arguments: ``{"max_amount": 10000, "currency": "usd"}``.
            user_id: Who delegated.
            ttl_seconds: For how many seconds it holds. Default: the gateway's.
            risk_tier: ``low``, ``medium``, ``high`` or ``critical``.
            approval_request_id: The approval that it stands for: it is then for that one action, and spends it.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: How often this call is retried at most. Default: the client's.

        Returns:
            ``token`` (the passport, a secret: give it to ``passport=``), ``jwks_uri`` and what else the gateway says.

        Raises:
            ActPassError: As :meth:`preflight`. The call is not repeated where the gateway may have taken it.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         async with gateway.async_client() as client:
        ...             issued = await client.issue_passport("mcp://stripe-production", "refund", ["demo.tool"])
        ...             return issued["jti"]
        >>> asyncio.run(main())
        'ap_1'
        """
        with operation("issue_passport"):
            issued: IssuedPassport = await answer(
                self._native.issue_passport(
                    {
                        "audience": audience,
                        "goal": goal,
                        "allowed_tools": allowed_tools,
                        "allowed_resources": allowed_resources,
                        "resource_constraints": resource_constraints,
                        "user_id": user_id,
                        "ttl_seconds": ttl_seconds,
                        "risk_tier": risk_tier,
                        "approval_request_id": approval_request_id,
                    },
                    self._default,
                    limits(timeout, max_retries),
                )
            )
            return issued

    async def verify_passport(
        self,
        token: str,
        audience: str,
        agent_id: Optional[str] = None,
        user_id: Optional[str] = None,
        current_tool_manifest_hash: Optional[str] = None,
        policy_hash: Optional[str] = None,
        *,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> PassportVerification:
        """Have the gateway verify a passport as shown to ``audience``.

        Args:
            token: The passport.
            audience: To whom it is shown.
            agent_id: The agent that it must be made out to.
            user_id: Who must have delegated.
            current_tool_manifest_hash: The hash of a tool's definition, which must be one that was approved.
            policy_hash: The hash of the policy that must be in force.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: How often this call is retried at most. Default: the client's.

        Returns:
            ``valid`` and ``errors``. A passport that is not valid raises nothing.

        Raises:
            ActPassError: As :meth:`preflight`.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         async with gateway.async_client() as client:
        ...             return await client.verify_passport("test.passport.1", "mcp://stripe-production")
        >>> asyncio.run(main())
        {'valid': True, 'errors': []}
        """
        with operation("verify_passport"):
            verified: PassportVerification = await answer(
                self._native.verify_passport(
                    {
                        "token": token,
                        "audience": audience,
                        "agent_id": agent_id,
                        "user_id": user_id,
                        "current_tool_manifest_hash": current_tool_manifest_hash,
                        "policy_hash": policy_hash,
                    },
                    limits(timeout, max_retries),
                )
            )
            return verified

    async def verify_passport_offline(
        self,
        token: str,
        audience: str,
        *,
        issuer: Optional[str] = None,
        agent_id: Optional[str] = None,
        user_id: Optional[str] = None,
        tenant_id: Optional[str] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> PassportVerification:
        """Verify a passport with the gateway's public keys, which are fetched once and kept.

        The signature (Ed25519), the issuer, the audience, the time and the tenant are checked, and the agent and the
        user if given. Clocks may differ by 10 seconds. Only the gateway knows whether a passport was revoked or spent.
        The keys are fetched again after 10 minutes, and at once for a key that is not among them (at most once in a
        second); if that fails, those at hand serve until they are an hour old.

        Args:
            token: The passport.
            audience: Whom it is shown to.
            issuer: Who must have issued it. Default: the gateway, by :attr:`base_url`.
            agent_id: The agent that it must be made out to.
            user_id: Who must have delegated.
            tenant_id: Whose it must be. Default: the tenant that the gateway's keys name, else the client's.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: How often this call is retried at most. Default: the client's.

        Returns:
            ``valid``, ``errors`` (codes such as ``passport.expired``) and, if valid, ``claims``.

        Raises:
            ActPassError: There are no keys to verify with. A passport that is not valid raises nothing.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         async with gateway.async_client() as client:
        ...             return await client.verify_passport_offline("not.a.passport", "mcp://stripe-production")
        >>> asyncio.run(main())
        {'valid': False, 'errors': ['passport.malformed']}
        """
        with operation("verify_passport_offline"):
            verified: PassportVerification = await answer(
                self._native.verify_passport_offline(
                    {
                        "token": token,
                        "audience": audience,
                        "issuer": issuer,
                        "agent_id": agent_id,
                        "user_id": user_id,
                        "tenant_id": tenant_id,
                    },
                    limits(timeout, max_retries),
                )
            )
            return verified

    async def revoke_passport(
        self,
        jti: str,
        reason: Optional[str] = None,
        *,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> PassportRevocation:
        """Revoke a passport.

        Args:
            jti: Its id, ``ap_…``.
            reason: Why, for the ledger.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: How often this call is retried at most. Default: the client's.

        Returns:
            ``revoked``.

        Raises:
            ActPassError: As :meth:`preflight`.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         async with gateway.async_client() as client:
        ...             return await client.revoke_passport("ap_1", "session ended")
        >>> asyncio.run(main())
        {'revoked': True}
        """
        with operation("revoke_passport"):
            revoked: PassportRevocation = await answer(
                self._native.revoke_passport(jti, reason, limits(timeout, max_retries))
            )
            return revoked

    async def record_evidence(
        self,
        event_type: str,
        chain_id: str,
        tool_id: Optional[str] = None,
        decision: Optional[str] = None,
        reason_code: Optional[str] = None,
        metadata: Optional[dict[str, Any]] = None,
        request_hash: Optional[str] = None,
        response_hash: Optional[str] = None,
        *,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> RecordedEvidence:
        """Append an event of your own to a chain of the gateway's tamper-evident ledger.

        Args:
            event_type: What happened, by your own naming.
            chain_id: The chain; it begins with its first event.
            tool_id: The tool.
            decision: The word of the decision that it followed.
            reason_code: That decision's reason code.
            metadata: Anything else, a dict of what is JSON.
            request_hash: :meth:`hash_payload` of what was asked for.
            response_hash: :meth:`hash_payload` of the result.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: How often this call is retried at most. Default: the client's.

        Returns:
            ``event_id`` and ``current_event_hash``.

        Raises:
            ActPassError: As :meth:`preflight`. The call is not repeated where the gateway may have taken it.

        >>> import asyncio
        >>> from actpass.testing import ScriptedGateway
        >>> async def main():
        ...     with ScriptedGateway() as gateway:
        ...         async with gateway.async_client() as client:
        ...             recorded = await client.record_evidence("refund.sent", "case_1", metadata={"amount": 4900})
        ...             return recorded["event_id"]
        >>> asyncio.run(main())
        'ev_1'
        """
        with operation("record_evidence"):
            recorded: RecordedEvidence = await answer(
                self._native.record_evidence(
                    {
                        "event_type": event_type,
                        "chain_id": chain_id,
                        "tool_id": tool_id,
                        "decision": decision,
                        "reason_code": reason_code,
                        "metadata": metadata,
                        "request_hash": request_hash,
                        "response_hash": response_hash,
                    },
                    self._default,
                    limits(timeout, max_retries),
                )
            )
            return recorded

    def protect(
        self,
        *,
        tool: str,
        goal: str,
        resource: Union[str, Callable[..., str]] = "",
        mode: Optional[Mode] = None,
        include: Optional[Collection[str]] = None,
        exclude: Collection[str] = (),
        redact: Union[Collection[str], Mapping[str, Callable[[Any], object]]] = (),
        user_id: Union[str, Callable[[], Optional[str]], None] = None,
        passport: Union[str, Callable[[], Optional[str]], None] = None,
        audience: Optional[str] = None,
        tool_manifest_hash: Optional[str] = None,
        wait_for_approval: Optional[float] = None,
        record_outcome: bool = False,
        default: Optional[Callable[[Any], Any]] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return a decorator whose function runs only when the decision about its arguments allows it.

        The arguments of a call, bound to their names and with defaults filled in, are what the gateway judges, and what
        the function is called with. If a list or dict among them changes while the gateway decides, the call is
        blocked with ``actpass.arguments_changed`` (in ``monitor`` it runs, and that denial is reported). The ``self``
        or ``cls`` of a method is not sent. A function with ``**names`` has those sent as arguments of their own.
        Generators are refused: their bodies would run later, unguarded. The function keeps its name, documentation,
        signature and type. It must be ``async def``: a plain one would block the event loop.

        Args:
            tool: The tool that the function is.
            goal: What the agent wants to achieve.
            resource: What it acts on: a template with arguments in it, such as ``"stripe:charge:{charge}"``, or a
                function that takes some of the arguments by name, or one parameter of another name for all of them as a
                dict. What a model may choose can hold any character; the arguments themselves are judged too.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            include: The arguments that are sent. Default: all.
            exclude: Arguments that are not sent: what is not JSON, such as a database handle. Nobody judges them.
            redact: Arguments that are sent as ``"[redacted]"``; or a dict of functions that make what is sent of them.
                They are called once more before the function runs, and so is a function that is ``resource``, to see
                that nothing has changed.
            user_id: On whose behalf the agent acts, or a function without parameters that says so for each call.
            passport: The passport that each call spends, or a function without parameters that gets it.
            audience: To whom the passport is shown.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            wait_for_approval: As for :meth:`guard`.
            record_outcome: As for :meth:`guard`.
            default: As for :meth:`guard`, for the function's arguments. It is called once more before the function
                runs, to see that nothing has changed.
            timeout: As for :meth:`guard`.
            max_retries: As for :meth:`guard`.

        Raises:
            ActPassConfigError: When it is decorated: a parameter is invalid, a name is none of the function's, or the
                function cannot be protected. The message names the parameter.
            ActionBlocked: The function did not run, when it is called. It has the decision, ``retryable``, and a text
                that a model can act on.
            ActPassArgumentError: An argument cannot be sent. Nothing ran.

        >>> import asyncio
        >>> client = AsyncActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:9", max_retries=0)
        >>> @client.protect(tool="stripe.refund.create", goal="refund", resource="stripe:charge:{charge}")
        ... async def refund(charge: str, amount: int) -> str:
        ...     return f"refunded {amount}"
        >>> try:
        ...     asyncio.run(refund("ch_123", 4900))
        ... except Exception as blocked:
        ...     print(blocked.code, blocked.retryable)
        actpass.unreachable True
        """
        from ._protect import Protection  # noqa: PLC0415

        protection = Protection(
            self,
            tool=tool,
            goal=goal,
            resource=resource,
            include=include,
            exclude=exclude,
            redact=redact,
            user_id=user_id,
            passport=passport,
            mode=mode,
            audience=audience,
            tool_manifest_hash=tool_manifest_hash,
            wait_for_approval=wait_for_approval,
            record_outcome=record_outcome,
            default=self._converter(default, "protect"),
            options=limits(timeout, max_retries),
        )
        return protection.decorate

    async def close(self) -> None:
        """Let the connections go. A closed client raises :class:`~actpass.ActPassConfigError` on any call.

        >>> import asyncio
        >>> asyncio.run(AsyncActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787").close())
        """
        self._close()

    #: The name by which :func:`contextlib.aclosing` closes.
    aclose = close

    async def __aenter__(self: Self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Close the client."""
        await self.close()
