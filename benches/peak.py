"""Print the peak memory of a process that makes guarded calls with one client and imports nothing else, in bytes.

Usage: peak.py URL CALLS [FOLDER]; FOLDER contains the package, if it is not installed.
"""

import sys

url, calls = sys.argv[1], int(sys.argv[2])
sys.path[:0] = sys.argv[3:]

import actpass  # noqa: E402

client = actpass.ActPassClient("apk_bench", base_url=url)
for _ in range(calls):
    client.guard(
        goal="resolve_refund_request",
        tool="stripe.refund.create",
        args={"amount": 4900, "currency": "usd"},
        execute_fn=lambda ctx: None,
    )
with open("/proc/self/status") as status:
    [peak] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
print(int(peak) * 1024)
