"""lease: nothing expires before its time."""

from typing import Any

from sim.checks.violation import Violation


class LeaseChecker:
    """A lease lives at least its TTL from the moment when its last renewal was asked for."""

    def __init__(self) -> None:
        self._until_s: dict[int, float] = {}
        self._by_clients: dict[int, None] = {}

    def renewed(self, id: int, asked_s: float, ttl_s: int) -> None:
        if ttl_s > 0:
            self._until_s[id] = max(self._until_s.get(id, 0.0), asked_s + ttl_s)

    def revoked_by_client(self, id: int) -> None:
        self._by_clients[id] = None

    def applied(self, request: Any, now_s: float) -> None:
        if request.HasField("lease_revoke"):
            id = request.lease_revoke.ID
            until_s = self._until_s.pop(id, 0.0)
            if id not in self._by_clients and now_s < until_s:
                raise Violation(
                    "lease", f"{id:x} was revoked at {now_s:.3f}, promised until {until_s:.3f}"
                )
