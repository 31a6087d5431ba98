"""What calls tell the program's logging and OpenTelemetry, if it uses them; ``docs/telemetry.md`` has the names.

Neither is imported here: a program that did not import them has nobody who listens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._native import VERSION

if TYPE_CHECKING:
    from types import TracebackType

    from ._client import Settings

LOGGER = "actpass"
SPAN = "actpass."
DURATION = "actpass.client.duration"
#: In seconds: a call takes some tenths of a millisecond to a gateway nearby, and up to its deadline.
BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
_LEVELS = 50


def begin() -> tuple[str | None, int]:
    """Return the ``traceparent`` of the current span, and the level from which the log is listened to, or 0."""
    traceparent, level = None, 0
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    logging = sys.modules.get("logging")
    if logging is not None:
        logger = logging.getLogger(LOGGER)
        listened = max(logger.getEffectiveLevel(), logging.root.manager.disable + 1)
        level = listened if listened <= _LEVELS and not logger.disabled and logger.hasHandlers() else 0
    return traceparent, level


def log(level: int, text: str, at: float) -> None:
    """Hand a line of the core's log to ``logging``, with the time ``at`` which it was written."""
    logger = sys.modules["logging"].getLogger(LOGGER)
    if logger.isEnabledFor(level):
        record = logger.makeRecord(LOGGER, level, "(actpass)", 0, text, (), None)
        record.relativeCreated += (at - record.created) * 1000
        record.created, record.msecs = at, float(int(at % 1 * 1000))
        logger.handle(record)


class Operation:
    """One public call, without anybody who listens."""

    __slots__ = ()

    def __enter__(self) -> Operation:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""

    def decided(self, decision: Mapping[str, Any], error: object = None) -> None:
        """Note what the gate said, or how it failed."""

    def ended(self, outcome: Mapping[str, Any]) -> None:
        """Note what came of an action that may have run."""


class _Told(Operation):
    """One public call, as a span that is current meanwhile and a measurement of how long the gate took."""

    __slots__ = ("_attributes", "_began", "_histogram", "_measured", "_scope", "_span")

    def __init__(self, providers: _Providers, name: str, attributes: dict[str, Any]) -> None:
        trace = sys.modules["opentelemetry.trace"]
        self._attributes = {"actpass.operation": name}
        self._histogram = providers.histogram
        self._measured = False
        self._span = providers.tracer.start_span(
            SPAN + name, kind=trace.SpanKind.CLIENT, attributes={**self._attributes, **attributes}
        )
        self._scope = trace.use_span(
            self._span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        )
        self._began = time.perf_counter()

    def __enter__(self) -> Operation:
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._failed(error)
        self._measure()
        self._scope.__exit__(kind, error, traceback)

    def decided(self, decision: Mapping[str, Any], error: object = None) -> None:
        self._attributes["actpass.decision"] = str(decision["decision"])
        self._span.set_attribute("actpass.decision", str(decision["decision"]))
        for member in ("reason_code", "evidence_event_id"):
            if isinstance(decision.get(member), str):
                self._span.set_attribute(f"actpass.{member}", decision[member])
        if error is not None:
            self._failed(error)
        self._measure()

    def ended(self, outcome: Mapping[str, Any]) -> None:
        error = outcome.get("error")
        self._span.set_attribute("actpass.executed", outcome["executed"])
        if error is not None:
            self._failed(error)

    def _failed(self, error: object) -> None:
        code = getattr(error, "code", None)
        name = code if isinstance(code, str) and code.startswith("actpass.") else type(error).__qualname__
        if not self._measured:
            self._attributes["error.type"] = name
        self._span.set_attribute("error.type", name)
        self._span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR)

    def _measure(self) -> None:
        if not self._measured:
            self._measured = True
            if self._histogram is not None:
                self._histogram.record(time.perf_counter() - self._began, self._attributes)


class _Providers:
    """What the program's OpenTelemetry gave, for as long as it stays the same."""

    def __init__(self, trace: Any, metrics: Any) -> None:
        self.trace_provider = trace.get_tracer_provider()
        self.meter_provider = metrics.get_meter_provider() if metrics is not None else None
        self.tracer = trace.get_tracer("actpass", VERSION)
        self.histogram = None
        if metrics is not None:
            meter = metrics.get_meter("actpass", VERSION)
            about = {"unit": "s", "description": "How long a call of the gateway took, retries and waits included."}
            try:
                self.histogram = meter.create_histogram(DURATION, **about, explicit_bucket_boundaries_advisory=BUCKETS)
            except TypeError:  # An older API has no advice.
                self.histogram = meter.create_histogram(DURATION, **about)

    def are(self, trace: Any, metrics: Any) -> bool:
        return trace.get_tracer_provider() is self.trace_provider and (
            metrics is None or metrics.get_meter_provider() is self.meter_provider
        )


_NOBODY = Operation()
_providers: _Providers | None = None


def operation(name: str, tool: object = None, mode: object = None, client: Settings | None = None) -> Operation:
    """Return what to enter for the time of a public call; a span if the program has imported OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return _NOBODY
    global _providers  # noqa: PLW0603
    metrics = sys.modules.get("opentelemetry.metrics")
    if _providers is None or not _providers.are(trace, metrics):
        _providers = _Providers(trace, metrics)
    given = {"actpass.tool": tool, "actpass.mode": mode or (client and client.mode)}
    return _Told(_providers, name, {key: value for key, value in given.items() if isinstance(value, str)})
