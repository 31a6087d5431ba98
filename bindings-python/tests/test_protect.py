"""Functions protected by ``client.protect``: they run with the evaluated arguments; errors explain a block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import json
import pathlib
import pickle
import threading
import time
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from actpass import (
    ActionBlockedError,
    ActPassArgumentError,
    ActPassClient,
    ActPassConfigError,
    ActPassConnectionError,
    ActPassError,
)
from support import (
    ALLOW,
    API_KEY,
    CREDENTIAL,
    EXPLAIN,
    PASSPORT,
    Gateway,
    Hostile,
    Played,
    answer,
    new_async_client,
    new_client,
    run_loop,
)

NAMES = {"tool": "stripe.refund.create", "goal": "resolve_refund_request"}


@pytest.fixture
def gateway(hostile: Hostile) -> Iterator[Played]:
    with hostile.play(answer(ALLOW)) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Played) -> Iterator[ActPassClient]:
    with new_client(gateway.base_url) as client:
        yield client


def judged(gateway: Played) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(gateway.seen()[-1]["body"])
    return body


def test_passes_evaluated_arguments(gateway: Played, client: ActPassClient) -> None:
    @client.protect(**NAMES, resource="stripe:charge:{charge}", user_id="u", passport=lambda: PASSPORT, audience="a")
    def refund(charge: str, amount: int, *notes: str, currency: str = "usd", **more: Any) -> Any:
        """Pay back."""
        return charge, amount, notes, currency, more

    assert refund("ch_1", 4900, "a", "b", reason="late") == ("ch_1", 4900, ("a", "b"), "usd", {"reason": "late"})
    asked = judged(gateway)
    assert asked["args"] == {"charge": "ch_1", "amount": 4900, "notes": ["a", "b"], "currency": "usd", "reason": "late"}
    assert (asked["tool"], asked["goal"], asked["resource"]) == (*NAMES.values(), "stripe:charge:ch_1")
    assert (asked["user_id"], asked["passport"], asked["audience"], asked["mode"]) == ("u", PASSPORT, "a", "enforce")
    assert refund(amount=1, charge="ch_2")[:2] == ("ch_2", 1)
    assert judged(gateway)["args"] == {"charge": "ch_2", "amount": 1, "notes": [], "currency": "usd"}
    with pytest.raises(TypeError, match="missing a required argument: 'amount'"):
        refund("ch_3")  # type: ignore[call-arg]
    assert len(gateway.seen()) == 2


def test_keeps_name_signature_and_docstring(client: ActPassClient) -> None:
    def refund(charge: str, amount: int = 3) -> str:
        """Pay back."""
        return charge * amount

    protected = client.protect(**NAMES)(refund)
    assert (protected.__name__, protected.__doc__, protected.__module__) == ("refund", "Pay back.", __name__)
    assert inspect.signature(protected) == inspect.signature(refund)
    assert protected.__annotations__ == refund.__annotations__
    assert not inspect.iscoroutinefunction(protected)

    async def later(charge: str) -> str:
        return charge

    assert inspect.iscoroutinefunction(client.protect(**NAMES)(later))


def test_results_and_exceptions_are_same_objects(client: ActPassClient) -> None:
    given, error = {"a": [1]}, KeyError("mine")

    @client.protect(**NAMES)
    def same(value: Any) -> Any:
        return value

    @client.protect(**NAMES)
    def fail() -> None:
        raise error

    assert same(given) is given
    with pytest.raises(KeyError) as caught:
        fail()
    assert caught.value is error


def test_protects_methods(gateway: Played, client: ActPassClient) -> None:
    class Desk:
        till = 10

        @client.protect(**NAMES, resource=lambda amount: f"till:{amount}")
        def pay(self, amount: int) -> int:
            self.till -= amount
            return self.till

        @staticmethod
        @client.protect(**NAMES)
        def greet(name: str) -> str:
            return name

        @classmethod
        @client.protect(**NAMES)
        def kind(cls, n: int) -> str:
            return cls.__name__ * n

    assert Desk().pay(3) == 7
    assert (judged(gateway)["args"], judged(gateway)["resource"]) == ({"amount": 3}, "till:3")
    assert (Desk.greet("a"), Desk.kind(2)) == ("a", "DeskDesk")
    assert judged(gateway)["args"] == {"n": 2}


def test_include_exclude_and_redact_choose_sent_arguments(gateway: Played, client: ActPassClient) -> None:
    handle = object()

    def use(db: Any, card: str, amount: int) -> Any:
        return db, card, amount

    assert client.protect(**NAMES, exclude=["db"], redact=["card"])(use)(handle, "4242", 3) == (handle, "4242", 3)
    assert judged(gateway)["args"] == {"card": "[redacted]", "amount": 3}
    assert client.protect(**NAMES, include={"amount"})(use)(handle, "4242", 3) == (handle, "4242", 3)
    assert judged(gateway)["args"] == {"amount": 3}
    last = client.protect(**NAMES, exclude={"db"}, redact={"card": lambda card: card[-1:]})(use)
    assert last(handle, "4242", 3) == (handle, "4242", 3)
    assert judged(gateway)["args"] == {"card": "2", "amount": 3}
    with pytest.raises(
        ActPassArgumentError,
        match=r"\Aargs\.db: expected a value that is JSON, found object; convert it by default=, or leave",
    ):
        client.protect(**NAMES)(use)(handle, "4242", 3)
    assert len(gateway.seen()) == 3


@dataclasses.dataclass
class Order:
    amount: int


class Currency(enum.Enum):
    USD = "usd"


class Word(str, enum.Enum):
    USD = "usd"


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (Order(3), r"\Aargs\.amount: .* found test_protect\.Order; write dataclasses\.asdict\(value\), or .*default="),
        (decimal.Decimal("4.90"), r"\Aargs\.amount: .* found decimal\.Decimal; write str\(value\), or .*default="),
        (
            datetime.datetime(2026, 1, 1),
            r"\Aargs\.amount: .* found datetime\.datetime; write value\.isoformat\(\), or .*=",
        ),
        (pathlib.PurePosixPath("a"), r"\Aargs\.amount: .* found pathlib\S*\.PurePosixPath; write str\(value\), or .*="),
        (Currency.USD, r"\Aargs\.amount: .* found test_protect\.Currency; write value\.value, or .*="),
        (b"3", r"\Aargs\.amount: .* found bytes; write value\.decode\(\) or base64 text, or .*="),
        ({3}, r"\Aargs\.amount: .* found set; write sorted\(value\), or .*="),
        (
            {"total": [1, {"of": decimal.Decimal(1)}]},
            r"\Aargs\.amount\.total\[1\]\.of: .* found decimal\.Decimal; write .*",
        ),
        ({"a b": object()}, r"\Aargs\.amount\[\"a b\"\]: .* found object; convert it by default=, or leave it out"),
        (float("nan"), r"\Aargs\.amount: expected a finite number, found NaN"),
    ],
)
def test_names_non_json_argument(gateway: Played, client: ActPassClient, value: Any, at: str) -> None:
    @client.protect(**NAMES)
    def pay(charge: str, amount: Any) -> None:
        pytest.fail("it ran")

    with pytest.raises(ActPassArgumentError, match=rf"{at}\Z"):
        pay("ch_1", value)
    assert gateway.seen() == []


def test_sends_subclass_of_json_type_as_its_base(gateway: Played, client: ActPassClient) -> None:
    protected = client.protect(**NAMES)(lambda *values: values)  # type: ignore[misc]
    assert protected(Word.USD, Number.ONE) == (Word.USD, Number.ONE)
    assert judged(gateway)["args"] == {"values": ["usd", 1]}


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("charge:{charge}/{amount}", "charge:ch_1/3"),
        ("{amount:04d}", "0003"),
        ("plain {{x}}", "plain {x}"),
        (lambda charge: f"c:{charge}", "c:ch_1"),
        (lambda amount, charge: f"{charge}{amount}", "ch_13"),
        (lambda *, amount: str(amount), "3"),
        (lambda **all_: ",".join(sorted(all_)), "amount,charge"),
        (lambda arguments: f"{arguments['charge']}", "ch_1"),
    ],
)
def test_resource_accepts_template_or_function(
    gateway: Played, client: ActPassClient, resource: Any, expected: str
) -> None:
    @client.protect(**NAMES, resource=resource)
    def refund(charge: str, amount: int = 3) -> None:
        pass

    refund("ch_1")
    assert judged(gateway)["resource"] == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"include": ["amuont"]}, "include: expected names of the function's parameters, found 'amuont'"),
        ({"exclude": ["x"]}, "exclude: expected names"),
        ({"redact": ["x"]}, "redact: expected names"),
        ({"redact": "amount"}, "redact: expected a collection of names, found a string"),
        ({"resource": "{chrage}"}, "resource: expected names"),
        ({"resource": "{amount.real}"}, "resource: expected names of arguments in braces"),
        ({"resource": "{}"}, "resource: expected names of arguments in braces"),
        ({"resource": "{amount"}, "resource: expected a template"),
        ({"resource": lambda a, b: ""}, "resource: expected parameters of the decorated function, found a, b"),
        ({"resource": 7}, "resource: expected a template or a function, found int"),
    ],
)
def test_invalid_options_raise_at_decoration(client: ActPassClient, options: dict[str, Any], problem: str) -> None:
    def pay(amount: int) -> None:
        pass

    with pytest.raises(ActPassConfigError) as caught:
        client.protect(**NAMES, **options)(pay)
    assert problem in str(caught.value)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize(
    ("member", "values"),
    [
        ("tool", ("", None, 3, b"t", ["t"], "a\ud800")),
        ("goal", ("", 3, b"g")),
        ("mode", ("enforec", "", "Enforce", 3, ["strict"])),
        ("include", (3, "amount", b"amount", object())),
        ("exclude", (3, "amount")),
        ("redact", (3, "amount", {"amount": "x"})),
        ("resource", (3, None, b"r")),
        ("user_id", (3, b"u")),
        ("passport", (3, b"p")),
        ("audience", (3, b"a", ["a"])),
        ("tool_manifest_hash", (3, b"a")),
        ("wait_for_approval", (-1, "1", True, float("nan"), float("inf"))),
        ("record_outcome", (1, "yes", None)),
        ("default", (3, "str")),
        ("timeout", (0, -1, "1", True, float("nan"))),
        ("max_retries", (-1, 11, 1.5, "1", True)),
    ],
)
def test_rejects_invalid_options_before_decoration(member: str, values: tuple[Any, ...], asynchronous: bool) -> None:
    """The error names the option and is raised before a function is decorated."""
    client: Any = (new_async_client if asynchronous else new_client)("http://127.0.0.1:9")

    def pay(amount: int) -> None:
        pass

    async def pay_later(amount: int) -> None:
        pass

    for value in values:
        with pytest.raises(ActPassConfigError, match=rf"\A{member}: expected") as caught:
            client.protect(**{**NAMES, member: value})(pay_later if asynchronous else pay)
        if member not in {"include", "exclude", "redact", "resource"}:
            assert caught.value.operation == "protect"


def test_validates_results_of_option_functions_on_each_call(gateway: Played, client: ActPassClient) -> None:
    for member in ("user_id", "passport", "resource"):
        protected = client.protect(**NAMES, **{member: lambda: 3})(lambda: pytest.fail("it ran"))
        with pytest.raises(ActPassArgumentError, match=rf"\A{member}: expected a string, found int"):
            protected()
    assert gateway.seen() == []


@pytest.mark.parametrize("mode", ["enforce", "strict", "warn", "monitor"])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_changed_arguments_deny_except_in_monitor(hostile: Hostile, mode: Any, asynchronous: bool) -> None:
    """Only ``monitor`` runs, and it reports the denial."""
    said = {**ALLOW, "request_hash": "{{request_hash}}"}
    items: list[Any] = [1]
    ran: list[Any] = []

    def change() -> str:
        items.append(2)
        return "u"

    with hostile.play(answer(said, headers={"x-request-id": "req_7"})) as gateway:
        client: Any = (new_async_client if asynchronous else new_client)(gateway.base_url)
        judge = client.protect(**NAMES, user_id=change, mode=mode)
        if asynchronous:

            async def pay_later(items: Any) -> str:
                ran.append(list(items))
                return "paid"

            def call() -> Any:
                return run_loop(judge(pay_later)(items))
        else:

            def call() -> Any:
                return judge(lambda items: ran.append(list(items)) or "paid")(items)

        if mode == "monitor":
            assert call() == "paid"
            assert ran == [[1, 2]]
            return
        with pytest.raises(ActionBlockedError) as caught:
            call()
    assert ran == []
    blocked = caught.value
    assert (blocked.code, blocked.retryable, blocked.__cause__) == ("actpass.arguments_changed", False, None)
    assert blocked.decision["evidence_event_id"] == "ev_1", "the denial keeps the event id of the allow"
    assert blocked.request_id == "req_7"
    assert "Retry the same call" in str(blocked)


def test_arguments_that_became_non_json_block(gateway: Played, client: ActPassClient) -> None:
    items: list[Any] = [1]

    def change() -> str:
        items.append(object())
        return "u"

    protected = client.protect(**NAMES, user_id=change)(lambda items: pytest.fail("it ran"))
    with pytest.raises(ActionBlockedError, match=r"actpass\.arguments_changed"):
        protected(items)


class Charge:
    def __init__(self) -> None:
        self.id = "ch_1"


@pytest.mark.parametrize(
    "how",
    [
        {"redact": {"items": len}},
        {"exclude": ["charge"], "resource": lambda charge: f"stripe:charge:{charge.id}"},
    ],
    ids=["redact", "resource"],
)
def test_changed_derived_values_block(gateway: Played, client: ActPassClient, how: Any) -> None:
    charge = Charge()

    def change() -> str:
        if isinstance(items, list):
            items.append(2)
        charge.id = "ch_900"
        return "u"

    items: Any = [1] if "redact" in how else 1
    ran: list[Any] = []
    how = {"exclude": ["charge"], **how}
    protected: Any = client.protect(**NAMES, **how)(lambda items, charge: ran.append(charge.id))  # type: ignore[misc]
    protected(items, charge)
    protected = client.protect(**NAMES, **how, user_id=change)(lambda items, charge: pytest.fail("it ran"))
    with pytest.raises(ActionBlockedError, match=r"actpass\.arguments_changed"):
        protected(items, charge)
    assert ran == ["ch_1"]


def test_rejects_unprotectable_functions(client: ActPassClient) -> None:
    async def generate() -> Any:
        yield 1

    def steps(amount: int) -> Any:
        yield amount

    class Steps:
        def __call__(self, amount: int) -> Any:
            yield amount

    generators = [generate, steps, Steps(), functools.partial(steps, 1), contextlib.contextmanager(steps)]
    for wrong in (7, type, staticmethod(print), classmethod(print), *generators):  # type: ignore[arg-type]
        for any_client in (client, new_async_client("http://127.0.0.1:9")):
            with pytest.raises(ActPassConfigError, match="protect: expected a function") as caught:
                any_client.protect(**NAMES)(wrong)  # type: ignore[arg-type]
            assert ("would run later" in str(caught.value)) == (wrong in generators)
    with pytest.raises(ActPassConfigError, match="would block the event loop"):
        new_async_client("http://127.0.0.1:9").protect(**NAMES)(lambda: None)  # type: ignore[arg-type, misc]


def test_rejects_non_string_resource_before_sending(gateway: Played, client: ActPassClient) -> None:
    @client.protect(**NAMES, resource="charge:{charge}")
    def refund(charge: Any) -> None:
        pytest.fail("it ran")

    for wrong in (None, ["a"], 1.5, {"a": 1}):
        with pytest.raises(ActPassArgumentError, match="resource: expected charge as a string"):
            refund(wrong)
    assert gateway.seen() == []


def test_arguments_changed_during_decision_block(hostile: Hostile) -> None:
    """The gateway allows a refund; another thread changes its amount before the response."""
    items: list[Any] = [{"amount": 1}]
    ran: list[Any] = []

    def change() -> None:
        time.sleep(0.2)
        items[0]["amount"] = 1_000_000

    with hostile.play(answer(ALLOW, delay_ms=600)) as gateway, new_client(gateway.base_url) as client:
        protected = client.protect(**NAMES)(lambda items: ran.append(items))  # type: ignore[misc]
        other = threading.Thread(target=change)
        other.start()
        with pytest.raises(ActionBlockedError) as caught:
            protected(items)
        other.join()
    assert caught.value.code == caught.value.decision["reason_code"] == "actpass.arguments_changed"
    assert caught.value.decision["explain"]["next_steps"]
    assert not caught.value.retryable
    assert ran == []


def test_rejects_keyword_equal_to_positional_only_name(gateway: Played, client: ActPassClient) -> None:
    @client.protect(**NAMES)
    def odd(amount: int, /, **more: Any) -> None:
        pytest.fail("it ran")

    with pytest.raises(ActPassArgumentError, match="'amount' once"):
        odd(1, amount=1_000_000)
    assert gateway.seen() == []


def test_rejects_keyword_equal_to_var_positional_name(gateway: Played, client: ActPassClient) -> None:
    @client.protect(**NAMES)
    def pay(*amounts: int, **more: Any) -> None:
        pytest.fail("it ran")

    with pytest.raises(ActPassArgumentError, match="'amounts' once"):
        pay(1_000_000, amounts=[1])
    assert gateway.seen() == []


def test_evaluates_argument_named_like_a_receiver(gateway: Played, client: ActPassClient) -> None:
    @client.protect(**NAMES)
    def book(cls: Any, seats: int) -> Any:
        return cls

    class Desk:
        @staticmethod
        @client.protect(**NAMES)
        def book(cls: str, seats: int) -> str:
            return cls

    assert (book("first", 2), Desk.book("first", 2)) == ("first", "first")
    assert [json.loads(one["body"])["args"] for one in gateway.seen()] == [{"cls": "first", "seats": 2}] * 2
    with pytest.raises(ActPassArgumentError, match=r"\Aargs\.cls: .* found test_protect\.Desk;"):
        book(Desk(), 2)


def test_protects_any_callable(gateway: Played, client: ActPassClient) -> None:
    class Pay:
        def __call__(self, amount: int, currency: str = "usd") -> Any:
            return amount, currency

    def pay(charge: str, amount: int) -> Any:
        return charge, amount

    assert client.protect(**NAMES)(Pay())(3) == (3, "usd")
    assert client.protect(**NAMES)(Pay().__call__)(3) == (3, "usd")
    assert client.protect(**NAMES)(functools.partial(pay, "ch_1"))(amount=3) == ("ch_1", 3)
    assert client.protect(**NAMES)(functools.partial(pay, amount=3))("ch_1") == ("ch_1", 3)
    assert client.protect(**NAMES)(lambda amount: amount)(3) == 3  # type: ignore[misc]
    assert client.protect(**NAMES)(client.protect(**NAMES)(pay))("ch_1", 3) == ("ch_1", 3)
    assert [json.loads(one["body"])["args"] for one in gateway.seen()] == [
        {"amount": 3, "currency": "usd"},
        {"amount": 3, "currency": "usd"},
        {"amount": 3},
        {"charge": "ch_1", "amount": 3},
        {"amount": 3},
        {"charge": "ch_1", "amount": 3},
        {"charge": "ch_1", "amount": 3},
    ]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_protects_any_coroutine_callable(hostile: Hostile, asynchronous: bool) -> None:
    """Each is awaited inside the guard: it has ended when the outcome is reported."""

    class Pay:
        async def __call__(self, amount: int) -> int:
            await asyncio.sleep(0)
            return amount

    async def pay(amount: int) -> int:
        return await Pay()(amount)

    async def main() -> None:
        new: Any = new_async_client if asynchronous else new_client
        client: ActPassClient = new(gateway.base_url)
        once = client.protect(**NAMES)(pay)
        for function in (Pay(), functools.partial(Pay()), functools.partial(pay), Pay().__call__, once):
            protected: Any = client.protect(**NAMES, record_outcome=True)(function)
            assert inspect.iscoroutinefunction(protected)
            assert await protected(3) == 3
            recorded = json.loads(gateway.seen()[-1]["body"])
            assert recorded["metadata"]["ended"] == "returned"

    recorded = answer({"event_id": "ev_2", "current_event_hash": "00"})
    with hostile.play(*[answer(ALLOW), recorded] * 4, *[answer(ALLOW)] * 2, recorded) as gateway:
        run_loop(main())


def test_plain_function_must_not_return_coroutine(client: ActPassClient) -> None:
    async def pay(amount: int) -> None:
        pytest.fail("it ran")

    @functools.wraps(pay)
    def unaware(*args: Any) -> Any:
        return pay(*args)

    with pytest.raises(ActPassConfigError, match="put @protect directly above the async def"):
        client.protect(**NAMES)(unaware)(3)


def test_evaluates_current_value_of_mutable_default(gateway: Played, client: ActPassClient) -> None:
    @client.protect(**NAMES)
    def pay(amount: int, kept: list[int] = []) -> list[int]:  # noqa: B006
        kept.append(amount)
        return kept

    assert pay(1) == [1]
    assert pay(2) == [1, 2]
    assert [json.loads(one["body"])["args"]["kept"] for one in gateway.seen()] == [[], [1]]


def test_arguments_changed_before_sending_block(gateway: Played, client: ActPassClient) -> None:
    """The arguments are read once, at the call; later changes do not reach the gateway."""
    items = [{"amount": 1}]
    ran: list[Any] = []

    def subject() -> str:
        items[0]["amount"] = 1_000_000
        return "u"

    protected = client.protect(**NAMES, user_id=subject)(lambda items: ran.append(items))  # type: ignore[misc]
    with pytest.raises(ActionBlockedError, match=r"actpass\.arguments_changed"):
        protected(items)
    assert (judged(gateway)["args"], ran) == ({"items": [{"amount": 1}]}, [])
    with pytest.raises(ActPassArgumentError, match=r"\Aargs\.items\.1: expected unique keys"):
        protected({1: "a", "1": "b"})


def test_async_arguments_changed_during_decision_block(hostile: Hostile) -> None:
    items: list[Any] = [{"amount": 1}]
    ran: list[Any] = []

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:

            @client.protect(**NAMES)
            async def pay(items: Any) -> None:
                ran.append(items)

            call = asyncio.ensure_future(pay(items))
            while not gateway.seen():
                await asyncio.sleep(0.01)
            items[0]["amount"] = 1_000_000
            with pytest.raises(ActionBlockedError, match=r"actpass\.arguments_changed"):
                await call

    with hostile.play(answer(ALLOW, delay_ms=300)) as gateway:
        run_loop(main())
    assert ran == []


DENIED = {
    "decision": "deny",
    "reason_code": "refund.over_limit",
    "explain": {"summary": "Refunds above 500 are made by people", "next_steps": ["Ask a person.", "Offer credit"]},
}


def blocked_by(hostile: Hostile, *steps: dict[str, Any], **options: Any) -> ActionBlockedError:
    ran: list[int] = []
    with hostile.play(*steps) as gateway, new_client(gateway.base_url) as client:

        @client.protect(**NAMES, **options)
        def refund(amount: int) -> None:
            ran.append(amount)

        with pytest.raises(ActionBlockedError) as caught:
            refund(90_000)
    assert ran == []
    return caught.value


def test_denied_call_raises_explained_error(hostile: Hostile) -> None:
    blocked = blocked_by(hostile, answer(DENIED))
    assert isinstance(blocked, ActPassError)
    assert blocked.decision == {**DENIED, "explain": {**EXPLAIN, **DENIED["explain"]}}
    assert (blocked.tool, blocked.code, blocked.retryable) == (NAMES["tool"], "refund.over_limit", False)
    assert (blocked.kind, blocked.approval, blocked.__cause__) == ("blocked", None, None)
    assert blocked.message == str(blocked)
    assert str(blocked) == (
        "stripe.refund.create was not run: deny (refund.over_limit). Refunds above 500 are made by people. "
        "Ask a person. Offer credit. Do not call it again with the same arguments: it would be blocked again."
    )
    assert blocked.developer_text == (
        "stripe.refund.create was not run: deny (refund.over_limit). Refunds above 500 are made by people. "
        "Ask a person. Offer credit."
    )
    made_again = ActionBlockedError(str(blocked), blocked.args[1])  # Like a serializer that keeps only `args`.
    for again in (pickle.loads(pickle.dumps(blocked)), copy.copy(blocked), made_again):
        assert (str(again), again.decision, again.retryable) == (str(blocked), blocked.decision, False)
        assert (again.developer_text, again.message) == (blocked.developer_text, str(blocked))


def test_copied_outcomes_keep_redacted_texts(hostile: Hostile) -> None:
    """The gateway echoes a secret; the texts redact it."""
    said = {"decision": "deny", "reason_code": "x", "explain": {"summary": "no apk_repeated"}}
    with hostile.play(answer(said)) as gateway, new_client(gateway.base_url, api_key="apk_repeated") as client:
        out: Any = client.guard(execute_fn=print, **NAMES, args={})
    for outcome in (out, out.copy(), pickle.loads(pickle.dumps(out)), copy.deepcopy(out)):
        with pytest.raises(ActionBlockedError) as raised:
            outcome.unwrap()
        text = "stripe.refund.create was not run: deny (x). no [redacted]."
        assert (raised.value.developer_text, str(raised.value).startswith(text)) == (text, True)
    made_up = {"decision": {"decision": "deny"}, "error": ActPassConnectionError("no way to 10.0.0.7")}
    blocked = ActionBlockedError("demo.tool", made_up)
    assert str(blocked) == (
        "demo.tool was not run: deny (unspecified). The policy decision could not be obtained. "
        "Do not call it again: an operator must fix this first."
    )
    assert blocked.developer_text == "demo.tool was not run: deny (unspecified). no way to 10.0.0.7."


def test_failed_gate_raises_blocked_error_with_cause(hostile: Hostile) -> None:
    blocked = blocked_by(hostile, {"do": "reset", "at": "request"})
    assert (blocked.retryable, blocked.code) == (True, "actpass.unreachable")
    assert isinstance(blocked.__cause__, ActPassConnectionError)
    assert str(blocked).endswith("The failure may be temporary: retry the same call later.")
    again = pickle.loads(pickle.dumps(blocked))
    assert (again.retryable, type(again.__cause__)) == (True, ActPassConnectionError)
    refused = blocked_by(hostile, answer({}, status=429, headers={"retry-after": "7"}))
    assert (refused.retryable, refused.retry_after, refused.status) == (True, 7.0, 429)
    unknown = blocked_by(hostile, answer({"error": {"message": f"no {API_KEY}"}}, status=401))
    assert (unknown.retryable, unknown.status) == (False, 401)
    assert API_KEY not in str(unknown)


def test_pending_approval_raises_blocked_error_with_approval(hostile: Hostile) -> None:
    asked = answer({"decision": "require_approval", "reason_code": "refund.medium", "approval_request_id": "apr_1"})
    blocked = blocked_by(hostile, asked)
    assert blocked.approval is not None
    assert (blocked.retryable, blocked.approval["args"]) == (False, {"amount": 90_000})
    assert "A person must approve this first (approval apr_1)" in str(blocked)


@pytest.mark.parametrize(
    ("said", "last"),
    [
        ({"decision": "deny", "reason_code": "refund.over_limit"}, "it would be blocked again."),
        ({"decision": "warn"}, "it would be blocked again."),
        ({"decision": "quarantine"}, "it would be blocked again."),
        ({"decision": ["deny"]}, "Do not call it again: an operator must fix this first."),
        ({"decision": "require_approval"}, "A person must approve this first: do not call it again before that."),
        ({"decision": "require_tool_reapproval"}, "The tool must be approved again first: do not call it again"),
        ({"decision": "deny", "reason_code": "approval.expired"}, "The same call asks for approval again."),
        ({"decision": "deny", "reason_code": "actpass.replayed"}, "until it is known whether it ran."),
    ],
)
def test_retry_advice_follows_from_the_cause(hostile: Hostile, said: Any, last: str) -> None:
    assert last in str(blocked_by(hostile, answer(said)))


def test_unrecorded_allow_advises_an_operator(hostile: Hostile) -> None:
    unrecorded = {"decision": "allow", "request_hash": "{{request_hash}}"}
    blocked = blocked_by(hostile, answer(unrecorded), mode="strict")
    assert blocked.code == "actpass.unrecorded"
    assert str(blocked).endswith("Do not call it again: an operator must fix this first.")


def test_invalid_explanations_are_omitted(hostile: Hostile) -> None:
    for explain in (7, {"summary": 7, "next_steps": "x"}, {"next_steps": [1, None, ""]}, None):
        blocked = blocked_by(hostile, answer({"decision": "deny", "reason_code": 7, "explain": explain}))
        assert str(blocked).startswith("stripe.refund.create was not run: deny (unspecified). Do not")
        assert blocked.code == "unspecified"


def test_monitor_runs_and_returns(hostile: Hostile) -> None:
    with hostile.play(answer(DENIED), {"do": "reset", "at": "request"}) as gateway:
        client = new_client(gateway.base_url)
        protected = client.protect(**NAMES, mode="monitor")(lambda: 7)
        assert (protected(), protected()) == (7, 7)


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_protects_coroutine_functions(hostile: Hostile, asynchronous: bool) -> None:
    """Both clients protect coroutine functions without blocking the loop."""

    async def main() -> None:
        new: Any = new_async_client if asynchronous else new_client
        client: ActPassClient = new(gateway.base_url)

        @client.protect(**NAMES, resource="charge:{charge}")
        async def refund(charge: str, amount: int = 3) -> str:
            await asyncio.sleep(0)
            VARIABLE.set(charge)
            return charge * amount

        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.ensure_future(tick())
        assert await refund("a") == "aaa"
        assert VARIABLE.get() == "a"
        assert ticks > 5, "the loop was blocked"
        with pytest.raises(ActionBlockedError, match="over_limit"):
            await refund("b")
        assert VARIABLE.get() == "a"
        ticking.cancel()
        closed: Any = client.close()
        if asynchronous:
            await closed
        with pytest.raises(ActPassConfigError, match="closed"):
            await refund("c")

    with hostile.play(answer(ALLOW, delay_ms=300), answer(DENIED)) as gateway:
        run_loop(main())
        assert [json.loads(one["body"])["resource"] for one in gateway.seen()] == ["charge:a", "charge:b"]


def test_real_gateway_decides_protected_calls(tmp_path: Any, request: pytest.FixtureRequest) -> None:
    from support import binary, stop

    real = Gateway(binary("ACTPASS_GATEWAY"), tmp_path)
    try:
        client = real.client()

        @client.protect(**NAMES, resource="stripe:charge:{charge}", record_outcome=True)
        def refund(charge: str, amount: int, currency: str = "usd") -> str:
            return f"{charge} {amount} {currency}"

        assert refund("ch_123", 4900) == "ch_123 4900 usd"
        for amount in (25000, 90000):
            with pytest.raises(ActionBlockedError) as caught:
                refund("ch_123", amount)
            assert caught.value.decision["decision"] == {25000: "require_approval", 90000: "deny"}[amount]
            print(caught.value)
    finally:
        stop(real.process)


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ("refund", "refund"),
        ("refund for {customer}", "refund for c_1"),
        ("plain {{x}}", "plain {x}"),
        (lambda customer: f"for {customer}", "for c_1"),
        (lambda arguments: ",".join(sorted(arguments)), "amount,customer"),
    ],
)
def test_goals(gateway: Played, client: ActPassClient, goal: Any, expected: str) -> None:
    @client.protect(tool="t", goal=goal)
    def refund(customer: str, amount: int = 3) -> None:
        pass

    refund("c_1")
    assert judged(gateway)["goal"] == expected
    with pytest.raises(ActPassConfigError, match="goal: expected names of the function's parameters, found 'x'"):
        client.protect(tool="t", goal="{x}")(refund)


@pytest.mark.parametrize(("approval", "expected"), [("apr_1", "apr_1"), (lambda charge: f"apr_{charge}", "apr_ch_1")])
def test_approval_request_id(gateway: Played, client: ActPassClient, approval: Any, expected: str) -> None:
    @client.protect(**NAMES, approval_request_id=approval)
    def refund(charge: str) -> None:
        pass

    refund("ch_1")
    assert judged(gateway)["approval_request_id"] == expected


def test_parameter_receives_context(hostile: Hostile) -> None:
    """By position or by keyword, as the function has it."""

    def first(ctx: Any, charge: str, amount: int = 3) -> Any:
        return charge, amount, ctx

    def middle(charge: str, ctx: Any, amount: int = 3) -> Any:
        return charge, amount, ctx

    def positional(charge: str, ctx: Any, /, amount: int = 3) -> Any:
        return charge, amount, ctx

    def keyword(charge: str, amount: int = 3, *, ctx: Any) -> Any:
        return charge, amount, ctx

    class Desk:
        def pay(self, ctx: Any, charge: str, amount: int = 3) -> Any:
            return charge, amount, ctx

    with hostile.play(answer({**ALLOW, "credential": {"token": CREDENTIAL}})) as gateway:
        client = new_client(gateway.base_url)
        for function in (first, middle, positional, keyword, Desk().pay):
            protected: Any = client.protect(**NAMES, context="ctx")(function)
            for charge, amount, ctx in (protected("ch_1"), protected("ch_1", 3), protected("ch_1", amount=3)):
                assert (charge, amount, ctx["credential"]["token"]) == ("ch_1", 3, CREDENTIAL)
                assert judged(gateway)["args"] == {"charge": "ch_1", "amount": 3}
            assert list(inspect.signature(protected).parameters) == ["charge", "amount"]
            assert typing.get_type_hints(protected) == {"charge": str, "amount": int, "return": Any}
            with pytest.raises(TypeError, match="unexpected keyword argument 'ctx'"):
                protected("ch_1", ctx={"credential": None})

        async def later(charge: str, *, ctx: Any) -> Any:
            return ctx["credential"]["token"]

        async def main() -> None:
            async with new_async_client(gateway.base_url) as client:
                assert await client.protect(**NAMES, context="ctx")(later)("ch_1") == CREDENTIAL

        run_loop(main())


def test_callers_cannot_pass_context(gateway: Played, client: ActPassClient) -> None:
    @client.protect(**NAMES, context="ctx")
    def pay(*, ctx: Any, **more: Any) -> None:
        pytest.fail("it ran")

    with pytest.raises(ActPassArgumentError, match="args: expected no 'ctx', which receives the execution context"):
        pay(ctx={"credential": None})
    assert gateway.seen() == []


@pytest.mark.parametrize("name", ["x", "args", "kwargs", 3, ""])
def test_rejects_invalid_context(client: ActPassClient, name: Any) -> None:
    with pytest.raises(ActPassConfigError, match=r"\Acontext: expected the name of a parameter of the function, found"):
        client.protect(**NAMES, context=name)(lambda ctx, *args, **kwargs: None)
    with pytest.raises(ActPassConfigError, match="exclude: expected names of the function's parameters, found 'ctx'"):
        client.protect(**NAMES, context="ctx", exclude=["ctx"])(lambda ctx: None)


def test_on_blocked_returns_its_value(hostile: Hostile) -> None:
    denied = answer({"decision": "deny", "reason_code": "refund.closed"})
    seen: list[ActionBlockedError] = []

    def told(error: ActionBlockedError) -> int:
        seen.append(error)
        return 7

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:

            @client.protect(**NAMES, on_blocked=told)
            async def later() -> None:
                pytest.fail("it ran")

            assert await later() == 7

    with hostile.play(denied) as gateway:
        client = new_client(gateway.base_url)
        assert client.protect(**NAMES, on_blocked=told)(lambda: pytest.fail("it ran"))() == 7
        run_loop(main())
        text = client.protect(**NAMES, on_blocked=str)(lambda: pytest.fail("it ran"))()
    assert [(error.code, error.tool) for error in seen] == [("refund.closed", NAMES["tool"])] * 2
    assert text == str(seen[0])


@pytest.mark.parametrize("asynchronous", [True, False])
def test_on_blocked_is_not_called_for_exceptions_of_the_function(gateway: Played, asynchronous: bool) -> None:
    """Also if the exception is the block of another protected function."""
    inner = ActionBlockedError("inner.tool", {"decision": {"decision": "deny"}})
    client = new_client(gateway.base_url)

    def handle(error: ActionBlockedError) -> None:
        pytest.fail("it was called")

    for error in (inner, KeyError("mine")):

        def fail(error: Exception = error) -> None:
            raise error

        async def fail_later(error: Exception = error) -> None:
            raise error

        protect: Any = client.protect(**NAMES, on_blocked=handle, exclude=["error"])
        with pytest.raises(type(error)) as caught:
            run_loop(protect(fail_later)()) if asynchronous else protect(fail)()
        assert caught.value is error


def test_rejects_invalid_on_blocked(client: ActPassClient) -> None:
    async def later(error: ActionBlockedError) -> None:
        pass

    for wrong in (3, "text", later):
        with pytest.raises(ActPassConfigError, match=r"\Aon_blocked: expected a plain function of the error, found"):
            client.protect(**NAMES, on_blocked=wrong)  # type: ignore[call-overload]
