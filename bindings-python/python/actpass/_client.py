"""The blocking client. `make generate` writes this file from `_async`: change that one."""

from __future__ import annotations

from types import TracebackType

from . import _native, _run
from ._errors import ActionBlockedError, ActPassError
from ._kinds import Blocking
from ._outcome import GuardOutcome
from ._settings import limits, scopes
from ._telemetry import instrument
from ._tools import ToolAction, Unguarded

TYPE_CHECKING = False
if not TYPE_CHECKING:
    from ._lazy import _types, _variables, abc, overload, typing
else:
    import typing
    from collections import abc
    from typing import overload

    from typing_extensions import Unpack

    from . import _types, _variables


class Permit:
    """Single-use permission to run one action; only :meth:`ActPassClient.authorize` creates one.

    Call :meth:`spend` right before the action runs. When the action ends, call :meth:`returned`, :meth:`failed`,
    :meth:`cancelled` or :meth:`suspended`. A permit expires five minutes after the decision, or earlier with its
    credential. It cannot be pickled or copied, or spent in a process forked after it was issued.

    >>> from actpass.testing import ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.allow()
    ...     with gateway.client() as client:
    ...         client.authorize("demo", "demo.tool", {})
    Permit(tool='demo.tool', decision='allow')
    """

    __slots__ = ("_decision", "_default", "_session", "_tool")

    def __init__(
        self,
        session: _native.GuardSession,
        tool: str,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]],
    ) -> None:
        """Wrap the native session of a permitted action."""
        self._session = session
        self._default = default
        self._tool = tool
        self._decision: _types.Decision = session.decision
        _run.note(tool, self._decision, session.request_id, ran=False)

    @property
    def tool(self) -> str:
        """The tool that the action uses.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     gateway.client().authorize("demo", "demo.tool", {}).tool
        'demo.tool'
        """
        return self._tool

    @property
    def decision(self) -> _types.Decision:
        """The decision about the action.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     gateway.client().authorize("demo", "demo.tool", {}).decision["reason_code"]
        'test.allow'
        """
        return self._decision

    def spend(self, args: typing.Optional[dict[str, typing.Any]] = None) -> _types.ExecutionContext:
        """Spend the permit and return the execution context: the decision and the vaulted credential, if any.

        Run the action once, immediately afterwards.

        Args:
            args: The current arguments. If they differ from the evaluated arguments, the action is blocked with
                ``actpass.arguments_changed``. Default: no comparison.

        Raises:
            ActPassArgumentError: The permit was already spent, or was issued before a fork. Do not run the action.
            ActionBlockedError: The arguments changed, or the permit expired (``actpass.permit_expired``). In
                ``monitor`` the action may still run, without a credential.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     with gateway.client() as client:
        ...         permit = client.authorize("demo", "demo.tool", {"n": 1})
        ...         try:
        ...             permit.spend({"n": 2})
        ...         except Exception as error:
        ...             error.code
        'actpass.arguments_changed'
        """
        context, blocked = _run.begin(self._session, self.tool, (args, None, self._default))
        if context is None:
            blocked._tool = self.tool
            blocked.unwrap()
        spent: _types.ExecutionContext = context
        return spent

    def returned(self, result: _variables.T) -> GuardOutcome[_variables.T]:
        """Report that the action returned ``result``; with ``record_outcome``, record it.

        Returns:
            The outcome, as :meth:`ActPassClient.guard` returns it.

        Raises:
            ActPassArgumentError: The permit is not spent, or its outcome was already reported.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     with gateway.client() as client:
        ...         permit = client.authorize("demo", "demo.tool", {}, record_outcome=True)
        ...         context = permit.spend()
        ...         permit.returned("ran")["evidence"]["event_id"]
        'ev_2'
        """
        return self._ended(_run.reported(_run.returned(self._session, result)))

    def failed(self, error: Exception) -> GuardOutcome[typing.Any]:
        """Report that the action raised ``error``; with ``record_outcome``, record it.

        Returns:
            The outcome, as :meth:`ActPassClient.guard` returns it.

        Raises:
            ActPassArgumentError: ``error`` is not an exception, the permit is not spent, or its outcome was already
                reported.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     with gateway.client() as client:
        ...         permit = client.authorize("demo", "demo.tool", {})
        ...         context = permit.spend()
        ...         permit.failed(ValueError("no such charge"))["error"]
        ValueError('no such charge')
        """
        return self._ended(_run.reported(_run.failed(self._session, error)))

    def cancelled(self) -> None:
        """Report that the action was cancelled while it ran; with ``record_outcome``, record it in the background.

        Does not wait or raise a new error. Call it in the ``except`` block of the cancellation, then re-raise.

        Raises:
            ActPassArgumentError: The permit is not spent, or its outcome was already reported.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     with gateway.client() as client:
        ...         permit = client.authorize("demo", "demo.tool", {})
        ...         context = permit.spend()
        ...         permit.cancelled()
        """
        self._session.cancelled()

    def suspended(self) -> None:
        """Report that a framework's control flow ended the action.

        With ``record_outcome``, record it in the background. Frameworks raise exceptions to pause a run, such as
        LangGraph's ``GraphInterrupt``. Does not wait or raise a new error. Call it in the ``except`` block of the
        exception, then re-raise.

        Raises:
            ActPassArgumentError: The permit is not spent, or its outcome was already reported.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     with gateway.client() as client:
        ...         permit = client.authorize("demo", "demo.tool", {})
        ...         context = permit.spend()
        ...         permit.suspended()
        """
        self._session.suspended()

    def _ended(self, outcome: GuardOutcome[typing.Any]) -> GuardOutcome[typing.Any]:
        outcome._tool = self.tool
        return outcome

    def __repr__(self) -> str:
        """Show the tool and the decision; no secrets."""
        return f"{type(self).__name__}(tool={self.tool!r}, decision={self.decision['decision']!r})"

    def __reduce__(self) -> typing.NoReturn:
        """Reject pickling and copying: a permit is single-use."""
        raise _run.wrong(
            "expected a value that can be pickled or copied, found a permit, which is single-use: spend it in the "
            "process that received it",
            "permit",
        )


