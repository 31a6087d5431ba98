"""The exceptions: one hierarchy, their attributes, and no secrets in their texts."""

from __future__ import annotations

import builtins
import contextlib
import copy
import json
import pickle
from typing import Any

import actpass
import pytest
from actpass import ActPassError
from support import (
    ACTION,
    ALLOW,
    API_KEY,
    CALLS,
    CREDENTIAL,
    PASSPORT,
    Callback,
    Hostile,
    answer,
    everything_shown,
    new_client,
)

#: Each class: its kind, its code, and the classes that catch it.
TREE: dict[type[ActPassError], tuple[str, str, tuple[type[BaseException], ...]]] = {
    actpass.ActPassArgumentError: (
        "argument",
        "actpass.invalid_argument",
        (TypeError, ValueError, actpass.ActPassConfigError),
    ),
    actpass.ActPassAuthenticationError: ("authentication", "actpass.unauthenticated", (actpass.ActPassStatusError,)),
    actpass.ActPassConfigError: ("config", "actpass.invalid_config", (ValueError,)),
    actpass.ActPassConnectionError: ("connection", "actpass.unreachable", ()),
    actpass.ActPassInternalError: ("internal", "actpass.internal", ()),
    actpass.ActPassPermissionError: ("permission", "actpass.forbidden", (actpass.ActPassStatusError,)),
    actpass.ActPassRateLimitError: ("rate_limit", "actpass.rate_limited", (actpass.ActPassStatusError,)),
    actpass.ActPassResponseError: ("response", "actpass.invalid_response", ()),
    actpass.ActPassStatusError: ("status", "actpass.gateway_error", ()),
    actpass.ActPassTimeoutError: ("timeout", "actpass.timeout", ()),
}
CLASSES = [
    getattr(actpass, name)
    for name in actpass.__all__
    if name.endswith("Error") and name not in {"ActionBlockedError", "HaltedError"}
]


def test_exceptions_have_documented_base_classes() -> None:
    assert set(CLASSES) == {ActPassError, *TREE}
    assert ActPassError.__mro__[1:] == (Exception, BaseException, object)
    for error, (_, _, caught_by) in TREE.items():
        assert issubclass(error, ActPassError)
        for other in caught_by:
            assert issubclass(error, other)
        assert not issubclass(error, OSError), "a handler for OSError would catch it"
    assert not issubclass(actpass.ActPassConfigError, TypeError)


def test_shadows_no_builtin() -> None:
    assert not set(dir(builtins)) & set(actpass.__all__)
    for error in CLASSES:
        assert error.__module__ == "actpass._errors"
        assert error.__name__.startswith("ActPass")
        assert error.__doc__


@pytest.mark.parametrize("error", CLASSES)
def test_error_constructor_matches_1_1_3(error: type[ActPassError]) -> None:
    made = error("message", 418, "body")
    assert (str(made), made.args) == ("message", ("message",))
    assert (made.status, made.body, made.code) == (418, "body", None)
    bare = error("message")
    assert (bare.status, bare.body, bare.code) == (None, None, None)
    assert (bare.operation, bare.request_id, bare.retry_after, bare.retryable) == (None, None, None, False)
    named = error("message", status=500, body="b", code="c")
    assert (named.status, named.body, named.code) == (500, "b", "c")


def failing(hostile: Hostile, step: dict[str, Any], timeout: float = 5, **call: Any) -> ActPassError:
    """Return the error of a preflight that ``step`` answers."""
    with hostile.play(step) as gateway, new_client(gateway.base_url, timeout=timeout) as client:
        try:
            client.preflight(**{**ACTION, **call})
        except ActPassError as error:
            return error
    pytest.fail("expected an error")


def members_of(error: ActPassError) -> list[Any]:
    names = ("status", "body", "code", "kind", "operation", "request_id", "retry_after", "retryable", "args")
    return [type(error), str(error), *(getattr(error, name) for name in names)]


