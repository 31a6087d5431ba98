"""The ``protect`` decorator: functions that run only if the decision about their arguments allows it."""

from __future__ import annotations

import functools
import inspect
import string
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Callable

from . import _native, _run
from ._errors import ActPassArgumentError, ActPassConfigError
from ._json import name_of

if TYPE_CHECKING:
    from ._outcome import GuardOutcome
    from ._settings import Limits
    from ._types import P, R

    Wrapped = Callable[..., Any]

REDACTED = "[redacted]"
#: Immutable types.
_FIXED = (str, int, float, bool, type(None))
#: JSON types: a first argument of these is never the receiver of a method.
_JSON = (*_FIXED, dict, list, tuple)


class Protection:
    """The options of one ``protect`` decorator."""

    def __init__(
        self,
        client: Any,
        *,
        resource: str | Callable[..., str],
        include: Collection[str] | None,
        exclude: Collection[str],
        redact: Collection[str] | Mapping[str, Callable[[Any], object]],
        user_id: str | Callable[[], str | None] | None,
        passport: str | Callable[[], str | None] | None,
        record_outcome: object,
        default: Callable[[Any], Any] | None,
        options: Limits,
        **same: object,
    ) -> None:
        """Check the options; ``same`` are the members of the action that are equal in every call."""
        for name, names in (("include", include), ("exclude", exclude), ("redact", redact)):
            if isinstance(names, (str, bytes)):
                raise _wrong(name, f"expected a collection of names, found a string: [{names!r}]?")
            if names is not None and not isinstance(names, Collection):
                raise _wrong(name, f"expected a collection of names, found {name_of(names)}")
        if isinstance(redact, Mapping):
            for name, function in redact.items():
                if not callable(function):
                    raise _wrong("redact", f"expected a function for {name!r}, found {name_of(function)}")
        self._client = client
        self._resource = resource
        self._include = None if include is None else frozenset(include)
        self._exclude = frozenset(exclude)
        self._redact = redact if isinstance(redact, Mapping) else dict.fromkeys(redact, lambda _: REDACTED)
        self._user_id = user_id
        self._passport = passport
        self._same = same
        self._how = {"default": default, "record_outcome": record_outcome, "options": options}
        self.default = default
        # Values computed per call are checked per call.
        given = {name: None if callable(one) else one for name, one in (("u", user_id), ("p", passport))}
        client._native.check(self.action({}, "", given["u"], given["p"]), record_outcome, options)

    def action(self, args: object, resource: object, user_id: object, passport: object) -> dict[str, Any]:
        """Return the members of the action of one call."""
        return {**self._same, "args": args, "resource": resource, "user_id": user_id, "passport": passport}

    def decorate(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function``, protected."""
        if isinstance(function, (staticmethod, classmethod)):
            raise _wrong("protect", "expected a function: put @staticmethod or @classmethod above @protect")
        if not callable(function) or inspect.isclass(function):
            raise _wrong("protect", f"expected a function, found {type(function).__name__}")
        judged = _Judged(self, function)
        shape = _run.shape_of(function)
        if shape == "generator function":
            raise _wrong(
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
            raise _wrong(
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
            raise _wrong(
                "protect", "expected a function with a signature, found one without: protect a def that calls it"
            ) from None
        parameters = list(self._signature.parameters.values())
        first = parameters[0] if parameters else None
        self._receiver = first.name if first is not None and first.name in {"self", "cls"} else None
        self._is_method = _is_in_a_class(function)
        self._open = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        self._names = {p.name for p in parameters if p.name != self._open}
        self._fixed = tuple(p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.VAR_POSITIONAL})
        for name, given in (
            ("include", protection._include or ()),
            ("exclude", protection._exclude),
            ("redact", protection._redact),
        ):
            for one in given:
                self._check(name, one)
        self._make_resource = self._resource_of(protection._resource)

    def action(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], inspect.BoundArguments, Callable[[], tuple[object, ...]]]:
        """Return the action's members, the bound arguments, and a function that returns the current members."""
        protection = self._protection
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named = self._named(bound)
        is_fixed = all(type(value) in _FIXED for value in named.values())

        def now() -> tuple[object, ...]:
            return () if is_fixed else (self._sent(named), self._make_resource(named), protection.default)

        # Send a snapshot of the arguments, even if another thread changes them.
        sent = self._sent(named)
        text = None if is_fixed else _native.json_text("args", sent, protection.default)
        resource, user_id, passport = self._make_resource(named), _now(protection._user_id), _now(protection._passport)
        return {**protection.action(sent, resource, user_id, passport), "args_text": text}, bound, now

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

    def _sent(self, named: dict[str, Any]) -> dict[str, Any]:
        protection = self._protection
        chosen = named if protection._include is None else {n: v for n, v in named.items() if n in protection._include}
        return {
            name: protection._redact[name](value) if name in protection._redact else value
            for name, value in chosen.items()
            if name not in protection._exclude
        }

    def _check(self, option: str, name: object) -> None:
        if name not in self._names and (self._open is None or not isinstance(name, str)):
            raise _wrong(option, f"expected names of the function's parameters, found {name!r}")

    def _resource_of(self, resource: str | Callable[..., str]) -> Callable[[dict[str, Any]], str]:
        if isinstance(resource, str):
            return self._template(resource)
        if not callable(resource):
            raise _wrong("resource", f"expected a template or a function, found {name_of(resource)}")
        parameters = _run.signature_of(resource).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return lambda named: resource(**named)
        wanted = [p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
        unknown = [name for name in wanted if name not in self._names and self._open is None]
        if not unknown and len(wanted) == len(parameters):
            return lambda named: resource(**{name: named[name] for name in wanted if name in named})
        if len(parameters) == 1:
            return lambda named: resource(dict(named))
        raise _wrong(
            "resource", f"expected parameters of the decorated function, found {', '.join(unknown) or 'others'}"
        )

    def _template(self, template: str) -> Callable[[dict[str, Any]], str]:
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except ValueError as error:
            raise _wrong("resource", f"expected a template such as 'charge:{{id}}': {error}") from None
        for field in fields:
            if not field.isidentifier():
                raise _wrong("resource", f"expected names of arguments in braces, found {field!r}")
            self._check("resource", field)
        if not fields:
            plain = template.format()
            return lambda _: plain

        def fill(named: dict[str, Any]) -> str:
            for field in fields:
                if not isinstance(named.get(field), (str, int)):
                    found = type(named[field]).__name__ if field in named else "nothing"
                    raise ActPassArgumentError(
                        f"resource: expected {field} as a string or whole number, found {found}",
                        code="actpass.invalid_argument",
                    )
            return template.format_map(named)

        return fill


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


def _now(given: Any) -> Any:
    return given() if callable(given) else given


def _wrong(option: str, problem: str) -> ActPassConfigError:
    return ActPassConfigError(f"{option}: {problem}", code="actpass.invalid_config")
