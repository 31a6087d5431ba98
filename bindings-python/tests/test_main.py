"""The output and exit codes of ``python -m actpass``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import actpass
import pytest
from support import API_KEY, PACKAGE, WATCH, Gateway, Hostile, answer

VALID = answer({"valid": False, "errors": ["passport.malformed"]})


def run(environment: dict[str, str], *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "actpass", *options]
    environment = {"PYTHONPATH": str(PACKAGE), **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    WATCH.note(done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("step", "code", "said"),
    [
        (VALID, 0, "the gateway accepts the key"),
        (answer({}, status=401), 3, "the gateway rejects the key: verify_passport: the gateway answered 401"),
        (answer({}, status=403), 3, "the gateway rejects the key: verify_passport: the gateway answered 403"),
        (answer({}, status=500), 2, "actpass.gateway_error: verify_passport"),
        (answer([]), 2, "actpass.invalid_response: verify_passport"),
        ({"do": "reset", "at": "request"}, 2, "actpass.unreachable: verify_passport"),
    ],
)
def test_check_reports_result_and_exit_code(hostile: Hostile, step: dict[str, Any], code: int, said: str) -> None:
    with hostile.play(step) as gateway:
        environment = {"ACTPASS_API_KEY": API_KEY, "ACTPASS_API_BASE_URL": gateway.base_url}
        found, text = run(environment)
        assert len(gateway.seen()) == 1
    assert (found, said in text) == (code, True), text
    assert API_KEY not in text
    assert actpass.__version__ in text
    assert gateway.base_url in text


def test_no_check_sends_nothing(hostile: Hostile) -> None:
    with hostile.play(VALID) as gateway:
        environment = {"ACTPASS_API_KEY": API_KEY, "ACTPASS_API_BASE_URL": gateway.base_url}
        code, text = run(environment, "--no-check", "--json")
        assert gateway.seen() == []
    report = json.loads(text)
    assert code == 0
    assert report["ACTPASS_API_KEY"] == report["ACTPASS_API_BASE_URL"] == "set"
    assert (report["base_url"], report["agent_id"], report["mode"]) == (gateway.base_url, "sdk", "enforce")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ACTPASS_API_KEY": f"{API_KEY}\n"},
        {"ACTPASS_API_KEY": API_KEY, "ACTPASS_API_BASE_URL": f"https://user:{API_KEY}@gate.example"},
        {"ACTPASS_API_KEY": API_KEY, "HTTPS_PROXY": f"nonsense://user:{API_KEY}@proxy"},
    ],
)
def test_reports_invalid_configuration(environment: dict[str, str]) -> None:
    code, text = run(environment)
    assert code == 1
    assert "invalid configuration: " in text
    assert API_KEY not in text


def test_check_succeeds_against_real_gateway(gateway: Gateway) -> None:
    code, _ = run({"ACTPASS_API_KEY": "apk_dev", "ACTPASS_API_BASE_URL": gateway.base_url})
    assert code == 0
    code, _ = run({"ACTPASS_API_KEY": "apk_unknown", "ACTPASS_API_BASE_URL": gateway.base_url})
    assert code == 3


def test_package_contains_main_module() -> None:
    assert (Path(actpass.__file__).parent / "__main__.py").is_file()
