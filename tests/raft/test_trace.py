"""trace.py: one line per transition, in the order in which they happened."""

import json
from types import ModuleType

from pyetcd.raft.trace import ndjson
from pyetcd.raft.types import ConfState


def test_an_election_and_a_commit(sim: ModuleType) -> None:
    lines: list[str] = []
    cluster = sim.Cluster()
    for node in (1, 2, 3):
        cluster.add(node, ConfState(voters=(1, 2, 3)), trace=ndjson(lines.append))
    lines.clear()
    sim.hup(cluster, 1)
    cluster[1].propose([b"x"])
    cluster.run()
    assert all(line.endswith("}\n") for line in lines)
    events = [json.loads(line)["event"] for line in lines]
    leader = [event["name"] for event in events if event["nid"] == "1"]
    milestones = ["BecomeCandidate", "BecomeLeader", "Replicate", "Commit", "Replicate", "Commit"]
    assert [name for name in leader if name in milestones] == milestones
    (won,) = [event for event in events if event["name"] == "BecomeLeader"]
    assert won == {
        "name": "BecomeLeader",
        "nid": "1",
        "state": {"term": 1, "vote": "1", "commit": 0},
        "role": "StateLeader",
        "log": 0,
        "conf": [["1", "2", "3"], []],
    }
    sent = next(e for e in events if e["name"] == "SendAppendEntriesRequest")
    assert sent["msg"]["type"] == "MsgApp" and sent["msg"]["entries"] == 1
    received = next(e for e in events if e["name"] == "ReceiveRequestVoteResponse")
    assert received["msg"]["type"] == "MsgVoteResp" and received["msg"]["to"] == "1"


def test_a_start_is_traced() -> None:
    import random

    from pyetcd.raft.core import Config
    from pyetcd.raft.rawnode import RawNode
    from pyetcd.raft.storage import MemoryStorage

    lines: list[str] = []
    storage = MemoryStorage(ConfState((1, 2)))
    RawNode(Config(id=1, storage=storage, rng=random.Random(1), trace=ndjson(lines.append)))
    names = [json.loads(line)["event"]["name"] for line in lines]
    assert names == ["InitState", "ApplyConfChange", "BecomeFollower"]