def test_error_has_response_attributes(hostile: Hostile) -> None:
    headers = {"x-request-id": "req_7", "retry-after": "3"}
    body = {"error": {"code": "busy", "message": "come back\nlater"}}
    error = failing(hostile, answer(body, status=429, headers=headers))
    assert (type(error), error.kind, error.code) == (
        actpass.ActPassRateLimitError,
        "rate_limit",
        "actpass.rate_limited",
    )
    assert (error.status, error.body) == (429, '{"error":{"code":"busy","message":"come back\\nlater"}}')
    assert (error.operation, error.request_id, error.retry_after, error.retryable) == ("preflight", "req_7", 3.0, True)
    assert str(error) == "preflight: the gateway answered 429: come back later"


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (403, False), (429, True), (500, False), (502, True), (503, True)],
)
def test_retryable_follows_from_the_failure(hostile: Hostile, status: int, retryable: bool) -> None:
    error = failing(hostile, answer({}, status=status))
    assert (error.retryable, error.retry_after, error.request_id) == (retryable, None, None)


def test_each_failure_raises_its_class_and_code(hostile: Hostile) -> None:
    made = [failing(hostile, answer({}, status=status)) for status in (401, 403, 429, 500)]
    made += [
        failing(hostile, {"do": "reset", "at": "request"}),
        failing(hostile, answer([])),
        failing(hostile, answer(ALLOW), goal=""),
    ]
    made.append(failing(hostile, {"do": "hang", "at": "request"}, timeout=0.1))
    with pytest.raises(ActPassError) as raised:
        new_client("nonsense")
    made.append(raised.value)
    assert {type(error) for error in made} == set(TREE) - {actpass.ActPassInternalError}
    for error in made:
        kind, code, _ = TREE[type(error)]
        assert (error.kind, error.code) == (kind, code)
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        *(
            lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_pickling_and_copying_keep_all_attributes(hostile: Hostile, duplicate: Any) -> None:
    error = failing(
        hostile, answer({"error": {"message": "no"}}, status=503, headers={"retry-after": "1", "x-request-id": "r"})
    )
    assert members_of(duplicate(error)) == members_of(error)
    assert members_of(duplicate(ActPassError("m"))) == members_of(ActPassError("m"))


def test_each_call_has_its_own_error_object(hostile: Hostile) -> None:
    with hostile.play(answer({}, status=500)) as gateway, new_client(gateway.base_url) as client:
        first, second = (client.guard(execute_fn=Callback(), **ACTION)["error"] for _ in range(2))
    assert first is not second
    assert first.__traceback__ is None, "the error was raised inside the SDK"


TOKEN = {"credential": {"token": CREDENTIAL}}
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in API_KEY)
ECHOES: dict[str, dict[str, Any]] = {
    "key_in_text": {"body": f"bad key {API_KEY}"},
    "key_in_message": {"json": {"error": {"code": "x", "message": f"bad key {API_KEY}"}}},
    "key_in_code": {"json": {"error": {"code": API_KEY, "message": "no"}}},
    "key_escaped_in_message": {"body": f'{{"error":{{"message":"bad key {ESCAPED}"}}}}'},
    "key_escaped_elsewhere": {"body": f'{{"seen":"{ESCAPED}"}}'},
    "key_as_member_name": {"json": {API_KEY: 1}},
    "key_twice_as_member_name": {"body": f'{{"decision":"allow","{API_KEY}":1,"{API_KEY}":2}}'},
    "key_in_header_echo": {"json": {"headers": {"authorization": f"Bearer {API_KEY}"}}},
    "key_in_request_id": {"json": {}, "headers": {"x-request-id": f"req {API_KEY}"}},
    "key_in_retry_after": {"json": {}, "headers": {"retry-after": API_KEY}},
    "key_in_location": {"json": {}, "headers": {"location": f"https://gate.example/{API_KEY}"}},
    "passport_in_text": {"body": f"bad passport {PASSPORT}"},
    "passport_in_message": {"json": {"error": {"message": f"bad passport {PASSPORT}"}}},
    "passport_twice_as_member_name": {"body": f'{{"decision":"allow","{PASSPORT}":1,"{PASSPORT}":2}}'},
    "credential": {"json": {"decision": "deny", **TOKEN}},
    "credential_deep": {"json": {"a": [{"b": TOKEN}]}},
    "credential_in_other_case": {"json": {"Credential": CREDENTIAL}},
    "credential_by_escape": {"body": f'{{"cred\\u0065ntial":{{"token":"{CREDENTIAL}"}}}}'},
    "credential_cut_short": {"body": f'{{"credential":{{"token":"{CREDENTIAL}"'},
    "credential_twice": {
        "body": f'{{"credential":{{"token":"{CREDENTIAL}"}},"credential":{{"token":"{CREDENTIAL}"}}}}'
    },
    "credential_token_twice": {"body": f'{{"decision":"allow","credential":{{"{CREDENTIAL}":1,"{CREDENTIAL}":2}}}}'},
    "credential_without_token": {"json": {"decision": "allow", "credential": {"value": CREDENTIAL}}},
    "credential_as_text": {"json": {"decision": "allow", "credential": CREDENTIAL}},
}


