"""Test every view for accessibility and on narrow screens, and take a picture of each."""

import os
import re
import time
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import AGENT, ALICE
from playwright.sync_api import expect

PICTURES = Path(os.environ["ACTPASS_TEST_PICTURES"])
PICTURES.mkdir(parents=True, exist_ok=True)

# Rules of WCAG 2.2 at the level AA, and best practices.
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def prepare(gateway):
    """Fill the gateway and return an approval with a story and a pending one."""
    body = {"tool": "refunds.create", "resource": "order/7702", "agent_id": "support", "goal": "Refund order 7702"}
    for amount in (4900, 2500, 900000):
        gateway.call("/api/v1/actions/preflight", {**body, "args": {"amount": amount, "currency": "usd"}})
    done = gateway.ask({"amount": 18000, "charge": "ch_7719"}, goal="Refund order 7719", user_id="customer-77")
    gateway.call(f"/api/v1/approvals/{done}/approve", {"note": "The photos show the damage."}, key=ALICE)
    asked = {**body, "goal": "Refund order 7719", "resource": "order/7731", "user_id": "customer-77"}
    args = {"amount": 18000, "currency": "usd", "charge": "ch_7719"}
    used = gateway.call("/api/v1/actions/preflight", {**asked, "args": args, "approval_request_id": done})
    assert used["decision"] == "allow", used
    outcome = {"chain_id": "decisions", "event_type": "action.outcome", "request_hash": used["request_hash"]}
    gateway.call("/api/v1/evidence/events", {**outcome, "metadata": {"ended": "returned"}})
    refused = gateway.ask({"amount": 12000}, user_id="customer-12")
    gateway.call(f"/api/v1/approvals/{refused}/reject", {"note": "Paid back in May already."}, key=ALICE)
    gateway.ask({"amount": 31000, "memo": "invoice\u202egpj.exe <b>urgent</b>"}, goal="Refund the order in the e-mail")
    pending = gateway.ask({"charge": "ch_7731", "reason": "damaged"}, user_id="customer-118")
    for halt in (
        {"scope": "agent", "id": "reports", "reason": "Sends the same report again and again"},
        {"scope": "tool", "id": "mail.*", "reason": "Answers to the wrong customer"},
    ):
        halted = gateway.call("/api/v1/halts", halt, key=ALICE)
        gateway.call(f"/api/v1/halts/{halted['id']}", {"reason": "Fixed in 4.2"}, key=ALICE, method="DELETE")
    halt = {"scope": "agent", "id": "nightly", "reason": "Runs twice"}
    gateway.call("/api/v1/halts", halt, key=ALICE)
    # Five attempts.
    wait_for(lambda: len(gateway.call("/api/v1/webhooks/dead_letters", key=ALICE)["dead_letters"]) >= 1)
    return done, pending


def wait_for(condition):
    """Wait until the condition is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def webhooks():
    """One webhook whose receiver is down, and one whose receiver refuses the first message."""
    return (("on-call", "/503", ""), ("tickets", "/400", 'events = ["halt.started"]'))


def views(done, pending):
    """Return the name and path of each view."""
    return {
        "requests": "/",
        "request": f"/approvals/{pending}",
        "story": f"/approvals/{done}",
        "approvals": "/approvals",
        "decisions": "/decisions?agent=support",
        "nothing-found": "/decisions?agent=nobody",
        "budgets": "/budgets",
        "halts": "/halts",
        "webhooks": "/webhooks",
        "passkeys": "/passkeys",
        "failure": "/approvals/apr_unknown",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_views_have_no_findings_of_axe(gateway, visit, scheme, width):
    paths = views(*prepare(gateway))
    settings = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    page = visit(**settings, bypass_csp=True)
    findings = check(page, f"login-{scheme}-{width}")
    page.get_by_label("API key").fill(ALICE)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out").wait_for()
    for name, path in paths.items():
        page.goto(gateway.url + path)
        findings += check(page, f"{name}-{scheme}-{width}")
    assert not findings, "\n".join(map(str, findings))
    # The failure is a 404.
    page.watch.found = [found for found in page.watch.found if "status of 404" not in found]


def check(page, name):
    """Take a picture, and return the findings of axe with the view's name."""
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
    found = Axe().run(page, options=AXE).response["violations"]
    return [(name, rule["id"], node["html"][:200]) for rule in found for node in rule["nodes"]]


