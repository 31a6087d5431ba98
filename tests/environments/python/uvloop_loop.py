"""A program on uvloop."""

import uvloop
from probe import probe_async

print(uvloop.run(probe_async()))
