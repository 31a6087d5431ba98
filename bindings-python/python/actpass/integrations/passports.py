"""Passports at the server's side: for servers written by hand, such as an MCP server without an adapter.

    from actpass.integrations.passports import PassportGuard

    guard = PassportGuard(client, "mcp://stripe")
    REFUND = ToolAction("stripe.refund.create", resource="stripe:charge:{charge}")

    async def call_tool(name, arguments, meta):
        return await guard.run_async(meta.get("actpass/passport"), REFUND, arguments, lambda args, _: refund(**args))

The passport is verified offline, and its use is claimed with the decision about the call, so that it is used once.
Imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from .. import _native, _run
from .._call import answer
from .._json import name_of
from .._settings import Settings, limits
from .._telemetry import instrument
from .._tools import ToolAction, wrong
from ._common import run_guarded, run_guarded_async

if TYPE_CHECKING:
    from .._outcome import GuardOutcome
    from .._types import PassportVerification
    from ._common import Client, Execute

__all__ = ["META", "PassportGuard", "passport_of"]

#: The member of a call's ``_meta`` that carries the passport.
META = "actpass/passport"
#: The modes whose decisions spend a passport.
_SPENDING = ("enforce", "strict")
_LIMITS = limits(None, None)


class PassportGuard:
    """Runs an action only with a passport for one audience: the name of this server.

    The goal, the agent and the user of the action are those of the passport; a goal or user of the ``ToolAction`` is
    ignored. A call is refused without a passport (``passport.missing``), if the passport is invalid, is for another
    audience or has expired (without a request to the gateway), and by the gateway if the passport does not permit the
    tool, the resource or the arguments, was used before or was revoked, or if the policy denies the action.

    Args:
        client: An ``ActPassClient`` or ``AsyncActPassClient``. Its API key must not be bound to an agent.
        audience: The audience of the passports, such as ``mcp://stripe``.

    Raises:
        ActPassConfigError: An option is invalid, or the client's mode does not spend passports: expected ``enforce`` or
            ``strict``.

    >>> guard = PassportGuard(client, "mcp://stripe")
    >>> outcome = guard.run(None, ToolAction("stripe.refund.create"), {}, lambda args, context: "refunded")
    >>> outcome["executed"], outcome["decision"]["reason_code"]
    (False, 'passport.missing')
    """

    def __init__(self, client: Client, audience: str) -> None:
        """Check the options."""
        if not isinstance(client, Settings):
            raise wrong("client", f"expected an ActPassClient or AsyncActPassClient, found {name_of(client)}")
        if not isinstance(audience, str) or not audience:
            raise wrong("audience", f"expected a non-empty string, found {audience!r}")
        self.client = client
        self.audience = audience
        self._check_mode(client.mode)

    def run(
        self, passport: Optional[str], action: ToolAction, args: Mapping[str, Any], execute: Execute
    ) -> GuardOutcome[Any]:
        """Run ``execute`` on the calling thread if the passport and the decision permit the call.

        Args:
            passport: The passport that the call presents; ``None`` if it is missing.
            action: The action of the tool.
            args: The arguments. A copy is evaluated and passed to ``execute``.
            execute: Calls the tool with the arguments and the context.

        Returns:
            The outcome of the guard.

        Raises:
            ActPassError: The gateway's keys are not available. Nothing has run.
        """
        action = self._checked(action)
        if not passport:
            return _refused(self.client, action, [])
        verified = self.client._synchronous()._native.verify_passport_offline(self._request(passport), _LIMITS)
        presented = self._presented(passport, verified)
        if isinstance(presented, list):
            return _refused(self.client, action, presented)
        return run_guarded(self.client, action, args, execute, presented=presented)

    async def run_async(
        self,
        passport: Optional[str],
        action: ToolAction,
        args: Mapping[str, Any],
        execute: Execute,
        *,
        default: Optional[Callable[[Any], Any]] = None,
        wait_for_approval: Optional[float] = None,
    ) -> GuardOutcome[Any]:
        """Run ``execute``, plain or ``async def``, if passport and decision permit the call: see :meth:`run`."""
        action = self._checked(action)
        if not passport:
            return _refused(self.client, action, [])
        native = self.client._asynchronous()._native
        verified = await answer(native.verify_passport_offline(self._request(passport), _LIMITS))
        presented = self._presented(passport, verified)
        if isinstance(presented, list):
            return _refused(self.client, action, presented)
        return await run_guarded_async(
            self.client,
            action,
            args,
            execute,
            default=default,
            wait_for_approval=wait_for_approval,
            presented=presented,
        )

    def _request(self, passport: str) -> dict[str, Any]:
        others = dict.fromkeys(("issuer", "agent_id", "user_id", "tenant_id"))
        return {"token": passport, "audience": self.audience, **others}

    def _presented(self, passport: str, verified: PassportVerification) -> Union[dict[str, Any], list[str]]:
        """Return the members of the action that the passport determines, or the codes of its problems."""
        claims = verified.get("claims")
        if not verified["valid"] or not claims:
            return list(verified["errors"]) or ["passport.malformed"]
        named = {name: claims.get(name) for name in ("goal", "agent_id", "user_id")}
        return {**named, "passport": passport, "audience": self.audience}

    def _checked(self, action: ToolAction) -> ToolAction:
        self._check_mode(action.mode or self.client.mode)
        # The goal is the passport's.
        return action if action.goal else ToolAction(**{**action._members(), "goal": META})

    @staticmethod
    def _check_mode(mode: str) -> None:
        if mode not in _SPENDING:
            raise wrong("mode", f"expected 'enforce' or 'strict', found {mode!r}: other modes do not spend passports")


def passport_of(meta: object, headers: Optional[Mapping[str, str]] = None) -> Optional[str]:
    """Return the passport of a call: the ``actpass/passport`` of its ``_meta``, else ``Authorization: Bearer``.

    Args:
        meta: The ``_meta`` of the call, a mapping or ``None``.
        headers: The headers of the HTTP request, by lower-case name.

    >>> passport_of({"actpass/passport": "eyJ…"})
    'eyJ…'
    >>> passport_of(None, {"authorization": "Bearer eyJ…"})
    'eyJ…'
    """
    carried = meta.get(META) if isinstance(meta, Mapping) else None
    if carried is not None:
        return carried if isinstance(carried, str) else None
    scheme, _, token = ((headers or {}).get("authorization") or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _refused(client: Client, action: ToolAction, errors: list[str]) -> GuardOutcome[Any]:
    with instrument("guard", action.tool, None, client) as span:
        return _run.blocked(_native.invalid_passport(action.tool, errors), action.tool, span)
