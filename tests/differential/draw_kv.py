"""Draws KV requests: ranges, puts, deletes, transactions in transactions, compactions."""

import random

from pyetcd.proto import rpc_pb2 as rpc

KEYS = [b"a", b"b", b"c", b"d", b"a/1", b"a/2", b"b/1", b"\xff", b"\x00k", b""]
ENDS = [b"", b"\x00", b"b", b"c", b"z", b"a", b"\xff\xff"]


class Calls:
    """Draws requests; remembers how far the revision has come so that revisions are near it."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.revision = 1

    def revision_near(self):
        choice = self.random.random()
        if choice < 0.6:
            return 0
        if choice < 0.65:
            return -self.random.randint(1, 3)
        return max(0, self.revision + self.random.randint(-12, 2))

    def range(self):
        draw = self.random
        return rpc.RangeRequest(
            key=draw.choice(KEYS),
            range_end=draw.choice(ENDS),
            limit=draw.choice([0, 0, 0, 1, 2, 3, -1]),
            revision=self.revision_near(),
            sort_order=draw.choice([0, 0, 1, 2]),
            sort_target=draw.randrange(5),
            serializable=draw.random() < 0.2,
            keys_only=draw.random() < 0.2,
            count_only=draw.random() < 0.15,
            min_mod_revision=self.bound(),
            max_mod_revision=self.bound(),
            min_create_revision=self.bound(),
            max_create_revision=self.bound(),
        )

    def bound(self):
        return self.random.choice([0] * 9 + [max(0, self.revision - self.random.randint(0, 9))])

    def put(self):
        draw = self.random
        return rpc.PutRequest(
            key=draw.choice(KEYS),
            value=b"v%d" % draw.randrange(5) if draw.random() < 0.8 else b"",
            prev_kv=draw.random() < 0.3,
            ignore_value=draw.random() < 0.1,
            ignore_lease=draw.random() < 0.1,
            lease=draw.choice([0] * 20 + [77]),
        )

    def delete(self):
        draw = self.random
        return rpc.DeleteRangeRequest(
            key=draw.choice(KEYS), range_end=draw.choice(ENDS), prev_kv=draw.random() < 0.3
        )

    def compare(self):
        draw = self.random
        target = draw.randrange(5)
        made = rpc.Compare(result=draw.randrange(4), target=target, key=draw.choice(KEYS[:-1]))
        if draw.random() < 0.15:
            made.range_end = draw.choice(ENDS)
        near = max(0, self.revision - draw.randint(0, 9))
        if target == 0:
            made.version = draw.randrange(4)
        elif target == 1:
            made.create_revision = draw.choice([0, near])
        elif target == 2:
            made.mod_revision = draw.choice([0, near])
        elif target == 3:
            made.value = b"v%d" % draw.randrange(5)
        else:
            made.lease = 0
        return made

    def op(self, depth):
        choice = self.random.random()
        if choice < 0.35:
            return rpc.RequestOp(request_put=self.put())
        if choice < 0.6:
            return rpc.RequestOp(request_range=self.range())
        if choice < 0.8:
            return rpc.RequestOp(request_delete_range=self.delete())
        if choice < 0.98 and depth < 2:
            return rpc.RequestOp(request_txn=self.txn(depth + 1))
        return rpc.RequestOp() if choice > 0.995 else rpc.RequestOp(request_put=self.put())

    def txn(self, depth=0):
        size = self.random.randrange
        return rpc.TxnRequest(
            compare=[self.compare() for _ in range(size(3))],
            success=[self.op(depth) for _ in range(size(4))],
            failure=[self.op(depth) for _ in range(size(3))],
        )

    def next(self):
        choice = self.random.random()
        if choice < 0.3:
            return self.put()
        if choice < 0.55:
            return self.range()
        if choice < 0.65:
            return self.delete()
        if choice < 0.98:
            return survivable(self.txn())
        return rpc.CompactionRequest(
            revision=max(-1, self.revision + self.random.randint(-30, 3)),
            physical=self.random.random() < 0.5,
        )


def ops_of(txn):
    for op in (*txn.success, *txn.failure):
        yield op
        if op.HasField("request_txn"):
            yield from ops_of(op.request_txn)


def survivable(txn):
    """etcd 3.5.1 panics on a put that keeps the value of a key deleted earlier in the transaction;
    pyetcd refuses it (tests/store/test_txn.py). The comparison goes on without."""
    ops = list(ops_of(txn))
    if any(op.HasField("request_delete_range") for op in ops):
        for op in ops:
            if op.HasField("request_put"):
                op.request_put.ignore_value = op.request_put.ignore_lease = False
    return txn
