"""A FastAPI application: both clients, one in the event loop and one on the threads of plain functions."""

from __future__ import annotations

from actpass import ActPassClient, AsyncActPassClient
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from probe import probe, probe_async

app = FastAPI()
CLIENT, ASYNC_CLIENT = ActPassClient(), AsyncActPassClient()


@app.get("/plain", response_class=PlainTextResponse)
def plain() -> str:
    """Guard on a thread of the pool."""
    return probe(CLIENT)


@app.get("/async", response_class=PlainTextResponse)
async def asynchronous() -> str:
    """Guard in the event loop."""
    return await probe_async(ASYNC_CLIENT)
