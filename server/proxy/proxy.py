"""The gRPC proxy: who knows whom.

Clients talk to the listener of a member; behind it a dispatch table hands on, answers from the
cache, or shares watches and keep-alives; at the back are the connections to the cluster.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyetcd.proto.services import METHODS
from pyetcd.server.handshake import ServerContext
from pyetcd.server.listen import Listener
from pyetcd.server.logs import get
from pyetcd.server.proxy.cache import Cache
from pyetcd.server.proxy.calls import Answer, Calls
from pyetcd.server.proxy.dial import wants_tls
from pyetcd.server.proxy.figures import Figures
from pyetcd.server.proxy.keepalive import KEEP_ALIVE, KeepAlives
from pyetcd.server.proxy.leader import LeaderWatch
from pyetcd.server.proxy.members import Members
from pyetcd.server.proxy.namespace import Namespace
from pyetcd.server.proxy.ops import Ops
from pyetcd.server.proxy.settings import Settings
from pyetcd.server.proxy.upstream import Upstream
from pyetcd.server.proxy.upwatch import WATCH, UpWatch
from pyetcd.server.proxy.watch import WatchFront
from pyetcd.server.tls import Admission, Renewal, TlsFiles, server_context
from pyetcd.server.wire.exchange import HttpService
from pyetcd.server.wire.grpc import Dispatcher
from pyetcd.server.wire.limits import Limits

GRACE_S = 2.0


class Proxy:
    """Built without I/O but for the files of TLS. Raises TlsError."""

    def __init__(self, settings: Settings, *, bug: Callable[[BaseException], None]) -> None:
        self._settings = settings
        self._log = get("grpc-proxy")
        self.upstream = Upstream(settings)
        namespace = Namespace(settings.namespace)
        self.cache = Cache()
        self.upwatch = UpWatch(self.upstream, namespace)
        self._leader = LeaderWatch(self.upstream)
        self._keep_alives = KeepAlives(self.upstream, self._leader)
        self._members = Members(settings, self.upstream, self.upwatch, self._keep_alives)
        self._calls = Calls(self.upstream, namespace, self.cache, keeps_order=settings.keeps_order)
        self._calls.bug = bug
        self._own = _own(settings)
        dispatcher = self._dispatcher()
        figures = Figures(self.upwatch.hub, self.cache, lambda: dispatcher)
        self._ops = Ops(settings, self.upstream, self._own, figures.render, _context(settings))
        limits = Limits(
            request_bytes_max=max(settings.send_bytes_max, Limits().request_bytes_max),
            keepalive_interval_s=settings.keepalive_interval_s or Limits().keepalive_interval_s,
            keepalive_timeout_s=settings.keepalive_timeout_s or Limits().keepalive_timeout_s,
            keepalive_min_time_s=settings.keepalive_min_time_s,
            streams_max=settings.streams_max or Limits().streams_max,
        )
        http = HttpService(self._ops.router())
        self._tls, self._renewal = _server_tls(settings.tls)
        look = self._renewal.look if self._renewal is not None else None
        admission = Admission(settings.tls) if settings.tls is not None else None
        self.listener = Listener(
            dispatcher, http, limits, tls=self._tls, admission=admission,
            before_handshake=look, on_bug=bug,
        )  # fmt: skip
        self.metrics_listener = Listener(
            Dispatcher({}, {}), http, limits, tls=self._tls, admission=admission,
            before_handshake=look, on_bug=bug,
        )  # fmt: skip

    def _dispatcher(self) -> Dispatcher:
        replaced: dict[str, Answer] = {}
        if self._members.answers:
            replaced["/etcdserverpb.Cluster/MemberList"] = self._members.member_list
        front = WatchFront(self.upwatch, self._leader)
        streams: dict[str, Any] = {
            WATCH: (METHODS[WATCH].request, front.watch),
            KEEP_ALIVE: (METHODS[KEEP_ALIVE].request, self._keep_alives.keep_alive),
            **self._calls.streams(),
        }
        return Dispatcher(self._calls.unary(replaced), streams)

    async def start(
        self, listener: socket.socket, metrics: socket.socket | None, *, secure_metrics: bool
    ) -> None:
        await self.upstream.start()
        if self._own is not None:
            await self._own.start()
        await self._members.start()
        await self.listener.start(sock=listener)
        if metrics is not None:
            await self.metrics_listener.start(sock=metrics, secure=secure_metrics)
        self._log.info("started gRPC proxy", address=self._settings.listen_addr)

    async def stop(self) -> None:
        await asyncio.gather(self.listener.stop(GRACE_S), self.metrics_listener.stop(0.0))
        await self._ops.stop()
        await self._members.stop()
        await self._calls.stop()
        self._leader.stop()
        await self._keep_alives.stop()
        await self.upwatch.stop()
        if self._own is not None:
            await self._own.stop()
        await self.upstream.stop()


def _own(settings: Settings) -> Upstream | None:
    """The way to the proxy itself, for /proxy/health."""
    if not settings.advertise_client_url:
        return None
    tls = settings.tls or TlsFiles()
    return Upstream(
        replace(
            settings,
            endpoints=(settings.advertise_client_url,),
            cert_file=tls.cert_file if tls.trusted_ca_file else "",
            key_file=tls.key_file if tls.trusted_ca_file else "",
            ca_file=tls.trusted_ca_file,
            skips_verify=tls.is_self_signed or (bool(tls.cert_file) and not tls.trusted_ca_file),
        )
    )


def _context(settings: Settings) -> ssl.SSLContext | None:
    """For /metrics of the cluster."""
    if not wants_tls(settings) and not any(one.startswith("https:") for one in settings.endpoints):
        return None
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if settings.skips_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context


def _server_tls(files: TlsFiles | None) -> tuple[ServerContext | None, Renewal | None]:
    if files is None:
        return None, None
    context = server_context(files)
    loop_time = asyncio.get_running_loop().time
    return context, Renewal(loop_time, [(context, files.cert_file, files.key_file)])
