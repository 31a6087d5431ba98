"""Functions of the package."""

from __future__ import annotations

from . import _native
from ._client import ActPassClient

TYPE_CHECKING = False
if not TYPE_CHECKING:
    from ._lazy import abc, typing
else:
    import typing
    from collections import abc


def create_actpass(
    api_key: typing.Optional[str] = None,
    tenant_id: typing.Optional[str] = None,
    agent_id: typing.Optional[str] = None,
    base_url: typing.Optional[str] = None,
) -> ActPassClient:
    """Create an :class:`ActPassClient` with these settings and defaults for all others.

    >>> create_actpass(api_key="apk_dev", base_url="http://localhost:8787")
    ActPassClient(base_url='http://localhost:8787', tenant_id=None, agent_id='sdk')
    """
    return ActPassClient(api_key=api_key, tenant_id=tenant_id, agent_id=agent_id, base_url=base_url)


def dpop_thumbprint(dpop_key: str) -> str:
    """Return the thumbprint of the setting ``dpop_key``, to which the gateway binds an API key.

    The SHA-256 of the public key (RFC 7638) in base64url, 43 characters.

    Raises:
        ActPassArgumentError: ``dpop_key`` is not a P-256 or Ed25519 private key in PKCS#8 PEM.

    >>> body = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g"
    >>> dpop_thumbprint(f"-----BEGIN PRIVATE KEY-----{body}-----END PRIVATE KEY-----")
    'kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k'
    """
    return _native.dpop_thumbprint(dpop_key)


def canonical_outcome(outcome: abc.Mapping[str, typing.Any]) -> str:
    """Return ``{"decision", "error", "executed"}`` of an outcome as canonical JSON, identical in every language.

    ``error`` is ``null`` or ``{"kind", "status"}``; the kind is ``action`` for an exception of the guarded function.

    >>> canonical_outcome({"executed": True, "decision": {"decision": "allow"}, "result": 1})  # doctest: +ELLIPSIS
    '{"decision":{"decision":"allow",...},"error":null,"executed":true}'
    """
    return _native.canonical_outcome(outcome)
