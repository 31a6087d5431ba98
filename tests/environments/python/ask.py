"""Calls the tasks, and shows what their results and errors are after the way through the worker."""

from __future__ import annotations

from actpass import ActionBlockedError
from tasks import blocked, guarded

print(guarded.delay().get(timeout=120))
try:
    blocked.delay().get(timeout=120)
except ActionBlockedError as error:
    assert "refund.over_limit" in str(error), error
else:
    raise AssertionError("it did not raise")
