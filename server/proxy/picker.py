"""Which endpoint the next connection of the TCP gateway goes to. Pure.

Strategy, as RFC 2782 has it and etcd's tcpproxy does it: of the endpoints that are thought to be
there only those of the best priority count; those with a weight are drawn by it, those without take
turns. Beside weighted ones an endpoint of weight 0 is drawn once in a hundred.

Rules. A connection that cannot be opened takes its endpoint out (`failed`), and only a connection
that could be opened brings it back (`works`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_SELDOM = 100  # one draw of so many goes to an endpoint without a weight


@dataclass(slots=True)
class Endpoint:
    """One address; `priority` and `weight` are those of an SRV record."""

    host: str
    port: int
    priority: int = 0
    weight: int = 0
    is_active: bool = True

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class Draw(Protocol):
    """A number below `limit`: random.Random.randrange, or what a test hands in."""

    def __call__(self, limit: int, /) -> int: ...


class Picker:
    """The endpoints of a gateway and what is known of them."""

    def __init__(self, endpoints: Sequence[Endpoint], draw: Draw) -> None:
        assert endpoints
        self.endpoints = tuple(endpoints)
        self._draw = draw
        self._turn = 0

    def pick(self) -> Endpoint | None:
        """None when no endpoint is active."""
        active = [one for one in self.endpoints if one.is_active]
        if not active:
            return None
        best = min(one.priority for one in active)
        group = [one for one in active if one.priority == best]
        weighted = [one for one in group if one.weight]
        weightless = [one for one in group if not one.weight]
        if weighted and (not weightless or self._draw(_SELDOM)):
            return self._by_weight(weighted)
        self._turn += 1
        return weightless[(self._turn - 1) % len(weightless)]

    def inactive(self) -> list[Endpoint]:
        """Those to be tried again after a while."""
        return [one for one in self.endpoints if not one.is_active]

    def _by_weight(self, group: Sequence[Endpoint]) -> Endpoint:
        left = self._draw(sum(one.weight for one in group))
        for one in group:
            left -= one.weight
            if left < 0:
                return one
        raise AssertionError("a draw beyond the sum of the weights")
