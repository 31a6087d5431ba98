"""The passports of ``tests/passports/vectors.json``, verified offline."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support import Hostile, answer, new_async_client, new_client

ROOT = Path(__file__).resolve().parents[2]
FILE: dict[str, Any] = json.loads((ROOT / "tests/passports/vectors.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = FILE["cases"]


def test_vectors_are_complete() -> None:
    assert len(CASES) == 56


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["description"])
def test_verifies_vector(hostile: Hostile, case: dict[str, Any], kind: str) -> None:
    with hostile.play(answer({"keys": case.get("keys", FILE["keys"])})) as gateway:
        given = (case["token"], FILE["audience"])
        if kind == "sync":
            found: Any = new_client(gateway.base_url).verify_passport_offline(*given, issuer=FILE["issuer"])
        else:
            client = new_async_client(gateway.base_url)
            found = asyncio.run(client.verify_passport_offline(*given, issuer=FILE["issuer"]))
    assert (found["valid"], found["errors"]) == (not case["errors"], case["errors"])
