"""Test the approvals page in Chromium."""

import os
from pathlib import Path

import pytest
from conftest import ALICE
from playwright.sync_api import expect

PICTURES = Path(os.environ["ACTPASS_TEST_OUTPUT"])

# Texts that render differently if the page interprets them.
HOSTILE = {
    "memo": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "</div><svg onload=alert(3)>": "\"'`&amp;",
    "name": "invoice\u202egpj.exe\u200b\u0000 שלום 😀",
    "link": "https://evil.example/x.png",
}
SHOWN = [
    '"memo": "<script>alert(1)</script><img src=x onerror=alert(2)>"',
    '"</div><svg onload=alert(3)>": "\\"\'`&amp;"',
    '"name": "invoice\\u202egpj.exe\\u200b\\u0000 שלום 😀"',
    '"link": "https://evil.example/x.png"',
]

both = pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])


def session(page):
    """Return the session cookie."""
    return next(cookie for cookie in page.context.cookies() if cookie["name"] == "actpass")


@both
def test_deceptive_arguments_are_escaped_and_cannot_be_approved(gateway, operator, script):
    approval = gateway.ask(HOSTILE, goal="Pay <b>now</b>\nand skip review")
    page = operator(java_script_enabled=script)
    expect(page).to_have_title("(1) Approvals · ActPass")
    card = page.locator(f"#{approval}")
    for shown in [*SHOWN, "Pay <b>now</b>\nand skip review", "refund.medium_needs_approval", '"amount": 25000']:
        assert shown in card.inner_text(), shown
    assert card.locator("script, img, svg, b").count() == 0
    assert card.locator(".code mark").all_inner_texts() == ["\\u202e", "\\u200b\\u0000"]
    expect(card.locator(".hides")).to_be_visible()

    card.get_by_label("Note").fill("called the customer\nand the bank")
    # Deceptive text cannot be approved on the page.
    expect(card.locator(".withheld")).to_contain_text("cannot be approved here")
    assert card.get_by_role("button", name="Approve").count() == 0
    card.get_by_role("button", name="Reject", exact=True).click()
    expect(page.locator(".done")).to_contain_text("refunds.create is rejected by alice at")
    expect(page.get_by_role("heading", name="No pending requests")).to_be_visible()
    expect(page).to_have_title("Approvals · ActPass")
    assert page.locator("article").count() == 0
    decided = gateway.approval(approval)
    assert (decided["status"], decided["decided_by"]) == ("rejected", "alice")

    page.locator("#last").get_by_role("link", name="refunds.create").first.click()
    expect(page.locator("blockquote")).to_have_text("called the customer\nand the bank")
    assert page.get_by_role("button", name="Approve").count() == 0
    for shown in SHOWN:
        assert shown in page.locator("article").inner_text(), shown


@both
def test_operator_rejects_and_logs_out(gateway, operator, script):
    approval = gateway.ask()
    page = operator(java_script_enabled=script)
    cookie = session(page)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)
    page.get_by_role("button", name="Reject", exact=True).click()
    expect(page.locator(".done")).to_contain_text("refunds.create is rejected by alice at")
    assert gateway.approval(approval)["status"] == "rejected"
    page.get_by_role("button", name="Verify all events").click()
    expect(page.locator(".state")).to_contain_text("All events are verified")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert not [cookie for cookie in page.context.cookies() if cookie["name"] == "actpass"]


def test_refresh_preserves_unsent_notes(gateway, operator):
    first, second = gateway.ask(), gateway.ask({"amount": 31000})
    page = operator(viewport={"width": 900, "height": 2400})
    note = page.locator(f"#{second}").get_by_label("Note")
    note.click()
    note.press_sequentially("I am still wri")
    place = page.locator(f"#{second}").bounding_box()
    third = gateway.ask({"amount": 32000})
    gateway.call(f"/api/v1/approvals/{first}/reject", {}, key=ALICE)

    expect(page.locator(f"#{third}")).to_be_visible()
    expect(page.get_by_role("heading", name="2 pending")).to_be_visible()
    expect(page).to_have_title("(2) Approvals · ActPass")
    # Content under the pointer does not move; a decided request is marked and disabled.
    gone = page.locator(f"#{first}")
    expect(gone.locator(".gone")).to_be_visible()
    expect(gone.locator(".approve")).to_be_disabled()
    assert page.locator(f"#{second}").bounding_box() == place
    expect(note).to_be_focused()
    note.press_sequentially("ting")
    expect(note).to_have_value("I am still writing")

    # Another client decides a request with an unsent note: the note stays.
    gateway.call(f"/api/v1/approvals/{second}/approve", {}, key=ALICE)
    expect(page.locator(f"#{second} .gone")).to_be_visible()
    expect(note).to_have_value("I am still writing")
    page.locator(f"#{second} .gone").get_by_role("link").click()
    expect(page.locator(".times")).to_contain_text("approved by alice")


