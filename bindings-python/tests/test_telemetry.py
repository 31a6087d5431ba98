"""Logs and OpenTelemetry signals of calls; ``docs/telemetry.md`` lists the names."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from actpass import ActPassError, _telemetry
from actpass.integrations._common import ToolMap
from support import ACTION, ALLOW, API_KEY, PASSPORT, TESTS, Hostile, answer, new_async_client, new_client, run_python

TABLE = TESTS.parents[1] / "docs" / "telemetry.md"
DENY = answer({"decision": "deny", "reason_code": "refund.over_limit"})
BUSY = answer({}, status=503, headers={"retry-after": "0"})


def ask(base_url: str, asynchronous: bool, **settings: Any) -> None:
    async def main() -> None:
        async with new_async_client(base_url, **settings) as client:
            await client.guard(execute_fn=lambda _: None, **ACTION)

    if asynchronous:
        asyncio.run(main())
    else:
        new_client(base_url, **settings).guard(execute_fn=lambda _: None, **ACTION)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "actpass"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_log_lines_keep_their_levels(hostile: Hostile, caplog: pytest.LogCaptureFixture, asynchronous: bool) -> None:
    tool = f"tool={ACTION['tool']}"
    with caplog.at_level(logging.DEBUG, "actpass"), hostile.play(BUSY, answer(ALLOW), DENY) as gateway:
        before = time.time()
        ask(gateway.base_url, asynchronous, max_retries=1)
        assert lines(caplog) == [
            ("DEBUG", "retrying retry=1 wait_ms=0.0"),
            ("DEBUG", "call completed operation=preflight status=200"),
            ("DEBUG", f"may run {tool} decision=allow reason_code=refund.small_in_scope"),
        ]
        assert all(before <= one.created <= time.time() for one in caplog.records if one.name == "actpass")
        caplog.clear()
        ask(gateway.base_url, asynchronous)
        assert lines(caplog)[-1] == ("INFO", f"blocked {tool} decision=deny reason_code=refund.over_limit")
        caplog.clear()
        ask("http://127.0.0.1:9", asynchronous)
        level, line = lines(caplog)[-1]
        assert level == "WARNING"
        assert re.fullmatch(rf"blocked: the gate failed: .* {tool} code=actpass\.unreachable", line)
        caplog.clear()
        ask("http://127.0.0.1:9", asynchronous, mode="monitor")
        assert lines(caplog)[-1][1].startswith("permitted in monitor mode: the gate failed: ")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_log_lines_without_handlers(hostile: Hostile, caplog: pytest.LogCaptureFixture, asynchronous: bool) -> None:
    with hostile.play(DENY, DENY, answer(ALLOW)) as gateway:
        with caplog.at_level(logging.INFO, "actpass"):
            ask(gateway.base_url, asynchronous)
        assert [level for level, _ in lines(caplog)] == ["INFO"]
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "actpass"):
            logging.disable(logging.INFO)
            try:
                ask(gateway.base_url, asynchronous)
                ask("http://127.0.0.1:9", asynchronous)
            finally:
                logging.disable(logging.NOTSET)
        assert [level for level, _ in lines(caplog)] == ["WARNING"]


def test_prints_nothing_without_log_handlers() -> None:
    code = """
