"""Errors, outcomes, decisions and handles keep their content over pickle, copy and JSON."""

from __future__ import annotations

import concurrent.futures
import copy
import json
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import actpass
import pytest
from actpass import (
    ActionBlockedError,
    ActPassArgumentError,
    ActPassClient,
    ActPassConnectionError,
    ActPassError,
    AsyncActPassClient,
    GuardOutcome,
)
from support import ACTION, ALLOW, API_KEY, Hostile, answer, everything_shown, new_client

MEMBERS = (
    "message",
    "status",
    "body",
    "code",
    "kind",
    "operation",
    "request_id",
    "retry_after",
    "retryable",
)
HEADERS = {"x-request-id": "req_7", "retry-after": "3"}
PENDING = {"decision": "require_approval", "approval_request_id": "apr_1", "evidence_event_id": "ev_1"}

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle{protocol}": lambda value, protocol=protocol: pickle.loads(pickle.dumps(value, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


class CardError(Exception):
    """An application exception whose parameters are not its ``args``."""

    def __init__(self, number: int, *, why: str) -> None:
        super().__init__(f"{number}: {why}")


class MineError(ActPassError):
    """An application's subclass with its own parameters."""

    def __init__(self, number: int, *, why: str) -> None:
        super().__init__(f"{number}: {why}", code="mine")
        self.number = number


def told(error: BaseException | None) -> Any:
    """Return the content of an error, with its causes."""
    if error is None:
        return None
    shown = {name: getattr(error, name, None) for name in (*MEMBERS, "tool", "decision", "approval")}
    return type(error), str(error), repr(error), shown, told(error.__cause__)


@pytest.fixture(scope="module")
def outcomes(hostile: Hostile) -> dict[str, GuardOutcome[Any]]:
    """Give an outcome of each kind."""

    def fail(_: object) -> None:
        raise KeyError("ch_1")

    def guard(*steps: dict[str, Any], function: Any = lambda _: {"refunded": 49}, **given: Any) -> GuardOutcome[Any]:
        with hostile.play(*steps) as gateway, new_client(gateway.base_url, max_retries=0) as client:
            return client.guard(execute_fn=function, **{**ACTION, **given})

    recorded = answer({"event_id": "ev_2"})
    return {
        "returned": guard(answer(ALLOW, headers=HEADERS)),
        "raised": guard(answer(ALLOW), function=fail),
        "recorded": guard(answer(ALLOW), recorded, record_outcome=True),
        "unrecorded": guard(answer(ALLOW), answer({}, status=500), record_outcome=True),
        "bare": guard(answer({"decision": "deny"})),
        "pending": guard(answer(PENDING)),
        "busy": guard(answer({"error": {"message": "no"}}, status=503, headers=HEADERS)),
        "reset": guard({"do": "reset", "at": "request"}),
        "observed": guard({"do": "reset", "at": "request"}, mode="monitor"),
        "unrun": guard(answer(ALLOW), function=lambda _: iter(int, 1)),
    }


KINDS = ["returned", "raised", "recorded", "unrecorded", "bare", "pending", "busy", "reset", "observed", "unrun"]


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_outcomes_keep_all_members(outcomes: dict[str, GuardOutcome[Any]], kind: str, way: str) -> None:
    outcome = outcomes[kind]
    again = COPIES[way](outcome)
    assert type(again) is GuardOutcome
    assert again.keys() == outcome.keys()
    assert {n: v for n, v in again.items() if "error" not in n} == {
        n: v for n, v in outcome.items() if "error" not in n
    }
    for name in ("error", "evidence_error"):
        assert told(again.get(name)) == told(outcome.get(name))
    assert (again.request_id, again._tool) == (outcome.request_id, outcome._tool)


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_serialize_to_json(outcomes: dict[str, GuardOutcome[Any]], kind: str) -> None:
    outcome = outcomes[kind]
    data = json.loads(outcome.to_json())
    assert data == json.loads(json.dumps(outcome.to_dict()))
    assert data.pop("request_id", None) == outcome.request_id
    assert data.keys() == outcome.keys()
    assert (data["decision"], data["executed"]) == (outcome["decision"], outcome["executed"])
    if "result" in outcome:
        assert data["result"] == outcome["result"]
    for name in ("error", "evidence_error"):
        if name in outcome:
            error: Any = outcome[name]  # type: ignore[literal-required]
            expected = error.to_dict() if isinstance(error, ActPassError) else None
            assert expected is None or data[name] == expected
            assert (data[name]["type"], data[name]["message"]) == (type(error).__name__, str(error))
    if kind == "raised":
        assert (data["error"]["kind"], data["error"]["code"], data["error"]["retryable"]) == ("action", None, False)
    if kind == "busy":
        assert data["error"] == {
            "type": "ActPassStatusError",
            "message": "guard: the gateway answered 503: no",
            "kind": "status",
            "code": "actpass.gateway_error",
            "operation": "guard",
            "status": 503,
            "request_id": "req_7",
            "retry_after": 3.0,
            "retryable": True,
            "cause": None,
        }


