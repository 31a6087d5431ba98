"""The vault, end to end: only the guarded function receives a secret that was set at the gateway."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actpass import canonical_outcome
from support import ACTION, CREDENTIAL, MODES, Callback, Gateway, binary, everything_shown

TOOL: str = ACTION["tool"]


@pytest.fixture
def settings(gateway: Gateway, tmp_path: Path) -> Path:
    """Give the running gateway's settings in a file, for vault commands that run at the same time."""
    path = tmp_path / "gateway.toml"
    policy = Path(__file__).resolve().parents[2] / "policies" / "dev.json"
    path.write_text(
        'listen = "127.0.0.1:0"\ndata = "data.db"\nmaster_key_file = "data.db.master-key"\n'
        f'[[tenants]]\nid = "dev"\npolicy = "{policy}"\n'
        f'[[keys]]\nname = "any"\ntenant = "dev"\nrole = "agent"\nhash = "sha256:{"0" * 64}"\n'
    )
    return path


def vault(settings: Path, *arguments: str, given: str = "") -> str:
    """Run a vault command and return its output."""
    command = [binary("ACTPASS_GATEWAY"), "vault", *arguments, "--config", str(settings)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert CREDENTIAL not in done.stdout + done.stderr
    return done.stdout


def process_shown(pid: int) -> bytes:
    """Return the arguments and environment of a process, which other processes can read."""
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


def kept(gateway: Gateway, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the gateway's files, output and responses, except for the response with the secret."""
    for path in sorted(folder.iterdir()):
        yield path.name, path.read_bytes()
    yield "the process", process_shown(gateway.process.pid)
    for chain in ("decisions", "vault"):
        command = [binary("ACTPASS_GATEWAY"), "evidence", "export", chain, "--tenant", "dev"]
        done = subprocess.run(
            [*command, "--data", str(folder / "data.db")], capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b"\n") > 0
        yield f"the export of {chain}", done.stdout + done.stderr
    for path in ("/", "/api/v1/approvals", "/api/v1/evidence/chains/decisions", "/api/v1/evidence/chains/vault"):
        headers = {"authorization": "Bearer apdv_dev", "accept": "text/html, */*"}
        request = urllib.request.Request(gateway.base_url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                yield path, response.read()
        except urllib.error.HTTPError as error:
            with error:
                yield path, error.read()


@pytest.mark.parametrize("expires", [None, "2999-01-01T00:00:00Z"])
def test_credential_is_only_in_callback(gateway: Gateway, settings: Path, tmp_path: Path, expires: str | None) -> None:
    client = gateway.client(timeout=5)
    vault(settings, "set", TOOL, *(["--expires", expires] if expires else []), given=CREDENTIAL + "\n")
    shown: list[str] = []
    for mode in MODES:
        callback = Callback()
        # An idempotency key authorizes one call, so each call has its own key.
        for runs in (1, 2):
            key = f"{mode} {runs}"
            out: Any = client.guard(execute_fn=callback, **ACTION, mode=mode, idempotency_key=key)
            (context,) = callback.contexts[runs - 1 :]
            assert context["credential"] == {"token": CREDENTIAL, "expires_at": expires}
            assert (out["executed"], out["result"]) == (True, callback.result)
            assert out["decision"]["decision"] == "allow"
            assert "credential" not in out["decision"]
            assert out["decision"]["credential_id"].startswith("cr_")
            shown += [everything_shown(out), everything_shown(context["decision"]), canonical_outcome(out)]
        answer: Any = client.preflight(**ACTION, mode=mode)
        assert "credential" not in answer
        shown.append(everything_shown(answer))
    shown.append(everything_shown(client))
    assert "refund.small_in_scope" in shown[0], "the searched text is incomplete"
    assert not [text for text in shown if CREDENTIAL in text]

    files = dict(kept(gateway, tmp_path))
    assert b"refund.small_in_scope" in files["the export of decisions"], "the searched text is incomplete"
    assert b"credential.set" in files["the export of vault"]
    assert b"cr_" in files["data.db"] + files["data.db-wal"]
    assert [name for name, content in files.items() if CREDENTIAL.encode() in content] == []


def test_blocked_action_gets_no_credential(gateway: Gateway, settings: Path) -> None:
    client = gateway.client(timeout=5)
    vault(settings, "set", TOOL, given=CREDENTIAL)
    for amount, mode in ((90000, "enforce"), (25000, "enforce"), (90000, "monitor"), (90000, "warn")):
        callback = Callback()
        action = {**ACTION, "args": {"amount": amount, "currency": "usd"}, "mode": mode}
        client.guard(execute_fn=callback, **action)
        assert [context["credential"] for context in callback.contexts] == [None] * callback.runs
        assert callback.runs == (mode != "enforce")


def test_expired_or_removed_secret_is_withheld(gateway: Gateway, settings: Path) -> None:
    client = gateway.client(timeout=5)
    vault(settings, "set", TOOL, "--expires", "2s", given=CREDENTIAL)
    callback = Callback()
    client.guard(execute_fn=callback, **ACTION, idempotency_key="k")
    assert callback.contexts[0]["credential"]["token"] == CREDENTIAL
    time.sleep(2.1)
    out: Any = client.guard(execute_fn=callback, **ACTION)
    assert (out["executed"], out["decision"]["reason_code"]) == (False, "credential.expired")
    # The first response has expired: the gateway decides the request again.
    repeated: Any = client.guard(execute_fn=callback, **ACTION, idempotency_key="k")
    assert (repeated["executed"], repeated["decision"]["reason_code"]) == (False, "credential.expired")
    assert "error" not in repeated
    assert callback.runs == 1

    vault(settings, "remove", TOOL)
    client.guard(execute_fn=callback, **ACTION)
    assert callback.contexts[1]["credential"] is None
    assert vault(settings, "list") == ""


def test_vault_set_hides_secret_from_other_processes(gateway: Gateway, settings: Path) -> None:
    command = [binary("ACTPASS_GATEWAY"), "vault", "set", TOOL, "--config", str(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(CREDENTIAL)
        process.stdin.flush()
        assert CREDENTIAL.encode() not in process_shown(process.pid)
        process.stdin.close()
        assert process.stdout.read().startswith("set cr_")


def test_terminal_does_not_echo_the_secret(gateway: Gateway, settings: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            path = binary("ACTPASS_GATEWAY")
            os.execv(path, [path, "vault", "set", TOOL, "--config", str(settings)])
        os._exit(127)
    try:
        shown = read_until(terminal, b"(not shown): ")
        # Input sent before the program disables echo would appear on the terminal.
        deadline = time.monotonic() + 20
        while termios.tcgetattr(terminal)[3] & termios.ECHO:
            assert time.monotonic() < deadline, "the terminal still echoes its input"
            time.sleep(0.001)
        os.write(terminal, CREDENTIAL.encode() + b"\n")
        shown += read_until(terminal, b"set cr_")
        _, status = os.waitpid(child, 0)
        assert status == 0
    finally:
        # Closing the terminal ends a running child.
        os.close(terminal)
    assert CREDENTIAL.encode() not in shown
    callback = Callback()
    gateway.client(timeout=5).guard(execute_fn=callback, **ACTION)
    assert callback.contexts[0]["credential"] == {"token": CREDENTIAL, "expires_at": None}


def read_until(terminal: int, end: bytes) -> bytes:
    """Read the terminal's output up to and including ``end``."""
    shown = b""
    deadline = time.monotonic() + 20
    while end not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"the terminal shows only {shown!r}"
        shown += os.read(terminal, 1024)
    return shown
