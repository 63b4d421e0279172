"""The driver: failures in a tick end the member, refused batches wait for the next tick."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from pyetcd.raft.types import Entry, Message, MsgType, ProposalDropped
from pyetcd.server.loop import Driver
from pyetcd.store.db import StorageFailure


class Replica:
    """Raft that does as told, in place of a real one."""

    busy = False
    applied_index = 0

    def __init__(self, **node):
        self.node = SimpleNamespace(leader=1, is_leader=True, term=1, commit=0, **node)
        self.batches = []
        self.refuse = 0

    def begin(self):
        return None

    def propose(self, datas):
        if self.refuse:
            self.refuse -= 1
            return False
        self.batches.append(list(datas))
        return True


def run(driver_of, until):
    async def main():
        loop = asyncio.get_running_loop()
        failed = loop.create_future()
        driver = driver_of(loop, failed.set_result)
        driver.bind(SimpleNamespace(has_queued=False))
        result = await until(driver, failed)
        driver._timer.cancel()
        await driver.stop()
        return result

    return asyncio.run(main())


@pytest.mark.parametrize("where", ["raft", "listener"])
def test_a_failure_in_a_tick_is_fatal(where):
    def fail():
        raise StorageFailure("the disk is gone")

    replica = Replica(tick=fail if where == "raft" else lambda: None)
    listeners = [SimpleNamespace(ticked=fail)] if where == "listener" else []

    async def until(driver, failed):
        driver.start(listeners)
        return await failed

    def make(loop, fatal):
        first = []
        return Driver(
            replica,
            loop=loop,
            tick_s=0.001,
            fatal=lambda error: None if first else (first.append(1), fatal(error)),
        )

    assert isinstance(run(make, until), StorageFailure)


def test_a_halted_driver_waits_for_the_commit_that_runs():
    """The log of a member that has lost entries is closed next."""
    began, go_on = threading.Event(), threading.Event()
    ended = []

    def commit():
        began.set()
        assert go_on.wait(10)
        ended.append(True)

    async def main():
        loop = asyncio.get_running_loop()
        replica = Replica(tick=lambda: None)
        driver = Driver(replica, loop=loop, tick_s=10.0, fatal=lambda error: None)
        driver.bind(SimpleNamespace(has_queued=False))
        driver.start([])
        driver.commits.submit(commit, lambda: None)
        await asyncio.to_thread(began.wait, 10)
        driver.halt()
        loop.run_in_executor(None, go_on.set)
        driver.join()
        assert ended

    asyncio.run(main())


def test_a_refused_batch_keeps_its_order_and_waits_for_a_tick():
    replica = Replica(tick=lambda: None)
    replica.refuse = 2

    async def until(driver, failed):
        for request_id in (1, 2, 3):
            driver.submit(request_id, b"%d" % request_id)
        assert driver.withdraw(2) and not driver.withdraw(2)
        driver.start([])
        while not replica.batches:
            await asyncio.sleep(0)
            driver.submit(9, b"9")
        return replica.batches

    batches = run(lambda loop, fatal: Driver(replica, loop=loop, tick_s=0.001, fatal=fatal), until)
    assert batches[0] == [b"1", b"3", b"9"]


def test_a_forwarded_proposal_waits_while_raft_cannot_take_it():
    """The lead is being handed over: dropped, it would cost its client the request timeout."""
    taken = []
    refusals = 3

    def step(message):
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise ProposalDropped("leadership is being transferred")
        taken.append(message)

    replica = Replica(tick=lambda: None, step=step)
    forwarded = Message(MsgType.PROP, from_=2, entries=(Entry(0, 0, data=b"a"),))

    async def until(driver, failed):
        driver.receive(forwarded)
        driver.start([])
        while not taken:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return taken

    def make(loop, fatal):
        return Driver(replica, loop=loop, tick_s=0.001, held_ticks=5, fatal=fatal)

    assert run(make, until) == [forwarded], "once, not more"


def test_a_forwarded_proposal_does_not_wait_for_ever():
    offered = []

    def step(message):
        offered.append(message)
        raise ProposalDropped("no leader")

    ticks = []
    replica = Replica(tick=lambda: ticks.append(1), step=step)

    async def until(driver, failed):
        driver.receive(Message(MsgType.PROP, from_=2, entries=(Entry(0, 0),)))
        driver.start([])
        while len(ticks) < 8:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return len(offered)

    def make(loop, fatal):
        return Driver(replica, loop=loop, tick_s=0.001, held_ticks=3, fatal=fatal)

    assert run(make, until) == 4


def test_row_22_a_leader_of_an_earlier_term_proposes_nothing():
    """etcd#15247: a leader that was stalled came back and revoked leases that its successor had
    renewed. What a leader proposes for itself is bound to the term in which it did."""
    replica = Replica(tick=lambda: None)

    async def until(driver, failed):
        driver.submit_as_leader(1, b"revoke of term 1")
        replica.node.term = 2  # lost and won again meanwhile
        driver.submit_as_leader(2, b"revoke of term 2")
        replica.node.is_leader = False
        driver.submit_as_leader(3, b"not a leader")
        replica.node.is_leader = True
        driver.start([])
        while not replica.batches:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)
        return replica.batches

    batches = run(lambda loop, fatal: Driver(replica, loop=loop, tick_s=0.001, fatal=fatal), until)
    assert batches == [[b"revoke of term 2"]]
