"""pydantic schemas of the exported types. Only imported in programs that use pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, get_args, get_type_hints

from pydantic_core import core_schema


class Errors(NamedTuple):
    """Conversions between exceptions and data."""

    #: The type of the data.
    data: Any
    to_data: Callable[[BaseException], Any]
    of_data: Callable[[Mapping[str, Any]], BaseException]


def outcome_schema(kind: Any, source: Any, handler: Any, errors: Errors, types: Mapping[str, Any]) -> Any:
    """Return the schema of ``GuardOutcome`` or of ``GuardOutcome[T]``; ``types`` are the types of its members."""
    result = get_args(source)
    error = _error_schema(core_schema.any_schema(), handler, errors)
    members = {
        "decision": (True, handler.generate_schema(types["decision"])),
        "executed": (True, core_schema.bool_schema(strict=True)),
        "result": (False, handler.generate_schema(result[0] if result else Any)),
        "error": (False, error),
        "approval": (False, handler.generate_schema(types["approval"])),
        "evidence": (False, handler.generate_schema(types["evidence"])),
        "evidence_error": (False, error),
        "request_id": (False, core_schema.str_schema()),
    }
    fields = {
        name: core_schema.typed_dict_field(schema, required=required) for name, (required, schema) in members.items()
    }

    def validate(value: Any, inner: Any) -> Any:
        checked = inner(_with_request_id(value))
        request_id = checked.pop("request_id", None)
        outcome = kind(checked, tool=getattr(value, "_tool", ""), request_id=request_id)
        outcome._texts = getattr(value, "_texts", None)
        return outcome

    return core_schema.no_info_wrap_validator_function(
        validate,
        core_schema.typed_dict_schema(fields),
        serialization=core_schema.wrap_serializer_function_ser_schema(
            lambda value, inner: inner(_with_request_id(value)), schema=core_schema.typed_dict_schema(fields)
        ),
    )


def dict_schema(kind: Any, handler: Any) -> Any:
    """Return the schema of a ``TypedDict``; unlisted members are kept."""
    fields = {
        name: core_schema.typed_dict_field(handler.generate_schema(hint), required=name in kind.__required_keys__)
        for name, hint in get_type_hints(kind).items()
    }
    return core_schema.typed_dict_schema(fields, cls=kind, cls_name=kind.__name__, extra_behavior="allow")


def error_schema(kind: type, handler: Any, errors: Errors) -> Any:
    """Return the schema of an exception, serialized as data."""
    return _error_schema(core_schema.is_instance_schema(kind), handler, errors)


def _error_schema(inner: Any, handler: Any, errors: Errors) -> Any:
    return core_schema.no_info_before_validator_function(
        lambda value: errors.of_data(value) if isinstance(value, Mapping) else value,
        inner,
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda value: errors.to_data(value) if isinstance(value, BaseException) else value,
            return_schema=handler.generate_schema(errors.data),
        ),
    )


def client_schema(kind: type) -> Any:
    """Return the schema of a parameter or field that is a client."""
    return core_schema.is_instance_schema(kind)


def _with_request_id(value: Any) -> Any:
    request_id = getattr(value, "request_id", None)
    return value if request_id is None else {**value, "request_id": request_id}


def halt_schema(kind: Any) -> Any:
    """Return the schema of a signal; read from data, it is of no running function."""
    data = core_schema.typed_dict_schema({"halted": core_schema.typed_dict_field(core_schema.bool_schema())})
    read = core_schema.no_info_after_validator_function(lambda _: kind(), data)
    return core_schema.json_or_python_schema(
        json_schema=read,
        python_schema=core_schema.union_schema([core_schema.is_instance_schema(kind), read]),
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda signal: {"halted": signal.halted}, return_schema=data
        ),
    )
