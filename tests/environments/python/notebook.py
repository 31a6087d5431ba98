"""A Jupyter kernel: the blocking client in a cell while the kernel's loop runs, and the async client awaited."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

notebook = nbformat.v4.new_notebook(
    cells=[
        nbformat.v4.new_code_cell("from probe import probe, probe_async\nprint(probe())"),
        nbformat.v4.new_code_cell("print(await probe_async())"),
    ]
)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
for cell in notebook.cells:
    print(*(output["text"] for output in cell.outputs), sep="")
