"""The client: Python's idiom over the native half, which holds all meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable

from . import _native
from ._types import T

if TYPE_CHECKING:
    from types import TracebackType

    from ._types import (
        Approval,
        Decision,
        ExecutionContext,
        GuardOutput,
        IssuedPassport,
        Mode,
        PassportRevocation,
        PassportVerification,
        PendingApproval,
        RecordedEvidence,
    )

#: Where the hosted gateway answers.
DEFAULT_BASE_URL: str = _native.DEFAULT_BASE_URL


class ActPassClient:
    """A client of an ActPass gateway. Safe to use from many threads at once, and on both sides of ``os.fork()``.

    Connections are kept open and shared by all calls; :meth:`close` (or leaving a ``with`` block) lets them go.

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
        ca: Certificates of authorities to trust besides the system's, in PEM, as ``str`` or ``bytes``.
        circuit_failures: How many calls in a row must fail to reach the gateway for the circuit to open; 0 turns that off.
            While it is open, calls fail at once as ``actpass.unreachable`` with a ``retry_after``; see :attr:`circuit`.
        danger_allow_insecure_http: Permits plain ``http`` to another machine, where everyone on the way can read the
            key and forge decisions.

    Raises:
        ActPassConfigError: A setting is missing or wrong; the message names it.

    >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787", agent_id="support_agent")
    >>> client
    ActPassClient(base_url='http://127.0.0.1:8787', tenant_id=None, agent_id='support_agent')
    """

    __slots__ = ("__weakref__", "_native", "_shown")

    def __init__(
        self,
        api_key: str | None = None,
        tenant_id: str | None = None,
        agent_id: str | None = None,
        base_url: str | None = None,
        timeout: float = 30.0,
        *,
        connect_timeout: float | None = None,
        max_retries: int = 2,
        mode: Mode = "enforce",
        ca: str | bytes | None = None,
        circuit_failures: int = 5,
        danger_allow_insecure_http: bool = False,
    ) -> None:
        """Check the settings. Nothing is sent and no thread is started."""
        self._native = _native.Client(
            api_key,
            tenant_id,
            agent_id,
            base_url,
            timeout,
            connect_timeout,
            max_retries,
            mode,
            ca,
            circuit_failures,
            danger_allow_insecure_http,
        )
        native = self._native
        self._shown = f"base_url={native.base_url!r}, tenant_id={native.tenant_id!r}, agent_id={native.agent_id!r}"

    def preflight(
        self,
        goal: str,
        tool: str,
        args: dict[str, Any],
        resource: str = "",
        user_id: str | None = None,
        passport: str | None = None,
        mode: Mode | None = None,
        idempotency_key: str | None = None,
        audience: str | None = None,
        *,
        approval_request_id: str | None = None,
        tool_manifest_hash: str | None = None,
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

        Returns:
            The decision as the gateway sent it. A 401 or 403 that explains itself with a decision other than
            ``allow`` is that decision.

        Raises:
            ActPassArgumentError: Something cannot be sent; nothing was.
            ActPassError: There is no decision; its class and ``code`` say why.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:9", max_retries=0)
        >>> try:
        ...     client.preflight("demo", "demo.tool", {})
        ... except Exception as error:
        ...     print(error.code)
        actpass.unreachable
        """
        decision: Decision = self._native.preflight(
            (
                goal,
                tool,
                args,
                resource,
                user_id,
                passport,
                mode,
                idempotency_key,
                audience,
                approval_request_id,
                tool_manifest_hash,
                None,
            )
        )
        return decision

    def guard(
        self,
        goal: str,
        tool: str,
        args: dict[str, Any],
        execute_fn: Callable[[ExecutionContext], T],
        resource: str = "",
        user_id: str | None = None,
        passport: str | None = None,
        mode: Mode | None = None,
        idempotency_key: str | None = None,
        audience: str | None = None,
        *,
        approval_request_id: str | None = None,
        tool_manifest_hash: str | None = None,
        wait_for_approval: float | None = None,
        record_outcome: bool = False,
    ) -> GuardOutput[T]:
        """Ask for a decision, and run ``execute_fn`` only when the decision allows it.

        ``execute_fn`` is called with ``{"credential": {...} or None, "decision": {...}}``, at most once, on the calling
        thread, after the verdict. In ``enforce`` it runs on ``allow`` only; in ``strict`` only if the decision is
        recorded and bound to this request as well; in ``warn`` also on ``warn``; in ``monitor`` always.

        Args:
            goal: This and all that is not listed here: as for :meth:`preflight`.
            tool: The tool that it is about to use.
            args: The tool's arguments.
            execute_fn: What is to run.
            resource: What the tool acts on.
            user_id: On whose behalf the agent acts.
            passport: The passport that the action spends.
            mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
            idempotency_key: What makes a repetition known as one.
            audience: To whom the passport is shown.
            approval_request_id: The approved request that the action spends.
            tool_manifest_hash: The hash of the tool's definition as the agent sees it.
            wait_for_approval: For how many seconds an action that needs an approval is held until a person decided, on
                top of the client's ``timeout``, which is that of each request. Then the same action is asked about once
                more. Default: it is not held.
            record_outcome: Whether the ledger is told how the action ended, on the decision's chain.

        Returns:
            A dict: ``decision`` and ``executed`` always; ``result`` when the function ran and returned; ``error``
            when it ran and raised (that very exception) or when the gate failed (an
            :class:`~actpass.ActPassError`). If the gate failed, the decision is one that the SDK made: ``deny``
            with a ``reason_code`` such as ``actpass.unreachable``, and what to check in ``explain``. ``approval``, a
            small dict to keep and give to :meth:`resume`, when a person has to decide first. With ``record_outcome``,
            what came of that: ``evidence`` (the ledger's answer) or ``evidence_error``.

        Raises:
            ActPassArgumentError: Something cannot be sent. Nothing was sent and nothing ran, in any mode.
            KeyboardInterrupt: And whatever else stops a program; it is never swallowed.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:9", max_retries=0)
        >>> out = client.guard("demo", "demo.tool", {}, lambda ctx: print("ran"))
        >>> out["executed"], out["decision"]["reason_code"]
        (False, 'actpass.unreachable')
        """
        _check_callable(execute_fn)
        permit, blocked = self._native.authorize(
            (
                goal,
                tool,
                args,
                resource,
                user_id,
                passport,
                mode,
                idempotency_key,
                audience,
                approval_request_id,
                tool_manifest_hash,
                wait_for_approval,
            ),
            record_outcome,
        )
        return _run(permit, blocked, execute_fn)

    def resume(
        self,
        pending: PendingApproval,
        execute_fn: Callable[[ExecutionContext], T],
        *,
        passport: str | None = None,
        wait_for_approval: float | None = None,
        record_outcome: bool = False,
    ) -> GuardOutput[T]:
        """Guard an action again that waited for a person, in this process or another.

        The action is the one in ``pending``, its arguments in ``pending["args"]`` for ``execute_fn`` to use. The
        gateway holds it against the one that was approved, and lets an approval be used once; so what runs is what
        was approved, or nothing.

        Args:
            pending: What :meth:`guard` reported as ``approval``, also after a way through JSON.
            execute_fn: What is to run.
            passport: A passport, if the action needs one: ``pending`` holds no secret.
            wait_for_approval: As for :meth:`guard`. Default: it is not held, and comes back as blocked if nobody has
                decided yet.
            record_outcome: As for :meth:`guard`.

        Returns:
            As :meth:`guard`.

        Raises:
            ActPassArgumentError: ``pending`` is not such a dict; the message names the member.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:9", max_retries=0)
        >>> pending = {"approval_request_id": "apr_1", "goal": "demo", "tool": "demo.tool", "args": {"n": 1}}
        >>> client.resume(pending, lambda ctx: print("ran"))["decision"]["reason_code"]
        'actpass.unreachable'
        """
        _check_callable(execute_fn)
        permit, blocked = self._native.resume(pending, passport, wait_for_approval, record_outcome)
        return _run(permit, blocked, execute_fn)

    def wait_for_approval(self, approval: PendingApproval | str, timeout: float = 0.0) -> Approval:
        """Wait until a person decided, for ``timeout`` seconds at most, and return where the approval stands then.

        Args:
            approval: What :meth:`guard` reported as ``approval``, or its ``approval_request_id``.
            timeout: Seconds; 0 is one look.

        Returns:
            ``id``, ``status`` (``pending``, ``approved``, ``rejected`` or ``expired``), ``decided_by``, ``decided_at``.

        Raises:
            ActPassError: As :meth:`preflight`.
        """
        looked: Approval = self._native.wait_for_approval(approval, timeout)
        return looked

    def issue_passport(
        self,
        audience: str,
        goal: str,
        allowed_tools: list[str],
        allowed_resources: list[str] | None = None,
        resource_constraints: dict[str, Any] | None = None,
        user_id: str | None = None,
        ttl_seconds: int | None = None,
        risk_tier: str = "medium",
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

        Returns:
            ``token`` (the passport, a secret: give it to ``passport=``), ``jwks_uri`` and what else the gateway says.

        Raises:
            ActPassError: As :meth:`preflight`. The call is not repeated where the gateway may have taken it.
        """
        issued: IssuedPassport = self._native.issue_passport(
            (
                audience,
                goal,
                allowed_tools,
                allowed_resources,
                resource_constraints,
                user_id,
                ttl_seconds,
                risk_tier,
            )
        )
        return issued

    def verify_passport(
        self,
        token: str,
        audience: str,
        agent_id: str | None = None,
        user_id: str | None = None,
        current_tool_manifest_hash: str | None = None,
        policy_hash: str | None = None,
    ) -> PassportVerification:
        """Have the gateway verify a passport as shown to ``audience``; the other parameters must match if given.

        Returns:
            ``valid`` and ``errors``. A passport that is not valid raises nothing.

        Raises:
            ActPassError: As :meth:`preflight`.
        """
        verified: PassportVerification = self._native.verify_passport(
            (token, audience, agent_id, user_id, current_tool_manifest_hash, policy_hash)
        )
        return verified

    def verify_passport_offline(
        self,
        token: str,
        audience: str,
        *,
        issuer: str | None = None,
        agent_id: str | None = None,
        user_id: str | None = None,
    ) -> PassportVerification:
        """Verify a passport with the gateway's public keys, which are fetched once and kept.

        The signature (Ed25519), the issuer, the audience and the time are checked, and the tenant of this client, the
        agent and the user if given. Clocks may differ by 10 seconds. That a passport was revoked or spent only the
        gateway knows. The keys are fetched again after 10 minutes, and for a key that is not among them (at most every
        30 seconds); if that fails, those at hand serve until they are an hour old.

        Args:
            token: The passport.
            audience: Whom it is shown to.
            issuer: Who must have issued it. Default: the gateway, by :attr:`base_url`.
            agent_id: The agent that it must be made out to.
            user_id: Who must have delegated.

        Returns:
            ``valid``, ``errors`` (codes such as ``passport.expired``) and, if valid, ``claims``.

        Raises:
            ActPassError: There are no keys to verify with. A passport that is not valid raises nothing.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:9")
        >>> client.verify_passport_offline("not.a.passport", "mcp://stripe-production")
        {'valid': False, 'errors': ['passport.malformed']}
        """
        verified: PassportVerification = self._native.verify_passport_offline(
            (token, audience, issuer, agent_id, user_id)
        )
        return verified

    def revoke_passport(self, jti: str, reason: str | None = None) -> PassportRevocation:
        """Revoke the passport named ``jti`` (``ap_…``), for ``reason``.

        Returns:
            ``revoked``.

        Raises:
            ActPassError: As :meth:`preflight`.
        """
        revoked: PassportRevocation = self._native.revoke_passport(jti, reason)
        return revoked

    def record_evidence(
        self,
        event_type: str,
        chain_id: str,
        tool_id: str | None = None,
        decision: str | None = None,
        reason_code: str | None = None,
        metadata: dict[str, Any] | None = None,
        request_hash: str | None = None,
        response_hash: str | None = None,
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
            response_hash: :meth:`hash_payload` of what came out of it.

        Returns:
            ``event_id`` and ``current_event_hash``.

        Raises:
            ActPassError: As :meth:`preflight`. The call is not repeated where the gateway may have taken it.
        """
        recorded: RecordedEvidence = self._native.record_evidence(
            (event_type, chain_id, tool_id, decision, reason_code, metadata, request_hash, response_hash)
        )
        return recorded

    @staticmethod
    def hash_payload(payload: Any) -> str:
        """Return the SHA-256, in hex, of the canonical JSON (RFC 8785) of ``payload``.

        Raises:
            ActPassArgumentError: ``payload`` has no canonical form: not JSON, NaN, an integer beyond ±(2**53 - 1),
                a lone surrogate.

        >>> ActPassClient.hash_payload({"currency": "usd", "amount": 4900})
        'b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2'
        """
        return _native.hash_payload(payload)

    @staticmethod
    def sign_payload(secret: str, payload: Any) -> str:
        """Return the HMAC-SHA256 under ``secret``, in hex, of the canonical JSON of ``payload``.

        Raises:
            ActPassArgumentError: As :meth:`hash_payload`.

        >>> ActPassClient.sign_payload("secret", "payload")
        'd912ed098d037477e66ef16477113f9b07284bd18e6f8e93a183ab37cc5d1a2e'
        """
        return _native.sign_payload(secret, payload)

    @property
    def base_url(self) -> str:
        """The gateway's URL, without a trailing slash."""
        return self._native.base_url

    @property
    def tenant_id(self) -> str | None:
        """The tenant, if one was given."""
        return self._native.tenant_id

    @property
    def agent_id(self) -> str:
        """The agent's name."""
        return self._native.agent_id

    @property
    def timeout(self) -> float:
        """The total deadline of a call, in seconds."""
        return self._native.timeout

    @property
    def mode(self) -> str:
        """The mode of calls that name none."""
        return self._native.mode

    @property
    def circuit(self) -> str:
        """Whether calls go to the gateway: ``closed`` (they do), ``open`` (they fail at once) or ``half_open``.

        It opens after ``circuit_failures`` calls in a row that could not reach the gateway, for about a second, and twice
        as long each time that the gateway still cannot be reached, up to 30 seconds.
        """
        return self._native.circuit

    def close(self) -> None:
        """Let the connections go. A closed client raises :class:`~actpass.ActPassConfigError` on any call."""
        self._native.close()

    def __enter__(self) -> ActPassClient:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the client."""
        self.close()

    def __repr__(self) -> str:
        """Show where it leads, and nothing secret."""
        return f"{type(self).__name__}({self._shown})"


def create_actpass(
    api_key: str | None = None,
    tenant_id: str | None = None,
    agent_id: str | None = None,
    base_url: str | None = None,
) -> ActPassClient:
    """Return a client with these settings and the defaults for all others; see :class:`ActPassClient`.

    >>> create_actpass(api_key="apk_dev", base_url="http://localhost:8787")
    ActPassClient(base_url='http://localhost:8787', tenant_id=None, agent_id='sdk')
    """
    return ActPassClient(api_key=api_key, tenant_id=tenant_id, agent_id=agent_id, base_url=base_url)


def canonical_outcome(outcome: Mapping[str, Any]) -> str:
    """Return ``{"decision", "error", "executed"}`` of a guard's outcome in canonical JSON, equal in every language.

    ``error`` is ``null`` or ``{"kind", "status"}``, the kind being ``action`` for an exception of the function
    that ran.

    >>> canonical_outcome({"executed": True, "decision": {"decision": "allow"}, "result": 1})
    '{"decision":{"decision":"allow"},"error":null,"executed":true}'
    """
    return _native.canonical_outcome(outcome)


def _run(permit: _native.Permit | None, blocked: Any, execute_fn: Callable[[ExecutionContext], T]) -> GuardOutput[T]:
    outcome: GuardOutput[T]
    if permit is None:
        outcome = blocked
        return outcome
    context = permit.spend()
    try:
        result = execute_fn(context)
    except Exception as error:
        outcome = permit.failed(error)
    else:
        outcome = permit.returned(result)
    return outcome


def _check_callable(found: object) -> None:
    if not callable(found):
        from ._errors import ActPassArgumentError  # noqa: PLC0415

        raise ActPassArgumentError(
            f"execute_fn: expected a callable, found {type(found).__name__}", code="actpass.invalid_argument"
        )
