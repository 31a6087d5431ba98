"""A gateway that allows every action and echoes the request, so that a test detects a response to another request.

It runs until its standard input ends. Its first line is its URL. ``--idle-close SECONDS`` closes idle connections.
``args.delay`` in a preflight delays its response by seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from typing import Any

CONNECTIONS = itertools.count(1)
REQUESTS = itertools.count(1)


def reply(path: str, asked: dict[str, Any], connection: int) -> dict[str, Any]:
    """Return the response to ``asked``."""
    said = {"asked": asked, "connection": connection, "request": next(REQUESTS)}
    if path.endswith("/evidence/events"):
        return {"event_id": f"ev_{asked['chain_id']}", "current_event_hash": "00", **said}
    return {"decision": "allow", "reason_code": "echo", "evidence_event_id": f"ev_{said['request']}", **said}


async def serve_one(idle: float | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    connection = next(CONNECTIONS)
    try:
        while True:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), idle)
            lines = head.decode("latin-1").split("\r\n")
            path = lines[0].split(" ")[1]
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            asked = json.loads(await reader.readexactly(int(headers["content-length"])))
            await asyncio.sleep((asked.get("args") or {}).get("delay", 0))
            body = json.dumps(reply(path, asked, connection)).encode()
            start = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
            writer.write(f"{start}{len(body)}\r\n\r\n".encode() + body)
    except (asyncio.IncompleteReadError, asyncio.TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--idle-close", type=float)
    idle = parser.parse_args().idle_close
    server = await asyncio.start_server(lambda r, w: serve_one(idle, r, w), "127.0.0.1", 0, backlog=256)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
