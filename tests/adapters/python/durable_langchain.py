"""A process of an agent that waits for approvals: durable_langchain.py CHECKPOINTS BASE_URL EFFECTS [resume].

Prints the ids of the pending approvals by charge and the tools' answers as JSON.
Appends a line to EFFECTS for each refund.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from actpass import ActPassClient
from actpass.integrations.langchain import ActPassMiddleware
from langchain_core.tools import tool
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command
from support_langchain import REFUND, agent, answers, call


def main(checkpoints: str, base_url: str, effects: Path, *, resumes: bool) -> None:
    @tool
    def refund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund a charge."""
        with effects.open("a") as file:
            file.write(f"{charge} {amount} {currency}\n")
        return f"refunded {amount}"

    client = ActPassClient("apk_dev", agent_id="support_agent", base_url=base_url)
    turn = [call(4900, id="a"), call(25000, id="b", charge="ch_2"), call(26000, id="c", charge="ch_3")]
    with saver_of(checkpoints) as saver:
        saver.setup()
        graph = agent(
            turn, tools=[refund], middleware=[ActPassMiddleware(client, {"refund": REFUND})], checkpointer=saver
        )
        config: Any = {"configurable": {"thread_id": "t"}}
        given: Any = {"messages": [("user", "refund it")]}
        if resumes:
            given = Command(resume={one.id: one.value for one in graph.get_state(config).interrupts})
        state = graph.invoke(given, config)
    pending = [one.value["actpass"] for one in state.get("__interrupt__", ())]
    waiting = {one["args"]["charge"]: one["approval_request_id"] for one in pending}
    print(json.dumps({"waiting": waiting, "answers": [one.content for one in answers(state)]}))


def saver_of(checkpoints: str) -> AbstractContextManager[Any]:
    if checkpoints.startswith("host="):
        return PostgresSaver.from_conn_string(checkpoints)
    return SqliteSaver.from_conn_string(checkpoints)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), resumes=len(sys.argv) > 4)
