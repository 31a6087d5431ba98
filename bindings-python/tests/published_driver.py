"""Run calls in the published client's interpreter: calls on standard input, results on standard output, as JSON."""

from __future__ import annotations

import ast
import json
import sys

import actpass

settings, calls = ast.literal_eval(sys.stdin.read())
client = actpass.ActPassClient(**settings) if settings else actpass.ActPassClient
returned = []
for method, arguments in calls:
    if method == "guard":
        arguments = {**arguments, "execute_fn": lambda _: "ran"}
    try:
        returned.append(getattr(client, method)(**arguments))
    except Exception as error:
        returned.append({"raised": type(error).__name__, "text": str(error)})
json.dump({"version": actpass.__version__, "returned": returned}["returned"], sys.stdout)
