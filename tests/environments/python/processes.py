"""A client used in the parent and then in children: ``processes.py spawn|fork|forkserver|pool``."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import sys

from actpass import ActPassClient
from probe import probe

CLIENT = ActPassClient()


def child(_: int) -> str:
    """Run in a process of the pool."""
    return probe(CLIENT)


def main(how: str) -> None:
    """Run the program in this process and in two children."""
    print(probe(CLIENT))
    context = multiprocessing.get_context("fork" if how == "pool" else how)
    if how == "pool":
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            print(*executor.map(child, range(2)), sep="\n")
    else:
        with context.Pool(2) as pool:
            print(*pool.map(child, range(2), chunksize=1), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
