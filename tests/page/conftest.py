"""Fixtures: a gateway and a browser."""

import base64
import json
import os
import shutil
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

# The page refreshes every few seconds; busy machines are slower.
expect.set_options(timeout=30_000)

AGENT = "apk_page_secret"
ALICE = "apdv_page_secret"
ROOT = Path(__file__).resolve().parents[2]
GATEWAY = os.environ["ACTPASS_GATEWAY"]
OUTPUT = Path(os.environ["ACTPASS_TEST_OUTPUT"])

# The browser itself must not send requests, so that all traffic is the page's.
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The sandbox is not available to root.
if os.geteuid() == 0:
    FLAGS.append("--no-sandbox")


class Gateway:
    """A gateway process for one test."""

    def __init__(self, folder, policy=ROOT / "policies/refunds.json", receiver=None, webhooks=()):
        """Write the settings and start the gateway."""
        keys = [("agent", AGENT, "agent"), ("alice", ALICE, "operator"), ("bob", "apdv_page_bob_secret", "operator")]
        settings = 'listen = "127.0.0.1:0"\ndata = "data.db"\n[[tenants]]\nid = "shop"\n'
        settings += f"policy = {json.dumps(str(policy))}\n"
        for name, key, role in keys:
            hashing = subprocess.run([GATEWAY, "key", "hash"], input=key, capture_output=True, text=True, check=True)
            settings += f'[[keys]]\nname = "{name}"\n{hashing.stdout.strip()}\ntenant = "shop"\nrole = "{role}"\n'
        (folder / "ops.secret").write_text("whsec_" + base64.b64encode(bytes(range(32))).decode())
        for name, path, more in webhooks:
            settings += f'[[webhooks]]\nname = "{name}"\nurl = "{receiver}{path}"\nsecret_file = "ops.secret"\n'
            settings += f"danger_allow_private_address = true\nmax_retry_seconds = 1\n{more}\n"
        (folder / "gateway.toml").write_text(settings)
        self.log = (OUTPUT / "page-gateway.log").open("ab")
        command = [GATEWAY, "serve", "--config", folder / "gateway.toml"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.url = self.process.stdout.readline().strip().removeprefix("listening on ")

    def call(self, path, body=None, key=AGENT, method=None):
        """Call the API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def ask(self, args=None, goal="Refund order 7731: the parcel arrived broken", **more):
        """Request a refund that needs an approval and return the approval's id."""
        args = {"amount": 25000, "currency": "usd", **(args or {})}
        body = {"agent_id": "support", "goal": goal, "tool": "refunds.create", "resource": "order/7731", "args": args}
        return self.call("/api/v1/actions/preflight", {**body, **more})["approval_request_id"]

    def approval(self, approval):
        """Return an approval from the API."""
        return self.call(f"/api/v1/approvals/{approval}")

    def stop(self):
        """Stop the gateway."""
        self.process.terminate()
        assert self.process.wait(20) == 0
        self.process.stdout.close()
        self.log.close()


@pytest.fixture
def webhooks():
    """Return the name, path and further settings of each webhook."""
    return ()


@pytest.fixture
def gateway(tmp_path, receiver, webhooks):
    """Start a new gateway."""
    running = Gateway(tmp_path, receiver=receiver, webhooks=webhooks)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def receiver():
    """Run a receiver of webhooks that responds with the status in the path, and return its URL."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(int(self.path.removeprefix("/")))
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def chromium():
    """Start the browser. Without one, skip locally and fail in CI."""
    path = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
    )
    if path is None:
        missing = "Chromium is missing: install it or set CHROMIUM to its path"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Watch:
    """Collects violations of a page."""

    def __init__(self, page, url):
        """Start collecting."""
        self.found, self.url = [], url
        page.on("console", self.message)
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.found.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self.request)
        page.on("requestfailed", self.failed)

    def failed(self, request):
        """Record failed requests, except those aborted by navigation."""
        if request.failure != "net::ERR_ABORTED" or request.is_navigation_request():
            self.found.append(f"failed: {request.url} {request.failure}")

    def message(self, message):
        """Record errors and warnings, including violations of the content security policy."""
        if message.type in ("error", "warning"):
            self.found.append(f"console: {message.text}")

    def request(self, request):
        """Record requests to other origins."""
        if not request.url.startswith(self.url + "/"):
            self.found.append(f"request: {request.url}")


@pytest.fixture
def visit(chromium, gateway):
    """Create pages with separate browser contexts; assert at the end that no page has violations."""
    opened = []

    def page(**settings):
        context = chromium.new_context(**settings)
        context.set_default_timeout(20_000)
        page = context.new_page()
        opened.append((context, Watch(page, gateway.url)))
        page.watch = opened[-1][1]
        page.goto(gateway.url)
        return page

    yield page
    for context, _ in opened:
        context.close()
    assert [watch.found for _, watch in opened] == [[] for _ in opened]


@pytest.fixture
def operator(visit):
    """Create pages on which Alice is logged in."""

    def page(**settings):
        page = visit(**settings)
        page.get_by_label("API key").fill(ALICE)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Log out").wait_for()
        return page

    return page
