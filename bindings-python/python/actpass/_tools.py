"""Actions of an agent's tools: options of the policy for each tool, and the action of one call."""

from __future__ import annotations

from . import _native, _run
from ._errors import ActPassArgumentError, ActPassConfigError
from ._json import name_of
from ._settings import Settings, limits

TYPE_CHECKING = False
if not TYPE_CHECKING:
    from ._lazy import _types, abc, typing
else:
    import typing
    from collections import abc

    from . import _types

REDACTED = "[redacted]"
#: Immutable types.
_FIXED = frozenset((str, int, float, bool, type(None)))
#: Names of a function's only parameter that receives all arguments, if the tool's parameters are unknown.
_ALL = frozenset(("args", "arguments"))


class ToolAction:
    """Policy options of one tool of an agent: those of ``protect``, without a function.

    Immutable. :meth:`~actpass.ActPassClient.protect_tools` and the adapters in ``actpass.integrations`` take a mapping
    from the names of an agent's tools to these.

    Args:
        tool: The name of the tool in the policy, which may differ from its name in the agent.
        goal: The agent's goal: a text, a template over the arguments, or a function of them, as for ``resource``.
            Default: the goal that a surrounding ``client.bind(goal=…)`` sets.
        resource: Target of the action: a template such as ``"stripe:charge:{charge}"``, or a function that takes some
            of the arguments by name. A function whose only parameter is named ``args`` or ``arguments`` takes all of
            them as one dict.
        include: The arguments to send. Default: all.
        exclude: Arguments not to send. The policy does not see them.
        redact: Arguments to send as ``"[redacted]"``; or a dict from argument to a function that returns the value to
            send.
        user_id: The user on whose behalf the agent acts, or a function without parameters that returns it per call.
        passport: The passport that each call spends, or a function without parameters that returns it per call.
        mode: ``enforce``, ``strict``, ``warn`` or ``monitor``. Default: the client's.
        audience: The service to which the passport is presented.
        tool_manifest_hash: The hash of the tool's definition as the agent sees it.
        approval_request_id: The approved request that a call spends, or a function of the arguments, as for
            ``resource``, that returns it per call. Default: the gateway finds an approval by its action.
        wait_for_approval: Seconds to wait for a human decision, at most 30 days. Default: no waiting.
        record_outcome: Record in the ledger how each action ended.
        default: Converts arguments that are not JSON, as for ``json.dumps``. Default: the client's.
        timeout: The total deadline of each request, in seconds. Default: the client's.
        max_retries: The maximum number of retries of each request. Default: the client's.

    Raises:
        ActPassConfigError: An option is invalid; the message names it.

    >>> ToolAction("stripe.refund.create", goal="refund", resource="stripe:charge:{charge}")
    ToolAction('stripe.refund.create', goal='refund', resource='stripe:charge:{charge}')
    """

    __slots__ = (
        "_evaluation",
        "approval_request_id",
        "audience",
        "default",
        "exclude",
        "goal",
        "include",
        "max_retries",
        "mode",
        "passport",
        "record_outcome",
        "redact",
        "resource",
        "timeout",
        "tool",
        "tool_manifest_hash",
        "user_id",
        "wait_for_approval",
    )

    tool: str
    goal: typing.Optional[_types.Text]
    resource: _types.Text
    include: typing.Optional[frozenset[str]]
    exclude: frozenset[str]
    redact: abc.Mapping[str, typing.Callable[[typing.Any], object]]
    user_id: typing.Union[str, typing.Callable[[], typing.Optional[str]], None]
    passport: typing.Union[str, typing.Callable[[], typing.Optional[str]], None]
    mode: typing.Optional[_types.Mode]
    audience: typing.Optional[str]
    tool_manifest_hash: typing.Optional[str]
    approval_request_id: typing.Union[str, typing.Callable[..., typing.Optional[str]], None]
    wait_for_approval: typing.Optional[float]
    record_outcome: bool
    default: typing.Optional[typing.Callable[[typing.Any], typing.Any]]
    timeout: typing.Optional[float]
    max_retries: typing.Optional[int]
    _evaluation: Evaluation

    def __init__(
        self,
        tool: str,
        *,
        goal: typing.Optional[_types.Text] = None,
        resource: _types.Text = "",
        include: typing.Optional[abc.Collection[str]] = None,
        exclude: abc.Collection[str] = (),
        redact: typing.Union[abc.Collection[str], abc.Mapping[str, typing.Callable[[typing.Any], object]]] = (),
        user_id: typing.Union[str, typing.Callable[[], typing.Optional[str]], None] = None,
        passport: typing.Union[str, typing.Callable[[], typing.Optional[str]], None] = None,
        mode: typing.Optional[_types.Mode] = None,
        audience: typing.Optional[str] = None,
        tool_manifest_hash: typing.Optional[str] = None,
        approval_request_id: typing.Union[str, typing.Callable[..., typing.Optional[str]], None] = None,
        wait_for_approval: typing.Optional[float] = None,
        record_outcome: bool = False,
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None,
        timeout: typing.Optional[float] = None,
        max_retries: typing.Optional[int] = None,
    ) -> None:
        """Check the options. Nothing is sent."""
        _check_names(include, exclude, redact)
        if default is not None and not callable(default):
            raise _run.wrong(f"expected a function of one argument, found {name_of(default)}", "default", "protect")
        same = {
            "tool": tool,
            "mode": mode,
            "audience": audience,
            "tool_manifest_hash": tool_manifest_hash,
            "wait_for_approval": wait_for_approval,
        }
        computed = {"user_id": user_id, "passport": passport, "approval_request_id": approval_request_id}
        # Values computed per call are checked per call.
        fixed = {name: None if callable(value) else value for name, value in computed.items()}
        checked = {"goal": "-" if goal is None or callable(goal) else goal, "args": {}, "resource": ""}
        _checker().check({**same, **fixed, **checked}, record_outcome, limits(timeout, max_retries))
        if goal is not None:
            _check_text("goal", goal)
        _check_text("resource", resource)
        members: dict[str, object] = {
            **same,
            **computed,
            "goal": goal,
            "resource": resource,
            "include": None if include is None else frozenset(include),
            "exclude": frozenset(exclude),
            "redact": dict(redact) if isinstance(redact, abc.Mapping) else dict.fromkeys(redact, _redacted),
            "record_outcome": record_outcome,
            "default": default,
            "timeout": timeout,
            "max_retries": max_retries,
        }
        for name, value in members.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> typing.NoReturn:
        """Reject changes."""
        raise AttributeError(f"{name}: expected no change, a ToolAction is immutable: create another one")

    def __delattr__(self, name: str) -> typing.NoReturn:
        """Reject changes."""
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        """Compare all options."""
        return self._members() == other._members() if isinstance(other, ToolAction) else NotImplemented

    def __hash__(self) -> int:
        """Return a hash of the tool's name."""
        return hash((ToolAction, self.tool))

    def __repr__(self) -> str:
        """Show the tool, the goal and the resource; no secrets."""
        shown = [repr(self.tool), *(f"{n}={v!r}" for n in ("goal", "resource") if (v := getattr(self, n)))]
        return f"ToolAction({', '.join(shown)})"

    def __reduce__(self) -> tuple[typing.Any, ...]:
        """Pickle the options."""
        import functools  # noqa: PLC0415

        return functools.partial(ToolAction, **self._members()), ()

    def _members(self) -> dict[str, typing.Any]:
        return {name: getattr(self, name) for name in self.__slots__ if not name.startswith("_")}


