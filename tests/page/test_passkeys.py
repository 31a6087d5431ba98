"""Test passkeys and signed approvals with a virtual authenticator of Chromium."""

import json

import pytest
from conftest import ALICE, Gateway, Watch
from playwright.sync_api import expect

POLICY = {
    "id": "signed",
    "version": 1,
    "rules": [
        {
            "name": "refunds",
            "when": [{"path": "tool", "operator": "==", "value": "refunds.create"}],
            "decision": "require_approval",
            "reason": "refund.needs_signature",
            "approval": {"signed": True},
        }
    ],
}


@pytest.fixture
def gateway(tmp_path):
    """Start a gateway whose policy requires signatures."""
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    running = Gateway(tmp_path, policy=tmp_path / "policy.json")
    # The id of a relying party is a host name.
    running.page = running.url.replace("127.0.0.1", "localhost")
    yield running
    running.stop()


@pytest.fixture
def alice(chromium, gateway):
    """Log Alice in, in a browser with an authenticator."""
    context = chromium.new_context()
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.watch = Watch(page, gateway.page)
    page.devtools = context.new_cdp_session(page)
    page.devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    page.authenticator = page.devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]
    page.goto(gateway.page)
    page.get_by_label("API key").fill(ALICE)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out").wait_for()
    yield page
    context.close()
    # Chromium recommends RS256 too, which nothing here verifies.
    assert [found for found in page.watch.found if "pubKeyCredParams" not in found] == []


def add_passkey(page, gateway):
    """Add a passkey on the page."""
    page.goto(f"{gateway.page}/passkeys")
    expect(page.get_by_text("You have no passkey.")).to_be_visible()
    page.get_by_label("Name").fill("laptop")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("cell", name="laptop", exact=True)).to_be_visible()


def test_person_signs_an_approval(gateway, alice):
    approval = gateway.ask()
    alice.goto(f"{gateway.page}/approvals/{approval}")
    expect(alice.locator(".withheld")).to_contain_text("must be signed with your passkey")
    assert alice.get_by_role("button", name="approve").count() == 0
    add_passkey(alice, gateway)
    alice.goto(f"{gateway.page}/approvals/{approval}")
    alice.get_by_role("button", name="Sign and approve").click()
    expect(alice.locator(".done")).to_contain_text("refunds.create is approved by alice at")
    assert gateway.approval(approval)["status"] == "approved"
    args = {"amount": 25000, "currency": "usd"}
    body = {"agent_id": "support", "goal": "Refund order 7731: the parcel arrived broken", "tool": "refunds.create"}
    answer = gateway.call("/api/v1/actions/preflight", {**body, "resource": "order/7731", "args": args})
    assert answer["decision"] == "allow", answer
    (signature,) = answer["approval_signatures"]
    credentials = alice.devtools.send("WebAuthn.getCredentials", {"authenticatorId": alice.authenticator})
    assert len(credentials["credentials"]) == 1
    assert signature["statement"]["approval_request_id"] == approval


def test_nothing_is_decided_if_the_person_is_not_verified(gateway, alice):
    approval = gateway.ask()
    add_passkey(alice, gateway)
    alice.devtools.send("WebAuthn.setUserVerified", {"authenticatorId": alice.authenticator, "isUserVerified": False})
    alice.goto(gateway.page)
    card = alice.locator(f"#{approval}")
    card.get_by_role("button", name="Sign and approve").click()
    expect(card.locator(".unsigned")).to_contain_text("The passkey was not used")
    assert gateway.approval(approval)["status"] == "pending"
    # Rejecting needs no signature.
    card.get_by_role("button", name="Reject", exact=True).click()
    expect(alice.locator(".done")).to_contain_text("refunds.create is rejected by alice at")
    assert gateway.approval(approval)["status"] == "rejected"


def test_passkey_is_removed(gateway, alice):
    add_passkey(alice, gateway)
    alice.get_by_role("button", name="Remove laptop").click()
    expect(alice.get_by_text("You have no passkey.")).to_be_visible()
    approval = gateway.ask()
    alice.goto(f"{gateway.page}/approvals/{approval}")
    assert alice.get_by_role("button", name="approve").count() == 0
