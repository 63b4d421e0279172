"""What a member serves: gRPC and HTTP on the client port, the peer protocol on the peer port, and
HTTP or metrics alone on ports of their own, if there are any.

Here stand the dispatch tables. A path that is in proto/services.py and in no table below is one
that a later version will have; it is answered with "unimplemented", as gRPC answers any unknown
method.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from pyetcd.proto.services import METHODS
from pyetcd.server.api.guard import OnLearner, never
from pyetcd.server.api.health import HealthApi
from pyetcd.server.api.reflection import ReflectionApi, service_names
from pyetcd.server.config import Config
from pyetcd.server.core import Core
from pyetcd.server.http.gateway import Gateway
from pyetcd.server.http.ops import Ops
from pyetcd.server.http.peer_port import PeerPort
from pyetcd.server.http.router import ClientPort, Router
from pyetcd.server.listen import Listener
from pyetcd.server.logs import get
from pyetcd.server.metrics import Metrics
from pyetcd.server.secure import MemberTls
from pyetcd.server.startup import Bound, Sockets
from pyetcd.server.wire.exchange import HttpService
from pyetcd.server.wire.grpc import Dispatcher, StreamHandler
from pyetcd.server.wire.limits import Limits

GRPC_OVERHEAD_BYTES = 512 * 1024  # etcd: grpcOverheadBytes, on top of --max-request-bytes
# Those that do not ask the guard themselves; health answers without a leader, too.
GUARDED_STREAMS = (
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Maintenance/Snapshot",
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
)
STREAMS_OF_LEARNERS = ("/etcdserverpb.Maintenance/Snapshot",)
REFLECTION = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


class Serving:
    """The listeners of a member and what is behind them."""

    def __init__(
        self,
        config: Config,
        sockets: Sockets,
        *,
        core: Core,
        tls: MemberTls,
        metrics: Metrics,
        bug: Callable[[BaseException], None],
    ) -> None:
        log = get("serving")
        self._sockets = sockets
        self._is_extensive = config.metrics_extensive
        self._guard = core.guard
        self._services = core.services
        self._access = core.access
        self._health = HealthApi(
            core.loop, stops_on_defrag=config.experimental_stop_grpc_service_on_defrag
        )
        core.facts.defragment_hooks.append(self._health.defragmented)
        limits = Limits(
            request_bytes_max=config.max_request_bytes + GRPC_OVERHEAD_BYTES,
            keepalive_interval_s=config.grpc_keepalive_interval_s,
            keepalive_timeout_s=config.grpc_keepalive_timeout_s,
            keepalive_min_time_s=config.grpc_keepalive_min_time_s,
            streams_max=config.streams_max or Limits().streams_max,
        )
        ops = Ops(core.facts, metrics)
        router = Router()
        ops.add_to(router, client_port=True)
        # As in etcd, HTTP has left the port of gRPC once it has one of its own.
        is_split = bool(config.listen_client_http_urls)
        http_urls = config.listen_client_http_urls or config.listen_client_urls
        client_port = ClientPort(
            router,
            origins=config.cors,
            hosts=config.host_whitelist,
            secure=all(url.is_tls for url in http_urls),
            rejected=lambda host: log.warn("rejecting request with unknown Host", host=host),
            names_users=lambda: (
                config.client_cert_auth and config.enable_grpc_gateway and core.access.auth.enabled
            ),
        )
        dispatcher = self._dispatcher()
        http = HttpService(client_port)
        if config.enable_grpc_gateway:
            gateway = Gateway(
                dispatcher, loop=core.loop, request_bytes_max=limits.request_bytes_max
            )
            gateway.add_to(router)
            http = HttpService(client_port, body_bytes_max=gateway.body_bytes_max)
        self.client_listener = Listener(
            dispatcher,
            None if is_split else http,
            limits,
            tls=tls.clients,
            admission=tls.client_admission,
            before_handshake=tls.look,
            on_bug=bug,
        )
        self.http_listener = Listener(
            Dispatcher({}, {}),  # HTTP/2, without a call
            http,
            limits,
            tls=tls.clients,
            admission=tls.client_admission,
            before_handshake=tls.look,
            on_bug=bug,
        )
        if config.enable_v2:
            core.v2_api().add_to(router)
        metrics_router = Router()
        ops.add_to(metrics_router, client_port=False)
        self.metrics_listener = Listener(
            Dispatcher({}, {}),
            metrics_router,
            tls=tls.clients,
            admission=tls.client_admission,
            before_handshake=tls.look,
            on_bug=bug,
        )
        # etcd 3.5 answers gRPC on the peer port, too; nothing uses it and 3.6 took it away.
        self.peer_listener = Listener(
            None,
            PeerPort(
                core.transport,
                core.facts,
                core.machine.members,
                core.services.lease,
                core.services.cluster,
                core.loop,
            ).service(),
            tls=tls.peers,
            admission=tls.peer_admission,
            before_handshake=tls.look,
            on_bug=bug,
        )

    def _dispatcher(self) -> Dispatcher:
        services, access = self._services, self._access
        kv, lease, cluster = services.kv, services.lease, services.cluster
        maintenance = services.maintenance
        unary: dict[str, Any] = {  # Any: each handler takes the request class of its own method
            "/etcdserverpb.KV/Range": kv.range,
            "/etcdserverpb.KV/Put": kv.put,
            "/etcdserverpb.KV/DeleteRange": kv.delete_range,
            "/etcdserverpb.KV/Txn": kv.txn,
            "/etcdserverpb.KV/Compact": kv.compact,
            "/etcdserverpb.Lease/LeaseGrant": lease.lease_grant,
            "/etcdserverpb.Lease/LeaseRevoke": lease.lease_revoke,
            "/etcdserverpb.Lease/LeaseTimeToLive": lease.lease_time_to_live,
            "/etcdserverpb.Lease/LeaseLeases": lease.lease_leases,
            "/etcdserverpb.Cluster/MemberList": cluster.member_list,
            "/etcdserverpb.Cluster/MemberAdd": cluster.member_add,
            "/etcdserverpb.Cluster/MemberRemove": cluster.member_remove,
            "/etcdserverpb.Cluster/MemberUpdate": cluster.member_update,
            "/etcdserverpb.Cluster/MemberPromote": cluster.member_promote,
            "/etcdserverpb.Maintenance/Status": maintenance.status,
            "/etcdserverpb.Maintenance/Hash": maintenance.hash,
            "/etcdserverpb.Maintenance/HashKV": maintenance.hash_kv,
            "/etcdserverpb.Maintenance/Alarm": maintenance.alarm,
            "/etcdserverpb.Maintenance/MoveLeader": maintenance.move_leader,
            "/etcdserverpb.Maintenance/Defragment": maintenance.defragment,
            "/etcdserverpb.Maintenance/Downgrade": maintenance.downgrade,
            "/v3lockpb.Lock/Lock": services.lock.lock,
            "/v3lockpb.Lock/Unlock": services.lock.unlock,
            "/v3electionpb.Election/Campaign": services.election.campaign,
            "/v3electionpb.Election/Proclaim": services.election.proclaim,
            "/v3electionpb.Election/Leader": services.election.leader,
            "/v3electionpb.Election/Resign": services.election.resign,
            "/grpc.health.v1.Health/Check": self._health.check,
            "/pyetcdpb.Times/RevisionAt": services.times.revision_at,
            **services.auth.handlers(),
        }
        streams: dict[str, StreamHandler] = {
            "/etcdserverpb.Watch/Watch": services.watch.watch,
            "/etcdserverpb.Lease/LeaseKeepAlive": lease.lease_keep_alive,
            "/etcdserverpb.KV/RangeStream": services.range_stream.range_stream,
            "/etcdserverpb.Maintenance/Snapshot": services.snapshot.snapshot,
            "/v3electionpb.Election/Observe": services.election.observe,
            "/grpc.health.v1.Health/Watch": self._health.watch,
        }
        reflection = ReflectionApi(service_names([*unary, *streams, *REFLECTION]))
        streams |= dict.fromkeys(REFLECTION, reflection.info)
        on_learner: dict[str, OnLearner] = {
            "/etcdserverpb.KV/Range": lambda request: bool(request.serializable),
            "/etcdserverpb.Maintenance/Status": lambda request: True,
            "/pyetcdpb.Times/RevisionAt": lambda request: True,
        }
        for path, handler in unary.items():
            unary[path] = self._guard.unary(
                handler,
                on_learner=on_learner.get(path, never),
                auth=access.auth,
                gated=access.gate(path, handler),
            )
        for path, stream_handler in streams.items():
            streams[path] = access.stream_gate(path, stream_handler)
        for path in GUARDED_STREAMS:
            of_learners = path in STREAMS_OF_LEARNERS
            streams[path] = self._guard.stream(streams[path], on_learner=of_learners)
        services.local.bind(unary, services.watch.watch)
        return Dispatcher(
            {path: (METHODS[path].request, handler) for path, handler in unary.items()},
            {path: (METHODS[path].request, handler) for path, handler in streams.items()},
            timer=time.perf_counter if self._is_extensive else None,
        )

    async def start_first(self) -> None:
        """What is there before the member is: the peer port, and metrics, as in etcd."""
        await _start(self.peer_listener, self._sockets.peers)
        await _start(self.metrics_listener, self._sockets.metrics)

    async def start_clients(self) -> None:
        await _start(self.client_listener, self._sockets.clients)
        await _start(self.http_listener, self._sockets.http)

    async def stop(self, grace_s: float) -> None:
        """Clients first: what they still have under way needs the peers."""
        await asyncio.gather(self.client_listener.stop(grace_s), self.http_listener.stop(grace_s))
        await self.peer_listener.stop(0.0)
        await self.metrics_listener.stop(0.0)
        self._sockets.close()


async def _start(listener: Listener, sockets: list[Bound]) -> None:
    for bound in sockets:
        await listener.start(sock=bound.socket, secure=bound.url.is_tls)
