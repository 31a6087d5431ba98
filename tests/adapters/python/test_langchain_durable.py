"""Approvals that outlive the process: checkpoints in SQLite and PostgreSQL, and one process for each step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, Real


@pytest.fixture(params=["sqlite", "postgres"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the location of the checkpoints."""
    if request.param == "sqlite":
        yield str(tmp_path / "checkpoints.db")
    else:
        yield from postgres(tmp_path)


def postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL server with an empty data folder, which listens on a socket in a separate folder."""
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no PostgreSQL is installed (Debian: apt-get install postgresql)")
        pytest.skip("no PostgreSQL is installed")
    programs = Path(found).resolve().parent
    # PostgreSQL rejects root; a socket's path may have about 100 bytes.
    own: dict[str, Any] = {"user": "postgres"} if os.getuid() == 0 else {}
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True, **own).strip())
    try:
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **own,
        )
        control = [programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
        subprocess.run(
            [*control, "-o", f"-c listen_addresses='' -k {folder}", "start"],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            **own,
        )
        try:
            yield f"host={folder} user=postgres dbname=postgres"
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"], check=True, cwd=folder, stdout=subprocess.DEVNULL, **own
            )
    finally:
        shutil.rmtree(folder)


def test_approvals_outlive_the_process(
    checkpoints: str, request: pytest.FixtureRequest, real_gateway: Real, tmp_path: Path, record_case: Any
) -> None:
    effects = tmp_path / "effects"

    def step(*more: str) -> Any:
        command = [sys.executable, str(HERE / "durable_langchain.py"), checkpoints, real_gateway.base_url, str(effects)]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refunds() -> list[str]:
        return sorted(effects.read_text().splitlines())

    first = step()
    assert sorted(first["waiting"]) == ["ch_2", "ch_3"]
    assert effects.read_text().splitlines() == ["ch_1 4900 usd"]
    assert step("resume")["waiting"] == first["waiting"]  # Too early.
    real_gateway.approve(first["waiting"]["ch_2"])
    real_gateway.reject(first["waiting"]["ch_3"])
    last = step("resume")
    assert last["waiting"] == {}
    assert last["answers"][:2] == ["refunded 4900", "refunded 25000"]
    assert "deny (approval.rejected)" in last["answers"][2]
    assert effects.read_text().splitlines() == ["ch_1 4900 usd", "ch_2 25000 usd"]
    record_case("langchain", "parallel: allow and approval", 2, request.node.callspec.params["checkpoints"])
