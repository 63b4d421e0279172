"""The members that a proxy's clients get to see, and the proxy among them.

As etcd's proxy: with --advertise-client-url a client that asks for members is told of proxies, not
of etcd's members, so that it stays with them: those registered under --resolver-prefix, or this
one. Each proxy registers with a key under a lease of --resolver-ttl, which it keeps alive; when the
lease is lost it registers again, at most once a second. The names of others are followed by a
watch.

Beyond etcd: MemberPromote is handed on (etcd 3.5's proxy has not implemented it).
"""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final

from pyetcd.proto import kv_pb2 as mvcc
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import EtcdError
from pyetcd.proto.keys import prefix_end
from pyetcd.server.logs import get
from pyetcd.server.proxy.broadcast import Watcher
from pyetcd.server.proxy.keepalive import KeepAlives
from pyetcd.server.proxy.settings import Settings
from pyetcd.server.proxy.upstream import Upstream
from pyetcd.server.proxy.upwatch import UpWatch

AGAIN_S: Final = 1.0
CALL_S: Final = 5.0
PROXIES_MAX: Final = 10_000  # registered ones; more are not listed


class Members:
    """Answers MemberList, registers the proxy, follows the others."""

    def __init__(
        self, settings: Settings, upstream: Upstream, upwatch: UpWatch, keep_alives: KeepAlives
    ) -> None:
        self._settings = settings
        self._upstream, self._upwatch, self._keep_alives = upstream, upwatch, keep_alives
        self._prefix = settings.resolver_prefix
        self._proxies: dict[bytes, rpc.Member] = {}  # by the key they registered with
        self._tasks: list[asyncio.Task[None]] = []
        self._log = get("resolver")

    @property
    def answers(self) -> bool:
        """Whether MemberList is answered here."""
        return bool(self._settings.advertise_client_url)

    async def start(self) -> None:
        if self._prefix:
            self._tasks.append(asyncio.create_task(self._register()))
            if self.answers:
                self._tasks.append(asyncio.create_task(self._follow()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def member_list(self, call: Any, request: rpc.MemberListRequest) -> bytes:
        """The registered proxies, or this one."""
        del call, request
        members = list(self._proxies.values())
        if not members:
            own = [self._settings.advertise_client_url]
            members = [rpc.Member(name=socket.gethostname(), clientURLs=own)]
        return rpc.MemberListResponse(members=members).SerializeToString()

    # Registering

    async def _register(self) -> None:
        while True:
            try:
                await self._session()
            except EtcdError as failure:
                self._log.warn("failed to create a session", error=failure.text)
            else:
                self._log.warn("session expired; possible network partition or server restart")
                self._log.warn("creating a new session to rejoin")
            await asyncio.sleep(AGAIN_S)

    async def _session(self) -> None:
        """Until the lease is gone."""
        address, ttl_s = self._settings.advertise_client_url, self._settings.resolver_ttl_s
        granted = rpc.LeaseGrantResponse.FromString(
            await self._call("/etcdserverpb.Lease/LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl_s))
        )
        put = rpc.PutRequest(
            key=f"{self._prefix}/{address}".encode(),
            value=registration(address, socket.gethostname()),
            lease=granted.ID,
        )
        txn = rpc.TxnRequest(success=[rpc.RequestOp(request_put=put)])
        await self._call("/etcdserverpb.KV/Txn", self._upwatch.namespace.into(txn))
        self._log.info("registered session with lease", addr=address, lease_ttl=ttl_s)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + granted.TTL
        while loop.time() < end_s:
            await asyncio.sleep(max(granted.TTL / 3, 0.1))
            try:
                raw = await self._keep_alives.once("", granted.ID)
            except EtcdError:
                continue  # as long as the lease may live
            kept = rpc.LeaseKeepAliveResponse.FromString(raw)
            if kept.TTL <= 0:
                return
            end_s = loop.time() + kept.TTL

    async def _call(self, path: str, request: Any) -> bytes:
        payload = request.SerializeToString()
        return await self._upstream.unary(path, payload, (), timeout_s=CALL_S)

    # Following

    async def _follow(self) -> None:
        while True:
            try:
                await self._look()
            except EtcdError as failure:
                self._log.warn(
                    "failed to establish endpoint watch", prefix=self._prefix, error=failure.text
                )
            await asyncio.sleep(AGAIN_S)

    async def _look(self) -> None:
        """What is there, then what changes, until the watch ends."""
        key = self._prefix.encode()
        request = rpc.RangeRequest(key=key, range_end=prefix_end(key), serializable=True)
        namespace = self._upwatch.namespace
        raw = await self._call("/etcdserverpb.KV/Range", namespace.into(request))
        answer = namespace.outof(rpc.RangeResponse.FromString(raw))
        self._proxies.clear()
        for pair in answer.kvs:
            self._take(mvcc.Event(kv=pair))
        over = asyncio.Event()
        watcher = Watcher(
            0,
            rpc.WatchCreateRequest(
                key=key, range_end=request.range_end, start_revision=answer.header.revision + 1
            ),
            send=self._told,
            ended=_setter(over),
        )
        self._upwatch.hub.add(watcher)
        try:
            await over.wait()
        finally:
            self._upwatch.hub.remove(watcher)

    def _told(self, raw: bytes) -> None:
        for event in rpc.WatchResponse.FromString(raw).events:
            self._take(event)

    def _take(self, event: mvcc.Event) -> None:
        self._proxies.pop(event.kv.key, None)
        if event.type != mvcc.Event.EventType.PUT or len(self._proxies) >= PROXIES_MAX:
            return
        try:
            self._proxies[event.kv.key] = registered(event.kv.value)
        except ValueError as failure:
            self._log.warn(
                "unmarshal endpoint update failed",
                key=event.kv.key.decode("utf-8", "replace"),
                error=str(failure),
            )


def registration(address: str, host_name: str) -> bytes:
    """The value of a proxy's key, in the form of etcd's naming package."""
    meta = json.dumps({"name": host_name}, separators=(",", ":"))
    update = {"Op": 0, "Addr": address, "Metadata": meta}
    return json.dumps(update, separators=(",", ":")).encode()


def registered(value: bytes) -> rpc.Member:
    """The proxy that a key's value tells of. Raises ValueError."""
    update = json.loads(value)
    if not isinstance(update, dict):
        raise ValueError("not an endpoint")
    meta = update.get("Metadata")
    name = json.loads(meta) if isinstance(meta, str) else meta
    found = name.get("name", "") if isinstance(name, dict) else ""
    return rpc.Member(name=str(found), clientURLs=[str(update.get("Addr", ""))])


def _setter(event: asyncio.Event) -> Callable[[Watcher], None]:
    return lambda watcher: event.set()
