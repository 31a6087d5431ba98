"""Exceptions in observers (logging, OpenTelemetry) never change, hide or prevent an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import io
import json
import logging
import signal
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from actpass import ActPassError, _telemetry, canonical_outcome
from support import ACTION, CapturingServer, capturing, new_async_client, new_client, run_python

Broken = Callable[..., Any]


class Stop(BaseException):
    """An exception that ``except Exception`` does not catch."""


#: Exceptions of the observers.
RAISED = [
    RuntimeError,
    StopIteration,
    ActPassError,
    RecursionError,
    MemoryError,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
    Stop,
]
#: Exceptions without a report: the report itself could fail.
UNSAID = (RecursionError, MemoryError)


def raiser(raised: type[BaseException]) -> Broken:
    def broken(*_: Any, **__: Any) -> Any:
        raise raised("of an observer")

    return broken


class Otel:
    """The program's OpenTelemetry, with replaceable parts."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("opentelemetry.sdk")
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider

        self.patch, self.trace, self.metrics = patch, trace, metrics
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.meters = MeterProvider(metric_readers=[InMemoryMetricReader()], shutdown_on_exit=False)
        patch.setattr(trace, "get_tracer_provider", lambda: self.provider)
        patch.setattr(metrics, "get_meter_provider", lambda: self.meters)
        patch.setattr(trace, "get_tracer", lambda *given: self.provider.get_tracer(*given))
        patch.setattr(metrics, "get_meter", lambda *given: self.meters.get_meter(*given))

    def processor(self, **broken: Broken) -> None:
        from opentelemetry.sdk.trace import SpanProcessor

        processor = SpanProcessor()
        for name, body in broken.items():
            setattr(processor, name, body)
        self.provider.add_span_processor(processor)

    def sampler(self, broken: Broken) -> None:
        self.provider.sampler = types.SimpleNamespace(should_sample=broken)  # type: ignore[assignment]

    def span(self, name: str, broken: Broken) -> None:
        from opentelemetry.sdk import trace

        self.patch.setattr(trace._Span, name, broken)

    def context(self, name: str, broken: Broken) -> None:
        from opentelemetry import context

        self.patch.setattr(context, name, broken)


def logger_class(patch: pytest.MonkeyPatch, name: str, broken: Broken) -> None:
    """Replace the logger ``actpass`` with one of an application class."""
    mine = type("Mine", (logging.Logger,), {name: broken})("actpass")
    mine.parent, mine.manager = logging.getLogger(), logging.Logger.manager
    patch.setitem(logging.Logger.manager.loggerDict, "actpass", mine)


def handler(patch: pytest.MonkeyPatch, *, added_filter: Any = None, **broken: Broken) -> None:
    mine = logging.StreamHandler(io.StringIO())
    for name, body in broken.items():
        setattr(mine, name, body)
    if added_filter is not None:
        mine.addFilter(added_filter)
    patch.setattr(logging.getLogger("actpass"), "handlers", [mine])


def formatter(patch: pytest.MonkeyPatch, broken: Broken) -> None:
    """Break the formatter of a handler that does not catch its errors."""
    mine = logging.Formatter()
    mine.format = broken  # type: ignore[method-assign]
    handler(patch, emit=mine.format)


def module(name: str, found: object) -> Callable[[pytest.MonkeyPatch, Broken], None]:
    return lambda patch, _: patch.setitem(sys.modules, name, found)  # type: ignore[arg-type]


def otel(breaks: Callable[[Otel, Broken], Any]) -> Callable[[pytest.MonkeyPatch, Broken], None]:
    def broken(patch: pytest.MonkeyPatch, body: Broken) -> None:
        breaks(Otel(patch), body)

    return broken


def span_context(body: Broken) -> types.SimpleNamespace:
    return types.SimpleNamespace(get_span_context=body)


