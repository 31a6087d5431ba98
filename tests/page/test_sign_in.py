"""Test the sign-in at a certified OpenID provider, npm's oidc-provider, in Chromium."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from conftest import GATEWAY, OUTPUT, ROOT
from playwright.sync_api import expect

#: The folder with the installed packages of ``oidc/package.json``.
PACKAGES = os.environ.get("ACTPASS_OIDC_PROVIDER", "")
CLIENT_SECRET = secrets.token_hex(24)
EXPIRED = "The sign-in has expired, or was begun in another browser"


#: Starts a program with the listening socket that is its standard input, as systemd does.
INHERITING = 'exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'


class Site:
    """A provider, and one gateway or two on one database."""

    def __init__(self, folder, database=None):
        """Start the provider, then the gateways."""
        self.processes = []
        # The provider needs the URLs first. The sockets stay open, so that no other process takes the ports.
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(1 if database is None else 2)]
        ports = [listener.getsockname()[1] for listener in listeners]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.log = (OUTPUT / "page-sign-in.log").open("ab")
        program = Path(__file__).parent / "oidc/provider.mjs"
        self.provider = self.start(["node", str(program), PACKAGES, CLIENT_SECRET, *self.urls])
        (folder / "client.secret").write_text(CLIENT_SECRET)
        hashing = subprocess.run(
            [GATEWAY, "key", "hash"], input="apk_sign_in_secret", capture_output=True, text=True, check=True
        )
        self.keys = ['[[keys]]\nname = "agent"\nrole = "agent"\ntenant = "shop"', hashing.stdout.strip()]
        (folder / "master.key").write_text(secrets.token_hex(32))
        for port, listener in zip(ports, listeners):
            path = folder / f"{port}.toml"
            path.write_text(self.settings(port, database))
            with listener:
                command = ["sh", "-c", INHERITING, "sh", GATEWAY, "serve", "--config", str(path)]
                address = self.start(command, stdin=listener)
            assert address == f"listening on http://127.0.0.1:{port}"
        self.url = self.urls[0]

    def settings(self, port, database):
        """Return the settings of a gateway."""
        lines = [
            f'listen = "127.0.0.1:{port}"',
            f'issuer = "{self.urls[0]}"',
            'master_key_file = "master.key"',
            'data = "data.db"' if database is None else f'database_url = "{database}"',
            f'[[tenants]]\nid = "shop"\npolicy = {json.dumps(str(ROOT / "policies/refunds.json"))}',
            f'[sign_in]\nissuer = "{self.provider}"\nclient_id = "actpass"\nclient_secret_file = "client.secret"',
            'tenant = "shop"\ndanger_allow_private_address = true',
            '[[sign_in.roles]]\ngroup = "actpass-operators"\nrole = "operator"',
            '[[sign_in.roles]]\ngroup = "finance"\nrole = "approver"',
        ]
        return "\n".join([*lines, *self.keys])

    def start(self, command, stdin=None):
        """Start a process and return the first line of its output."""
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.processes.append(process)
        line = process.stdout.readline().strip()
        assert line, command
        return line

    def change_tokens(self, mode):
        """Change the ID tokens that the provider issues from now on."""
        with urllib.request.urlopen(f"{self.provider}/test?mode={mode}") as answer:
            assert answer.read().decode() == mode

    def stop(self):
        """Stop all processes."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(20)
            process.stdout.close()
        self.log.close()


@pytest.fixture
def site(tmp_path):
    """Start a provider and a gateway."""
    require_provider()
    running = Site(tmp_path)
    yield running
    running.stop()


def require_provider():
    """Skip without the provider, or fail in CI."""
    if not (Path(PACKAGES) / "node_modules/oidc-provider").is_dir() or shutil.which("node") is None:
        missing = "the OpenID provider is missing: it needs Node and npm"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture
def browser(chromium):
    """Create pages in separate browser contexts."""
    opened = []

    def page():
        context = chromium.new_context()
        context.set_default_timeout(20_000)
        opened.append(context)
        return context.new_page()

    yield page
    for context in opened:
        context.close()


def sign_in(page, url, name):
    """Sign in as a person at the provider; return the address to which the provider sent the browser."""
    callbacks = []
    page.on("request", lambda request: "/sign-in/callback" in request.url and callbacks.append(request.url))
    page.goto(url)
    page.get_by_role("link", name="Sign in").click()
    page.locator("input[name=login]").fill(name)
    page.locator("input[name=password]").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url(f"{url}/**")
    return callbacks[0]


