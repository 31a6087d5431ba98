"""Settings of both clients, and the native client that they wrap."""

from __future__ import annotations

import contextvars
import sys
from types import TracebackType

from . import _native, _run
from ._errors import ActPassArgumentError, ActPassConfigError
from ._json import name_of
from ._telemetry import log_by_environment

TYPE_CHECKING = False
if not TYPE_CHECKING:
    from ._lazy import Generic, _types, _variables, abc, typing
else:
    import typing
    from collections import abc
    from typing import Generic

    from . import _types, _variables

#: The URL of the hosted gateway.
DEFAULT_BASE_URL: str = _native.DEFAULT_BASE_URL


def _cooperative(native: _native.Client) -> _native.Client:
    from ._gevent import cooperative  # noqa: PLC0415

    return cooperative(native)


def limits(timeout: object, max_retries: object) -> _types.Limits:
    """Return the per-call limits, or ``None`` if neither is set."""
    return None if timeout is None and max_retries is None else {"timeout": timeout, "max_retries": max_retries}


#: The bound defaults by the scope of their client, if any. Never changed in place.
scopes: contextvars.ContextVar[typing.Optional[abc.Mapping[object, abc.Mapping[str, object]]]] = contextvars.ContextVar(
    "actpass.bind", default=None
)


class Scope(Generic["_variables.C"]):
    """The context manager of ``bind``."""

    __slots__ = ("_client", "_members", "_scope", "_token")

    _token: typing.Optional[contextvars.Token[typing.Optional[abc.Mapping[object, abc.Mapping[str, object]]]]]

    def __init__(self, client: _variables.C, scope: object, members: abc.Mapping[str, object]) -> None:
        """Keep the defaults; they apply from ``with`` on."""
        self._client = client
        self._scope = scope
        self._members = members
        self._token = None

    def __enter__(self) -> _variables.C:
        """Apply the defaults and return the client."""
        if self._token is not None:
            raise _run.wrong("expected to be entered once: call bind for each with statement", "bind", "bind")
        bound, scope = scopes.get() or {}, self._scope
        self._token = scopes.set({**bound, scope: {**bound.get(scope, {}), **self._members}})
        return self._client

    def __exit__(
        self,
        kind: typing.Optional[type[BaseException]],
        error: typing.Optional[BaseException],
        traceback: typing.Optional[TracebackType],
    ) -> None:
        """Restore the defaults of the surrounding block."""
        try:
            scopes.reset(self._token)  # type: ignore[arg-type]
        except ValueError as problem:
            raise _run.wrong("expected to be left in the task or thread that entered it", "bind", "bind") from problem


