"""The ``protect`` decorator: functions that run only if the decision about their arguments allows it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable

from . import _run
from ._errors import ActionBlockedError, ActPassArgumentError, ActPassConfigError
from ._json import name_of
from ._settings import limits
from ._tools import Evaluation, ToolAction, is_fixed, wrong
from .integrations._common import ToolMap

if TYPE_CHECKING:
    from ._outcome import GuardOutcome
    from ._types import ExecutionContext
    from ._variables import P, R

    Wrapped = Callable[..., Any]
    #: Returns the positional and keyword arguments of the function.
    Arguments = Callable[[ExecutionContext], tuple[tuple[Any, ...], dict[str, Any]]]

#: JSON types: a first argument of these is never the receiver of a method.
_JSON = (str, int, float, bool, type(None), dict, list, tuple)


class Protection:
    """The client and the options of one ``protect`` decorator."""

    def __init__(self, client: Any, action: ToolAction, context: Any = None, on_blocked: Any = None) -> None:
        """Check and keep the options."""
        if on_blocked is not None and (not callable(on_blocked) or _run.shape_of(on_blocked) != "function"):
            raise wrong("on_blocked", f"expected a plain function of the error, found {name_of(on_blocked)}")
        self._client = client
        self.action = action
        self.context = context
        self._on_blocked = on_blocked
        self._default = client._converter(action.default, "protect")
        options = limits(action.timeout, action.max_retries)
        self._how = {"default": self._default, "record_outcome": action.record_outcome, "options": options}

    def of(self, evaluation: Evaluation, named: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
        """Return the action of a call with the arguments ``named``; see :meth:`Evaluation.members`."""
        fixed = all(map(is_fixed, named.values()))
        return evaluation.members(self._client, named, self._default, is_fixed=fixed)

    def result(self, outcome: GuardOutcome[Any]) -> Any:
        """Return the result of a call; if it was blocked, that of ``on_blocked``."""
        if self._on_blocked is None or outcome["executed"]:
            return outcome.unwrap()
        return self._on_blocked(ActionBlockedError(outcome._tool, outcome))

    def decorate(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function``, protected."""
        if isinstance(function, (staticmethod, classmethod)):
            raise wrong("protect", "expected a function: put @staticmethod or @classmethod above @protect")
        if not callable(function) or inspect.isclass(function):
            raise wrong("protect", f"expected a function, found {type(function).__name__}")
        judged = _Judged(self, function)
        shape = _run.shape_of(function)
        if shape == "generator function":
            raise wrong(
                "protect",
                "expected a function that finishes when it returns, found a generator function: its body would run "
                "later, unguarded; protect the function that does one step",
            )
        wrapper: Any
        if shape == "coroutine function":
            wrapper = self._around_coroutine(function, judged)
        else:
            wrapper = self._around_function(function, judged)
        return judged.show(wrapper)  # type: ignore[no-any-return]

    def _around_function(self, function: Wrapped, judged: _Judged) -> Wrapped:
        client = self._client
        if client._background:
            raise wrong(
                "protect",
                "expected a coroutine function (async def), found a plain function, which would block the event loop: "
                "protect it with an ActPassClient",
            )

        @functools.wraps(function)
        def protected(*args: Any, **kwargs: Any) -> Any:
            action, now, arguments = judged.action(args, kwargs)

            def run(context: ExecutionContext) -> Any:
                args, kwargs = arguments(context)
                return _done(function(*args, **kwargs))

            return self.result(client._guard(action, run, now=now, **self._how))

        return protected

    def _around_coroutine(self, function: Wrapped, judged: _Judged) -> Wrapped:
        asynchronous: Callable[[], Any] = self._client._asynchronous

        @functools.wraps(function)
        async def protected(*args: Any, **kwargs: Any) -> Any:
            action, now, arguments = judged.action(args, kwargs)

            async def run(context: ExecutionContext) -> Any:
                args, kwargs = arguments(context)
                return _done(await function(*args, **kwargs))

            return self.result(await asynchronous()._guard(action, run, now=now, **self._how))

        return protected


