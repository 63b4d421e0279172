"""ReadIndex: linearizable reads without a log entry (thesis 6.4).

A read may be answered at commit index C if the leader, after it noted C, hears from a majority
that it still leads. Reads that arrive together share one round of heartbeats:

    read a, read b          open round 7: [a at C=40, b at C=41]
    heartbeats, context 7   round 7 is sent; a read c that comes now opens round 8
    responses with 7        a majority: a and b are confirmed, c is not

Rules:
- The context of a heartbeat is the number of the round, never the client's: a client that
  retries with its old context could otherwise be confirmed by responses that are older than the
  retry, and read stale data after a pause of the leader (raft PR 397).
- A response to round n confirms every round up to n, because it was sent later than all of them.
- Nothing survives a change of term: the core makes a new ReadOnly then. Numbers go on counting.

Limit: requests_max reads wait here; when full, a read is dropped like a lost message and its
caller asks again after a timeout.
"""

from dataclasses import dataclass, field

from pyetcd.raft.confchange import Configuration
from pyetcd.raft.quorum import joint_commit
from pyetcd.raft.types import Message


@dataclass(slots=True)
class Round:
    number: int
    requests: list[tuple[Message, int]] = field(default_factory=list)


class ReadOnly:
    __slots__ = ("_acks", "_count", "_open", "_sent", "deferred", "last_number", "requests_max")

    def __init__(self, requests_max: int, *, last_number: int = 0) -> None:
        self.requests_max = requests_max
        self.last_number = last_number
        # Reads that wait for the first commit of the leader's term (thesis 6.4, step 1).
        self.deferred: list[Message] = []
        self._open: Round | None = None
        self._sent: list[Round] = []
        self._acks: dict[int, int] = {}
        self._count = 0

    @property
    def has_open_round(self) -> bool:
        return self._open is not None

    def __len__(self) -> int:
        return self._count + len(self.deferred)

    def defer(self, request: Message) -> None:
        if len(self) < self.requests_max:
            self.deferred.append(request)

    def add(self, request: Message, commit: int) -> None:
        """Note a read with the commit index of its arrival."""
        if len(self) >= self.requests_max:
            return
        if self._open is None:
            self.last_number += 1
            self._open = Round(self.last_number)
        self._open.requests.append((request, commit))
        self._count += 1

    def start_round(self, self_id: int) -> bytes:
        """The context for the heartbeats about to be sent: closes the open round. Without any
        unconfirmed read it is empty, as there is nothing to confirm."""
        if self._open is not None:
            self._sent.append(self._open)
            self._acks[self_id] = self._open.number
            self._open = None
        return self._sent[-1].number.to_bytes(8, "little") if self._sent else b""

    def acknowledge(
        self, node: int, context: bytes, config: Configuration
    ) -> list[tuple[Message, int]]:
        """A heartbeat response came: the reads that are confirmed by it, with their index."""
        number = int.from_bytes(context, "little")
        if len(context) != 8 or number > self.last_number:
            return []  # not ours: a response cannot confirm a round that was never sent
        self._acks[node] = max(self._acks.get(node, 0), number)
        confirmed = joint_commit(config.voters, config.outgoing, self._acks)
        done: list[tuple[Message, int]] = []
        while self._sent and self._sent[0].number <= confirmed:
            done += self._sent.pop(0).requests
        self._count -= len(done)
        return done
