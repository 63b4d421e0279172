r"""One long seeded sequence over everything, to real etcd 3.5.1 and to pyetcd: the same answers,
codes, texts, events and hashes.

KV, nested transactions, compactions, leases, watches, alarms, users and rights, members, malformed
requests (draw.py says what is left out and why). The long run, over each transport (servers.py):

    PYETCD_EVERYTHING_SEEDS=1-20 PYETCD_EVERYTHING_STEPS=1500 \
        PYETCD_EVERYTHING_TRANSPORT=plain \
        python -m pytest -s tests/differential/test_everything.py
"""

import os
from typing import Any

import pytest
from differential.draw import Draw
from differential.run import Difference, Run
from differential.servers import TRANSPORTS, start

STEPS = int(os.environ.get("PYETCD_EVERYTHING_STEPS", "400"))
CHOSEN = os.environ.get("PYETCD_EVERYTHING_TRANSPORT", "")
HASH_EVERY = 100
LONG = 1500  # steps that have gone everywhere: to each of
EVERYWHERE = {
    "OK",
    "PERMISSION_DENIED etcdserver: permission denied",
    "UNAUTHENTICATED etcdserver: invalid auth token",
    "DATA_LOSS etcdserver: corrupt cluster",
    "RESOURCE_EXHAUSTED etcdserver: mvcc: database space exceeded",
    "OUT_OF_RANGE etcdserver: mvcc: required revision has been compacted",
    "OUT_OF_RANGE etcdserver: mvcc: required revision is a future revision",
    "NOT_FOUND etcdserver: requested lease not found",
    "INTERNAL grpc: error unmarshalling request: unexpected EOF",
    "INVALID_ARGUMENT etcdserver: given member URLs are invalid",
    "watch: compacted",
    "watch: mvcc: watcher range is empty",
    "cancel_request",
    "progress_request",
    "keepalive",
}
AS_CERTIFICATES_USER = {f"as a certificate's user: {code}" for code in ("OK", "PERMISSION_DENIED")}


def seeds() -> list[int]:
    found: list[int] = []
    for part in os.environ.get("PYETCD_EVERYTHING_SEEDS", "1").split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def cases() -> list[tuple[str, int]]:
    """Without a word about it, a short run: without TLS, and with certificates that name users."""
    if CHOSEN:
        return [(name, seed) for name in CHOSEN.split(",") for seed in seeds()]
    return [("plain", seed) for seed in seeds()] + [("mtls", 1)]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("transport", "seed"), cases())
def test_same_steps_same_answers(machine: Any, transport: str, seed: int) -> None:
    assert transport in TRANSPORTS
    sides = start(machine, transport)
    run = Run(*sides, Draw(seed, common_names=transport == "mtls"))
    number = 0
    try:
        for number in range(STEPS):
            run.step()
            if number % HASH_EVERY == HASH_EVERY - 1:
                run.compare_hashes()
        run.end()
    except Difference as difference:
        raise AssertionError(f"{transport} seed {seed} step {number}: {difference}") from None
    finally:
        for side in sides:
            side.close()
    print(f"\n{transport} seed {seed}: {STEPS} steps, revision {run.revision}, "
          f"{run.events_count} events, {len(run.counts)} kinds of calls and answers")  # fmt: skip
    if STEPS >= LONG:
        missing = EVERYWHERE - run.counts.keys()
        if transport == "mtls":
            missing |= AS_CERTIFICATES_USER - run.counts.keys()
        assert not missing
    if os.environ.get("PYETCD_EVERYTHING_COUNTS"):
        print("\n".join(f"{count:6} {what}" for what, count in sorted(run.counts.items())))
