"""Logging and OpenTelemetry instrumentation of calls; ``docs/telemetry.md`` lists the names.

This module imports neither: it uses them only if the program has. All calls to observers (loggers, tracers, meters) go
through :func:`call_observer`, so that an observer cannot change, hide or prevent an outcome.
"""

from __future__ import annotations

import os
import sys
import time
from contextvars import ContextVar

from ._errors import ActPassError
from ._native import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any, Callable, TypeVar

    R = TypeVar("R")

LOGGER = "actpass"
#: :func:`instrument` creates a span only if this module is imported.
TRACE = "opentelemetry.trace"
SPAN = "actpass."
DURATION = "actpass.client.duration"
#: Histogram bounds in seconds: from a fraction of a millisecond (local gateway) to the default deadline.
BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
_LEVELS = 50
_LOGGING, _METRICS, _TRACING = "logging", "metrics", "tracing"
_WARNING = 30
#: The maximum number of distinct observer errors to report.
_MAX_REPORTED = 64

_reported: dict[tuple[str, str], object] = {}
#: True while an observer runs. Calls made by an observer are not observed, to prevent infinite recursion.
_observing: ContextVar[bool] = ContextVar("actpass_observing", default=False)


def call_observer(what: str, call: Callable[..., R], *given: object) -> R | None:
    """Call an observer of the program; ignore any exception that it raises, and report it once.

    ``KeyboardInterrupt`` and exceptions of the program's signal handlers propagate.
    """
    outer = _observing.set(True)
    try:
        return call(*given)
    except (MemoryError, RecursionError):
        return None  # Reporting may fail again.
    except BaseException as error:
        if _raised_by_signal_handler(error):
            raise
        _report_once(what, error)
        return None
    finally:
        _observing.reset(outer)


def carry(stop: BaseException, outcome: object) -> None:
    """Attach the outcome of an action that ran to the exception ``stop``, so that its result is not lost."""
    try:  # noqa: SIM105
        stop.actpass_outcome = outcome  # type: ignore[attr-defined]
    except Exception:  # A class may reject attributes.
        pass


def begin() -> tuple[str | None, int, BaseException | None]:
    """Return the ``traceparent`` of the current span, the log level, and an exception to raise.

    The level is 0 if nothing handles the logger. The caller ignores exceptions that this function raises.
    """
    if _observing.get():
        return None, 0, None
    trace, logging = sys.modules.get(TRACE), sys.modules.get("logging")
    try:
        traceparent = None if trace is None else call_observer(_TRACING, _traceparent, trace)
        level = None if logging is None else _standard_level(logging)
        if level is None and logging is not None:
            level = call_observer(_LOGGING, _level, logging)
    except BaseException as stop:
        return None, 0, stop
    return traceparent, level or 0, None


def _traceparent(trace: Any) -> str | None:
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _level(logging: Any) -> int:
    logger = logging.getLogger(LOGGER)
    listened = int(max(logger.getEffectiveLevel(), logging.root.manager.disable + 1))
    return listened if 0 < listened <= _LEVELS and not logger.disabled and logger.hasHandlers() else 0


def _standard_level(logging: Any) -> int | None:
    """Return :func:`_level`; ``None`` if the program's own classes decide it, or if the logger does not exist yet.

    Takes no lock, unlike ``getLogger``, for which the threads of a program would wait.
    """
    try:
        above: Any = logging.Logger.manager.loggerDict.get(LOGGER)
        if above is None:
            return None
        listened, is_handled, is_passed, is_disabled = 0, False, True, above.disabled
        while above is not None:
            if type(above) is not logging.Logger and type(above) is not logging.RootLogger:
                return None
            listened = listened or above.level
            is_handled = is_handled or (is_passed and bool(above.handlers))
            is_passed = is_passed and above.propagate
            above = above.parent
        if is_disabled or not is_handled:
            return 0
        listened = int(max(listened, logging.root.manager.disable + 1))
        return listened if 0 < listened <= _LEVELS else 0
    except Exception:
        return None


def log(level: int, text: str, at: float) -> BaseException | None:
    """Pass a log line of the core, written at time ``at``, to ``logging``; return an exception to raise."""
    try:
        call_observer(_LOGGING, _log, level, text, at)
    except BaseException as stop:
        return stop
    return None


def _log(level: int, text: str, at: float) -> None:
    logger = sys.modules["logging"].getLogger(LOGGER)
    if logger.isEnabledFor(level):
        record = logger.makeRecord(LOGGER, level, "(actpass)", 0, text, (), None)
        record.relativeCreated += (at - record.created) * 1000
        record.created, record.msecs = at, float(int(at % 1 * 1000))
        logger.handle(record)


