"""Type variables of the public API."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")
if TYPE_CHECKING:
    from typing_extensions import Self as Self  # noqa: PLC0414
else:
    Self = TypeVar("Self")
if TYPE_CHECKING or sys.version_info >= (3, 10):
    from typing import ParamSpec

    P = ParamSpec("P")
else:
    P = ...  # `Callable[P, R]` is then any callable.
