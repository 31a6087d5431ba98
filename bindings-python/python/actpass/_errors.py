"""The exceptions. Everything that the SDK raises is an :class:`ActPassError`."""

from __future__ import annotations


class ActPassError(Exception):
    """The base of everything that the SDK raises or reports. When in doubt, treat it as "do not execute".

    Attributes:
        status: The HTTP status of an answer outside 2xx; ``None`` where there was no such answer.
        body: The text of an answer outside 2xx, every secret taken out; ``None`` where there was none, where it was
            larger than 64 KiB, or where a secret in it could not be ruled out.
        code: The stable name of what happened, such as ``actpass.unreachable``: branch and alert on it.
        kind: The short name of the kind, such as ``connection``.
        operation: The call that failed, such as ``preflight``; ``None`` before there was one.
        request_id: The ``x-request-id`` that the gateway gave the call.
        retry_after: For how many seconds the gateway asked to be left alone.
        retryable: Whether the same call may succeed later. The client has already retried what it could.
    """

    kind: str = "internal"
    operation: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    retryable: bool = False

    def __init__(
        self,
        message: str,
        status: int | None = None,
        body: str | None = None,
        code: str | None = None,
    ) -> None:
        """Keep ``message`` and what the gateway answered."""
        super().__init__(message)
        self.status = status
        self.body = body
        self.code = code


class ActPassConfigError(ActPassError, ValueError):
    """A setting is missing or wrong; the message names it. Nothing was sent."""


class ActPassArgumentError(ActPassConfigError, TypeError):
    """An argument cannot be sent: not JSON, nested too deep, empty, of the wrong type. Nothing was sent or run."""


class ActPassConnectionError(ActPassError):
    """The gateway could not be reached: name, connection, TLS, or a connection that was reset."""


class ActPassTimeoutError(ActPassError):
    """The deadline passed before there was an answer."""


class ActPassStatusError(ActPassError):
    """The gateway answered with an error status. Redirects count as such: they are never followed."""


class ActPassAuthenticationError(ActPassStatusError):
    """401: the gateway does not know the API key."""


class ActPassPermissionError(ActPassStatusError):
    """403: the API key may not do this."""


class ActPassRateLimitError(ActPassStatusError):
    """429, still so after the last retry; ``retry_after`` says how long to wait if the gateway said so."""


class ActPassResponseError(ActPassError):
    """A 2xx answer that cannot be used: not JSON, cut short, too large, or without what it must hold."""


class ActPassInternalError(ActPassError):
    """A defect of the SDK; please report it."""
