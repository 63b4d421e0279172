"""What a command asks a cluster to do: a request below the path of whichever endpoint gets it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Action:
    """One request. `once`: never sent to a second endpoint; `waits`: its answer may take for ever;
    `keep_slash`: a slash at the end of the path means something."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    once: bool = False
    waits: bool = False
    keep_slash: bool = False