def is_signed_in(page, url):
    """Return whether the page shows a session."""
    page.goto(url)
    return page.get_by_role("button", name="Log out").count() == 1


@pytest.mark.parametrize(("name", "ledger"), [("alice", True), ("bob", False)])
def test_group_gives_the_role(site, browser, name, ledger):
    page = browser()
    sign_in(page, site.url, name)
    page.get_by_role("button", name="Log out").wait_for()
    expect(page.locator(".who .name")).to_have_text(f"{name}@shop.example")
    # Operators read the ledger, approvers do not.
    assert (page.get_by_role("link", name="Decisions").count() == 1) is ledger
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert not is_signed_in(page, site.url)


def test_person_without_a_role_is_refused(site, browser):
    page = browser()
    sign_in(page, site.url, "carol")
    expect(page.get_by_text("none of your groups has a role")).to_be_visible()
    assert not is_signed_in(page, site.url)


@pytest.mark.parametrize("mode", ["wrong-audience", "expired", "wrong-nonce", "foreign-key"])
def test_wrong_token_is_refused(site, browser, mode):
    site.change_tokens(mode)
    page = browser()
    sign_in(page, site.url, "alice")
    expect(page.get_by_text("The sign-in failed")).to_be_visible()
    assert not is_signed_in(page, site.url)
    site.change_tokens("none")
    sign_in(browser(), site.url, "alice")


def test_callback_counts_once_and_in_its_browser(site, browser):
    page = browser()
    callback = sign_in(page, site.url, "alice")
    page.get_by_role("button", name="Log out").wait_for()
    thief = browser()
    thief.goto(callback)
    expect(thief.get_by_text(EXPIRED)).to_be_visible()
    assert not is_signed_in(thief, site.url)
    page.goto(callback)
    expect(page.get_by_text(EXPIRED)).to_be_visible()
    # A state that was never issued.
    page.goto(f"{site.url}/sign-in/callback?code=x&state={'0' * 43}")
    expect(page.get_by_text(EXPIRED)).to_be_visible()


def log_out_at_provider(page, site):
    """Log out at the provider, which notifies the gateway."""
    page.goto(f"{site.provider}/session/end")
    page.get_by_role("button", name="Yes, sign me out").click()
    page.get_by_text("Sign-out Success").wait_for()


def test_logout_elsewhere_ends_the_session(site, browser):
    page, other = browser(), browser()
    sign_in(page, site.url, "alice")
    page.get_by_role("button", name="Log out").wait_for()
    sign_in(other, site.url, "bob")
    other.get_by_role("button", name="Log out").wait_for()
    log_out_at_provider(page.context.new_page(), site)
    assert not is_signed_in(page, site.url)
    assert is_signed_in(other, site.url), "the session of another person stays"


@pytest.fixture
def database(tmp_path):
    """Start PostgreSQL and return its URL."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = installed[-1] if installed else shutil.which("initdb")
    if not found:
        pytest.skip("PostgreSQL is missing")
    programs, folder = Path(found).parent, tmp_path / "postgres"
    folder.mkdir()
    # The server refuses to run as root.
    owner = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    if owner:
        shutil.chown(folder, **owner)
        for parent in tmp_path.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
        tmp_path.chmod(0o711)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data = str(folder / "data")

    def run(program, *arguments):
        with (OUTPUT / "page-postgres.log").open("ab") as log:
            command = [str(programs / program), "-D", data, *arguments]
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=folder, **owner)

    run("initdb", "-U", "postgres", "-A", "trust", "--locale", "C", "-E", "UTF8", "--no-sync")
    run("pg_ctl", "-w", "-o", f"-p {port} -k {folder} -h 127.0.0.1", "start")
    yield f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
    run("pg_ctl", "-w", "-m", "fast", "stop")


def test_two_gateways_serve_one_session(database, tmp_path, browser):
    require_provider()
    site = Site(tmp_path, database)
    try:
        first, second = site.urls
        page = browser()
        sign_in(page, first, "alice")
        page.get_by_role("button", name="Log out").wait_for()
        assert is_signed_in(page, second)
        expect(page.locator(".who .name")).to_have_text("alice@shop.example")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert not is_signed_in(page, first)
        sign_in(browser(), first, "bob")
        # The provider notifies the first gateway; the session ends at both.
        page = browser()
        sign_in(page, first, "alice")
        page.get_by_role("button", name="Log out").wait_for()
        log_out_at_provider(page.context.new_page(), site)
        assert not is_signed_in(page, second)
    finally:
        site.stop()
