"""Calls the tasks and prints their results and errors as received from the worker."""

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