class Unguarded:
    """The type of :data:`UNGUARDED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the name of the constant."""
        return "UNGUARDED"

    def __reduce__(self) -> str:
        """Pickle and copy as the constant itself."""
        return "UNGUARDED"


#: Stands for a :class:`ToolAction` in a mapping of tools: the tool runs without a decision.
UNGUARDED = Unguarded()


class Evaluation:
    """Builder of the actions of one tool, from the arguments of a call."""

    def __init__(self, action: ToolAction, names: abc.Collection[str] = (), *, is_open: bool = True) -> None:
        """Check the options that name arguments; the tool has ``names`` and, if ``is_open``, may have others."""
        self.action = action
        self._names = names
        self._is_open = is_open
        for option in ("include", "exclude", "redact"):
            for name in getattr(action, option) or ():
                self._check(option, name)
        self._goal = None if action.goal is None else self._text("goal", action.goal)
        self._resource = self._text("resource", action.resource)
        approval = action.approval_request_id
        self._approval: typing.Callable[[dict[str, typing.Any]], typing.Any] = (
            self._function("approval_request_id", approval) if callable(approval) else lambda _: approval
        )

    def members(
        self,
        client: Settings,
        named: dict[str, typing.Any],
        default: typing.Optional[typing.Callable[[typing.Any], typing.Any]],
        *,
        is_fixed: bool,
    ) -> tuple[dict[str, typing.Any], typing.Callable[[], tuple[object, ...]]]:
        """Return the members of the action of one call, and a function that returns the current ones that may change.

        ``is_fixed``: no other code can change ``named``.
        """

        def now() -> tuple[object, ...]:
            return () if is_fixed else (self._sent(named), self._resource(named), default)

        # Send a snapshot of the arguments, even if another thread changes them.
        sent = self._sent(named)
        text = None if is_fixed else _native.json_text("args", sent, default)
        action = self.action
        members = client._scoped(
            {
                "goal": None if self._goal is None else self._goal(named),
                "tool": action.tool,
                "args": sent,
                "args_text": text,
                "resource": self._resource(named),
                "user_id": _now(action.user_id),
                "passport": _now(action.passport),
                "mode": action.mode,
                "audience": action.audience,
                "approval_request_id": self._approval(named),
                "tool_manifest_hash": action.tool_manifest_hash,
                "wait_for_approval": action.wait_for_approval,
            }
        )
        if members["goal"] is None:
            raise wrong("goal", "expected a goal, found none: pass goal=, or bind one by client.bind(goal=…)")
        return members, now

    def _sent(self, named: dict[str, typing.Any]) -> dict[str, typing.Any]:
        action = self.action
        chosen = named if action.include is None else {n: v for n, v in named.items() if n in action.include}
        return {
            name: action.redact[name](value) if name in action.redact else value
            for name, value in chosen.items()
            if name not in action.exclude
        }

    def _check(self, option: str, name: object) -> None:
        if name not in self._names and not (self._is_open and isinstance(name, str)):
            raise wrong(option, f"expected names of the function's parameters, found {name!r}")

    def _text(self, option: str, text: _types.Text) -> typing.Callable[[dict[str, typing.Any]], str]:
        return self._template(option, text) if isinstance(text, str) else self._function(option, text)

    def _function(
        self, option: str, function: typing.Callable[..., typing.Any]
    ) -> typing.Callable[[dict[str, typing.Any]], typing.Any]:
        parameters = _run.signature_of(function).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return lambda named: function(**named)
        wanted = [p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
        others = [name for name in wanted if name not in self._names]
        unknown = [name for name in others if not self._is_open or name in _ALL]
        if not unknown and len(wanted) == len(parameters):
            needed = {p.name for p in parameters if p.default is p.empty}

            def call(named: dict[str, typing.Any]) -> typing.Any:
                missing = sorted(needed - named.keys())
                if missing:
                    raise _wrong_argument(option, f"expected the argument {missing[0]!r}, found nothing")
                return function(**{name: named[name] for name in wanted if name in named})

            return call
        if len(parameters) == 1:
            return lambda named: function(dict(named))
        raise wrong(option, f"expected parameters of the decorated function, found {', '.join(unknown) or 'others'}")

    def _template(self, option: str, template: str) -> typing.Callable[[dict[str, typing.Any]], str]:
        fields = _fields(option, template)
        for field in fields:
            self._check(option, field)
        if not fields:
            plain = template.format()
            return lambda _: plain

        def fill(named: dict[str, typing.Any]) -> str:
            for field in fields:
                if not isinstance(named.get(field), (str, int)):
                    found = type(named[field]).__name__ if field in named else "nothing"
                    raise _wrong_argument(option, f"expected {field} as a string or whole number, found {found}")
            return template.format_map(named)

        return fill


def evaluation_of(action: ToolAction) -> Evaluation:
    """Return the builder for a tool with unknown parameters."""
    try:
        return action._evaluation
    except AttributeError:
        evaluation = Evaluation(action)
        object.__setattr__(action, "_evaluation", evaluation)
        return evaluation


def is_fixed(value: object) -> bool:
    """Return whether ``value`` is immutable."""
    return type(value) in _FIXED


def wrong(option: str, problem: str) -> ActPassConfigError:
    """Return the error of an invalid option."""
    return ActPassConfigError(f"{option}: {problem}", code="actpass.invalid_config")


def _wrong_argument(option: str, problem: str) -> ActPassArgumentError:
    return ActPassArgumentError(f"{option}: {problem}", code="actpass.invalid_argument")


_checks: typing.Optional[_native.Client] = None


def _checker() -> _native.Client:
    """Return a client that only checks options; it never connects."""
    global _checks  # noqa: PLW0603
    if _checks is None:
        _checks = _native.Client(
            "-", None, None, "http://127.0.0.1:9", 1.0, None, 0, "enforce", None, None, None, 0, False, False
        )
    return _checks


def _check_names(include: object, exclude: object, redact: object) -> None:
    for name, names in (("include", include), ("exclude", exclude), ("redact", redact)):
        if isinstance(names, (str, bytes)):
            raise wrong(name, f"expected a collection of names, found a string: [{names!r}]?")
        if not isinstance(names, abc.Collection) and not (names is None and name == "include"):
            raise wrong(name, f"expected a collection of names, found {name_of(names)}")
    if isinstance(redact, abc.Mapping):
        for name, function in redact.items():
            if not callable(function):
                raise wrong("redact", f"expected a function for {name!r}, found {name_of(function)}")


def _check_text(option: str, text: object) -> None:
    if isinstance(text, str):
        _fields(option, text)
    elif not callable(text):
        raise wrong(option, f"expected a template or a function, found {name_of(text)}")


def _fields(option: str, template: str) -> list[str]:
    """Return the names of the arguments in a template."""
    if "{" not in template and "}" not in template:
        return []
    from string import Formatter  # noqa: PLC0415

    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise wrong(option, f"expected a template such as 'charge:{{id}}': {error}") from None
    for field in fields:
        if not field.isidentifier():
            raise wrong(option, f"expected names of arguments in braces, found {field!r}")
    return fields


def _redacted(_: object) -> str:
    return REDACTED


def _now(given: typing.Any) -> typing.Any:
    return given() if callable(given) else given
