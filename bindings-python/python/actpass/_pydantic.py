"""The exported types as pydantic sees them. Nothing here is imported by a program that does not use pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic_core import core_schema

from ._errors import error_data, error_of
from ._types import Decision, ErrorData, PendingApproval, RecordedEvidence

if TYPE_CHECKING:
    from ._outcome import GuardOutput


def outcome_schema(kind: type[GuardOutput[Any]], source: Any, handler: Any) -> Any:
    """Return the schema of ``GuardOutput`` or of ``GuardOutput[T]``."""
    result = get_args(source)
    error = _error_schema(core_schema.any_schema(), handler)
    members = {
        "decision": (True, handler.generate_schema(Decision)),
        "executed": (True, core_schema.bool_schema(strict=True)),
        "result": (False, handler.generate_schema(result[0] if result else Any)),
        "error": (False, error),
        "approval": (False, handler.generate_schema(PendingApproval)),
        "evidence": (False, handler.generate_schema(RecordedEvidence)),
        "evidence_error": (False, error),
        "request_id": (False, core_schema.str_schema()),
    }
    fields = {
        name: core_schema.typed_dict_field(schema, required=required) for name, (required, schema) in members.items()
    }

    def validate(value: Any, inner: Any) -> GuardOutput[Any]:
        checked = inner(_with_request_id(value))
        request_id = checked.pop("request_id", None)
        return kind(checked, tool=getattr(value, "_tool", ""), request_id=request_id)

    return core_schema.no_info_wrap_validator_function(
        validate,
        core_schema.typed_dict_schema(fields),
        serialization=core_schema.wrap_serializer_function_ser_schema(
            lambda value, inner: inner(_with_request_id(value)), schema=core_schema.typed_dict_schema(fields)
        ),
    )


def dict_schema(kind: Any, handler: Any) -> Any:
    """Return the schema of a ``TypedDict``. Members that it does not list are kept."""
    fields = {
        name: core_schema.typed_dict_field(handler.generate_schema(hint), required=name in kind.__required_keys__)
        for name, hint in get_type_hints(kind).items()
    }
    return core_schema.typed_dict_schema(fields, cls=kind, cls_name=kind.__name__, extra_behavior="allow")


def error_schema(kind: type, source: Any, handler: Any) -> Any:
    """Return the schema of an exception, which is serialized as data."""
    return _error_schema(core_schema.is_instance_schema(kind), handler)


def _error_schema(inner: Any, handler: Any) -> Any:
    return core_schema.no_info_before_validator_function(
        lambda value: error_of(value) if isinstance(value, Mapping) else value,
        inner,
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda value: error_data(value) if isinstance(value, BaseException) else value,
            return_schema=handler.generate_schema(ErrorData),
        ),
    )


def client_schema(kind: type) -> Any:
    """Return the schema of a client, of which a parameter or a field can be."""
    return core_schema.is_instance_schema(kind)


def _with_request_id(value: Any) -> Any:
    request_id = getattr(value, "request_id", None)
    return value if request_id is None else {**value, "request_id": request_id}