class ActPassClient(Blocking):
    """Client of an ActPass gateway. Thread-safe, and usable before and after ``os.fork()``.

    Calls share pooled connections; :meth:`close` (or leaving a ``with`` block) closes them.

    Args:
        api_key: The API key, which is the client's identity: ``apk_…`` or ``apdv_…``. Default: the environment variable
            ``ACTPASS_API_KEY``.
        tenant_id: The tenant: a routing hint that the gateway does not trust. Default: none.
        agent_id: The agent's name. Default: ``"sdk"``.
        base_url: The gateway's URL. Default: the environment variable ``ACTPASS_API_BASE_URL``, else
            :data:`DEFAULT_BASE_URL`. Plain ``http`` is accepted for loopback addresses only.
        timeout: The total deadline of a call in seconds, including retries and backoff; above 0, at most 86400.
        connect_timeout: The deadline of one connection attempt, in seconds. Default: 5, or ``timeout`` if shorter.
        max_retries: The maximum number of retries of a call, 0 to 10. A call that is not idempotent is retried only
            if the gateway certainly did not process it.
        mode: The default mode of calls. No environment variable changes it.
        ca: Additional trusted certificates in PEM, as ``str`` or ``bytes``: authorities or the server's own.
        approval_keys: The passkeys that must sign approvals, as JSON text with ``rp_id``, ``origins`` and ``keys``. An
            approved action without a valid signature is blocked (``actpass.approval_unsigned``). Default: none.
        dpop_key: The private key that the API key is bound to (DPoP, RFC 9449), P-256 or Ed25519 in PKCS#8 PEM; see
            :func:`dpop_thumbprint`. Default: the file in the environment variable ``ACTPASS_DPOP_KEY_FILE``, else none.
        circuit_failures: Number of consecutive calls that must fail to reach the gateway before the circuit opens; 0
            disables it. While open, calls fail immediately with ``actpass.unreachable`` and a ``retry_after``; see
            :attr:`circuit`.
        danger_allow_insecure_http: Permits plain ``http`` to other machines. Anyone on the network path can then read
            the key and forge decisions.
        default: A function that converts arguments that are not JSON, as for ``json.dumps``: see :meth:`guard`.

    Raises:
        ActPassConfigError: A setting is missing or invalid; the message names it.

    >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787", agent_id="support_agent")
    >>> client
    ActPassClient(base_url='http://127.0.0.1:8787', tenant_id=None, agent_id='support_agent')
    """

    __slots__ = ()

    def preflight(
        self,
        goal: str,
        tool: str,
        args: dict[str, typing.Any],
        resource: str = "",
        user_id: typing.Optional[str] = None,
        passport: typing.Optional[str] = None,
        mode: typing.Optional[_types.Mode] = None,
        idempotency_key: typing.Optional[str] = None,
        audience: typing.Optional[str] = None,
        *,
        approval_request_id: typing.Optional[str] = None,
        tool_manifest_hash: typing.Optional[str] = None,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> _types.Decision:
        """Request a decision without running anything.

        Args:
            goal: The agent's goal.
            tool: The tool that the action uses.
            args: The tool's arguments: a JSON-compatible dict, nested at most 127 levels deep.
            resource: The target of the action, such as ``stripe:charge:ch_123``.
            user_id: The user on whose behalf the agent acts.
            passport: The passport that the action spends.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            idempotency_key: Identifies repetitions of the request. Default: a new UUIDv7, reused by retries.
            audience: The service to which the passport is presented.
            approval_request_id: The approved request that the action spends.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            default: As for :meth:`guard`.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: The maximum number of retries of this call. Default: the client's.

        Returns:
            The decision. A 401 or 403 response whose body is a decision other than ``allow`` counts as a decision.

        Raises:
            ActPassArgumentError: An argument is invalid. Nothing was sent.
            ActPassError: The request failed; the class and ``code`` name the cause.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     with gateway.client() as client:
        ...         client.preflight("demo", "demo.tool", {"n": 1})["reason_code"]
        'test.unscripted'
        """
        converter = self._converter(default, "preflight")
        with instrument("preflight", tool, mode, self) as span:
            try:
                decision: _types.Decision = self._native.preflight(
                    self._scoped(
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
                        }
                    ),
                    converter,
                    limits(timeout, max_retries),
                )
            except ActPassError:
                if _run.journals and (mode or self.mode) == "monitor":
                    _run.note(tool, {}, ran=False)
                raise
            span.decided(decision)
            _run.note(tool, decision, ran=False)
            return decision

    @overload
    def guard(  # type: ignore[overload-overlap]
        self,
        goal: str,
        tool: str,
        args: dict[str, typing.Any],
        execute_fn: typing.Callable[[_types.ExecutionContext], abc.Awaitable[_variables.T]],
        resource: str = "",
        user_id: typing.Optional[str] = None,
        passport: typing.Optional[str] = None,
        mode: typing.Optional[_types.Mode] = None,
        idempotency_key: typing.Optional[str] = None,
        audience: typing.Optional[str] = None,
        *,
        approval_request_id: typing.Optional[str] = None,
        tool_manifest_hash: typing.Optional[str] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> abc.Coroutine[typing.Any, typing.Any, _types.AsyncFunctionNeedsAsyncActPassClient]: ...

    @overload
    def guard(
        self,
        goal: str,
        tool: str,
        args: dict[str, typing.Any],
        execute_fn: typing.Callable[[_types.ExecutionContext], _variables.T],
        resource: str = "",
        user_id: typing.Optional[str] = None,
        passport: typing.Optional[str] = None,
        mode: typing.Optional[_types.Mode] = None,
        idempotency_key: typing.Optional[str] = None,
        audience: typing.Optional[str] = None,
        *,
        approval_request_id: typing.Optional[str] = None,
        tool_manifest_hash: typing.Optional[str] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> GuardOutcome[_variables.T]: ...

    def guard(  # type: ignore[misc]
        self,
        goal: str,
        tool: str,
        args: dict[str, typing.Any],
        execute_fn: typing.Callable[[_types.ExecutionContext], typing.Any],
        resource: str = "",
        user_id: typing.Optional[str] = None,
        passport: typing.Optional[str] = None,
        mode: typing.Optional[_types.Mode] = None,
        idempotency_key: typing.Optional[str] = None,
        audience: typing.Optional[str] = None,
        *,
        approval_request_id: typing.Optional[str] = None,
        tool_manifest_hash: typing.Optional[str] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> GuardOutcome[typing.Any]:
        """Request a decision and run ``execute_fn`` only if the decision allows it.

        ``execute_fn`` is called with ``{"credential": {...} or None, "decision": {...}}``, at most once, after the
        decision, on the calling thread. In ``enforce`` it runs on ``allow`` only; in ``strict`` only if the decision is
        also recorded and bound to this request; in ``warn`` also on ``warn``; in ``monitor`` always.

        Args:
            goal: The agent's goal.
            tool: The tool that the action uses.
            args: The tool's arguments.
            execute_fn: The function to run, with one argument, the context. ``async def`` needs
                :class:`~actpass.AsyncActPassClient`; generator functions are rejected.
            resource: The target of the action, such as ``stripe:charge:ch_123``.
            user_id: The user on whose behalf the agent acts.
            passport: The passport that the action spends.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            idempotency_key: Identifies repetitions of the request: a second call with the same key runs nothing.
            audience: The service to which the passport is presented.
            approval_request_id: The approved request that the action spends.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            wait_for_approval: Seconds to wait for a human decision if the action needs approval, at most 30 days;
                ``timeout`` applies to each request separately. After an approval the action is preflighted again, and
                that decision applies. Default: no waiting; the action is blocked.
            record_outcome: Record in the ledger, on the decision's chain, how the action ended. Default: ``False``.
            default: A function that converts values in ``args`` that are not JSON, as for ``json.dumps``. Its
                exceptions propagate. Default: the client's, else such values are rejected.
            timeout: The total deadline of each request of this call, in seconds. Default: the client's.
            max_retries: The maximum number of retries of each request. Default: the client's.

        Returns:
            A dict with ``decision`` and ``executed``; ``result`` if the function returned; ``error`` if it raised (the
            same exception object) or if the gate failed (an :class:`~actpass.ActPassError`). If the gate failed, the
            decision is a ``deny`` made by the SDK, with a ``reason_code`` such as ``actpass.unreachable`` and advice in
            ``explain``. If the function returned a coroutine, a generator or another body that has not run, that is
            closed and reported as ``error`` (an :class:`~actpass.ActPassArgumentError`). ``approval``, JSON to store
            and pass to :meth:`resume`, if the action needs human approval. With ``record_outcome``, ``evidence`` (the
            ledger's response) or ``evidence_error``.

        Raises:
            ActPassArgumentError: An argument is invalid, or ``execute_fn`` does not accept the context or would run
                later. Nothing was sent and nothing ran, in any mode.
            KeyboardInterrupt: Or another exception that stops the program; it always propagates. If the function ran,
                the exception's attribute ``actpass_outcome`` is the outcome.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     with gateway.client() as client:
        ...         client.guard("demo", "demo.tool", {}, lambda ctx: "ran").unwrap()
        'ran'
        """
        # Without options there is nothing to fill in: the members that are missing have their defaults.
        is_plain = wait_for_approval is None and (
            user_id
            is passport
            is mode
            is idempotency_key
            is audience
            is approval_request_id
            is tool_manifest_hash
            is None
        )
        if is_plain and not scopes.get():
            action = {"goal": goal, "tool": tool, "args": args, "resource": resource}
        else:
            action = self._scoped(
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
                    "wait_for_approval": wait_for_approval,
                }
            )
        options = None if timeout is max_retries is None else limits(timeout, max_retries)
        return self._guard(action, execute_fn, default, record_outcome, options)

    def authorize(
        self,
        goal: str,
        tool: str,
        args: dict[str, typing.Any],
        *,
        resource: str = "",
        user_id: typing.Optional[str] = None,
        passport: typing.Optional[str] = None,
        mode: typing.Optional[_types.Mode] = None,
        idempotency_key: typing.Optional[str] = None,
        audience: typing.Optional[str] = None,
        approval_request_id: typing.Optional[str] = None,
        tool_manifest_hash: typing.Optional[str] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> typing.Union[Permit, GuardOutcome[typing.Any]]:
        """Request a decision and return a permit if the action may run.

        The steps of :meth:`guard`, for code that cannot pass its action as one function, such as a framework's hooks
        before and after a tool. Spend the permit once, right before the action runs, then report how it ended.

        Args:
            goal: The agent's goal.
            tool: The tool that the action uses.
            args: The tool's arguments.
            resource: The target of the action.
            user_id: The user on whose behalf the agent acts.
            passport: The passport that the action spends.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            idempotency_key: Identifies repetitions of the request: a second call with the same key gives no permit.
            audience: The service to which the passport is presented.
            approval_request_id: The approved request that the action spends.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            wait_for_approval: As for :meth:`guard`.
            record_outcome: Record in the ledger how the action ended, as reported to the permit.
            default: As for :meth:`guard`.
            timeout: The total deadline of each request of this call, in seconds. Default: the client's.
            max_retries: The maximum number of retries of each request. Default: the client's.

        Returns:
            An :class:`~actpass.Permit`; or, if the action is blocked, the outcome, as :meth:`guard` returns it.

        Raises:
            ActPassArgumentError: An argument is invalid. Nothing was sent, in any mode.

        >>> from actpass import Permit
        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow()
        ...     with gateway.client() as client:
        ...         permit = client.authorize("demo", "demo.tool", {"n": 1})
        ...         if not isinstance(permit, Permit):
        ...             permit.unwrap()  # Raises ActionBlockedError.
        ...         context = permit.spend()
        ...         out = permit.returned("ran")
        ...         context["credential"], out["result"]
        (None, 'ran')
        """
        action = self._scoped(
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
                "wait_for_approval": wait_for_approval,
            }
        )
        converter, options = self._converter(default, "authorize"), limits(timeout, max_retries)
        with instrument("authorize", tool, mode, self) as span:
            session, blocked = self._native.authorize(action, record_outcome, converter, options)
            if session is None:
                return _run.blocked(blocked, tool, span)
            permit = Permit(session, tool, converter)
            span.decided(permit.decision)
            return permit

    @overload
    def resume(  # type: ignore[overload-overlap]
        self,
        pending: _types.PendingApproval,
        execute_fn: typing.Callable[[_types.ExecutionContext], abc.Awaitable[_variables.T]],
        *,
        passport: typing.Optional[str] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> abc.Coroutine[typing.Any, typing.Any, _types.AsyncFunctionNeedsAsyncActPassClient]: ...

    @overload
    def resume(
        self,
        pending: _types.PendingApproval,
        execute_fn: typing.Callable[[_types.ExecutionContext], _variables.T],
        *,
        passport: typing.Optional[str] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> GuardOutcome[_variables.T]: ...

    def resume(  # type: ignore[misc]
        self,
        pending: _types.PendingApproval,
        execute_fn: typing.Callable[[_types.ExecutionContext], typing.Any],
        *,
        passport: typing.Optional[str] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> GuardOutcome[typing.Any]:
        """Guard an action again after its approval was decided, in this process or another.

        The action is the one in ``pending``; ``execute_fn`` takes its arguments from ``pending["args"]``. The gateway
        compares it with the approved action and accepts an approval once, so a changed action does not run.

        Args:
            pending: The ``approval`` of the outcome of :meth:`guard`, also after a round trip through JSON.
            execute_fn: The function to run, with one argument, the context. ``async def`` needs
                :class:`~actpass.AsyncActPassClient`; generator functions are rejected.
            passport: A passport, if the action needs one: ``pending`` holds no secrets.
            wait_for_approval: As for :meth:`guard`. Default: no waiting; if the approval is still pending, the action
                is blocked.
            record_outcome: As for :meth:`guard`.
            timeout: As for :meth:`guard`.
            max_retries: As for :meth:`guard`.

        Returns:
            As :meth:`guard`.

        Raises:
            ActPassArgumentError: ``pending`` is invalid; the message names the member.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.require_approval()
        ...     with gateway.client() as client:
        ...         out = client.guard("demo", "demo.tool", {}, lambda ctx: "ran")
        ...         _ = gateway.approve("demo.tool")
        ...         client.resume(out["approval"], lambda ctx: "ran")["executed"]
        True
        """
        _run.check_callable(execute_fn, "resume", self._background)
        with instrument("resume", *_run.shown(pending), self) as span:
            spends = self._scoped({"passport": passport})["passport"]
            session, blocked = self._native.resume(
                pending, spends, wait_for_approval, record_outcome, limits(timeout, max_retries)
            )
            return _run.run(session, blocked, pending["tool"], execute_fn, span)

    def wait_for_approval(
        self, approval: typing.Union[_types.PendingApproval, str], timeout: float = 0.0
    ) -> _types.Approval:
        """Wait until an approval is decided, and return its state, which may still be pending.

        Args:
            approval: The ``approval`` of the outcome of :meth:`guard`, or its ``approval_request_id``.
            timeout: The longest wait in seconds, at most 30 days. Default: 0, which polls once.

        Returns:
            ``id``, ``status`` (``pending``, ``approved``, ``rejected`` or ``expired``), ``decided_by``, ``decided_at``.

        Raises:
            ActPassError: As :meth:`preflight`.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     gateway.require_approval()
        ...     with gateway.client() as client:
        ...         out = client.guard("demo", "demo.tool", {}, lambda ctx: "ran")
        ...         client.wait_for_approval(out["approval"])["status"]
        'pending'
        """
        with instrument("wait_for_approval"):
            approval_state: _types.Approval = self._native.wait_for_approval(approval, timeout)
            return approval_state

    def issue_passport(
        self,
        audience: str,
        goal: str,
        allowed_tools: list[str],
        allowed_resources: typing.Optional[list[str]] = None,
        resource_constraints: typing.Optional[dict[str, typing.Any]] = None,
        user_id: typing.Optional[str] = None,
        ttl_seconds: typing.Optional[int] = None,
        risk_tier: str = "medium",
        *,
        approval_request_id: typing.Optional[str] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> _types.IssuedPassport:
        """Issue a passport: a signed, short-lived, single-use token that limits an agent's requests.

        Args:
            audience: The service to which the passport is presented, such as ``mcp://stripe-production``.
            goal: The agent's goal.
            allowed_tools: The tools that the passport allows.
            allowed_resources: The resources that it allows. Default: none.
            resource_constraints: Constraints on the arguments: ``{"max_amount": 10000, "currency": "usd"}``.
            user_id: The user on whose behalf the agent acts.
            ttl_seconds: Lifetime, 1 to 3600 seconds. Default: the gateway's.
            risk_tier: ``low``, ``medium``, ``high`` or ``critical``.
            approval_request_id: An approved request. The passport is then valid for that action only and spends the
                approval.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: The maximum number of retries of this call. Default: the client's.

        Returns:
            ``token`` (the passport, a secret to pass as ``passport=``), ``jti``, ``jwks_uri`` and ``expires_at``.

        Raises:
            ActPassError: As :meth:`preflight`. The call is not retried if the gateway may have processed it.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     with gateway.client() as client:
        ...         issued = client.issue_passport("mcp://stripe-production", "refund", ["demo.tool"])
        ...         issued["jti"]
        'ap_1'
        """
        with instrument("issue_passport"):
            issued: _types.IssuedPassport = self._native.issue_passport(
                self._scoped(
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
                    }
                ),
                self._default,
                limits(timeout, max_retries),
            )
            return issued

    def verify_passport(
        self,
        token: str,
        audience: str,
        agent_id: typing.Optional[str] = None,
        user_id: typing.Optional[str] = None,
        current_tool_manifest_hash: typing.Optional[str] = None,
        policy_hash: typing.Optional[str] = None,
        *,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> _types.PassportVerification:
        """Verify a passport with the gateway, as presented to ``audience``.

        Args:
            token: The passport.
            audience: The service that verifies it.
            agent_id: The agent that it must be for. Default: any.
            user_id: The user that it must be for. Default: any.
            current_tool_manifest_hash: The hash of a tool's definition, which must be approved. Default: not checked.
            policy_hash: The hash of the policy that must be active. Default: not checked.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: The maximum number of retries of this call. Default: the client's.

        Returns:
            ``valid`` and ``errors``. An invalid passport raises nothing.

        Raises:
            ActPassError: As :meth:`preflight`.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     with gateway.client() as client:
        ...         issued = client.issue_passport("mcp://stripe-production", "refund", ["demo.tool"])
        ...         client.verify_passport(issued["token"], "mcp://stripe-production")["valid"]
        True
        """
        with instrument("verify_passport"):
            verified: _types.PassportVerification = self._native.verify_passport(
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
            return verified

    def verify_passport_offline(
        self,
        token: str,
        audience: str,
        *,
        issuer: typing.Optional[str] = None,
        agent_id: typing.Optional[str] = None,
        user_id: typing.Optional[str] = None,
        tenant_id: typing.Optional[str] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> _types.PassportVerification:
        """Verify a passport locally with the gateway's cached public keys.

        Checks the signature (EdDSA or ES256), issuer, audience, expiry and tenant, and the agent and user if given,
        with 10 seconds of clock leeway. Revoked and spent passports are known only to the gateway. Keys are refetched
        after 10 minutes, and immediately for an unknown key id (at most once a second). If that fails, cached keys are
        used until they are one hour old.

        Args:
            token: The passport.
            audience: The service that verifies it.
            issuer: The issuer that it must be from. Default: the key set's, else :attr:`base_url`.
            agent_id: The agent that it must be for. Default: any.
            user_id: The user that it must be for. Default: any.
            tenant_id: The tenant that it must be of. Default: the key set's, else the client's.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: The maximum number of retries of this call. Default: the client's.

        Returns:
            ``valid``, ``errors`` (codes such as ``passport.expired``) and, if valid, ``claims``.

        Raises:
            ActPassError: No public keys are available. An invalid passport raises nothing.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     with gateway.client() as client:
        ...         client.verify_passport_offline("not.a.passport", "mcp://stripe-production")
        {'valid': False, 'errors': ['passport.malformed']}
        """
        with instrument("verify_passport_offline"):
            verified: _types.PassportVerification = self._native.verify_passport_offline(
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
            return verified

    def revoke_passport(
        self,
        jti: str,
        reason: typing.Optional[str] = None,
        *,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> _types.PassportRevocation:
        """Revoke a passport.

        Args:
            jti: The passport's id, ``ap_…``.
            reason: The reason, recorded in the ledger.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: The maximum number of retries of this call. Default: the client's.

        Returns:
            ``revoked``.

        Raises:
            ActPassError: As :meth:`preflight`.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     with gateway.client() as client:
        ...         issued = client.issue_passport("mcp://stripe-production", "refund", ["demo.tool"])
        ...         client.revoke_passport(issued["jti"], "session ended")
        {'revoked': True}
        """
        with instrument("revoke_passport"):
            revoked: _types.PassportRevocation = self._native.revoke_passport(jti, reason, limits(timeout, max_retries))
            return revoked

    def record_evidence(
        self,
        event_type: str,
        chain_id: str,
        tool_id: typing.Optional[str] = None,
        decision: typing.Optional[str] = None,
        reason_code: typing.Optional[str] = None,
        metadata: typing.Optional[dict[str, typing.Any]] = None,
        request_hash: typing.Optional[str] = None,
        response_hash: typing.Optional[str] = None,
        *,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> _types.RecordedEvidence:
        """Append an application event to a chain of the gateway's tamper-evident ledger.

        Args:
            event_type: The type of the event; any name.
            chain_id: The chain; its first event creates it.
            tool_id: The tool.
            decision: The decision that preceded the event.
            reason_code: The reason code of that decision.
            metadata: Additional JSON members.
            request_hash: :meth:`hash_payload` of the request.
            response_hash: :meth:`hash_payload` of the result.
            timeout: The total deadline of this call, in seconds. Default: the client's.
            max_retries: The maximum number of retries of this call. Default: the client's.

        Returns:
            ``event_id`` and ``current_event_hash``.

        Raises:
            ActPassError: As :meth:`preflight`. The call is not retried if the gateway may have processed it.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     with gateway.client() as client:
        ...         recorded = client.record_evidence("refund.sent", "case_1", metadata={"amount": 4900})
        ...         recorded["event_id"]
        'ev_1'
        """
        with instrument("record_evidence"):
            recorded: _types.RecordedEvidence = self._native.record_evidence(
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
            return recorded

    @overload
    def protect(
        self, *, tool: str, context: None = None, on_blocked: None = None, **options: Unpack[_types.ProtectOptions]
    ) -> typing.Callable[
        [typing.Callable[_variables.P, _variables.R]], typing.Callable[_variables.P, _variables.R]
    ]: ...

    @overload
    def protect(
        self,
        *,
        tool: str,
        context: None = None,
        on_blocked: typing.Callable[[ActionBlockedError], _variables.T],
        **options: Unpack[_types.ProtectOptions],
    ) -> _types.ProtectedOr[_variables.T]: ...

    @overload
    def protect(
        self,
        *,
        tool: str,
        context: str,
        on_blocked: typing.Optional[typing.Callable[[ActionBlockedError], typing.Any]] = None,
        **options: Unpack[_types.ProtectOptions],
    ) -> typing.Callable[[typing.Callable[..., typing.Any]], typing.Callable[..., typing.Any]]: ...

    def protect(
        self,
        *,
        tool: str,
        goal: typing.Optional[_types.Text] = None,
        resource: _types.Text = "",
        mode: typing.Optional[_types.Mode] = None,
        include: typing.Optional[abc.Collection[str]] = None,
        exclude: abc.Collection[str] = (),
        redact: typing.Union[abc.Collection[str], abc.Mapping[str, typing.Callable[[typing.Any], object]]] = (),
        user_id: typing.Union[str, typing.Callable[[], typing.Optional[str]], None] = None,
        passport: typing.Union[str, typing.Callable[[], typing.Optional[str]], None] = None,
        audience: typing.Optional[str] = None,
        tool_manifest_hash: typing.Optional[str] = None,
        approval_request_id: typing.Union[str, typing.Callable[..., typing.Optional[str]], None] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
        context: typing.Optional[str] = None,
        on_blocked: typing.Optional[typing.Callable[[ActionBlockedError], typing.Any]] = None,
    ) -> typing.Any:
        """Decorate a function so that it runs only if the decision about its arguments allows it.

        The call's arguments, bound to their names with defaults filled in, are sent to the gateway and passed to the
        function. If a mutable argument changes while the gateway decides, the call is blocked with
        ``actpass.arguments_changed`` (in ``monitor`` it runs and that denial is reported). ``self`` and ``cls`` are not
        sent. Entries of ``**kwargs`` are sent as separate arguments. Generator functions are rejected: their bodies
        would run later, unguarded. The function keeps its name, docstring, signature and type, and may be
        ``async def``; its calls then work as in :class:`~actpass.AsyncActPassClient`.

        Args:
            tool: The name of the tool that the function implements.
            goal: The agent's goal: a text, a template such as ``"refund for {customer}"``, or a function, as for
                ``resource``. Default: the goal of a surrounding :meth:`bind`.
            resource: Target of the action: a template such as ``"stripe:charge:{charge}"``, or a function that takes
                some of the arguments by name, or all of them as one dict if its only parameter has another name. Values
                chosen by a model may contain any character; policies also see the arguments themselves.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            include: The arguments to send. Default: all.
            exclude: Arguments not to send, such as a database handle. The policy does not see them.
            redact: Arguments to send as ``"[redacted]"``; or a dict from argument to a function that returns the value
                to send. These functions, and ``resource`` if it is a function, are called again before the function
                runs, to detect changes.
            user_id: The user on whose behalf the agent acts, or a function without parameters that returns it per call.
            passport: The passport that each call spends, or a function without parameters that returns it per call.
            audience: The service to which the passport is presented.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            approval_request_id: The approved request that a call spends, or a function, as for ``resource``, that
                returns it per call.
            wait_for_approval: As for :meth:`guard`.
            record_outcome: As for :meth:`guard`.
            default: As for :meth:`guard`, for the function's arguments. It is called again before the function runs, to
                detect changes.
            timeout: As for :meth:`guard`.
            max_retries: As for :meth:`guard`.
            context: The name of the parameter that receives the :class:`~actpass.ExecutionContext`. Callers do not pass
                it: it is neither sent nor part of the visible signature.
            on_blocked: A function of the :class:`~actpass.ActionBlockedError`; the protected function returns its
                result instead of raising the error. ``str`` returns the message for a model.

        Raises:
            ActPassConfigError: At decoration: an option is invalid, names an unknown parameter, or the function cannot
                be protected. The message names the option. At a call: no goal is set or bound.
            ActionBlockedError: At a call: the function did not run. It holds the decision, ``retryable`` and a message
                for a model.
            ActPassArgumentError: At a call: an argument is invalid. Nothing ran.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:9", max_retries=0)
        >>> @client.protect(tool="stripe.refund.create", goal="refund", resource="stripe:charge:{charge}")
        ... def refund(charge: str, amount: int) -> str:
        ...     return f"refunded {amount}"
        >>> try:
        ...     refund("ch_123", 4900)
        ... except Exception as blocked:
        ...     print(blocked.code, blocked.retryable)
        actpass.unreachable True
        """
        from ._protect import Protection  # noqa: PLC0415

        action = ToolAction(
            tool,
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
            approval_request_id=approval_request_id,
            wait_for_approval=wait_for_approval,
            record_outcome=record_outcome,
            default=default,
            timeout=timeout,
            max_retries=max_retries,
        )
        return Protection(self, action, context, on_blocked).decorate

    def protect_tools(
        self,
        tools: abc.Mapping[str, typing.Callable[..., typing.Any]],
        actions: abc.Mapping[str, typing.Union[ToolAction, Unguarded]],
        *,
        on_blocked: typing.Optional[typing.Callable[[ActionBlockedError], typing.Any]] = None,
    ) -> abc.Mapping[str, typing.Callable[..., typing.Any]]:
        """Protect all tools of an agent, each by its action.

        Args:
            tools: The functions by the names that the model uses.
            actions: A :class:`~actpass.ToolAction` for each tool, or :data:`~actpass.UNGUARDED` for a tool that runs
                without a decision.
            on_blocked: As for :meth:`protect`.

        Returns:
            A read-only mapping of the protected functions. For any other name it returns a function that denies every
            call, ``actpass.unmapped_tool``, and sends nothing.

        Raises:
            ActPassConfigError: A tool has no action, or an action no tool: the message names them all. Or an option of
                an action does not fit its function.

        >>> from actpass import UNGUARDED, ToolAction
        >>> from actpass.testing import ScriptedGateway
        >>> def refund(charge: str) -> str:
        ...     return f"refunded {charge}"
        >>> def today() -> str:
        ...     return "2026-11-28"
        >>> actions = {"refund": ToolAction("stripe.refund.create", goal="refund"), "today": UNGUARDED}
        >>> with ScriptedGateway() as gateway:
        ...     gateway.allow("stripe.refund.create")
        ...     with gateway.client() as client:
        ...         tools = client.protect_tools({"refund": refund, "today": today}, actions, on_blocked=str)
        ...         print(tools["refund"]("ch_1"))
        ...         print(tools["rm"]())
        refunded ch_1
        rm was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. Do not call it again.
        """
        from ._protect import protect_tools  # noqa: PLC0415

        return protect_tools(self, tools, actions, on_blocked)

    def close(self) -> None:
        """Close all connections. Later calls raise :class:`~actpass.ActPassConfigError`.

        >>> ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787").close()
        """
        self._close()

    def __enter__(self) -> _variables.Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: typing.Optional[type[BaseException]],
        error: typing.Optional[BaseException],
        traceback: typing.Optional[TracebackType],
    ) -> None:
        """Close the client."""
        self.close()