#: The places where an observer can fail.
PLACES: dict[str, Callable[[pytest.MonkeyPatch, Broken], Any]] = {
    "processor.on_start": otel(lambda it, body: it.processor(on_start=body)),
    "processor.on_end": otel(lambda it, body: it.processor(on_end=body)),
    "sampler": otel(lambda it, body: it.sampler(body)),
    "get_tracer_provider": otel(lambda it, body: it.patch.setattr(it.trace, "get_tracer_provider", body)),
    "get_tracer": otel(lambda it, body: it.patch.setattr(it.trace, "get_tracer", body)),
    "start_span": otel(
        lambda it, body: it.patch.setattr(it.trace, "get_tracer", lambda *_: types.SimpleNamespace(start_span=body))
    ),
    "get_current_span": otel(lambda it, body: it.patch.setattr(it.trace, "get_current_span", body)),
    "get_span_context": otel(
        lambda it, body: it.patch.setattr(it.trace, "get_current_span", lambda *_: span_context(body))
    ),
    "use_span": otel(lambda it, body: it.patch.setattr(it.trace, "use_span", body)),
    "set_attribute": otel(lambda it, body: it.span("set_attribute", body)),
    "span.end": otel(lambda it, body: it.span("end", body)),
    "context.attach": otel(lambda it, body: it.context("attach", body)),
    "context.detach": otel(lambda it, body: it.context("detach", body)),
    "get_meter_provider": otel(lambda it, body: it.patch.setattr(it.metrics, "get_meter_provider", body)),
    "get_meter": otel(lambda it, body: it.patch.setattr(it.metrics, "get_meter", body)),
    "create_histogram": otel(
        lambda it, body: it.patch.setattr(
            it.metrics, "get_meter", lambda *_: types.SimpleNamespace(create_histogram=body)
        )
    ),
    "histogram.record": otel(
        lambda it, body: it.patch.setattr(
            it.metrics,
            "get_meter",
            lambda *_: types.SimpleNamespace(create_histogram=lambda *_, **__: types.SimpleNamespace(record=body)),
        )
    ),
    "handler.emit": lambda patch, body: handler(patch, emit=body),
    "handler.handle": lambda patch, body: handler(patch, handle=body),
    "filter": lambda patch, body: handler(patch, added_filter=body),
    "logger's filter": lambda patch, body: patch.setattr(logging.getLogger("actpass"), "filters", [body]),
    "formatter": formatter,
    "record factory": lambda patch, body: patch.setattr(logging, "_logRecordFactory", body),
    "getLogger": lambda patch, body: patch.setattr(logging, "getLogger", body),
    **{
        f"logger.{name}": lambda patch, body, name=name: logger_class(patch, name, body)  # type: ignore[misc]
        for name in ("makeRecord", "isEnabledFor", "getEffectiveLevel", "hasHandlers", "handle", "callHandlers")
    },
}


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enable every log level, and reset the reported errors."""
    monkeypatch.setattr(_telemetry, "_reported", {})
    monkeypatch.setattr(_telemetry, "_tracer_of", (None, None))
    monkeypatch.setattr(_telemetry, "_histogram_of", (None, None))
    logger = logging.getLogger("actpass")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    yield
    monkeypatch.undo()
    logger.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture
def gateway() -> Iterator[CapturingServer]:
    with capturing() as server:
        yield server


class Recorded:
    """An action that counts its runs, and its clients."""

    def __init__(self, gateway: CapturingServer) -> None:
        self.runs = 0
        self.result = object()
        self._gateway = gateway
        self._client = new_client(gateway.base_url)
        self._async_client = new_async_client(gateway.base_url)
        # Created before an observer is broken: asyncio logs when it creates a loop.
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, self._loop.close)

    def act(self, _: Any) -> object:
        self.runs += 1
        return self.result

    def fail(self, _: Any) -> object:
        self.runs += 1
        raise KeyError("of the function")

    def guard(self, asynchronous: bool, does: Callable[[Any], object] | None = None) -> Any:
        does = does or self.act
        if not asynchronous:
            # A span that cannot be detached stays current in this context.
            guard = functools.partial(self._client.guard, execute_fn=does, record_outcome=True, **ACTION)
            return contextvars.copy_context().run(guard)
        return self._loop.run_until_complete(self._async_client.guard(execute_fn=does, record_outcome=True, **ACTION))

    def ended(self) -> list[str]:
        """Return the ``ended`` values of the recorded outcomes."""
        sent = [one for one in self._gateway.take() if one.path.endswith("/evidence/events")]
        return [json.loads(one.body)["metadata"]["ended"] for one in sent]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize("place", PLACES)
def test_ignores_observer_errors(
    gateway: CapturingServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    place: str,
    asynchronous: bool,
) -> None:
    recorded = Recorded(gateway)
    for raised in RAISED:
        monkeypatch.setattr(_telemetry, "_reported", {})
        caplog.clear()
        before = recorded.runs
        with caplog.at_level(logging.DEBUG, "actpass"), monkeypatch.context() as patch:
            PLACES[place](patch, raiser(raised))
            for runs in (1, 2):
                out = recorded.guard(asynchronous)
                assert (out["executed"], out["result"] is recorded.result) == (True, True)
                assert recorded.runs == before + runs
                assert out["decision"]["decision"] == "allow"
                assert set(out) == {"decision", "executed", "result", "evidence"}
                assert recorded.ended() == ["returned"]
        shown = capsys.readouterr().err + caplog.text
        said = [line for line in shown.splitlines() if "telemetry error ignored" in line]
        assert len(said) == (0 if raised in UNSAID else 1), shown
        if said and raised is not StopIteration:  # A generator turns StopIteration into RuntimeError.
            assert raised.__qualname__ in said[0]
            assert "test_observers.py" in said[0]
        assert "of an observer" not in "".join(said)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize("place", ["processor.on_start", "processor.on_end", "set_attribute", "handler.emit"])
def test_observer_errors_keep_function_errors_and_blocks(
    gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, place: str, asynchronous: bool
) -> None:
    recorded = Recorded(gateway)
    PLACES[place](monkeypatch, raiser(SystemExit))
    out = recorded.guard(asynchronous, recorded.fail)
    assert isinstance(out["error"], KeyError)
    assert recorded.ended() == ["failed"]
    down = new_client("http://127.0.0.1:9")
    out = down.guard(execute_fn=recorded.act, **ACTION)
    assert (out["executed"], out["decision"]["reason_code"]) == (False, "actpass.unreachable")
    with pytest.raises(ActPassError) as caught:
        down.preflight(**ACTION)
    assert caught.value.code == "actpass.unreachable"
    with pytest.raises(ActPassError, match="goal"):
        down.guard("", "tool", {}, recorded.act)
    assert recorded.runs == 1


MODULES = {
    "logging that is replaced": ("logging", object()),
    "logging that is half imported": ("logging", types.ModuleType("logging")),
    "logging that is None": ("logging", None),
    "opentelemetry.trace that is replaced": ("opentelemetry.trace", object()),
    "opentelemetry.trace that is half imported": ("opentelemetry.trace", types.ModuleType("opentelemetry.trace")),
    "opentelemetry.metrics that is half imported": ("opentelemetry.metrics", types.ModuleType("opentelemetry.metrics")),
}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize("what", MODULES)
def test_ignores_broken_observer_modules(
    gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, what: str, asynchronous: bool
) -> None:
    recorded = Recorded(gateway)
    if what.startswith("opentelemetry"):
        Otel(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, *MODULES[what])  # type: ignore[arg-type]
        out = recorded.guard(asynchronous)
    assert (out["executed"], out["result"] is recorded.result) == (True, True)
    assert recorded.ended() == ["returned"]


NONSENSE = {
    "a trace id that is text": types.SimpleNamespace(is_valid=True, trace_id="x", span_id=1, trace_flags=1),
    "a trace id that is too long": types.SimpleNamespace(is_valid=True, trace_id=1 << 130, span_id=1, trace_flags=1),
    "a negative span id": types.SimpleNamespace(is_valid=True, trace_id=1, span_id=-1, trace_flags=1),
    "nothing": None,
}


@pytest.mark.parametrize("what", NONSENSE)
def test_invalid_trace_is_not_sent(gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    it = Otel(monkeypatch)
    monkeypatch.setattr(it.trace, "get_current_span", lambda *_: span_context(lambda: NONSENSE[what]))
    with new_client(gateway.base_url) as client:
        assert client.guard(execute_fn=lambda _: 7, **ACTION)["result"] == 7
    assert "traceparent" not in gateway.take()[0].headers


@pytest.mark.parametrize("level", ["x", -5, 10**6, None, 1.5])
def test_ignores_invalid_log_levels(gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, level: Any) -> None:
    logger_class(monkeypatch, "getEffectiveLevel", lambda _: level)
    with new_client(gateway.base_url) as client:
        assert client.guard(execute_fn=lambda _: 7, **ACTION)["result"] == 7


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize("place", ["processor.on_end", "histogram.record"])
def test_ctrl_c_in_observer_propagates_with_the_outcome(
    gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, place: str, asynchronous: bool
) -> None:
    """The exception carries the outcome, which the ledger already contains."""
    recorded = Recorded(gateway)
    run: list[int] = []

    def interrupted(*_: Any) -> None:
        if recorded.runs:
            run.append(1)
            raise KeyboardInterrupt

    # The histogram records the duration before the function runs, so the interrupt happens in ``ended``, after the run.
    if place == "histogram.record":
        monkeypatch.setattr(_telemetry._Duration, "ended", interrupted)
    PLACES[place](monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        recorded.guard(asynchronous)
    out: Any = caught.value.actpass_outcome  # type: ignore[attr-defined]
    assert out["result"] is recorded.result
    assert "evidence" in out
    assert canonical_outcome(out).endswith('"error":null,"executed":true}')
    assert (recorded.runs, recorded.ended()) == (1, ["returned"])


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize("place", ["processor.on_start", "context.attach", "handler.emit", "set_attribute"])
def test_ctrl_c_in_observer_before_the_run_runs_nothing(
    gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, place: str, asynchronous: bool
) -> None:
    recorded = Recorded(gateway)
    PLACES[place](monkeypatch, raiser(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        recorded.guard(asynchronous)
    assert (recorded.runs, recorded.ended()) == (0, [])


def test_ctrl_c_in_observer_detaches_the_span(gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Otel(monkeypatch)
    before = it.trace.get_current_span()
    ended: list[str] = []
    it.processor(on_end=lambda span: ended.append(span.name))
    monkeypatch.setattr(_telemetry._Duration, "began", raiser(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), new_client(gateway.base_url) as client:
        client.guard(execute_fn=lambda _: 1, **ACTION)
    assert it.trace.get_current_span() is before
    assert ended == ["actpass.guard"]


class Late(Exception):  # noqa: N818
    """The exception of a task queue's signal handler that ends a task after its time limit."""