class _Judged:
    """The arguments of a function that are sent to the gateway."""

    #: Position, if it has one, and name of the parameter that receives the context.
    _context: tuple[int | None, str | None] = None, None

    def __init__(self, protection: Protection, function: Wrapped) -> None:
        self._protection = protection
        try:
            self._signature = _run.signature_of(function)
        except (TypeError, ValueError):
            raise wrong(
                "protect", "expected a function with a signature, found one without: protect a def that calls it"
            ) from None
        if protection.context is not None:
            self._take_context(protection.context)
        parameters = list(self._signature.parameters.values())
        first = parameters[0] if parameters else None
        self._receiver = first.name if first is not None and first.name in {"self", "cls"} else None
        self._is_method = _is_in_a_class(function)
        self._open = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        names = {p.name for p in parameters if p.name != self._open}
        self._fixed = tuple(p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.VAR_POSITIONAL})
        self._evaluation = Evaluation(protection.action, names, is_open=self._open is not None)

    def action(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any, Arguments]:
        """Return the action of a call, a function that returns its current members, and the function's arguments."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        action, now = self._protection.of(self._evaluation, self._named(bound))
        at, name = self._context

        def arguments(context: ExecutionContext) -> tuple[tuple[Any, ...], dict[str, Any]]:
            args, kwargs = bound.args, bound.kwargs
            if at is not None:
                return (*args[:at], context, *args[at:]), kwargs
            return args, kwargs if name is None else {**kwargs, name: context}

        return action, now, arguments

    def show(self, protected: Any) -> Any:
        """Return the protected function, without the parameter that receives the context in its signature."""
        if self._context[1] is not None:
            protected.__signature__ = self._signature
            hints = {p.name: p.annotation for p in self._signature.parameters.values()}
            hints["return"] = self._signature.return_annotation
            empty = inspect.Signature.empty
            protected.__annotations__ = {name: hint for name, hint in hints.items() if hint is not empty}
        return protected

    def _take_context(self, name: object) -> None:
        """Remove the parameter that receives the context from the signature."""
        parameters = list(self._signature.parameters.values())
        at = next((i for i, p in enumerate(parameters) if p.name == name), None)
        allowed = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
        if at is None or parameters[at].kind not in {*allowed, inspect.Parameter.KEYWORD_ONLY}:
            raise wrong("context", f"expected the name of a parameter of the function, found {name!r}")
        taken = parameters.pop(at)
        self._context = at if taken.kind in allowed else None, taken.name
        self._signature = self._signature.replace(parameters=parameters)

    def _named(self, bound: inspect.BoundArguments) -> dict[str, Any]:
        named = dict(bound.arguments)
        if self._receiver is not None and self._is_receiver(named[self._receiver]):
            del named[self._receiver]
        if self._open is not None:
            extra = named.pop(self._open, {})
            if self._context[1] in extra:
                raise ActPassArgumentError(
                    f"args: expected no {self._context[1]!r}, which receives the execution context",
                    code="actpass.invalid_argument",
                )
            for name in self._fixed:
                if name in extra:
                    raise ActPassArgumentError(
                        f"args: expected {name!r} once, found it as a positional and a keyword argument",
                        code="actpass.invalid_argument",
                    )
            named.update(extra)
        return named

    def _is_receiver(self, first: object) -> bool:
        """Return whether ``first`` is the receiver of a method rather than an argument named ``self`` or ``cls``."""
        return self._is_method and type(first) not in _JSON


class _Tools(Mapping[str, "Wrapped"]):
    """The protected tools of an agent; every other name is a function that denies its calls."""

    def __init__(self, tools: dict[str, Wrapped], deny: Callable[[str], Wrapped]) -> None:
        self._tools = tools
        self._deny = deny

    def __getitem__(self, name: str) -> Wrapped:
        return self._tools[name] if name in self._tools else self._deny(name)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def __repr__(self) -> str:
        return f"protect_tools({list(self._tools)})"


def protect_tools(client: Any, tools: Any, actions: Any, on_blocked: Any) -> Mapping[str, Wrapped]:
    """Return the protected ``tools``; see ``ActPassClient.protect_tools``."""
    mapped = ToolMap(client, actions)
    if not isinstance(tools, Mapping):
        raise wrong("tools", f"expected a mapping from names to functions, found {name_of(tools)}")
    mapped.check_coverage(tools, is_complete=True)
    protected = {}
    for name, function in tools.items():
        action = mapped.lookup(name)
        if not isinstance(action, ToolAction):
            protected[name] = function
            continue
        try:
            protected[name] = Protection(client, action, None, on_blocked).decorate(function)
        except ActPassConfigError as error:
            raise wrong(f"actions[{name!r}]", str(error)) from None
    awaited = client._background or (
        bool(tools) and all(_run.shape_of(function) == "coroutine function" for function in tools.values())
    )
    blocked = Protection(client, ToolAction("-"), None, on_blocked)

    def deny(name: str) -> Wrapped:
        def unmapped(*_: Any, **__: Any) -> Any:
            return blocked.result(mapped.unmapped(name))

        async def unmapped_async(*_: Any, **__: Any) -> Any:
            return unmapped()

        return unmapped_async if awaited else unmapped

    return _Tools(protected, deny)


def _done(result: Any) -> Any:
    """Return ``result``; raise an error if it is a body that has not run."""
    problem = _run.unrun(result, "protect")
    if problem is not None:
        raise problem
    return result


def _is_in_a_class(function: Wrapped) -> bool:
    """Return whether ``function`` was defined in a class body, according to its qualified name."""
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(around) and not around.endswith("<locals>")
