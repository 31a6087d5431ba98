# Names that the reader of the documentation has in the program around a block; see reader.py.
from typing import Any

from actpass import ActPassClient

client: ActPassClient
action: dict[str, Any]
stripe: Any
os: Any