import itertools
import logging
from support import ACTION, new_client
new_client("http://127.0.0.1:9").guard(execute_fn=print, **ACTION)
"""
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_raising_log_handler_does_not_affect_guard(hostile: Hostile) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            self.format(record)
            raise RuntimeError("of the handler")

    broken = Broken()
    logging.getLogger("actpass").addHandler(broken)
    ran: list[int] = []
    try:
        with hostile.play(DENY, answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
            for _ in range(2):
                client.guard(execute_fn=lambda _: ran.append(1), **ACTION)
    finally:
        logging.getLogger("actpass").removeHandler(broken)
    assert ran == [1]


class Telemetry:
    """The signals that the program's OpenTelemetry received."""

    def __init__(self, spans: Any, reader: Any, tracer: Any) -> None:
        self.tracer = tracer
        self._spans = spans
        self._reader = reader

    def spans(self) -> list[Any]:
        finished = list(self._spans.get_finished_spans())
        self._spans.clear()
        return finished

    def points(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return {metric.name: list(metric.data.data_points) for metric in metrics}


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    """Set OpenTelemetry up for one test."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: meters)
    monkeypatch.setattr(trace, "get_tracer", lambda *given: provider.get_tracer(*given))
    monkeypatch.setattr(metrics, "get_meter", lambda *given: meters.get_meter(*given))
    yield Telemetry(spans, reader, provider.get_tracer("tests"))
    meters.shutdown()
    provider.shutdown()


def sent(seen: dict[str, Any]) -> str | None:
    found: str | None = dict(seen["headers"]).get("traceparent")
    return found


@pytest.mark.parametrize("asynchronous", [False, True])
def test_sends_current_trace_to_gateway(hostile: Hostile, telemetry: Telemetry, asynchronous: bool) -> None:
    inner: list[Any] = []

    def act(_: Any) -> None:
        with telemetry.tracer.start_as_current_span("inside") as span:
            inner.append(span)

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:
            await client.guard(execute_fn=act, **ACTION)

    with hostile.play(answer(ALLOW)) as gateway:
        with telemetry.tracer.start_as_current_span("outside") as outside:
            if asynchronous:
                asyncio.run(main())
            else:
                new_client(gateway.base_url).guard(execute_fn=act, **ACTION)
        [request] = gateway.seen()
    inside, guard, _ = telemetry.spans()
    context = guard.context
    assert sent(request) == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert context.trace_id == outside.get_span_context().trace_id
    assert guard.parent.span_id == outside.get_span_context().span_id
    assert inside.parent.span_id == context.span_id
    assert (guard.name, guard.kind.name, guard.status.status_code.name) == ("actpass.guard", "CLIENT", "UNSET")
    assert dict(guard.attributes) == {
        "actpass.operation": "guard",
        "actpass.tool": ACTION["tool"],
        "actpass.mode": "enforce",
        "actpass.decision": "allow",
        "actpass.reason_code": "refund.small_in_scope",
        "actpass.evidence_event_id": "ev_1",
        "actpass.executed": True,
    }
    [point] = telemetry.points()["actpass.client.duration"]
    assert dict(point.attributes) == {"actpass.operation": "guard", "actpass.decision": "allow"}
    assert (point.count, tuple(point.explicit_bounds)) == (1, tuple(_telemetry.BUCKETS))


def test_duration_excludes_the_function(hostile: Hostile, telemetry: Telemetry) -> None:
    with hostile.play(answer(ALLOW)) as gateway, new_client(gateway.base_url) as client:
        client.guard(execute_fn=lambda _: time.sleep(0.5), **ACTION)
    [point] = telemetry.points()["actpass.client.duration"]
    assert point.sum < 0.45
    [span] = telemetry.spans()
    assert span.end_time - span.start_time > 450_000_000


def test_spans_and_metrics_record_failures(hostile: Hostile, telemetry: Telemetry) -> None:
    def fail(_: Any) -> None:
        raise KeyError("a secret of the program")

    with hostile.play(answer(ALLOW), answer({}, status=500)) as gateway:
        client = new_client(gateway.base_url)
        client.guard(execute_fn=fail, **ACTION)
        client.guard(execute_fn=fail, **ACTION)
    with pytest.raises(ActPassError):
        new_client("http://127.0.0.1:9").preflight(**ACTION)
    with pytest.raises(ActPassError):
        client.guard("", "tool", {}, print)
    told = [
        (one.name, one.attributes["error.type"], one.attributes.get("actpass.executed")) for one in telemetry.spans()
    ]
    assert told == [
        ("actpass.guard", "KeyError", True),
        ("actpass.guard", "actpass.gateway_error", False),
        ("actpass.preflight", "actpass.unreachable", None),
        ("actpass.guard", "actpass.invalid_argument", None),
    ]
    types = {point.attributes.get("error.type") for point in telemetry.points()["actpass.client.duration"]}
    assert types == {None, "actpass.gateway_error", "actpass.unreachable", "actpass.invalid_argument"}


def test_every_call_has_a_span(telemetry: Telemetry) -> None:
    from support import CALLS

    for call in CALLS.values():
        with contextlib.suppress(ActPassError):
            call(new_client("http://127.0.0.1:9"))
    assert [one.name for one in telemetry.spans()] == [f"actpass.{name}" for name in CALLS]


def test_sends_no_trace_without_a_span(hostile: Hostile) -> None:
    with hostile.play(answer(ALLOW)) as gateway:
        ask(gateway.base_url, False)
        [request] = gateway.seen()
    assert sent(request) is None


def test_import_loads_no_opentelemetry() -> None:
    code = """
import sys
from support import ACTION, new_client
sys.modules.pop("logging", None)
import actpass
print([name for name in sys.modules if name.split(".")[0] in {"opentelemetry"}])
"""
    assert run_python(code).stdout == "[]\n"


def test_telemetry_table_lists_every_name() -> None:
    table = TABLE.read_text(encoding="utf-8")
    for name in (_telemetry.DURATION, "actpass.executed", "actpass.evidence_event_id", "error.type"):
        assert f"`{name}`" in table
    source = (TESTS.parent / "python" / "actpass" / "_telemetry.py").read_text(encoding="utf-8")
    for name in set(re.findall(r'"(actpass\.[a-z_.]+)"', source)) - {_telemetry.SPAN, "actpass."}:
        assert f"`{name}`" in table, name
    for call in ("_client.py", "_async.py", "_kinds.py"):
        source = (TESTS.parent / "python" / "actpass" / call).read_text(encoding="utf-8")
        for name in re.findall(r'operation\("([a-z_]+)"', source):
            assert f"`actpass.{name}`" in table, name


LOGGED = """
import logging, sys
if sys.argv[2] == "configured":
    logging.basicConfig(level=logging.DEBUG, format="program: %(message)s")
from support import ACTION, API_KEY, PASSPORT, new_client
client = new_client(sys.argv[1], max_retries=0)
client = new_client(sys.argv[1], max_retries=0)
client.guard(execute_fn=print, passport=PASSPORT, **ACTION)
"""


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (None, []),
        ("", []),
        ("off", []),
        ("error", []),
        ("warn", ["WARNING actpass: blocked: the gate failed"]),
        ("Info", ["WARNING actpass: blocked: the gate failed"]),
        ("debug", ["DEBUG actpass: call completed", "WARNING actpass: blocked: the gate failed"]),
        ("verbose", ["actpass: ACTPASS_LOG: expected off, error, warn, info or debug, found 'verbose': it is ignored"]),
    ],
)
def test_actpass_log_enables_logging(hostile: Hostile, monkeypatch: pytest.MonkeyPatch, word: Any, said: Any) -> None:
    monkeypatch.delenv("ACTPASS_LOG", raising=False)
    if word is not None:
        monkeypatch.setenv("ACTPASS_LOG", word)
    with hostile.play(answer({"error": {"message": f"no {API_KEY}"}}, status=500)) as gateway:
        done = run_python(LOGGED, gateway.base_url, "plain")
    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert len(lines) == len(said), lines
    for line, expected in zip(lines, said):
        assert expected in line
    assert API_KEY not in done.stderr
    assert PASSPORT not in done.stderr


def test_configured_logging_gets_each_line_once(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTPASS_LOG", "warn")
    with hostile.play(answer({}, status=500)) as gateway:
        done = run_python(LOGGED, gateway.base_url, "configured")
    [line] = done.stderr.splitlines()
    assert line.startswith("program: blocked: the gate failed")


def test_unmapped_tool_has_a_span(telemetry: Telemetry) -> None:
    ToolMap(new_client("http://127.0.0.1:9"), {}).unmapped("rm")
    [span] = telemetry.spans()
    shown = {name: span.attributes[f"actpass.{name}"] for name in ("tool", "decision", "reason_code", "executed")}
    assert shown == {"tool": "rm", "decision": "deny", "reason_code": "actpass.unmapped_tool", "executed": False}


def test_level_of_standard_loggers_is_that_of_their_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    logger, handlers, seen = logging.getLogger("actpass"), [logging.NullHandler()], set()
    cases = itertools.product(
        (0, 10, 60), (0, 30), ([], handlers), ([], handlers), (True, False), (True, False), (0, 40)
    )
    for own, root, of_own, of_root, passes, is_disabled, disable in cases:
        with monkeypatch.context() as patch:
            patch.setattr(logger, "level", own)
            patch.setattr(logging.root, "level", root)
            patch.setattr(logger, "handlers", of_own)
            patch.setattr(logging.root, "handlers", of_root)
            patch.setattr(logger, "propagate", passes)
            patch.setattr(logger, "disabled", is_disabled)
            patch.setattr(logging.root.manager, "disable", disable)
            level = _telemetry._level(logging)
            assert _telemetry._standard_level(logging) == level
            seen.add(level)
    assert seen == {0, 1, 10, 30, 41}


def test_loggers_of_other_classes_decide_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(logging.Logger):
        pass

    known = logging.Logger.manager.loggerDict
    monkeypatch.setattr(logging.getLogger("actpass"), "parent", Mine("above"))
    assert _telemetry._standard_level(logging) is None
    monkeypatch.setitem(known, "actpass", Mine("actpass"))
    assert _telemetry._standard_level(logging) is None
    monkeypatch.delitem(known, "actpass")
    assert _telemetry._standard_level(logging) is None
    monkeypatch.setitem(known, "actpass", logging.Logger("actpass"))
    monkeypatch.setattr(known["actpass"], "level", "not a number")
    monkeypatch.setattr(known["actpass"], "handlers", [logging.NullHandler()])
    assert _telemetry._standard_level(logging) is None
