"""The unit tests of release 1.1.3, run against this package; ``docs/migrating-from-1.1.3.md`` explains each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support import PACKAGE, TESTS, WATCH

GUIDE = TESTS.parents[1] / "docs" / "migrating-from-1.1.3.md"

#: The published client's tests and their results with this client.
RESULTS = {
    "test_preflight_posts_expected_body": "ERROR",  # Patches a private method that sends the request.
    "test_guard_executes_only_on_allow": "ERROR",  # Patches preflight to return allow; only a gateway can allow.
    "test_guard_blocks_on_deny": "ok",
    "test_hash_payload_is_canonical": "ok",
    "test_sign_payload_deterministic": "ok",
    "test_default_base_url_is_canonical": "ok",
    "test_api_key_only_construction": "ERROR",  # Passes except for the last line, which calls a private method.
}


@pytest.fixture
def published_tests(tmp_path: Path) -> Path:
    """Give the published tests, from the source archive in ``ACTPASS_PUBLISHED_SDIST``."""
    given = os.environ.get("ACTPASS_PUBLISHED_SDIST")
    if given is None:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "actpass"]
        subprocess.run([*download, "--dest", str(tmp_path), "actpass==1.1.3"], check=True, capture_output=True)
    archive = Path(given) if given else tmp_path / "actpass-1.1.3.tar.gz"
    # If the folder has no package, the tests import the installed one.
    (tmp_path / "their" / "tests").mkdir(parents=True)
    path = tmp_path / "their" / "tests" / "test_client.py"
    with tarfile.open(archive) as packed:
        member = packed.extractfile("actpass-1.1.3/tests/test_client.py")
        assert member is not None
        path.write_bytes(member.read())
    return path


def test_published_test_results_match_guide(published_tests: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    command = [sys.executable, str(published_tests), "-v"]
    done = subprocess.run(
        command, cwd=published_tests.parent, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    WATCH.note(done.stdout, done.stderr)
    said = dict(re.findall(r"^(test_\w+) \(.*?\) ... (\w+)$", done.stderr, re.MULTILINE))
    assert said == RESULTS, done.stderr
    attributes = re.findall(r"(?:AttributeError|KeyError): .*?'(\w+)'\)?$", done.stderr, re.MULTILINE)
    assert sorted(attributes) == ["_headers", "_request", "result"], done.stderr


def test_guide_explains_each_result() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for name, result in RESULTS.items():
        [row] = [line for line in guide.splitlines() if line.startswith(f"| `{name}`")]
        assert ("passes" in row) == (result == "ok"), row
