"""Messages to and from the other members, over etcd's peer protocol.

Strategy. One `Peer` a member, one loop, no thread but for snapshot files. `send` sorts a batch to
the peers' queues and flushes each peer once, so a turn of the driver costs one write per link. The
other direction is inbound.py: the requests below /raft on the peer listener.

Rules.
- Nothing here waits for a peer, and no queue is without bound: what is full drops the message and
  tells raft `report_unreachable`, which then probes instead of streaming.
- A member that we do not know yet but that says where it is reached (X-PeerURLs) becomes a
  remote: a new member must be able to answer before its log tells it who is there.

Limits. REMOTES_MAX remotes, one more is ignored: it will ask again.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pyetcd.raft.types import NONE, Message, MsgType
from pyetcd.server.config_values import parse_url
from pyetcd.server.logs import get
from pyetcd.server.peer.activity import PeerCounters
from pyetcd.server.peer.client import HttpClient
from pyetcd.server.peer.codec import EntriesEncoder
from pyetcd.server.peer.handshake import Identity
from pyetcd.server.peer.peer import Peer, RaftHandler, Remote, cancel_all, surface
from pyetcd.server.peer.probe import Prober
from pyetcd.server.peer.snapshot import Installer, SnapshotReceiver, SnapshotSender
from pyetcd.server.peer.streams import DEFAULT_TIMEOUTS, HEARTBEAT_S, Timeouts
from pyetcd.server.tls import Admission
from pyetcd.store.snapshot import Copy

REMOTES_MAX: Final = 64


class PeerTransport:
    """The links of one member. Everything but `start` and `stop` returns at once."""

    def __init__(
        self,
        identity: Identity,
        handler: RaftHandler,
        *,
        installer: Installer,
        ssl_context: ssl.SSLContext | None = None,
        admission: Admission | None = None,
        dial_timeout_s: float = 2.0,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self._timeouts = timeouts
        self.identity = identity
        self.handler = handler
        self.client = HttpClient(
            ssl_context=ssl_context, admission=admission, dial_timeout_s=dial_timeout_s
        )
        self._log = get("rafthttp")
        # Kept for peers that left: a counter must not fall while somebody draws it.
        self.counters: dict[int, PeerCounters] = {}
        self.snapshots_in = SnapshotReceiver(
            member_id=identity.member_id,
            installer=installer,
            handler=handler,
            log=self._log,
            counters_of=self.counters_of,
        )
        self.snapshots_out = SnapshotSender(
            identity=identity, client=self.client, handler=handler, log=self._log
        )
        self._entries_encoder = EntriesEncoder()
        self._peers: dict[int, Peer] = {}
        self._remotes: dict[int, Remote] = {}
        self._probers: dict[int, Prober] = {}
        self._probes: dict[int, asyncio.Task[None]] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    # Life

    async def start(self) -> None:
        """Before the first peer is added."""
        self._heartbeat()

    async def stop(self) -> None:
        """Ends every link and waits for their tasks."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await self.snapshots_out.stop()
        await self.snapshots_in.stop()
        for id in list(self._peers):
            self._forget(id)
        for remote in self._remotes.values():
            await remote.stop()
        self._remotes.clear()
        await asyncio.gather(*self._stopping)
        self.client.close()

    # Membership

    def add_peer(self, id: int, urls: Sequence[str]) -> None:
        """A member of the cluster; one that is known already stays as it is."""
        assert id not in (NONE, self.identity.member_id), f"{id:x} cannot be a peer"
        if id in self._peers or self._stopped:
            return
        remote = self._remotes.pop(id, None)
        if remote is not None:
            self._later(remote.stop())
        peer = Peer(
            id,
            urls,
            identity=self.identity,
            client=self.client,
            counters=self.counters_of(id),
            handler=self.handler,
            log=self._log,
            entries_encoder=self._entries_encoder,
            receive=self.receive,
            timeouts=self._timeouts,
        )
        self._peers[id] = peer
        prober = Prober(
            id, client=self.client, picker=peer.picker, rtt=peer.counters.rtt, log=self._log
        )
        self._probers[id] = prober
        probe = asyncio.get_running_loop().create_task(prober.run())
        probe.add_done_callback(surface)
        self._probes[id] = probe
        self._log.info("added remote peer", remote_peer_id=f"{id:x}", remote_peer_urls=list(urls))

    def add_remote(self, id: int, urls: Sequence[str]) -> None:
        """Somebody who knows us, and whom we do not know yet."""
        if id in (NONE, self.identity.member_id) or id in self._peers or id in self._remotes:
            return
        if self._stopped or self.handler.is_removed(id) or len(self._remotes) >= REMOTES_MAX:
            return
        try:
            urls = [parse_url(url).text for url in urls]
        except ValueError:
            return  # it can reach us, but nobody can reach it there
        self._remotes[id] = Remote(
            id,
            urls,
            identity=self.identity,
            client=self.client,
            counters=self.counters_of(id),
            handler=self.handler,
            log=self._log,
        )
        self._log.info("added new remote peer", remote_peer_id=f"{id:x}", remote_peer_urls=urls)

    def remove_peer(self, id: int) -> None:
        """The member left the cluster; its links end soon."""
        if id in self._peers:
            self._forget(id)
            self._log.info("removed remote peer", removed_remote_peer_id=f"{id:x}")

    def update_peer(self, id: int, urls: Sequence[str]) -> None:
        """The member has moved: the next dial goes to the new URLs."""
        peer = self._peers.get(id)
        if peer is not None and peer.picker.update(urls):
            urls = list(urls)
            self._log.info("updated remote peer", remote_peer_id=f"{id:x}", remote_peer_urls=urls)

    # Sending

    def send(self, messages: Sequence[Message]) -> None:
        """One batch. Order to one peer is kept per stream. Snapshots go by `send_snapshot`."""
        touched: set[int] = set()
        for message in messages:
            assert message.type is not MsgType.SNAP
            to = message.to
            peer = self._peers.get(to)
            if peer is not None:
                touched.add(to)
                if not peer.send(message):
                    self._dropped(message, peer)
                continue
            remote = self._remotes.get(to)
            if remote is not None and not remote.send(message):
                self._dropped(message, remote)
        for id in touched:
            self._peers[id].flush()

    @property
    def can_send_snapshot(self) -> bool:
        """False while one is on its way; asking before a copy is made spares the copy."""
        return not self.snapshots_out.is_busy

    def send_snapshot(self, message: Message, copy: Copy, done: Callable[[], None]) -> None:
        """Send a MsgSnap with its keyspace file. Raft hears `report_snapshot` exactly once, also
        when there is nobody to send it to; then `done` gives the file back."""
        self.snapshots_out.send(self._peers.get(message.to), message, copy, done)

    def _dropped(self, message: Message, to: Remote) -> None:
        to.counters.sent_failures_total += 1
        self.handler.report_unreachable(message.to)

    # Receiving, by the readers and inbound.py

    def receive(self, message: Message) -> None:
        """A message that came over a stream. What is not for us was meant for another member at
        our address, or comes from one that is gone."""
        if message.to != self.identity.member_id or self.handler.is_removed(message.from_):
            self.counters_of(message.from_).received_failures_total += 1
            return
        self.handler.process(message)

    def peer(self, id: int) -> Peer | None:
        return self._peers.get(id)

    # What others ask

    @property
    def peer_ids(self) -> list[int]:
        return sorted(self._peers)

    def active_since(self, id: int) -> float | None:
        """Loop time since when the peer answers without a failure; None while it does not."""
        peer = self._peers.get(id)
        return None if peer is None else peer.activity.active_since_s

    def is_active(self, id: int) -> bool:
        return self.active_since(id) is not None

    def is_pyetcd(self, id: int) -> bool:
        """Whether the peer is known to run pyetcd; False as long as it has not answered."""
        peer = self._peers.get(id)
        return peer is not None and peer.activity.is_pyetcd

    @property
    def probers(self) -> Mapping[int, Prober]:
        return self._probers

    # Helpers

    def counters_of(self, id: int) -> PeerCounters:
        counters = self.counters.get(id)
        if counters is None:
            counters = PeerCounters()
            # Bound: ids come from authenticated cluster traffic, but a liar must not fill memory.
            if len(self.counters) < 4 * REMOTES_MAX:
                self.counters[id] = counters
        return counters

    def _heartbeat(self) -> None:
        for peer in self._peers.values():
            peer.heartbeat()
        self._timer = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._heartbeat)

    def _forget(self, id: int) -> None:
        del self._probers[id]
        self._later(self._end(self._peers.pop(id), self._probes.pop(id)))

    async def _end(self, peer: Peer, probe: asyncio.Task[None]) -> None:
        await cancel_all({probe})
        await peer.stop()

    def _later(self, work: "asyncio._CoroutineLike[None]") -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