def test_shows_warning_when_out_of_date(gateway, operator):
    gateway.ask()
    page = operator()
    expect(page.locator("#stale")).to_be_hidden()
    page.route("**/live", lambda route: route.fulfill(status=500, body="no"))
    expect(page.locator("#stale")).to_have_text("The gateway does not respond. This page may be out of date.")
    page.unroute("**/live")
    expect(page.locator("#stale")).to_be_hidden()
    page.context.clear_cookies()
    expect(page.locator("#stale")).to_have_text("Your session has ended. Reload the page to log in again.")
    assert all("status of 500" in found or "status of 403" in found for found in page.watch.found)
    page.watch.found.clear()


def test_double_click_decides_once_and_late_decision_is_reported(gateway, operator):
    approval = gateway.ask()
    page = operator()
    gateway.call(f"/api/v1/approvals/{approval}/reject", {"note": "no"}, key="apdv_page_bob_secret")
    page.locator(f"#{approval}").get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("bob already rejected this at")
    assert [found for found in page.watch.found if "status of 409" not in found] == []
    page.watch.found.clear()
    page.get_by_role("link", name="All requests").click()

    approval = gateway.ask()
    expect(page.locator(f"#{approval}")).to_be_visible()
    page.locator(f"#{approval}").get_by_role("button", name="Approve").dblclick()
    expect(page.locator(".done")).to_contain_text("approved by alice")


def test_page_is_usable_by_keyboard(gateway, visit):
    approval = gateway.ask()
    page = visit()
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(ALICE)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="1 pending").wait_for()
    stops, outlines = [], []
    expected = ["Skip to content", "ActPass", "Requests", "Approvals", "Decisions", "Budgets", "Halts", "Webhooks"]
    expected += ["Passkeys", "Log out", "Refresh", "refunds.create", "note", "Approve", "Reject", "select", "note"]
    expected += ["Reject selected"]
    for _ in expected:
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.name"))
        outlines.append(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
    assert stops == expected
    assert set(outlines) == {"solid"}
    for _ in range(5):
        page.keyboard.press("Shift+Tab")
    page.keyboard.type("called the customer")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".done").wait_for()
    # The link skips the navigation.
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "refunds.create"
    page.keyboard.press("Enter")
    expect(page.locator("blockquote")).to_have_text("called the customer")
    assert gateway.approval(approval)["status"] == "approved"


CONTRAST = """() => {
  const channel = value => (value /= 255) <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
  };
  const low = [];
  let looked = 0;
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!text || !element.checkVisibility()) continue;
    looked += 1;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [looked, low];
}"""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("light", {"color_scheme": "light", "viewport": {"width": 960, "height": 1080}}),
        ("dark", {"color_scheme": "dark", "viewport": {"width": 960, "height": 1080}}),
        ("narrow", {"color_scheme": "light", "viewport": {"width": 320, "height": 640}}),
    ],
)
def test_page_is_accessible(gateway, operator, name, settings):
    ask = {"tool": "refunds.create", "resource": "", "agent_id": "support", "goal": "Refund an order"}
    for amount in (4900, 900000):
        body = {**ask, "args": {"amount": amount, "currency": "usd"}}
        gateway.call("/api/v1/actions/preflight", body)
    gateway.ask({"order": "7731", "reason": "damaged"}, user_id="customer-118")
    gateway.ask({"amount": 31000, "memo": "invoice\u202egpj.exe <b>urgent</b>"}, goal="Refund the order in the e-mail")
    page = operator(**settings)
    looked, low = page.evaluate(CONTRAST)
    assert low == []
    assert looked > 50
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls horizontally"
    unlabelled = "[...document.querySelectorAll('[type=password], textarea')].filter(i => !i.labels.length).length"
    assert page.evaluate(unlabelled) == 0
    small = "[...document.querySelectorAll('button')].filter(b => b.getBoundingClientRect().height < 32).length"
    assert page.evaluate(small) == 0
    page.screenshot(path=PICTURES / f"page-{name}.png", full_page=True)


def test_watch_detects_violations(gateway, operator):
    """Verify that the other tests would detect violations."""
    page = operator()
    page.evaluate("""() => {
        document.body.setAttribute("style", "opacity: .5");
        const other = document.createElement("img");
        other.src = "http://127.0.0.1:1/x.png";
        document.body.append(other);
        try { document.body.insertAdjacentHTML("beforeend", "<p>"); } catch { document.body.append("refused"); }
    }""")
    expect(page.locator("body")).to_contain_text("refused")
    page.wait_for_timeout(500)
    assert page.evaluate("getComputedStyle(document.body).opacity") == "1"
    found = "\n".join(page.watch.found)
    assert "Applying inline style violates" in found, found
    assert "127.0.0.1:1/x.png' violates" in found, found
    assert "TrustedHTML" in found, found
    page.watch.found.clear()
