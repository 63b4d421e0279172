"""What the raft core costs per entry: python tests/bench/raft_core.py

Batches of 500 entries of 256 bytes. `one` is propose + ready + advance on a single node; `three`
is the whole way on three nodes: propose, append, acknowledge, commit, and the commit's news, with
and without encoding and decoding the messages. The goal: below 2 us an entry on the leader.
"""

import random
import time

from pyetcd.raft.codec import decode_message, encode_message
from pyetcd.raft.core import Config
from pyetcd.raft.rawnode import RawNode
from pyetcd.raft.storage import MemoryStorage
from pyetcd.raft.types import ConfState, Message

BATCH, ROUNDS, PAYLOAD = 500, 200, b"x" * 256


class Disk(MemoryStorage):
    """Forgets what is applied, so that the run measures raft and not a growing list."""

    def store(self, node: RawNode) -> tuple[list[Message], int]:
        ready = node.ready()
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        self.append(ready.entries)
        node.advance(ready)
        if self.last_index() - self.first_index() > 20 * BATCH:
            self.compact(self.last_index() - 10 * BATCH)
        return ready.messages + ready.messages_after_append, len(ready.committed_entries)


def cluster(count: int) -> tuple[dict[int, RawNode], dict[int, Disk]]:
    voters = tuple(range(1, count + 1))
    disks = {node: Disk(ConfState(voters=voters)) for node in voters}
    nodes = {
        node: RawNode(Config(id=node, storage=disks[node], rng=random.Random(node)))
        for node in voters
    }
    nodes[1].campaign()
    settle(nodes, disks, wire=False)
    assert nodes[1].is_leader
    return nodes, disks


def settle(nodes: dict[int, RawNode], disks: dict[int, Disk], *, wire: bool) -> tuple[int, float]:
    """Run until quiet; entries applied on the leader, and the seconds spent there."""
    applied, leader_s, busy = 0, 0.0, True
    while busy:
        busy = False
        for node_id, node in nodes.items():
            start = time.process_time()
            messages: list[Message] = []
            while node.has_ready():
                sent, committed = disks[node_id].store(node)
                messages += sent
                applied += committed if node_id == 1 else 0
                busy = True
            encoded = [encode_message(m) for m in messages] if wire else []
            if node_id == 1:
                leader_s += time.process_time() - start
            for position, message in enumerate(messages):
                start = time.process_time()
                arrived = decode_message(encoded[position]) if wire else message
                nodes[message.to].step(arrived)
                if message.to == 1:
                    leader_s += time.process_time() - start
    return applied, leader_s


def measure(count: int, *, wire: bool) -> str:
    nodes, disks = cluster(count)
    datas = [PAYLOAD] * BATCH
    applied, leader_s = 0, 0.0
    start = time.process_time()
    for _ in range(ROUNDS):
        begun = time.process_time()
        nodes[1].propose(datas)
        leader_s += time.process_time() - begun
        done, spent = settle(nodes, disks, wire=wire)
        applied, leader_s = applied + done, leader_s + spent
    total_s = time.process_time() - start
    assert applied == BATCH * ROUNDS
    per_entry, leader = total_s / applied * 1e6, leader_s / applied * 1e6
    return f"{leader:5.2f} us an entry on the leader, {per_entry:5.2f} on all"


if __name__ == "__main__":
    print("one            ", measure(1, wire=False))
    print("three          ", measure(3, wire=False))
    print("three, encoded ", measure(3, wire=True))