def _report_once(what: str, error: BaseException) -> None:
    """Report an observer's error once: to the logger, or to stderr if logging failed."""
    try:
        kind, place = type(error).__qualname__, _place(error)
        mine = object()
        if len(_reported) >= _MAX_REPORTED or _reported.setdefault((kind, place), mine) is not mine:
            return
        # Without message and traceback, which may contain arguments and results.
        text = f"telemetry error ignored: {what} raised {kind} in {place}; the call is not affected"
        logging = sys.modules.get("logging")
        if what == _LOGGING or logging is None or not _log_warning(logging, text):
            print(f"actpass: {text}", file=sys.stderr)
    except BaseException as another:
        if _raised_by_signal_handler(another):
            raise


def _log_warning(logging: Any, text: str) -> bool:
    try:
        logging.getLogger(LOGGER).log(_WARNING, "%s", text)
    except BaseException as another:
        if _raised_by_signal_handler(another):
            raise
        return False
    return True


def _place(error: BaseException) -> str:
    """Return the file, the line and the function that raised ``error``."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "an unknown place"
    code = traceback.tb_frame.f_code
    return f"{code.co_filename}:{traceback.tb_lineno} ({code.co_name})"


def _raised_by_signal_handler(error: BaseException) -> bool:
    """Return whether a signal raised ``error``: Ctrl-C, or a handler of the program."""
    if isinstance(error, KeyboardInterrupt):
        return True
    signal = sys.modules.get("signal")
    if signal is None:
        return False
    ran = set()
    traceback = error.__traceback__
    while traceback is not None:
        ran.add(traceback.tb_frame.f_code)
        traceback = traceback.tb_next
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return any(_code(one) in ran for one in handlers if callable(one))


def _code(handler: Any) -> object:
    code = getattr(handler, "__code__", None)
    return getattr(getattr(type(handler), "__call__", None), "__code__", None) if code is None else code  # noqa: B004


#: Values of ``ACTPASS_LOG`` and their ``logging`` levels.
_WORDS = {"off": 60, "error": 40, "warn": 30, "info": 20, "debug": 10}
_logs_by = ""


def log_by_environment() -> None:
    """Configure the logger ``actpass`` to write to stderr as set by ``ACTPASS_LOG``; once per value."""
    global _logs_by  # noqa: PLW0603
    word = os.environ.get("ACTPASS_LOG", "")
    if word == _logs_by:
        return
    _logs_by = word
    call_observer(_LOGGING, _log_from, word)


def _log_from(word: str) -> None:
    level = _WORDS.get(word.strip().lower()) if word else None
    if level is None:
        if word:
            expected = "expected off, error, warn, info or debug"
            print(f"actpass: ACTPASS_LOG: {expected}, found {word[:32]!r}: it is ignored", file=sys.stderr)
        return
    import logging  # noqa: PLC0415

    logger = logging.getLogger(LOGGER)
    logger.setLevel(level)
    if not any(getattr(one, "actpass_log", False) for one in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        # If the program configures root handlers, those write the lines.
        handler.addFilter(lambda _: not logging.root.handlers)
        handler.actpass_log = True  # type: ignore[attr-defined]
        logger.addHandler(handler)


class CallSpan:
    """The span of one public call; this base class does nothing."""

    __slots__ = ()

    def __enter__(self) -> CallSpan:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""

    def decided(self, decision: Mapping[str, Any], error: object = None) -> None:
        """Record the decision or the failure of the gate."""

    def ended(self, outcome: Mapping[str, Any]) -> None:
        """Record the outcome."""


class _ObservedCall(CallSpan):
    """The span of a call with observers."""

    __slots__ = ("_observers", "_outcome")

    def __init__(self, observers: list[_Duration | _Span]) -> None:
        self._observers = observers
        self._outcome: object = None

    def __enter__(self) -> CallSpan:
        try:
            self._notify("began")
        except BaseException:
            self._notify("left", None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._notify("left", error)

    def decided(self, decision: Mapping[str, Any], error: object = None) -> None:
        self._notify("decided", decision, error)

    def ended(self, outcome: Mapping[str, Any]) -> None:
        self._outcome = outcome
        self._notify("ended", outcome)

    def _notify(self, event: str, *given: object) -> None:
        stop = None
        for observer in self._observers:
            try:
                call_observer(observer.what, getattr(observer, event), *given)
            except BaseException as error:  # From a signal. Notify the others first: a span must end.
                stop = error
        if stop is not None:
            if self._outcome is not None:
                carry(stop, self._outcome)
            raise stop


class _Duration:
    """Records the duration of the gate in a histogram."""

    __slots__ = ("_attributes", "_began", "_histogram", "_measured")

    what = _METRICS

    def __init__(self, histogram: Any, name: str) -> None:
        self._histogram = histogram
        self._attributes = {"actpass.operation": name}
        self._measured = False
        self._began = time.perf_counter()

    def began(self) -> None:
        self._began = time.perf_counter()

    def decided(self, decision: Mapping[str, Any], error: object) -> None:
        self._attributes["actpass.decision"] = str(decision["decision"])
        self._measure(error)

    def ended(self, outcome: Mapping[str, Any]) -> None:
        """Record nothing: the duration excludes the function."""

    def left(self, error: object) -> None:
        self._measure(error)

    def _measure(self, error: object) -> None:
        if not self._measured:
            self._measured = True
            if error is not None:
                self._attributes["error.type"] = _error_type(error)
            self._histogram.record(time.perf_counter() - self._began, self._attributes)


class _Span:
    """Records the call as an OpenTelemetry span, current during the call."""

    __slots__ = ("_given", "_name", "_scope", "_span", "_tracer")

    what = _TRACING

    def __init__(self, tracer: Any, name: str, given: dict[str, Any]) -> None:
        self._tracer = tracer
        self._name = name
        self._given = given
        self._span: Any = None
        self._scope: Any = None

    def began(self) -> None:
        trace = sys.modules["opentelemetry.trace"]
        # Arguments are not validated yet.
        attributes = {key: value for key, value in self._given.items() if isinstance(value, str)}
        self._span = self._tracer.start_span(
            SPAN + self._name,
            kind=trace.SpanKind.CLIENT,
            attributes={"actpass.operation": self._name, **attributes},
        )
        scope = trace.use_span(self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False)
        scope.__enter__()
        self._scope = scope

    def decided(self, decision: Mapping[str, Any], error: object) -> None:
        if self._span is None:
            return
        self._span.set_attribute("actpass.decision", str(decision["decision"]))
        for member in ("reason_code", "evidence_event_id"):
            if isinstance(decision.get(member), str):
                self._span.set_attribute(f"actpass.{member}", decision[member])
        self._failed(error)

    def ended(self, outcome: Mapping[str, Any]) -> None:
        if self._span is not None:
            self._span.set_attribute("actpass.executed", outcome["executed"])
            self._failed(outcome.get("error"))

    def left(self, error: object) -> None:
        if self._span is None:
            return
        try:
            self._failed(error)
        finally:
            try:
                if self._scope is not None:
                    self._scope.__exit__(None, None, None)
            finally:
                self._span.end()

    def _failed(self, error: object) -> None:
        if error is not None:
            self._span.set_attribute("error.type", _error_type(error))
            self._span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR)


def _error_type(error: object) -> str:
    code = None
    try:  # noqa: SIM105
        code = getattr(error, "code", None)
    except Exception:  # A foreign exception may raise.
        pass
    return code if isinstance(code, str) and code.startswith("actpass.") else type(error).__qualname__


_NO_SPAN = CallSpan()
#: Cached tracer and histogram, each with its provider; valid while the provider is the same.
_tracer_of: tuple[Any, Any] = (None, None)
_histogram_of: tuple[Any, Any] = (None, None)


def _tracer(trace: Any) -> Any:
    global _tracer_of  # noqa: PLW0603
    provider = trace.get_tracer_provider()
    if _tracer_of[0] is not provider:
        _tracer_of = provider, trace.get_tracer("actpass", VERSION)
    return _tracer_of[1]


def _histogram(metrics: Any) -> Any:
    global _histogram_of  # noqa: PLW0603
    provider = metrics.get_meter_provider()
    if _histogram_of[0] is not provider:
        meter = metrics.get_meter("actpass", VERSION)
        about = {"unit": "s", "description": "Duration of a gateway call, including retries and waits."}
        try:
            made = meter.create_histogram(DURATION, **about, explicit_bucket_boundaries_advisory=BUCKETS)
        except TypeError:  # Older API versions lack the advisory parameter.
            made = meter.create_histogram(DURATION, **about)
        _histogram_of = provider, made
    return _histogram_of[1]


def instrument(name: str, tool: object = None, mode: object = None, client: Any = None) -> CallSpan:
    """Return the context manager of a public call; it creates a span if OpenTelemetry is imported."""
    trace = sys.modules.get(TRACE)
    if trace is None or _observing.get():
        return _NO_SPAN
    metrics = sys.modules.get("opentelemetry.metrics")
    histogram = None if metrics is None else call_observer(_METRICS, _histogram, metrics)
    tracer = call_observer(_TRACING, _tracer, trace)
    observers: list[_Duration | _Span] = []
    if histogram is not None:
        observers.append(_Duration(histogram, name))
    if tracer is not None:
        given = {"actpass.tool": tool, "actpass.mode": _mode(client) if mode is None else mode}
        observers.append(_Span(tracer, name, given))
    return _ObservedCall(observers) if observers else _NO_SPAN


def _mode(client: Any) -> str | None:
    try:
        return None if client is None else client.mode
    except ActPassError:  # Closed; the call itself reports it.
        return None
