"""Automatic compaction on a clock that is told to move, over stubs of raft and the proposer."""

from typing import Any

import pytest

from pyetcd.proto.errors import Compacted, Timeout
from pyetcd.proto.rpc_pb2 import CompactionResponse
from pyetcd.server.clock import ManualClock
from pyetcd.server.compactor import Compactor

HOUR_S = 3600.0


class Cluster:
    """A leader whose revision grows by one each minute."""

    def __init__(self, **retention: Any) -> None:
        self.is_leader = True
        self.answer: Any = CompactionResponse()
        self.asked: list[tuple[float, int]] = []
        self.clock = ManualClock()
        self.compactor = Compactor(
            node=self,
            proposer=self,
            revision=lambda: self.revision,
            monotonic_s=self.clock.monotonic_s,
            **retention,
        )

    @property
    def revision(self) -> int:
        return 1 + int(self.clock.monotonic_s() / 60)

    def propose_as_leader(self, request: Any, done: Any) -> None:
        self.asked.append((self.clock.monotonic_s(), request.compaction.revision))
        done(self.answer)

    def run(self, seconds: float, step_s: float = 1.0) -> list[tuple[float, int]]:
        self.asked = []
        for _ in range(int(seconds / step_s)):
            self.compactor.ticked()
            self.clock.advance(step_s)
        return self.asked


def test_nothing_is_compacted_without_a_retention() -> None:
    assert Cluster().run(10 * HOUR_S, 60) == []


def test_by_age_the_first_one_waits_for_a_whole_period() -> None:
    asked = Cluster(period_s=600.0).run(3 * 600 + 1)
    assert [at_s for at_s, _ in asked] == [600.0, 1200.0, 1800.0]
    # Noted a period and a tenth ago, as in etcd.
    assert [revision for _, revision in asked] == [1, 10, 20]


def test_by_age_a_long_period_is_kept_and_compacted_hourly() -> None:
    asked = Cluster(period_s=3 * HOUR_S).run(5 * HOUR_S + 60, 60)
    assert [at_s / HOUR_S for at_s, _ in asked] == [3.0, 4.0, 5.0]
    assert [revision for _, revision in asked] == [1, 55, 115]


def test_by_count_the_newest_are_kept() -> None:
    asked = Cluster(revisions=8).run(1000.0)
    assert asked == [(600.0, 3), (900.0, 8)]  # at 300 s there are 6, fewer than to be kept


def test_a_follower_notes_and_does_not_compact() -> None:
    cluster = Cluster(period_s=600.0)
    cluster.is_leader = False
    assert cluster.run(1200.0) == []
    cluster.is_leader = True
    assert cluster.run(61.0)[0][1] == 10  # noted when it did not lead


@pytest.mark.parametrize(("answer", "next_s"), [(Timeout(), 60.0), (Compacted(), 600.0)])
def test_a_failed_one_is_tried_again_soon(answer: Any, next_s: float) -> None:
    cluster = Cluster(period_s=600.0)
    cluster.answer = answer
    asked = cluster.run(1801.0)
    assert asked[1][0] - asked[0][0] == next_s
