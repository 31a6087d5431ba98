"""A process that is stopped between two calls and continued, like frozen and thawed cloud functions."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from actpass import ActPassClient
from probe import probe

client = ActPassClient()
print(probe(client))
parent = os.getpid()
if os.fork() == 0:
    # The third member is the state of the process; T is stopped.
    while Path(f"/proc/{parent}/stat").read_text(encoding="ascii").rpartition(") ")[2][0] != "T":
        time.sleep(0.01)
    os.kill(parent, signal.SIGCONT)
    os._exit(0)
os.kill(parent, signal.SIGSTOP)
os.wait()
print(probe(client))