def test_axe_finds_missing_labels(gateway, operator):
    """Verify that the other tests would find something."""
    gateway.ask()
    page = operator(bypass_csp=True)
    page.evaluate("document.querySelector('textarea').labels[0].remove()")
    found = Axe().run(page, options=AXE).response["violations"]
    assert [rule["id"] for rule in found] == ["label"]


@pytest.mark.parametrize("width", [360, 320])
def test_views_fit_narrow_screens(gateway, operator, width):
    paths = views(*prepare(gateway))
    page = operator(viewport={"width": width, "height": 640})
    for name, path in paths.items():
        page.goto(gateway.url + path)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name} scrolls horizontally by {wide} px"
    page.watch.found = [found for found in page.watch.found if "status of 404" not in found]


def test_navigation_marks_the_current_view(gateway, operator):
    page = operator()
    navigation = page.get_by_role("navigation", name="Views")
    for name in ("Approvals", "Decisions", "Budgets", "Halts", "Webhooks", "Requests"):
        navigation.get_by_role("link", name=name).click()
        expect(navigation.locator("[aria-current=page]")).to_have_text(name)
        expect(page).to_have_title(re.compile("ActPass$"))
        assert page.get_by_role("heading", level=1).count() == 1
        assert page.get_by_role("main").count() == 1


def test_rejects_selected_requests_by_keyboard(gateway, operator):
    approvals = [gateway.ask({"amount": 20000 + number}) for number in range(3)]
    page = operator()
    boxes = page.get_by_role("checkbox")
    for number in (0, 2):
        boxes.nth(number).focus()
        page.keyboard.press("Space")
    page.get_by_label("Note for all of them").focus()
    page.keyboard.type("duplicates")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("Rejected: 2.")
    statuses = [gateway.approval(approval)["status"] for approval in approvals]
    assert statuses == ["rejected", "pending", "rejected"]


def test_sends_a_dead_letter_again_and_lifts_by_keyboard(gateway, operator):
    prepare(gateway)
    page = operator()
    page.get_by_role("link", name="Webhooks").focus()
    page.keyboard.press("Enter")
    row = page.get_by_role("row").filter(has_text="on-call")
    expect(row).to_contain_text("the receiver responded 503")
    row.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(row.get_by_role("listitem").first).to_contain_text("approval.requested")
    page.get_by_role("button", name="Send again").first.focus()
    page.keyboard.press("Enter")
    # It is refused and set aside again.
    expect(page.get_by_role("heading", name="Messages set aside")).to_be_visible()
    page.get_by_role("link", name="Halts").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Reason to lift it").focus()
    page.keyboard.type("The job was repaired")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Halts").click()
    expect(page.locator("main")).to_contain_text("Nothing is stopped.")
    lifted = page.get_by_role("row").nth(1)
    expect(lifted).to_contain_text('the agent "nightly"')
    expect(lifted).to_contain_text("The job was repaired")


def test_changed_card_is_marked_and_its_form_refused(gateway, operator):
    approval = gateway.ask()
    page = operator()
    card = page.locator(f"#{approval}")
    expect(card.locator(".changed")).to_be_hidden()
    body = {"tool": "refunds.create", "resource": "", "agent_id": "support", "goal": "Refund"}
    gateway.call("/api/v1/actions/preflight", {**body, "args": {"amount": 4900, "currency": "usd"}}, key=AGENT)
    expect(card.locator(".changed")).to_be_visible()
    card.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("have changed since this form")
    assert gateway.approval(approval)["status"] == "pending"
    page.watch.found = [found for found in page.watch.found if "status of 409" not in found]
    page.get_by_role("button", name="Approve").click()
    expect(page.locator(".done")).to_contain_text("approved by alice")


def test_takes_the_picture_of_the_documentation(gateway, operator):
    body = {"tool": "refunds.create", "resource": "order/7702", "agent_id": "support", "goal": "Refund order 7702"}
    for amount in (4900, 900000):
        gateway.call("/api/v1/actions/preflight", {**body, "args": {"amount": amount, "currency": "usd"}})
    gateway.ask({"charge": "ch_7731", "reason": "damaged"}, user_id="customer-118")
    page = operator(viewport={"width": 960, "height": 1260})
    expect(page.get_by_role("heading", name="1 pending")).to_be_visible()
    page.screenshot(path=PICTURES / "the-page.png")
