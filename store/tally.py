"""What the keyspace has done since this process began, for metrics: plain integers.

As etcd counts (mvcc/metrics_txn.go): each range, put and delete of an applied request or a read,
those inside of transactions, too; `txns` are the transactions that did more than one of them.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    ranges: int = 0
    puts: int = 0
    deletes: int = 0
    txns: int = 0
    put_bytes: int = 0
    keys: int = 0  # made less deleted

    @property
    def operations(self) -> int:
        return self.ranges + self.puts + self.deletes

    def end(self, before: int) -> None:
        """Of a transaction that began at that many operations."""
        if self.operations > before + 1:
            self.txns += 1
