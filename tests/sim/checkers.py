"""What must hold: each check has a name, sees the run from outside and raises `Violation`.

    checks/raft.py        raft: the invariants, and that what was committed stays on disks
    checks/log.py         log, apply, answers, reads: one history, and what clients are told of it
    checks/state.py       state: a running hash at every applied index; restarts change nothing
    checks/access.py      access: nobody is let in whom the users as of then do not let in
    checks/keys.py        v2: answers of the v2 API, over HTTP, are those of the model
    checks/watch.py       watch: every event once, in order, without a gap
    checks/lease.py       lease: nothing expires before its time
    checks/bounds.py      bounds: no queue is longer than it may be
    checks/quiescence.py  quiescence: in the end all members are equal

World adds `liveness` (a leader, an answer, rest within their time), `storage` (nobody goes on after
an error of its disk) and `hash` (HashKV is the same everywhere).
"""

from sim.checks.access import HASHED, check_access, find_hashed
from sim.checks.bounds import EVERY_TURNS, check_bounds
from sim.checks.keys import check_keys, check_poll
from sim.checks.lease import LeaseChecker
from sim.checks.log import History, Operation
from sim.checks.quiescence import check_equal
from sim.checks.raft import RaftChecker
from sim.checks.state import StateChecker, Witness
from sim.checks.violation import Violation
from sim.checks.watch import Watch

__all__ = [
    "EVERY_TURNS",
    "HASHED",
    "History",
    "LeaseChecker",
    "Operation",
    "RaftChecker",
    "StateChecker",
    "Violation",
    "Watch",
    "Witness",
    "check_access",
    "check_bounds",
    "check_equal",
    "check_keys",
    "check_poll",
    "find_hashed",
]