def test_non_json_result_is_converted_or_named() -> None:
    outcome = GuardOutcome({"decision": {"decision": "allow"}, "executed": True, "result": {"when": {1}}})
    assert json.loads(outcome.to_json(default=list))["result"] == {"when": [1]}
    with pytest.raises(ActPassArgumentError, match=r"result\.when: .* found set; write sorted\(value\)"):
        outcome.to_json()


def test_unwrap_returns_result_or_raises(outcomes: dict[str, GuardOutcome[Any]]) -> None:
    assert outcomes["returned"].unwrap() is outcomes["returned"]["result"]
    assert outcomes["observed"].unwrap() == {"refunded": 49}
    with pytest.raises(KeyError) as raised:
        outcomes["raised"].unwrap()
    assert raised.value is outcomes["raised"]["error"]
    with pytest.raises(ActionBlockedError) as blocked:
        outcomes["busy"].unwrap()
    error = blocked.value
    assert (error.tool, error.code, error.retryable) == (ACTION["tool"], "actpass.gateway_error", True)
    assert (error.request_id, error.__cause__) == ("req_7", outcomes["busy"]["error"])
    with pytest.raises(ActionBlockedError) as blocked:
        outcomes["pending"].unwrap()
    assert blocked.value.approval == outcomes["pending"]["approval"]


@pytest.fixture(scope="module")
def errors(outcomes: dict[str, GuardOutcome[Any]]) -> dict[str, ActPassError]:
    """Give an error of each kind, with causes of each kind."""
    made: dict[str, ActPassError] = {}
    for kind in ("bare", "pending", "busy", "reset"):
        with pytest.raises(ActionBlockedError) as blocked:
            outcomes[kind].unwrap()
        made[kind] = blocked.value
        error = outcomes[kind].get("error")
        if isinstance(error, ActPassError):
            made[f"{kind}_error"] = error
    cannot = CardError(3, why="closed")
    cannot.lock = threading.Lock()  # type: ignore[attr-defined]
    causes = {
        "plain": KeyError("k"),
        "odd": CardError(3, why="closed"),
        "unpicklable": cannot,
        "ours": made["busy_error"],
    }
    for name, cause in causes.items():
        try:
            raise ActPassConnectionError("outer", code="actpass.unreachable") from cause
        except ActPassError as error:
            made[f"caused_by_{name}"] = error
    made["mine"] = MineError(3, why="closed")
    return made


BLOCKS = ["bare", "pending", "busy", "reset"]
ERRORS = [*BLOCKS, "busy_error", "reset_error", "caused_by_plain", "caused_by_ours", "mine"]


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ERRORS)
def test_copies_of_errors_keep_all_members(errors: dict[str, ActPassError], name: str, way: str) -> None:
    again = COPIES[way](errors[name])
    assert told(again) == told(errors[name])
    assert again.args == errors[name].args
    assert again.__suppress_context__ == errors[name].__suppress_context__


@pytest.mark.parametrize("name", ["odd", "unpicklable"])
def test_unpicklable_cause_is_pickled_as_text(errors: dict[str, ActPassError], name: str) -> None:
    error = errors[f"caused_by_{name}"]
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (ActPassConnectionError, "outer")
    assert isinstance(again.__cause__, Exception)
    assert str(again.__cause__) == "CardError: 3: closed"
    assert again.to_dict() == error.to_dict()
    assert type(error.__cause__) is CardError, "the original error is unchanged"


def raise_it(error: ActPassError) -> None:
    raise error


def return_it(value: Any) -> Any:
    return value


@pytest.fixture(scope="module", params=["spawn", "fork"])
def pool(request: pytest.FixtureRequest) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    if request.param not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{request.param} is not available")
    context = multiprocessing.get_context(request.param)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        yield pool


def test_outcomes_and_errors_cross_process_pools(
    pool: concurrent.futures.ProcessPoolExecutor,
    errors: dict[str, ActPassError],
    outcomes: dict[str, GuardOutcome[Any]],
) -> None:
    for name in (*ERRORS, "caused_by_unpicklable"):
        with pytest.raises(type(errors[name])) as raised:
            pool.submit(raise_it, errors[name]).result(60)
        if name in BLOCKS:
            assert (str(raised.value), raised.value.retryable) == (str(errors[name]), errors[name].retryable)
    for kind in KINDS:
        again = pool.submit(return_it, outcomes[kind]).result(60)
        assert json.loads(again.to_json()) == json.loads(outcomes[kind].to_json())
    with pytest.raises(ActPassArgumentError, match="holds the API key"):
        pool.submit(return_it, ActPassClient(API_KEY)).result(60)


