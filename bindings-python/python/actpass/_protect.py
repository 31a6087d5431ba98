"""The ``protect`` decorator: functions that run only if the decision about their arguments allows it."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Callable

from . import _run
from ._errors import ActPassArgumentError
from ._settings import limits
from ._tools import Evaluation, ToolAction, is_fixed, wrong

if TYPE_CHECKING:
    from ._outcome import GuardOutcome
    from ._types import P, R

    Wrapped = Callable[..., Any]

#: JSON types: a first argument of these is never the receiver of a method.
_JSON = (str, int, float, bool, type(None), dict, list, tuple)


class Protection:
    """The client and the options of one ``protect`` decorator."""

    def __init__(self, client: Any, action: ToolAction) -> None:
        """Keep the client and the options."""
        self._client = client
        self.action = action
        self.default = client._converter(action.default, "protect")
        options = limits(action.timeout, action.max_retries)
        self._how = {"default": self.default, "record_outcome": action.record_outcome, "options": options}

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
        return wrapper  # type: ignore[no-any-return]

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
            action, bound, now = judged.action(args, kwargs)

            def run(_: object) -> Any:
                return _done(function(*bound.args, **bound.kwargs))

            return client._guard(action, run, now=now, **self._how).unwrap()

        return protected

    def _around_coroutine(self, function: Wrapped, judged: _Judged) -> Wrapped:
        asynchronous: Callable[[], Any] = self._client._asynchronous

        @functools.wraps(function)
        async def protected(*args: Any, **kwargs: Any) -> Any:
            action, bound, now = judged.action(args, kwargs)

            async def run(_: object) -> Any:
                return _done(await function(*bound.args, **bound.kwargs))

            outcome: GuardOutcome[Any] = await asynchronous()._guard(action, run, now=now, **self._how)
            return outcome.unwrap()

        return protected


class _Judged:
    """The arguments of a function that are sent to the gateway."""

    def __init__(self, protection: Protection, function: Wrapped) -> None:
        self._protection = protection
        try:
            self._signature = _run.signature_of(function)
        except (TypeError, ValueError):
            raise wrong(
                "protect", "expected a function with a signature, found one without: protect a def that calls it"
            ) from None
        parameters = list(self._signature.parameters.values())
        first = parameters[0] if parameters else None
        self._receiver = first.name if first is not None and first.name in {"self", "cls"} else None
        self._is_method = _is_in_a_class(function)
        self._open = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        names = {p.name for p in parameters if p.name != self._open}
        self._fixed = tuple(p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.VAR_POSITIONAL})
        self._evaluation = Evaluation(protection.action, names, is_open=self._open is not None)

    def action(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], inspect.BoundArguments, Callable[[], tuple[object, ...]]]:
        """Return the action's members, the bound arguments, and a function that returns the current members."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named = self._named(bound)
        fixed = all(map(is_fixed, named.values()))
        action, now = self._evaluation.members(named, self._protection.default, is_fixed=fixed)
        return action, bound, now

    def _named(self, bound: inspect.BoundArguments) -> dict[str, Any]:
        named = dict(bound.arguments)
        if self._receiver is not None and self._is_receiver(named[self._receiver]):
            del named[self._receiver]
        if self._open is not None:
            extra = named.pop(self._open, {})
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
