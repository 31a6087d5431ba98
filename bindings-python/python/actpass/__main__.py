"""``python -m actpass``: show the installation and configuration, and check the gateway.

Prints no secrets. Exit codes: 0, the gateway accepts the key; 1, the configuration is invalid; 2, the gateway is
unreachable or its response is invalid; 3, the gateway rejects the key.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from typing import Any, Optional

from . import _native
from ._client import ActPassClient
from ._errors import ActPassAuthenticationError, ActPassConfigError, ActPassError, ActPassPermissionError

#: Environment variables that the package reads, and whether their values may be printed.
_VARIABLES = {
    "ACTPASS_API_BASE_URL": False,  # A URL may contain a password.
    "ACTPASS_API_KEY": False,
    "ACTPASS_DPOP_KEY_FILE": True,
    "ACTPASS_LOG": True,
    "SSL_CERT_FILE": True,
    "SSL_CERT_DIR": True,
    "REQUESTS_CA_BUNDLE": True,
    "CURL_CA_BUNDLE": True,
    "HTTPS_PROXY": False,
    "ALL_PROXY": False,
    "NO_PROXY": True,
}
_OK, _INVALID, _UNREACHABLE, _REFUSED = range(4)


def main(arguments: Optional[list[str]] = None) -> int:
    """Print the report and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m actpass", description="Show the installation and check the gateway."
    )
    parser.add_argument("--no-check", action="store_true", help="do not contact the gateway")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="deadline of the check (10)")
    options = parser.parse_args(arguments)
    code, report = _report(check=not options.no_check, timeout=options.timeout)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for name, value in report.items():
            print(f"{name + ':':<22}{value if value is not None else '-'}")
    return code


def _report(*, check: bool, timeout: float) -> tuple[int, dict[str, Any]]:
    report: dict[str, Any] = {
        "actpass": _native.VERSION,
        "engine": f"{_native.VERSION}, {_native.__file__}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}",
    }
    for name, may_be_shown in _VARIABLES.items():
        for variable in (name, name.lower()):
            if os.environ.get(variable):
                report[variable] = os.environ[variable] if may_be_shown else "set"
    try:
        client = ActPassClient(timeout=timeout, max_retries=0)
    except ActPassConfigError as error:
        report["check"] = f"invalid configuration: {error}"
        return _INVALID, report
    with client:
        report.update(base_url=client.base_url, tenant_id=client.tenant_id, agent_id=client.agent_id, mode=client.mode)
        code = _OK
        if check:
            code, report["check"] = _check_gateway(client)
    return code, report


def _check_gateway(client: ActPassClient) -> tuple[int, str]:
    try:
        # An invalid passport: the gateway rejects it and changes nothing.
        client.verify_passport("actpass.reachability.check", "actpass:check")
    except (ActPassAuthenticationError, ActPassPermissionError) as error:
        return _REFUSED, f"the gateway rejects the key: {error}"
    except ActPassError as error:
        return _UNREACHABLE, f"{error.code}: {error}"
    return _OK, "the gateway accepts the key"


if __name__ == "__main__":
    sys.exit(main())
