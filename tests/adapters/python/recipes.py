"""Cases of the recipes in docs/how-to/other-frameworks.md, for each framework alike.

`run(names, calls, seen)` executes the block of a framework with these names, lets a scripted model make the calls in
sequence, and appends to `seen` all that the model received.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Hostile, Ran, Real, blocks, executed

SMALL, MEDIUM, LARGE = 4900, 25000, 90000
Record = Callable[..., None]


def block(imported: str) -> str:
    """Return the block that imports this module."""
    [found] = [one for one in blocks("other-frameworks.md") if one.startswith(f"from {imported}")]
    return found


def given(ran: Ran, **actions: Any) -> dict[str, Any]:
    """Return the names of the first block; the functions count."""
    names = executed(blocks("other-frameworks.md")[0])

    def refund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund a charge.

        Args:
            charge: The id of the charge.
            amount: The amount in cents.
            currency: The currency, in lower case.
        """
        ran(amount)
        return f"refunded {amount}"

    async def refund_async(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund a charge; the amount is in cents."""
        ran(amount)
        return f"refunded {amount}"

    return {**names, "refund": refund, "refund_async": refund_async, **actions}


def refund(amount: Any) -> dict[str, Any]:
    return {"charge": "ch_1", "amount": amount, "currency": "usd"}


def test_recipe_decides_each_call(kit: Any, documented: Real, ran: Ran, record_case: Record) -> None:
    seen: list[str] = []
    kit.run(given(ran), [refund(SMALL)], seen)
    assert ran.values == [SMALL] and "refunded 4900" in seen[-1]
    record_case(kit.framework, "allow", ran.count)
    kit.run(given(ran), [refund(LARGE)], seen)
    assert ran.values == [SMALL]
    assert "stripe.refund.create was not run: deny (refund.over_limit)." in seen[-1]
    record_case(kit.framework, "deny", ran.count - 1)


def test_recipe_reports_and_spends_an_approval(kit: Any, documented: Real, ran: Ran, record_case: Record) -> None:
    seen: list[str] = []
    kit.run(given(ran), [refund(MEDIUM)], seen)
    [approval] = documented.pending()
    assert ran.count == 0 and approval in seen[-1]
    record_case(kit.framework, "approval pending", ran.count)
    documented.approve(approval)
    kit.run(given(ran), [refund(MEDIUM + 1)], seen)
    assert ran.count == 0
    record_case(kit.framework, "arguments edited at approval", ran.count)
    kit.run(given(ran), [refund(MEDIUM), refund(MEDIUM)], seen)
    assert ran.values == [MEDIUM]
    record_case(kit.framework, "approved in another process", ran.count)
    record_case(kit.framework, "same call again after approval", ran.count)


def test_recipe_runs_nothing_if_the_gateway_fails(
    kit: Any, hostile: Hostile, ran: Ran, record_case: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    import functools

    import actpass

    settings = hostile._settings({})
    settings = {name: settings[name] for name in ("api_key", "base_url", "timeout", "max_retries")}
    clients = {
        name: functools.partial(getattr(actpass, name), **settings) for name in ("ActPassClient", "AsyncActPassClient")
    }
    seen: list[str] = []
    kit.run(given(ran, **clients), [refund(SMALL)], seen)
    assert ran.count == 0 and "stripe.refund.create was not run: deny (actpass." in seen[-1]
    record_case(kit.framework, hostile.case, ran.count)


@pytest.mark.parametrize(("case", "value"), [("string for a number", "4900"), ("bool", True), ("4900.0", 4900.0)])
def test_recipe_evaluates_the_executed_arguments(
    kit: Any, documented: Real, ran: Ran, record_case: Record, case: str, value: Any
) -> None:
    import actpass
    from actpass.testing import ScriptedGateway

    with ScriptedGateway() as gateway:
        gateway.allow("stripe.refund.create")
        clients = {
            "ActPassClient": lambda **settings: gateway.client(**settings),
            "AsyncActPassClient": lambda **settings: gateway.async_client(**settings),
        }
        assert actpass
        kit.run(given(ran, **clients), [refund(value)], [])
        asked = [action["args"]["amount"] for action in gateway.actions]
    assert asked == ran.values and [type(one) for one in asked] == [type(one) for one in ran.values]
    record_case(kit.framework, f"arguments: {case}", ran.count)
