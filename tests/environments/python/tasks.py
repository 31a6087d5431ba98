"""Celery tasks; the broker and the result backend are folders."""

from __future__ import annotations

import os
from pathlib import Path

from actpass import ActPassClient
from celery import Celery
from probe import probe

HERE = Path(__file__).resolve().parent
for name in ("messages", "results"):
    (HERE / name).mkdir(exist_ok=True)
app = Celery("tasks", broker="filesystem://", backend=f"file://{HERE / 'results'}")
app.conf.broker_transport_options = {
    "data_folder_in": str(HERE / "messages"),
    "data_folder_out": str(HERE / "messages"),
}
app.conf.task_serializer = app.conf.result_serializer = os.environ.get("SERIALIZER", "json")
app.conf.accept_content = app.conf.result_accept_content = ["json", "pickle"]
CLIENT = ActPassClient()


@app.task
def guarded() -> str:
    """Run the program in a worker."""
    return probe(CLIENT)


@app.task
def blocked() -> None:
    """Raise the error of a blocked protected function."""
    CLIENT.protect(tool="stripe.refund.create", goal="resolve_refund_request")(refund)(amount=90000, currency="usd")


def refund(amount: int, currency: str) -> None:
    raise AssertionError(f"ran: {amount} {currency}")