@pytest.mark.parametrize("kind", [ActPassClient, AsyncActPassClient])
@pytest.mark.parametrize("way", COPIES)
def test_client_rejects_copying(kind: Any, way: str) -> None:
    client = kind(API_KEY, base_url="https://gate.example")
    with pytest.raises(TypeError, match="create one in each process") as raised:
        COPIES[way](client)
    assert isinstance(raised.value, ActPassError)
    assert API_KEY not in everything_shown(raised.value)


@pytest.mark.parametrize("name", [*BLOCKS, "busy_error", "reset_error"])
def test_serializer_that_keeps_only_args_keeps_all_members(errors: dict[str, ActPassError], name: str) -> None:
    """Serializes like Celery's JSON: the class and ``args``."""
    error = errors[name]
    again = type(error)(*json.loads(json.dumps(error.args)))
    assert told(again) == told(error)
    assert again.args[0] == str(error)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("name", [*BLOCKS, "busy_error", "caused_by_plain"])
def test_celery_transports_outcomes_and_errors(errors: dict[str, ActPassError], name: str, serializer: str) -> None:
    celery = pytest.importorskip("celery")
    app = celery.Celery("tests", backend="cache+memory://", broker="memory://")
    app.conf.update(result_serializer=serializer, accept_content=[serializer], result_accept_content=[serializer])
    backend = app.backend
    error = errors[name]
    kept = backend.decode(backend.encode(backend.prepare_exception(error)))
    again = backend.exception_to_python(kept)
    assert type(again).__name__ == type(error).__name__
    assert str(again) == str(error)
    assert (again.retryable, again.code, again.status) == (error.retryable, error.code, error.status)
    if name != "caused_by_plain" or serializer == "pickle":
        assert told(again.__cause__) == told(error.__cause__)


def test_kombu_serializes_outcomes(outcomes: dict[str, GuardOutcome[Any]]) -> None:
    kombu = pytest.importorskip("kombu.utils.json")
    for kind in ("returned", "busy", "pending"):
        assert json.loads(kombu.dumps(dict(outcomes[kind]))).keys() == outcomes[kind].keys()


FRAMEWORKS = ["fastapi", "flask", "django"]


def answer_of(framework: str, data: Any) -> Any:
    """Return a client's response from a view that returns ``data``."""
    module = pytest.importorskip(framework)
    if framework == "django":
        from django.http import JsonResponse

        return json.loads(JsonResponse(data).content)
    if framework == "flask":
        app = module.Flask("tests")
        with app.test_request_context():
            return json.loads(module.jsonify(data).get_data())
    from fastapi.encoders import jsonable_encoder

    return json.loads(json.dumps(jsonable_encoder(data)))


@pytest.fixture(autouse=True, scope="module")
def _django() -> None:
    try:
        from django.conf import settings
    except ImportError:
        return
    if not settings.configured:
        settings.configure(DEFAULT_CHARSET="utf-8")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_web_frameworks_serialize_outcomes(outcomes: dict[str, GuardOutcome[Any]], kind: str, framework: str) -> None:
    outcome = outcomes[kind]
    assert answer_of(framework, outcome.to_dict()) == json.loads(outcome.to_json())
    assert answer_of(framework, outcome["decision"]) == outcome["decision"]
    error = outcome.get("error")
    if isinstance(error, ActPassError):
        assert answer_of(framework, error.to_dict()) == error.to_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_fastapi_serializes_annotated_outcomes(outcomes: dict[str, GuardOutcome[Any]], kind: str) -> None:
    pytest.importorskip("fastapi")
    from pydantic import TypeAdapter

    adapter = TypeAdapter(GuardOutcome[Any])
    assert json.loads(adapter.dump_json(adapter.validate_python(outcomes[kind]))) == json.loads(
        outcomes[kind].to_json()
    )
    again = adapter.validate_json(adapter.dump_json(outcomes[kind]))
    assert json.loads(again.to_json()) == json.loads(outcomes[kind].to_json())


def test_serialized_forms_contain_no_secrets(outcomes: dict[str, GuardOutcome[Any]]) -> None:
    for outcome in outcomes.values():
        assert API_KEY not in outcome.to_json()
        assert API_KEY.encode() not in pickle.dumps(outcome)


def test_every_exported_error_can_be_pickled() -> None:
    kinds = [one for one in vars(actpass).values() if isinstance(one, type) and issubclass(one, ActPassError)]
    assert len(kinds) == 12
    for kind in kinds:
        made = (
            ActionBlockedError("t", {"decision": {"decision": "deny"}})
            if kind is ActionBlockedError
            else kind("m", 500, "b", "c")
        )
        for way in COPIES.values():
            assert told(way(made)) == told(made)
        assert made.to_dict()["type"] == kind.__name__