def secrets_in(error: Any) -> list[str]:
    """Return the secrets in the error's texts, including its decoded body."""
    shown = everything_shown(error)
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        shown += everything_shown(json.loads(error.body))
    return [secret for secret in (API_KEY, PASSPORT, CREDENTIAL) if secret in shown]


@pytest.mark.parametrize("status", [200, 302, 401, 403, 429, 500])
@pytest.mark.parametrize("name", ECHOES)
def test_echoed_secrets_are_redacted(hostile: Hostile, name: str, status: int) -> None:
    step = {"do": "respond", "status": status, **ECHOES[name]}
    leaks: list[str] = []
    with hostile.play(step) as gateway, new_client(gateway.base_url) as client:
        for call in (
            lambda: client.preflight(passport=PASSPORT, **ACTION),
            lambda: client.verify_passport(PASSPORT, "mcp://x"),
        ):
            try:
                call()
            except ActPassError as error:
                leaks += secrets_in(error)
        out = client.guard(execute_fn=lambda _: None, passport=PASSPORT, **ACTION)
        assert not out["executed"]
        leaks += secrets_in(out.get("error"))
    assert CREDENTIAL not in repr(out["decision"])
    count = len(leaks)  # A failed comparison of the list would print the secrets.
    assert count == 0


@pytest.mark.parametrize("name", CALLS)
def test_error_names_the_operation(hostile: Hostile, name: str) -> None:
    with (
        hostile.play(answer({"error": {"message": "no"}}, status=500)) as gateway,
        new_client(gateway.base_url) as client,
    ):
        if name in {"guard", "authorize"}:
            error: Any = CALLS[name](client)["error"]
        else:
            with pytest.raises(ActPassError) as raised:
                CALLS[name](client)
            error = raised.value
    assert error.operation == name
    assert str(error) == f"{error.operation}: the gateway answered 500: no"


def test_error_kinds_match_the_core() -> None:
    """Includes errors that the package itself creates; each class has one kind."""
    classes = [one for one in vars(actpass).values() if isinstance(one, type) and issubclass(one, ActPassError)]
    kinds = {one.__name__: one.kind for one in classes}
    assert kinds == {
        "ActPassError": "internal",
        "ActionBlockedError": "blocked",
        "ActPassArgumentError": "argument",
        "ActPassAuthenticationError": "authentication",
        "ActPassConfigError": "config",
        "ActPassConnectionError": "connection",
        "ActPassInternalError": "internal",
        "ActPassPermissionError": "permission",
        "ActPassRateLimitError": "rate_limit",
        "ActPassResponseError": "response",
        "ActPassStatusError": "status",
        "ActPassTimeoutError": "timeout",
    }
