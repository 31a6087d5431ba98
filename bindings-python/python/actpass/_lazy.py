"""Modules that are imported when an annotation or a rare path uses them.

``typing`` and its dependencies take several times as long to import as this package, and a guarded call needs none of
them. So modules with a public API write ``typing.Optional[abc.Mapping[str, _types.Decision]]``, and have this header:

    TYPE_CHECKING = False
    if not TYPE_CHECKING:
        from ._lazy import _types, abc, typing
    else:
        import typing
        from collections import abc

        from . import _types

Type checkers take ``TYPE_CHECKING`` as true. At run time, ``typing.get_type_hints`` and pydantic find the real types,
because evaluating an annotation imports the modules. Program bundlers find the imports of the other branch. Internal
modules import types under ``if TYPE_CHECKING`` only.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class _Lazy:
    """A module that is imported when one of its members is first read."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> object:
        __import__(self._module)
        member: object = getattr(sys.modules[self._module], name)
        setattr(self, name, member)
        return member


abc, typing = _Lazy("collections.abc"), _Lazy("typing")
_types, _variables = _Lazy(f"{__package__}._types"), _Lazy(f"{__package__}._variables")


class Generic:
    """Stands for ``typing.Generic`` as a base class. Its parameter is a string: ``Generic["T"]``."""

    __slots__ = ()

    __class_getitem__ = classmethod(type(list[int]))  # type: ignore[var-annotated]


def overload(function: Callable[..., object]) -> Callable[..., object]:
    """Stand for ``typing.overload``: the last definition replaces this one."""
    return function
