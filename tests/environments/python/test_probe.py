"""The program as tests. The output is written to files, because pytest-xdist workers hide printed output."""

from __future__ import annotations

from pathlib import Path

import pytest
from probe import probe


@pytest.mark.parametrize("number", range(4))
def test_probe(number: int) -> None:
    Path(__file__).with_name(f"result-{number}").write_text(probe(), encoding="utf-8")
