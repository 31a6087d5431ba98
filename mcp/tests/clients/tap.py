"""Notes the messages between a client and a server over the standard streams.

usage: tap.py LOG COMMAND ARGUMENT…

A line of LOG is `>` or `<`, and the message of the client or the server.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import IO

LOCK = threading.Lock()


def copy(source: IO[bytes], target: IO[bytes], log: IO[bytes], mark: bytes) -> None:
    for line in source:
        with LOCK:
            log.write(mark + line)
            log.flush()
        try:
            target.write(line)
            target.flush()
        except OSError:
            break
    target.close()


def main() -> int:
    with open(sys.argv[1], "ab") as log:
        server = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert server.stdin and server.stdout
        reader = threading.Thread(target=copy, args=(sys.stdin.buffer, server.stdin, log, b">"), daemon=True)
        reader.start()
        copy(server.stdout, sys.stdout.buffer, log, b"<")
        return server.wait()


if __name__ == "__main__":
    sys.exit(main())
