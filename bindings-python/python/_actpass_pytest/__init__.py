"""The pytest plugin of actpass: the fixture ``actpass_gateway`` and its option.

pytest imports plugins in every run. So this package is separate from ``actpass`` and imports it only when a test uses
the fixture. Tests use :mod:`actpass.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actpass.testing import RealGateway, ScriptedGateway

OPTION = "--actpass-gateway"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("actpass").addoption(
        OPTION,
        metavar="PROGRAM",
        help="run the real gateway for the fixture actpass_gateway; 'installed' is that of the package actpass-gateway",
    )


@pytest.fixture
def actpass_gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScriptedGateway | RealGateway]:
    """Provide a gateway to this test; clients without own settings connect to it."""
    from actpass.testing import RealGateway, ScriptedGateway, installed_gateway  # noqa: PLC0415

    program = request.config.getoption(OPTION, default=None)
    if program == "installed":
        program = installed_gateway()
    gateway: ScriptedGateway | RealGateway
    gateway = RealGateway(program, str(tmp_path_factory.mktemp("actpass"))) if program else ScriptedGateway()
    # A separate patch: a test may call `undo()` on the fixture `monkeypatch`.
    with gateway, pytest.MonkeyPatch.context() as patch:
        for name, value in gateway.environment.items():
            patch.setenv(name, value)
        yield gateway
