"""Non-JSON arguments raise an error with their path, in every mode; others are encoded like ``json.dumps``."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import inspect
import ipaddress
import json
import pathlib
import re
import types
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from actpass import (
    DEFAULT_BASE_URL,
    ActPassArgumentError,
    ActPassClient,
    ActPassConfigError,
    canonical_outcome,
    create_actpass,
)
from support import (
    ACTION,
    ALLOW,
    ANSWERS,
    API_KEY,
    CALLS,
    MODES,
    PASSPORT,
    VECTORS,
    Callback,
    Hostile,
    Played,
    answer,
    new_async_client,
    new_client,
)

LONE = "a\ud800"
NAN = float("nan")
INFINITY = float("inf")


def nested(depth: int, of: Any = dict) -> Any:
    """Return ``depth`` nested dicts, or nested lists inside a dict."""
    value: Any = of()
    for _ in range(depth - 2):
        value = {"a": value} if of is dict else of([value])
    return {"a": value}


def cycle_of_dicts() -> Any:
    value: dict[str, Any] = {}
    value["a"] = {"b": value}
    return value


def cycle_of_lists() -> Any:
    value: list[Any] = []
    value.append(value)
    return {"a": value}


BAD_ARGS: dict[str, Any] = {
    "none": None,
    "a_list": [],
    "a_string": "{}",
    "a_number": 1,
    "pairs": [("amount", 1)],
    "another_mapping": types.MappingProxyType({"amount": 1}),
    "an_object": {"a": object()},
    "a_class": {"a": dict},
    "a_function": {"a": print},
    "a_set": {"a": {1}},
    "a_generator": {"a": iter([1])},
    "bytes": {"a": b"x"},
    "complex": {"a": 1j},
    "decimal": {"a": decimal.Decimal(1)},
    "datetime": {"a": datetime.datetime(2026, 1, 1)},
    "uuid": {"a": uuid.UUID(int=1)},
    "nan": {"a": NAN},
    "nan_deep": {"a": [{"b": (NAN,)}]},
    "infinity": {"a": INFINITY},
    "minus_infinity": {"a": -INFINITY},
    "lone_surrogate": {"a": LONE},
    "lone_surrogate_as_key": {LONE: 1},
    "reversed_surrogates": {"a": "\udc00\ud800"},
    "bytes_as_key": {b"a": 1},
    "tuple_as_key": {(1, 2): 1},
    "nan_as_key": {NAN: 1},
    "keys_that_become_one": {1: "a", "1": "b"},
    "keys_that_become_one_deep": {"a": [{None: 1, "null": 2}]},
    "integer_past_a_double": {"a": 10**400},
    "integer_of_too_many_digits": {"a": 1 << 100_000},
    "dicts_128_deep": nested(128),
    "lists_128_deep": nested(128, list),
    "tuples_128_deep": nested(128, tuple),
    "dicts_100000_deep": nested(100_000),
    "cycle_of_dicts": cycle_of_dicts(),
    "cycle_of_lists": cycle_of_lists(),
}
NEEDED: tuple[Any, ...] = ("", 1, None, b"x", ["x"], LONE)
OPTIONAL: tuple[Any, ...] = (1, True, b"x", {}, LONE)
BAD: dict[str, tuple[Any, ...]] = {
    "goal": NEEDED,
    "tool": NEEDED,
    "resource": (*OPTIONAL, None),
    "user_id": OPTIONAL,
    "passport": OPTIONAL,
    "idempotency_key": (*OPTIONAL, ""),
    "audience": OPTIONAL,
    "approval_request_id": OPTIONAL,
    "tool_manifest_hash": OPTIONAL,
    "mode": (*OPTIONAL, "", "off", "Enforce", "monitor ", "allow", b"monitor", ["monitor"]),
}


def named(member: str, value: Any, *before: str) -> Any:
    return pytest.param(*before, member, value, id="-".join((*before, member, ascii(value)[:20])))


@pytest.fixture
def silent(hostile: Hostile) -> Iterator[Played]:
    """Run a gateway that allows every action; fail if the test sends it a request."""
    with hostile.play(answer(ALLOW)) as gateway:
        yield gateway
        assert gateway.seen() == [], "a request was sent"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(pytest.param("args", value, id=f"args-{name}") for name, value in BAD_ARGS.items()),
        *(named(member, value) for member, values in BAD.items() for value in values),
    ],
)
def test_rejects_invalid_arguments(silent: Played, member: str, value: Any) -> None:
    callback = Callback()
    arguments = {**ACTION, member: value}
    with new_client(silent.base_url) as client:
        for mode in MODES if member != "mode" else (value,):
            with pytest.raises(ActPassArgumentError, match=rf"\A{member}[^ ]*: ") as raised:
                client.guard(execute_fn=callback, **{"mode": mode, **arguments})
            assert (raised.value.code, raised.value.kind) == ("actpass.invalid_argument", "argument")
            assert (raised.value.status, raised.value.retryable) == (None, False)
            assert isinstance(raised.value, TypeError)
            assert raised.value.operation == "guard"
        with pytest.raises(ActPassArgumentError, match=rf"\A{member}[^ ]*: "):
            client.preflight(**arguments)
    with new_client(silent.base_url, mode="monitor") as client, pytest.raises(ActPassArgumentError):
        client.guard(execute_fn=callback, **arguments)
    assert callback.runs == 0


BAD_CALLS: dict[str, dict[str, tuple[Any, ...]]] = {
    "issue_passport": {
        "audience": NEEDED,
        "goal": NEEDED,
        "allowed_tools": (None, "tool", [1], {"a": 1}, [LONE]),
        "allowed_resources": ("resource", [None], 1),
        "resource_constraints": ([], "x", 1, {"a": NAN}, nested(128)),
        "user_id": OPTIONAL,
        "ttl_seconds": (-1, 1.5, "60", True, 2**70),
        "risk_tier": NEEDED,
    },
    "verify_passport": {
        "token": NEEDED,
        "audience": NEEDED,
        "agent_id": OPTIONAL,
        "user_id": OPTIONAL,
        "current_tool_manifest_hash": OPTIONAL,
        "policy_hash": OPTIONAL,
    },
    "revoke_passport": {"jti": NEEDED, "reason": OPTIONAL},
    "record_evidence": {
        "event_type": NEEDED,
        "chain_id": NEEDED,
        "tool_id": OPTIONAL,
        "decision": OPTIONAL,
        "reason_code": OPTIONAL,
        "metadata": ([], "x", 1, {"a": NAN}, {"a": LONE}, nested(128)),
        "request_hash": OPTIONAL,
        "response_hash": OPTIONAL,
    },
}
GOOD_CALLS: dict[str, dict[str, Any]] = {
    "issue_passport": {"audience": "mcp://x", "goal": "g", "allowed_tools": ["t"]},
    "verify_passport": {"token": PASSPORT, "audience": "mcp://x"},
    "revoke_passport": {"jti": "ap_1"},
    "record_evidence": {"event_type": "e", "chain_id": "c"},
}


@pytest.mark.parametrize(
    ("method", "member", "value"),
    [
        named(member, value, method)
        for method, members in BAD_CALLS.items()
        for member, values in members.items()
        for value in values
    ],
)
def test_rejects_invalid_arguments_of_other_calls(silent: Played, method: str, member: str, value: Any) -> None:
    with new_client(silent.base_url) as client, pytest.raises(ActPassArgumentError, match=rf"\A{member}[^ ]*: "):
        getattr(client, method)(**{**GOOD_CALLS[method], member: value})


#: Valid positional arguments of each call.
ASKING: dict[str, tuple[Any, ...]] = {
    "preflight": ("g", "t", {}),
    "guard": ("g", "t", {}, lambda _: None),
    "authorize": ("g", "t", {}),
    "protect": (),
    "issue_passport": ("a", "g", ["t"]),
    "verify_passport": ("t", "a"),
    "verify_passport_offline": ("t", "a"),
    "revoke_passport": ("j",),
    "record_evidence": ("e", "c"),
}


@pytest.mark.parametrize(
    ("method", "member"),
    [
        (method, name)
        for method in ASKING
        for name in inspect.signature(getattr(ActPassClient, method)).parameters
        if name != "self"
    ],
)
@pytest.mark.parametrize("awaited", [False, True])
def test_validates_every_parameter(silent: Played, method: str, member: str, awaited: bool) -> None:
    """Detects a parameter that the binding does not pass to the core."""
    client: Any = new_async_client(silent.base_url) if awaited else new_client(silent.base_url)
    call = getattr(client, method)
    given = {"tool": "t", "goal": "g"} if method == "protect" else {}
    arguments = inspect.signature(call).bind_partial(*ASKING[method]).arguments | given | {member: object()}
    with pytest.raises(ActPassConfigError, match=rf"\A{member}\b"):
        made = call(**arguments)
        if method == "protect":
            # `resource`, `user_id` and `passport` may be functions: the call validates them.
            made(good)
        elif awaited:
            asyncio.run(made)


async def good() -> None:
    raise AssertionError


def test_native_module_receives_every_argument(silent: Played) -> None:
    native = new_client(silent.base_url)._native
    action = {"goal": "g", "tool": "t", "args": {}, "resource": ""}
    with pytest.raises(TypeError, match=r"unknown arguments among .*'idempotencykey'"):
        native.preflight({**action, "idempotencykey": "k"})
    with pytest.raises(TypeError, match="missing the argument resource"):
        native.preflight({name: value for name, value in action.items() if name != "resource"})


def test_missing_and_unknown_arguments_raise_type_error(silent: Played) -> None:
    with new_client(silent.base_url) as client:
        for wrong in ({}, {**ACTION, "argz": {}}, {"goal": "g", "tool": "t"}):
            with pytest.raises(TypeError):
                client.preflight(**wrong)
            with pytest.raises(TypeError):
                client.guard(execute_fn=print, **wrong)


SECONDS = (0, -1, NAN, INFINITY, 86_401, 1e300, 10**400, "1", True, [1])
BAD_SETTINGS: dict[str, tuple[Any, ...]] = {
    "api_key": (None, "", "a b", f"{API_KEY}\n", "\tkey", "k\xe9y", "key\0", 1, API_KEY.encode(), LONE),
    "tenant_id": (1, "a\nb", "\xe9", b"x", LONE),
    "agent_id": (1, b"x", LONE, ""),
    "base_url": (
        1,
        "gate.example",
        "ftp://gate.example",
        "http://gate.example",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "https://user@gate.example",
        "https://user:word@gate.example",
        "https://gate.example?x=1",
        "https://gate.example#x",
        "https://",
        LONE,
    ),
    "timeout": (*SECONDS, None),
    "connect_timeout": SECONDS,
    "max_retries": (-1, 11, 1.5, 2**40, "1", True, None),
    "mode": ("", "off", "Monitor", 1, None, LONE),
    "ca": ("", b"", "x", b"\xff", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", 1),
    "danger_allow_insecure_http": (1, "yes", None),
}


@pytest.mark.parametrize(
    ("name", "value"),
    # Numbered, because pytest prints ids and a value may contain a secret.
    [
        pytest.param(name, value, id=f"{name}-{at}")
        for name, values in BAD_SETTINGS.items()
        for at, value in enumerate(values)
    ],
)
def test_rejects_invalid_settings(name: str, value: Any) -> None:
    settings: dict[str, Any] = {"api_key": API_KEY, "base_url": "https://gate.example", name: value}
    with pytest.raises(ActPassConfigError, match=rf"\A{name}: ") as raised:
        ActPassClient(**settings)
    assert type(raised.value) is ActPassConfigError
    assert isinstance(raised.value, ValueError)
    assert (raised.value.code, raised.value.kind) == ("actpass.invalid_config", "config")


def test_reads_settings_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTPASS_API_KEY", API_KEY)
    assert ActPassClient().base_url == DEFAULT_BASE_URL == "https://www.api.actpass.org"
    monkeypatch.setenv("ACTPASS_API_BASE_URL", "http://127.0.0.1:1/path/")
    assert ActPassClient().base_url == create_actpass().base_url == "http://127.0.0.1:1/path"
    assert ActPassClient(base_url="http://127.0.0.1:2").base_url == "http://127.0.0.1:2"
    monkeypatch.setenv("ACTPASS_API_BASE_URL", "http://gate.example")
    with pytest.raises(ActPassConfigError, match="base_url: "):
        ActPassClient()
    monkeypatch.setenv("ACTPASS_API_KEY", f"{API_KEY}\n")
    with pytest.raises(ActPassConfigError, match="api_key: "):
        ActPassClient(base_url="http://127.0.0.1:2")


def test_exposes_settings_as_read_only_properties() -> None:
    client = ActPassClient(API_KEY, "tenant", "agent", "http://[::1]:9/", 2.5, mode="strict", max_retries=10)
    shown = (client.tenant_id, client.agent_id, client.base_url, client.timeout, client.mode)
    assert shown == ("tenant", "agent", "http://[::1]:9", 2.5, "strict")
    assert not hasattr(client, "api_key")
    with pytest.raises(AttributeError):
        client.timeout = 1  # type: ignore[misc]
    made = create_actpass(API_KEY, "tenant", None, "http://127.0.0.1:9")
    assert (made.agent_id, made.timeout, made.mode) == ("sdk", 30.0, "enforce")
    assert ActPassClient(API_KEY, base_url="http://gate.example", danger_allow_insecure_http=True).base_url


@pytest.mark.parametrize("name", CALLS)
def test_closed_client_sends_nothing(silent: Played, name: str) -> None:
    with new_client(silent.base_url) as client:
        pass
    client.close()
    with pytest.raises(ActPassConfigError, match="closed"):
        CALLS[name](client)
    assert API_KEY not in repr(client)


class Colour(str, enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


class Loud(int):
    def __repr__(self) -> str:
        return '"injected"'

    __str__ = __repr__


class Measure(float):
    def __repr__(self) -> str:
        return '"injected"'

    __str__ = __repr__


class Text(str):
    def __str__(self) -> str:
        return "injected"


Point = collections.namedtuple("Point", "x y")

KEPT: dict[str, Any] = {
    "nothing": {},
    "plain": {"amount": 4900, "currency": "usd", "yes": True, "no": False, "none": None},
    "nested": {"a": [{"b": [[], {}, [None]]}, "c"]},
    "order": {"z": 1, "a": 2, "m": {"y": 1, "b": 2}},
    "unicode": {"é": "Zoë \u20ac 😀 \u2028 \ufffe", "\U0001d4b3": "\U0010ffff"},
    "escapes": {'"\\/\b\f\n\r\t\0\x1f\x7f': '"\\/\b\f\n\r\t\0\x1f\x7f\x80'},
    "surrogate_pair": {"a": json.loads('"\\ud83d\\ude00"')},
    "large_integers": {"a": [2**53, 2**53 + 1, -(2**63), 2**63, 2**64, -(2**64), 10**300, -(10**300)]},
    "floats": {
        "a": [1.0, -0.0, 0.1, 1e16, 1e15, 1e22, 1e-4, 1e-5, 1e-7, 123456789.123, 1 / 3, 5e-324, 1.7976931348623157e308]
    },
    "odd_keys": {7: 1, -5: 2, None: 3, True: 4, False: 5, 1.5: 6, 1e22: 7, 10**30: 8},
    "tuples": {"a": (1, (2, ()), [3])},
    "namedtuple": {"a": Point(1, 2)},
    "string_enum": {"a": Colour.RED, Colour.RED: 1},
    "integer_enum": {"a": Size.LARGE, Size.LARGE: 1},
    "integer_subclass": {"a": Loud(7), "b": Loud(10**30), Loud(8): 1},
    "float_subclass": {"a": Measure(1.5), Measure(2.5): 1},
    "string_subclass": {"a": Text("kept"), Text("key"): 1},
    "ordered_dict": collections.OrderedDict([("z", 1), ("a", collections.OrderedDict(b=1))]),
    "default_dict": collections.defaultdict(list, {"a": [1]}),
    "shared_but_no_cycle": {"a": [ACTION, ACTION]},
    "dicts_127_deep": nested(127),
    "lists_127_deep": nested(127, list),
    "long": {"a": "x" * 100_000, "b": list(range(5_000))},
    "many_keys": {f"k{n}": n for n in range(2_000)},
}


@pytest.mark.parametrize("name", KEPT)
def test_sends_output_of_json_dumps(hostile: Hostile, name: str) -> None:
    value = KEPT[name]
    written = json.dumps(value)
    said = answer({**ALLOW, **ANSWERS["/api/v1/passports/issue"], **ANSWERS["/api/v1/evidence/events"]})
    with hostile.play(said) as gateway, new_client(gateway.base_url) as client:
        client.preflight("g", "t", value)
        assert client.guard("g", "t", value, lambda _: None)["executed"]
        client.issue_passport("a", "g", ["t"], resource_constraints=value)
        client.record_evidence("e", "c", metadata=value)
        bodies = [one["body"] for one in gateway.seen()]
    for body, member, after in zip(
        bodies,
        ("args", "args", "resource_constraints", "metadata"),
        ("user_id", "user_id", "user_id", "request_hash"),
    ):
        assert f'"{member}": {written}, "{after}": ' in body


def test_returns_output_of_json_loads(hostile: Hostile) -> None:
    text = (
        '{"decision":"allow","big":123456789012345678901234567890,"float":1.50,"exponent":1e2,"zero":-0,"minus":-0.0,'
        '"tiny":5e-324,"unicode":"\\ud83d\\ude00é\\u0000","nested":[[],{},[null,true,false]],"z":1,"a":2}'
    )
    with hostile.play({"do": "respond", "body": text}) as gateway, new_client(gateway.base_url) as client:
        decision = client.preflight(**ACTION)
        context = Callback()
        out = client.guard(execute_fn=context, **ACTION)
    explain: dict[str, Any] = {"summary": "", "matched_rules": [], "next_steps": []}
    expected = {**json.loads(text), "reason_code": "unspecified", "explain": explain}
    for found in (decision, out["decision"], context.contexts[0]["decision"]):
        assert repr(found) == repr(expected)


def test_each_call_has_its_own_idempotency_key(hostile: Hostile) -> None:
    with hostile.play(answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
        for _ in range(20):
            client.preflight(**ACTION)
        keys = [json.loads(one["body"])["idempotency_key"] for one in gateway.seen()]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", key)


@pytest.mark.parametrize(
    "outcome", [{}, {"executed": True}, {"decision": {}, "executed": True}, {"decision": 1, "executed": True}]
)
def test_canonical_outcome_rejects_other_values(outcome: Any) -> None:
    with pytest.raises(ActPassArgumentError):
        canonical_outcome(outcome)


class Wire(dict):  # type: ignore[type-arg]
    """A dict whose overridden methods disagree with its contents."""

    def items(self) -> Any:
        return [("amount", 4900), ("deep", Wire2({"hidden": 1}))]


class Wire2(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return iter((("shown", True),))


class Lower(dict):  # type: ignore[type-arg]
    """A dict whose lookups by key return other values than its items."""

    def __getitem__(self, name: str) -> Any:
        return "not sent"


class Few(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(["sent"])


class Pair(tuple):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(["sent"])


class Lying(str):
    def __str__(self) -> str:
        return "not sent"

    def encode(self, *_: Any) -> bytes:
        return b"not sent"


class Level(enum.IntFlag):
    READ = 1
    WRITE = 2


SUBCLASSES: dict[str, Any] = {
    "a_dict_of_its_own_items": Wire(amount=1),
    "in_a_list": {"a": [Wire(amount=1), {"b": Wire2(amount=1)}]},
    "a_dict_of_its_own_getitem": Lower(amount=1),
    "a_list_of_its_own_iter": {"a": Few([1, 2]), "b": collections.UserList([1]).data},
    "a_tuple_of_its_own_iter": {"a": Pair((1, 2))},
    "a_str_of_its_own_str": {"a": Lying("sent"), Lying("key"): 1},
    "flags": {"a": Level.READ | Level.WRITE},
    "a_counter": {"a": collections.Counter("aab")},
    "bool_enum": {"a": enum.Enum("Yes", {"YES": True}).YES.value},  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", SUBCLASSES)
def test_encodes_subclasses_like_json_dumps(hostile: Hostile, name: str) -> None:
    value = SUBCLASSES[name]
    with hostile.play(answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
        client.preflight("g", "t", value)
        assert client.guard("g", "t", value, lambda _: None)["executed"]
        client.protect(tool="t", goal="g")(lambda value: None)(value)  # type: ignore[misc]
        bodies = [one["body"] for one in gateway.seen()]
    assert [f'"args": {json.dumps(value)}, "user_id"' in body for body in bodies] == [True, True, False]
    assert f'"args": {{"value": {json.dumps(value)}}}, "user_id"' in bodies[2]


class NoPairs(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return [("a", 1, 2)]


class Broken(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise LookupError("mine")


class Growing(dict):  # type: ignore[type-arg]
    """A dict that changes its parent while it is read."""

    def items(self) -> Any:
        GROWING["a"][str(len(GROWING["a"]))] = 1
        return super().items()


GROWING: dict[str, Any] = {"a": {"x": Growing()}}


def test_rejects_invalid_items(silent: Played) -> None:
    with new_client(silent.base_url) as client:
        for wrong in (NoPairs(a=1), {"a": [NoPairs(a=1)]}):
            with pytest.raises(ActPassArgumentError, match=r"args\S*: expected pairs from items\(\) of \S*NoPairs"):
                client.preflight("g", "t", wrong)
        with pytest.raises(LookupError, match="mine"):
            client.preflight("g", "t", {"a": Broken()})


def test_sends_snapshot_of_dict_that_changes_while_read(hostile: Hostile) -> None:
    with hostile.play(answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
        client.preflight("g", "t", GROWING)
        assert '"args": {"a": {"x": {}}}' in gateway.seen()[-1]["body"]


@dataclasses.dataclass
class Order:
    amount: int


class Size2(enum.Enum):
    LARGE = "l"


class Node:
    __slots__ = ()


#: The value, the type that the error names, and its advice.
ODD: dict[str, tuple[Any, str, str]] = {
    "decimal": (decimal.Decimal("4.90"), "decimal.Decimal", "str(value)"),
    "fraction": (fractions.Fraction(1, 3), "fractions.Fraction", "str(value)"),
    "datetime": (datetime.datetime(2026, 1, 1), "datetime.datetime", "value.isoformat()"),
    "date": (datetime.date(2026, 1, 1), "datetime.date", "value.isoformat()"),
    "time": (datetime.time(12), "datetime.time", "value.isoformat()"),
    "timedelta": (datetime.timedelta(1), "datetime.timedelta", "value.total_seconds()"),
    "uuid": (uuid.UUID(int=1), "uuid.UUID", "str(value)"),
    "enum": (Size2.LARGE, "test_arguments.Size2", "value.value"),
    "dataclass": (Order(1), "test_arguments.Order", "dataclasses.asdict(value)"),
    "set": ({1}, "set", "sorted(value)"),
    "frozenset": (frozenset({1}), "frozenset", "sorted(value)"),
    "bytes": (b"x", "bytes", "value.decode()"),
    "bytearray": (bytearray(b"x"), "bytearray", "value.decode()"),
    "memoryview": (memoryview(b"x"), "memoryview", "bytes(value)"),
    "path": (pathlib.PurePosixPath("a"), "PurePosixPath", "str(value)"),
    "mapping": (types.MappingProxyType({"a": 1}), "mappingproxy", "dict(value)"),
    "user_dict": (collections.UserDict(a=1), "collections.UserDict", "dict(value)"),
    "keys": ({}.keys(), "dict_keys", "sorted(value)"),
    "deque": (collections.deque([1]), "collections.deque", "list(value)"),
    "range": (range(3), "range", "list(value)"),
    "generator": ((n for n in [1]), "generator", "list(value)"),
    "complex": (1j, "complex", "[value.real, value.imag]"),
    "address": (ipaddress.ip_address("127.0.0.1"), "ipaddress.IPv4Address", "str(value)"),
    "object": (object(), "object", "convert it by default="),
    "slots": (Node(), "test_arguments.Node", "convert it by default="),
    "class": (int, "type", "convert it by default="),
}


def with_third_parties() -> dict[str, tuple[Any, str, str]]:
    found = dict(ODD)
    with contextlib.suppress(ImportError):
        import numpy

        boolean = type(numpy.True_).__name__
        found["numpy_bool"] = (numpy.True_, f"numpy.{boolean}", "value.item()")
        found["numpy_int"] = (numpy.int64(3), "numpy.int64", "value.item()")
        found["numpy_float32"] = (numpy.float32(3), "numpy.float32", "value.item()")
        found["numpy_array"] = (numpy.array([1]), "numpy.ndarray", "value.tolist()")
        found["numpy_datetime"] = (numpy.datetime64("2026-01-01"), "numpy.datetime64", "value.item()")
    with contextlib.suppress(ImportError):
        import pydantic

        model = pydantic.create_model("Money", amount=(int, 3))
        found["pydantic"] = (model(), "Money", 'value.model_dump(mode="json")')
    return found


@pytest.mark.parametrize("name", with_third_parties())
def test_non_json_error_names_path_and_conversion(silent: Played, name: str) -> None:
    value, found, how = with_third_parties()[name]
    with new_client(silent.base_url) as client:
        for args, place in (({"order": {"items": [0, value]}}, "order.items[1]"), ({"a": (value,)}, "a[0]")):
            for call in (client.preflight, lambda *given: client.guard(*given, lambda _: None)):
                with pytest.raises(ActPassArgumentError) as raised:
                    call("g", "t", args)
                said = str(raised.value)
                begin = rf"\Aargs\.{re.escape(place)}: expected a value that is JSON, found \S*{re.escape(found)}; "
                assert re.search(begin, said), said
                assert how in said
                assert "default=" in said


def test_argument_paths_match_other_languages(silent: Played) -> None:
    rows = json.loads((VECTORS.parent / "argument-paths.json").read_text(encoding="utf-8"))
    assert rows
    with new_client(silent.base_url) as client:
        for row in rows:
            args: Any = NAN
            for step in reversed(row["steps"]):
                args = {step: args} if isinstance(step, str) else [None] * step + [args]
            for member, call in (
                ("args", lambda args=args: client.preflight("g", "t", args)),
                ("metadata", lambda args=args: client.record_evidence("e", "c", metadata=args)),
                ("payload", lambda args=args: ActPassClient.hash_payload(args)),
            ):
                with pytest.raises(ActPassArgumentError) as raised:
                    call()
                expected = row["path"].replace("args", member, 1) + ": expected a finite number, found NaN"
                assert str(raised.value) == expected


def test_core_errors_name_path(silent: Played) -> None:
    """Distinct Python keys that are equal in JSON; numbers that are valid JSON but out of range."""
    with new_client(silent.base_url) as client:
        for args, expected in (
            ({"a": {1: "a", "1": "b"}}, "args.a.1: expected unique keys, found a duplicate"),
            ({"a": [10**400]}, "args.a[0]: expected a number within the range of a double"),
            ({"a": [10**5000]}, "args.a[0]: expected a number within the range of a double"),
            ({"a": {"b": "\ud800"}}, "args.a.b: expected text in Unicode, found a lone surrogate"),
            ({"a": {"\ud800": object()}}, "args.a: expected text in Unicode, found a lone surrogate"),
            ({"a": {1: {None: {True: NAN}}}}, "args.a.1.null.true: expected a finite number, found NaN"),
        ):
            with pytest.raises(ActPassArgumentError) as raised:
                client.preflight("g", "t", args)
            assert str(raised.value) == expected
        with pytest.raises(ActPassArgumentError, match=r"\Aallowed_tools\[1\]: expected a string, found int\Z"):
            client.issue_passport("a", "g", ["t", 7])  # type: ignore[list-item]
    with pytest.raises(ActPassArgumentError, match=r"\Apayload\.u\[0\]: the integer 9007199254740993 is beyond"):
        ActPassClient.hash_payload({"u": [2**53 + 1]})


def test_rejects_empty_passport(silent: Played) -> None:
    ran = Callback()
    with new_client(silent.base_url) as client:
        for call in (
            lambda: client.preflight("g", "t", {}, passport=""),
            lambda: client.guard("g", "t", {}, ran, passport=""),
            lambda: client.protect(tool="t", goal="g", passport=lambda: "")(lambda: ran(None))(),
        ):
            with pytest.raises(ActPassArgumentError) as raised:
                call()
            assert str(raised.value) == "passport: expected a token, found an empty string"
    assert ran.runs == 0


def test_sends_numpy_floats_as_numbers(hostile: Hostile) -> None:
    numpy = pytest.importorskip("numpy")
    with hostile.play(answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
        client.preflight("g", "t", {"a": numpy.float64(1.5)})
        assert '"args": {"a": 1.5}' in gateway.seen()[-1]["body"]
        for wrong in (float("nan"), float("inf")):
            with pytest.raises(
                ActPassArgumentError, match=r"\Aargs\.a: expected a finite number, found (NaN|Infinity)\Z"
            ):
                client.preflight("g", "t", {"a": numpy.float64(wrong)})


def test_default_converts_non_json(hostile: Hostile) -> None:
    """``default`` of the client and per call. The function receives the original arguments."""
    when, order = datetime.date(2026, 1, 2), Order(3)
    args = {"when": when, "orders": [order, {"of": (order,)}], "plain": 1}

    def write(value: Any) -> Any:
        return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value.isoformat()  # type: ignore[arg-type]

    written = json.dumps(args, default=write)
    with hostile.play(answer({**ALLOW, **ANSWERS["/api/v1/evidence/events"]})) as gateway:
        with new_client(gateway.base_url) as client:
            client.preflight("g", "t", args, default=write)
            client.guard("g", "t", args, lambda _: None, default=write)
            protected = client.protect(tool="t", goal="g", default=write)(lambda **given: given)
            assert protected(**args)["orders"][0] is order
        with new_client(gateway.base_url, default=write) as client:
            client.preflight("g", "t", args)
            client.guard("g", "t", args, lambda _: None)
            client.with_options(timeout=3).guard("g", "t", args, lambda _: None)
            client.protect(tool="t", goal="g")(lambda **given: given)(**args)
            client.record_evidence("e", "c", metadata=args)
            # The call's ``default`` takes precedence over the client's.
            client.preflight("g", "t", {"when": when}, default=lambda value: "its own")
        bodies = [one["body"] for one in gateway.seen()]
    assert [written in body for body in bodies] == [True] * 8 + [False]
    assert '"args": {"when": "its own"}' in bodies[-1]


def test_propagates_errors_of_default(silent: Played) -> None:
    error = LookupError("mine")

    def fail(value: Any) -> Any:
        raise error

    class Other:
        pass

    with new_client(silent.base_url) as client:
        ran = Callback()
        for call in (client.preflight, lambda *given, **more: client.guard(*given, ran, **more)):
            with pytest.raises(LookupError) as raised:
                call("g", "t", {"a": object()}, default=fail)
            assert raised.value is error
            for default in (lambda value: value, lambda value: Other(), lambda value: [Other()]):
                with pytest.raises(ActPassArgumentError, match="nested deeper than 128 levels"):
                    call("g", "t", {"a": object()}, default=default)
            with pytest.raises(ActPassArgumentError, match=r"\Aargs\.a\.b: expected a finite number, found NaN"):
                call("g", "t", {"a": object()}, default=lambda value: {"b": NAN})
            with pytest.raises(ActPassArgumentError, match=r"\Aargs\.a: expected strings as keys, found bytes"):
                call("g", "t", {"a": object()}, default=lambda value: {b"b": 1})
            for wrong in (3, "str", [str]):
                with pytest.raises(ActPassArgumentError, match=r"\Adefault: expected a function") as refused:
                    call("g", "t", {}, default=wrong)
                assert refused.value.operation in {"preflight", "guard"}
        assert ran.runs == 0
        with pytest.raises(ActPassArgumentError, match=r"\Adefault: expected a function"):
            client.with_options(default=3)  # type: ignore[arg-type]
    with pytest.raises(ActPassConfigError, match=r"\Adefault: expected a function"):
        new_client(silent.base_url, default=3)


def test_default_is_not_called_for_json_values(hostile: Hostile) -> None:
    seen: list[Any] = []

    def write(value: Any) -> Any:
        seen.append(value)
        return {"amount": 1}

    value = types.MappingProxyType({"amount": 1})
    with hostile.play(answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
        client.preflight("g", "t", value, default=write)  # type: ignore[arg-type]
        client.preflight("g", "t", {"a": [1, "b", None, True, 1.5, {}, ()]}, default=write)
        assert '"args": {"amount": 1}' in gateway.seen()[0]["body"]
    assert seen == [value]


def test_default_may_mutate_its_argument(hostile: Hostile) -> None:
    args: dict[str, Any] = {"a": object(), "b": 1}

    def write(value: Any) -> Any:
        args.clear()
        args.update({str(n): n for n in range(50)})
        return 2

    with hostile.play(answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
        client.preflight("g", "t", args, default=write)
        assert '"args": {"a": 2, "b": 1}' in gateway.seen()[-1]["body"]


LIMITS: dict[str, tuple[Any, ...]] = {
    "timeout": (0, -1, NAN, INFINITY, 86_401, "1", True, [1]),
    "max_retries": (-1, 11, 1.5, 2**40, "1", True),
}


@pytest.mark.parametrize("name", LIMITS)
def test_rejects_invalid_limits(silent: Played, name: str) -> None:
    with new_client(silent.base_url) as client:
        calls: list[Any] = [
            lambda **limit: client.preflight("g", "t", {}, **limit),
            lambda **limit: client.guard("g", "t", {}, lambda _: None, **limit),
            lambda **limit: client.issue_passport("a", "g", ["t"], **limit),
            lambda **limit: client.verify_passport("t", "a", **limit),
            lambda **limit: client.verify_passport_offline("t", "a", **limit),
            lambda **limit: client.revoke_passport("ap_1", **limit),
            lambda **limit: client.record_evidence("e", "c", **limit),
            lambda **limit: client.protect(tool="t", goal="g", **limit),
            client.with_options,
        ]
        for value in LIMITS[name]:
            for call in calls:
                with pytest.raises(ActPassArgumentError, match=rf"\A{name}: expected"):
                    call(**{name: value})


def test_call_limits_override_client_limits(hostile: Hostile) -> None:
    busy = answer({}, status=503)
    with hostile.play(*[busy] * 20) as gateway, new_client(gateway.base_url, max_retries=2) as client:
        said = []
        for call in (
            lambda: client.guard(execute_fn=lambda _: None, **ACTION),
            lambda: client.guard(execute_fn=lambda _: None, max_retries=0, **ACTION),
            lambda: client.with_options(max_retries=1).guard(execute_fn=lambda _: None, **ACTION),
            lambda: client.with_options(max_retries=1).guard(execute_fn=lambda _: None, max_retries=0, **ACTION),
            lambda: client.with_options(max_retries=1).with_options(timeout=9).guard(execute_fn=print, **ACTION),
        ):
            before = len(gateway.seen())
            assert not call()["executed"]
            said.append(len(gateway.seen()) - before)
        assert said == [3, 1, 2, 1, 2]
    with hostile.play({"do": "hang", "at": "request"}) as gateway, new_client(gateway.base_url, timeout=60) as client:
        for call in (
            lambda: client.guard(execute_fn=lambda _: None, timeout=0.2, **ACTION),
            lambda: client.with_options(timeout=0.2).guard(execute_fn=lambda _: None, **ACTION),
        ):
            assert call()["decision"]["reason_code"] == "actpass.timeout"
        assert (client.timeout, client.with_options(timeout=0.2).timeout) == (60.0, 0.2)


def test_derived_client_keeps_its_class_and_closes_with_its_parent() -> None:
    class Mine(ActPassClient):
        name = "mine"

    client = Mine(API_KEY, "tenant", "agent", "http://127.0.0.1:9")
    client.name = "another"
    other = client.with_options(timeout=1)
    assert (type(other), other.name, repr(other)) == (Mine, "another", repr(client))
    other.close()
    with pytest.raises(ActPassConfigError, match="closed"):
        client.preflight(**ACTION)