class Raising:
    def __call__(self, *_: Any) -> None:
        raise Late


def raising(*_: Any) -> None:
    raise Late


@pytest.mark.parametrize("on_signal", [raising, Raising(), Raising().__call__], ids=["function", "object", "method"])
@pytest.mark.parametrize("place", ["processor.on_end", "handler.emit"])
def test_signal_handler_error_in_observer_propagates(
    gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, place: str, on_signal: Any
) -> None:
    recorded = Recorded(gateway)
    before = signal.signal(signal.SIGUSR1, on_signal)
    PLACES[place](monkeypatch, lambda *_: signal.raise_signal(signal.SIGUSR1))
    try:
        with pytest.raises(Late) as caught:
            recorded.guard(False)
    finally:
        signal.signal(signal.SIGUSR1, before)
    if place == "handler.emit":
        assert recorded.runs == 0
    else:
        assert caught.value.actpass_outcome["result"] is recorded.result  # type: ignore[attr-defined]


def test_exception_without_attributes_propagates() -> None:
    class Closed(KeyboardInterrupt):
        def __setattr__(self, *_: Any) -> None:
            raise TypeError

    stop = Closed()
    _telemetry.carry(stop, {})
    assert not hasattr(stop, "actpass_outcome")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "async"])
def test_observer_may_use_the_client(
    gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """Calls of an observer are not observed; otherwise each log line would cause more log lines."""
    it = Otel(monkeypatch)
    with new_client(gateway.base_url) as client:
        written: list[Any] = []

        def write(*_: Any) -> None:
            written.append(client.record_evidence("log.line", "logs"))

        it.processor(on_start=write, on_end=write)
        handler(monkeypatch, emit=write)
        recorded = Recorded(gateway)
        assert recorded.guard(asynchronous)["result"] is recorded.result
    assert 3 <= len(written) <= 8


def test_ignores_failure_to_report_observer_error(gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(gateway)
    PLACES["processor.on_end"](monkeypatch, raiser(RuntimeError))
    handler(monkeypatch, emit=raiser(SystemExit))
    for stderr in (None, object(), types.SimpleNamespace(write=raiser(SystemExit))):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            patch.setattr(_telemetry, "_reported", {})
            assert recorded.guard(False)["result"] is recorded.result


def test_reports_each_observer_error_once_across_threads(
    gateway: CapturingServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    PLACES["processor.on_end"](monkeypatch, raiser(RuntimeError))
    with caplog.at_level(logging.WARNING, "actpass"), new_client(gateway.base_url) as client:
        threads = [threading.Thread(target=lambda: client.guard(execute_fn=lambda _: 1, **ACTION)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one.levelname for one in caplog.records if "telemetry error" in one.getMessage()] == ["WARNING"]


def test_limits_number_of_reported_observer_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(_telemetry._MAX_REPORTED + 9):
        spoiled = type(f"Error{at}", (Exception,), {})
        assert _telemetry.call_observer("logging", raiser(spoiled)) is None
    assert len(capsys.readouterr().err.splitlines()) == _telemetry._MAX_REPORTED


def test_reports_action_that_ran_near_recursion_limit(gateway: CapturingServer) -> None:
    """Observers need more stack than the guard; every action that ran is reported."""
    code = """
import sys
from support import ACTION, new_client
try:
    import opentelemetry.trace
except ImportError:
    pass
runs, reported = 0, 0

def act(_):
    global runs
    runs += 1

def deep(frames):
    return client.guard(execute_fn=act, **ACTION) if frames == 0 else deep(frames - 1)

with new_client(sys.argv[1]) as client:
    for left in range(2, 80):
        try:
            reported += deep(sys.getrecursionlimit() - left)["executed"]
        except RecursionError:
            pass
print(runs == reported > 0)
"""
    assert run_python(code, gateway.base_url).stdout == "True\n"


def test_observing_flag_is_reset_after_observer_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        _telemetry.call_observer("logging", raiser(KeyboardInterrupt))
    _telemetry.call_observer("logging", raiser(RuntimeError))
    assert _telemetry._observing.get() is False


def test_warnings_as_errors_do_not_change_the_outcome(gateway: CapturingServer) -> None:
    code = """
import logging, sys
from support import ACTION, new_client
class Broken(logging.Handler):
    def emit(self, record):
        raise RuntimeError
logging.captureWarnings(True)
logging.getLogger().addHandler(Broken())
logging.getLogger().setLevel(1)
out = new_client(sys.argv[1]).guard(execute_fn=lambda _: 7, **ACTION)
print(out["executed"], out["result"])
"""
    done = run_python("import warnings; warnings.simplefilter('error')\n" + code, gateway.base_url)
    assert (done.returncode, done.stdout) == (0, "True 7\n")
    assert done.stderr.count("actpass: telemetry error ignored: logging raised RuntimeError in ") == 1


def test_broken_journal_does_not_prevent_the_action(actpass_gateway: Any) -> None:
    actpass_gateway.allow()
    actpass_gateway.executed = None
    assert actpass_gateway.client().guard("g", "t", {}, lambda _: 7)["result"] == 7
    actpass_gateway.executed = []


def test_panic_while_recording_keeps_the_outcome(gateway: CapturingServer) -> None:
    """Injects a panic into the conversion of a response; requires a build with test hooks."""
    from actpass import _native

    if not hasattr(_native, "break_next_call"):
        pytest.skip("this build has no test hooks")
    for how in ("answer", "conversion", "panic"):
        result = object()

        def act(_: Any, how: str = how, result: object = result) -> object:
            _native.break_next_call(how)  # type: ignore[attr-defined]
            return result

        for asynchronous in (False, True):
            out = Recorded(gateway).guard(asynchronous, act)
            assert out["executed"]
            if how != "conversion":
                assert out["result"] is result
                assert out["evidence_error"].code == "actpass.internal"


def test_ctrl_c_while_recording_carries_the_outcome(hostile: Any, request: pytest.FixtureRequest) -> None:
    from support import ALLOW, answer

    # Processes that a shell starts in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    result = object()

    def interrupt(_: Any) -> object:
        threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,)).start()
        return result

    with (
        hostile.play(answer(ALLOW), {"do": "hang", "at": "request"}) as gateway,
        pytest.raises(KeyboardInterrupt) as caught,
    ):
        new_client(gateway.base_url).guard(execute_fn=interrupt, record_outcome=True, **ACTION)
    assert caught.value.actpass_outcome["result"] is result  # type: ignore[attr-defined]
