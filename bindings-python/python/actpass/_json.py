"""Advice for errors about values that are not JSON: how to convert them."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Conversions by module and class name; nothing is imported.
_BY_CLASS = {
    "array.array": "list(value)",
    "builtins.bytearray": "value.decode() or base64 text",
    "builtins.bytes": "value.decode() or base64 text",
    "builtins.complex": "[value.real, value.imag]",
    "builtins.frozenset": "sorted(value)",
    "builtins.memoryview": "bytes(value).decode() or base64 text",
    "builtins.range": "list(value)",
    "builtins.set": "sorted(value)",
    "collections.deque": "list(value)",
    "datetime.date": "value.isoformat()",
    "datetime.datetime": "value.isoformat()",
    "datetime.time": "value.isoformat()",
    "datetime.timedelta": "value.total_seconds()",
    "decimal.Decimal": "str(value)",
    "enum.Enum": "value.value",
    "fractions.Fraction": "str(value)",
    "ipaddress._BaseAddress": "str(value)",
    "ipaddress._BaseNetwork": "str(value)",
    "numpy.generic": "value.item()",
    "numpy.ndarray": "value.tolist()",
    "uuid.UUID": "str(value)",
}
#: Conversions by a member of the class.
_BY_MEMBER = {
    "__fspath__": "str(value)",
    "model_dump": 'value.model_dump(mode="json")',
    "__dataclass_fields__": "dataclasses.asdict(value)",
    "__attrs_attrs__": "attrs.asdict(value)",
    "tolist": "value.tolist()",
}


def advice(value: object) -> str:
    """Return the advice for ``value`` without calling any of its methods."""
    how = _advice(type(value))
    return f"write {how}, or convert it by default=" if how else "convert it by default=, or leave it out"


def _advice(kind: type) -> str | None:
    for base in kind.__mro__:
        found = _BY_CLASS.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            return found
    for name, how in _BY_MEMBER.items():
        if any(name in vars(base) for base in kind.__mro__):
            return how
    from collections import abc  # noqa: PLC0415

    abstract = ((abc.Mapping, "dict(value)"), (abc.Set, "sorted(value)"), (abc.Iterator, "list(value)"))
    return next((how for base, how in abstract if base.__subclasscheck__(kind)), None)


def name_of(value: Any) -> str:
    """Return the name of the class of ``value``, with its module unless that is ``builtins`` or ``__main__``."""
    kind = type(value)
    name = kind.__qualname__.rpartition("<locals>.")[2]
    module = sys.intern(str(kind.__module__))
    return name if module in {"builtins", "__main__"} else f"{module}.{name}"
