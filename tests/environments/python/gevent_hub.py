"""The second gateway is a greenlet of this process: a call that blocked the hub would wait for itself."""

# ruff: noqa: E402 - patches precede imports
from gevent import monkey

monkey.patch_all()

import json

import gevent
from actpass import ActPassClient
from gevent.pywsgi import WSGIServer
from probe import action, probe

print(probe(), flush=True)


asked = []


def answer(environ, start_response):
    asked.append(environ["PATH_INFO"])
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps({"decision": "allow", "event_id": "ev_1", "current_event_hash": "0"}).encode()]


server = WSGIServer(("127.0.0.1", 0), answer, log=None)
server.start()
client = ActPassClient("apk_dev", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=0, timeout=20)
me = gevent.getcurrent()
calls = [
    gevent.spawn(client.guard, **action(n), execute_fn=lambda _: gevent.getcurrent(), record_outcome=True)
    for n in range(5)
]
gevent.joinall(calls)
for call in calls:
    out = call.value
    assert out["executed"] and out["result"] is call, out
    assert out["evidence"]["event_id"] == "ev_1", out
try:
    client.guard(**{**action(1), "args": {"amount": float("nan")}}, execute_fn=print)
except Exception as error:
    assert type(error).__name__ == "ActPassArgumentError", error
else:
    raise AssertionError("NaN was sent")

items = [1]


def subject():
    items[0] = 2  # The argument differs from the evaluated argument: monitor runs the function and records the change.
    return "u"


recorded = asked.count("/api/v1/evidence/events")
pay = client.protect(tool="t", goal="g", user_id=subject, mode="monitor", record_outcome=True)(lambda items: items)
assert pay(items) == [2]
# A call that blocked the hub would time out before the gateway's greenlet read it.
assert asked.count("/api/v1/evidence/events") == recorded + 1, asked
