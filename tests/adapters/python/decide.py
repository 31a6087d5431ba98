"""Decide an approval in a separate process, as a person would: decide.py BASE_URL APPROVAL approve|reject."""

import sys
import urllib.request

base_url, approval, verb = sys.argv[1:]
urllib.request.urlopen(
    urllib.request.Request(
        f"{base_url}/api/v1/approvals/{approval}/{verb}",
        b"{}",
        {"authorization": "Bearer apdv_dev", "content-type": "application/json"},
    ),
    timeout=30,
).read()
