"""A WSGI application whose client is created before the workers are forked."""

from __future__ import annotations

from actpass import ActPassClient
from probe import probe

CLIENT = ActPassClient()
probe(CLIENT)


def app(_environ, start_response):
    """Respond with the result of the program."""
    start_response("200 OK", [("content-type", "text/plain")])
    return [probe(CLIENT).encode()]