class Settings:
    """Base of both clients: settings and the native client."""

    __slots__ = ("__weakref__", "_default", "_native", "_scope", "_shown")

    _background = False

    def __init__(
        self,
        api_key: typing.Optional[str] = None,
        tenant_id: typing.Optional[str] = None,
        agent_id: typing.Optional[str] = None,
        base_url: typing.Optional[str] = None,
        timeout: float = 30.0,
        *,
        connect_timeout: typing.Optional[float] = None,
        max_retries: int = 2,
        mode: _types.Mode = "enforce",
        ca: typing.Union[str, bytes, None] = None,
        approval_keys: typing.Optional[str] = None,
        dpop_key: typing.Optional[str] = None,
        circuit_failures: int = 5,
        danger_allow_insecure_http: bool = False,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
    ) -> None:
        """Check the settings. Nothing is sent and no thread is started."""
        log_by_environment()
        if default is not None and not callable(default):
            raise ActPassConfigError(
                f"default: expected a function of one argument, found {name_of(default)}",
                code="actpass.invalid_config",
            )
        self._hold(
            _native.Client(
                api_key,
                tenant_id,
                agent_id,
                base_url,
                timeout,
                connect_timeout,
                max_retries,
                mode,
                ca,
                approval_keys,
                dpop_key,
                circuit_failures,
                danger_allow_insecure_http,
                self._background,
            ),
            default,
        )

    def _hold(
        self,
        native: _native.Client,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]],
        scope: typing.Optional[object] = None,
    ) -> None:
        self._native = native if self._background or "gevent.monkey" not in sys.modules else _cooperative(native)
        self._default = default
        #: The key of the defaults that ``bind`` sets; clients that share connections share it.
        self._scope = scope or object()
        self._shown = f"base_url={native.base_url!r}, tenant_id={native.tenant_id!r}, agent_id={native.agent_id!r}"

    def _close(self) -> None:
        self._native.close()

    @staticmethod
    def hash_payload(payload: typing.Any) -> str:
        """Return the SHA-256, in hex, of the canonical JSON (RFC 8785) of ``payload``.

        Raises:
            ActPassArgumentError: ``payload`` has no canonical form: not JSON, NaN, an integer beyond ±(2**53 - 1),
                a lone surrogate.

        >>> ActPassClient.hash_payload({"currency": "usd", "amount": 4900})
        'b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2'
        """
        return _native.hash_payload(payload)

    @staticmethod
    def sign_payload(secret: str, payload: typing.Any) -> str:
        """Return the HMAC-SHA256 under ``secret``, in hex, of the canonical JSON of ``payload``.

        Raises:
            ActPassArgumentError: As :meth:`hash_payload`.

        >>> ActPassClient.sign_payload("secret", "payload")
        'd912ed098d037477e66ef16477113f9b07284bd18e6f8e93a183ab37cc5d1a2e'
        """
        return _native.sign_payload(secret, payload)

    @property
    def base_url(self) -> str:
        """The gateway's URL, without a trailing slash.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787/")
        >>> client.base_url
        'http://127.0.0.1:8787'
        """
        return self._native.base_url

    @property
    def tenant_id(self) -> typing.Optional[str]:
        """The tenant, or ``None``.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787/")
        >>> client.tenant_id is None
        True
        """
        return self._native.tenant_id

    @property
    def agent_id(self) -> str:
        """The agent's name.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787/")
        >>> client.agent_id
        'sdk'
        """
        return self._native.agent_id

    @property
    def timeout(self) -> float:
        """The total deadline of a call, in seconds.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787/")
        >>> client.timeout
        30.0
        """
        return self._native.timeout

    @property
    def mode(self) -> _types.Mode:
        """The default mode of calls.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787/")
        >>> client.mode
        'enforce'
        """
        return self._native.mode

    @property
    def circuit(self) -> typing.Literal["closed", "open", "half_open"]:
        """State of the circuit: ``closed``, ``open`` (calls fail immediately) or ``half_open`` (one call probes).

        The circuit opens after ``circuit_failures`` consecutive calls that could not reach the gateway, first for about
        a second, then twice as long after each failed probe, up to 30 seconds.

        >>> ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787").circuit
        'closed'
        """
        return self._native.circuit

    def with_options(
        self,
        *,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
    ) -> _variables.Self:
        """Return a client with other options that shares this client's connections and circuit breaker.

        Closing either client closes both.

        Args:
            timeout: The total deadline of a call, in seconds, above 0, at most 86400. Default: this client's.
            max_retries: The maximum number of retries, 0 to 10. Default: this client's.
            default: Converts arguments that are not JSON. Default: this client's.

        Raises:
            ActPassArgumentError: An option is invalid; the message names it.

        >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:8787")
        >>> client.with_options(timeout=2, max_retries=0).timeout, client.timeout
        (2.0, 30.0)
        """
        other = type(self).__new__(type(self))
        if hasattr(self, "__dict__"):  # A subclass.
            vars(other).update(vars(self))
        other._hold(
            self._native.with_options({"timeout": timeout, "max_retries": max_retries}),
            self._converter(default, "with_options"),
            self._scope,
        )
        return other

    def bind(
        self,
        *,
        goal: typing.Optional[str] = None,
        user_id: typing.Optional[str] = None,
        passport: typing.Optional[str] = None,
        audience: typing.Optional[str] = None,
    ) -> Scope[_variables.Self]:
        """Set defaults of all calls of this client in a ``with`` block.

        They apply to every function that the block calls and to every task that it starts, not to other tasks. They
        also apply to clients of :meth:`with_options`. Blocks can be nested; the inner one wins. An option of a call or
        of a :class:`~actpass.ToolAction` wins over them. A new thread starts without them, unless it runs in a copy of
        the context, as in ``asyncio.to_thread``.

        Args:
            goal: The agent's goal, for functions of ``protect``, ``protect_tools`` and adapters without one.
            user_id: The user on whose behalf the agent acts, also for passports that are issued.
            passport: The passport that each call spends.
            audience: The service to which the passport is presented.

        Returns:
            A context manager for one ``with`` statement, also inside ``async def``; its value is this client.

        Raises:
            ActPassArgumentError: A value is invalid; the message names it.

        >>> from actpass.testing import ScriptedGateway
        >>> with ScriptedGateway() as gateway:
        ...     client = gateway.client()
        ...     with client.bind(user_id="user_7"):
        ...         decision = client.preflight("demo", "demo.tool", {})
        ...     gateway.actions[0]["user_id"]
        'user_7'
        """
        members = {"goal": goal, "user_id": user_id, "passport": passport, "audience": audience}
        checked: dict[str, object] = {
            **members,
            "goal": "-" if goal is None else goal,
            "tool": "-",
            "args": {},
            "resource": "",
        }
        try:
            self._native.check(checked, False)
        except ActPassConfigError as error:
            error._complete(operation="bind")
            raise
        return Scope(self, self._scope, {name: value for name, value in members.items() if value is not None})

    def _scoped(self, action: dict[str, typing.Any]) -> dict[str, typing.Any]:
        """Fill in the bound defaults of the members of ``action`` that are ``None``."""
        bound = scopes.get()
        if bound:
            for name, value in bound.get(self._scope, {}).items():
                if name in action and action[name] is None:
                    action[name] = value
        return action

    def __repr__(self) -> str:
        """Show the URL, tenant and agent; no secrets."""
        return f"{type(self).__name__}({self._shown})"

    def __reduce__(self) -> typing.NoReturn:
        """Reject pickling and copying: the client holds the API key."""
        raise ActPassArgumentError(
            f"client: expected a value that can be pickled or copied, found {type(self).__name__}, which holds the API "
            "key: share the client within a process, and create one in each process",
            code="actpass.invalid_argument",
        )

    def _converter(
        self, default: typing.Optional[typing.Callable[[typing.Any], typing.Any]], called: str
    ) -> typing.Optional[typing.Callable[[typing.Any], typing.Any]]:
        """Return the converter of a call's values that are not JSON."""
        if default is None:
            return self._default
        if not callable(default):
            raise _run.wrong(f"expected a function of one argument, found {name_of(default)}", "default", called)
        return default

    @classmethod
    def __get_pydantic_core_schema__(cls, source: typing.Any, handler: typing.Any) -> typing.Any:
        """Return the pydantic schema of a field or parameter that is a client."""
        from ._pydantic import client_schema  # noqa: PLC0415

        return client_schema(cls)
