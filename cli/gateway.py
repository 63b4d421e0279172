"""`pyetcd gateway start`, as `etcd gateway start`: the flags, the checks, the run.

What is wrong with the flags is said on one line in etcd's words, with exit code 1.
"""

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence

from pyetcd.cli import cobra, gotext
from pyetcd.cli.discover import discover
from pyetcd.cli.flags import Flag, FlagSet, boolean, span, text
from pyetcd.cli.srv import LookupFailure
from pyetcd.cli.standard import ignore_signals
from pyetcd.server import logs
from pyetcd.server.proxy import addresses
from pyetcd.server.proxy.addresses import BadAddress
from pyetcd.server.proxy.gateway import Gateway
from pyetcd.server.proxy.picker import Endpoint, Picker
from pyetcd.server.startup import notify_ready

MONITOR_S = 300.0  # etcd's tcpproxy in the place of --retry-delay=0

FLAGS = (
    text("listen-addr", "listen address", "127.0.0.1:23790"),
    text("discovery-srv", "DNS domain used to bootstrap initial cluster"),
    text("discovery-srv-name", "service name to query when using DNS discovery"),
    boolean("insecure-discovery", "accept insecure SRV records"),
    text(
        "trusted-ca-file",
        "path to the client server TLS CA file for verifying the discovered endpoints when"
        " discovery-srv is provided.",
    ),
    Flag("endpoints", "list", "127.0.0.1:2379", "comma separated etcd cluster endpoints"),
    span("retry-delay", "duration of delay before retrying failed endpoints", "1m0s"),
)


class Refused(Exception):
    """The gateway cannot start; the text is one line, with or without its end."""


def main(argv: Sequence[str]) -> int:
    """Returns the exit code; does not return when a signal ended it."""
    return cobra.main(cobra.Group("gateway", "start the gateway", FLAGS, _start), argv)


def _start(flags: FlagSet) -> int:
    logs.configure("info", ["stderr"])
    try:
        logs.get("gateway").info("Running: ", args=sys.argv)
        endpoints = _endpoints(flags)
        listener = _listener(flags.text("listen-addr"), endpoints)
    except Refused as refused:
        logs.close()
        sys.stdout.write(str(refused))
        sys.stdout.flush()
        return 1
    except (LookupFailure, BadAddress) as refused:
        logs.close()
        sys.stderr.write(f"{refused}\n")
        sys.stderr.flush()
        return 1
    picker = Picker(endpoints, random.SystemRandom().randrange)
    delay_s = flags.integer("retry-delay") / 1e9 or MONITOR_S
    gateway = Gateway(picker, retry_delay_s=max(delay_s, 0.001))
    return serve(lambda: gateway.start(listener), gateway.stop)


def _endpoints(flags: FlagSet) -> list[Endpoint]:
    found = discover(
        flags.text("discovery-srv"),
        flags.text("discovery-srv-name"),
        ca_file=flags.text("trusted-ca-file"),
        is_insecure=flags.boolean("insecure-discovery"),
    )
    if found:
        rows = [one.record for one in found]
        return [Endpoint(row.target, row.port, row.priority, row.weight) for row in rows]
    endpoints = []
    for given in flags.texts("endpoints"):
        address = addresses.without_scheme(given)
        try:
            host, port = addresses.split(address)
        except BadAddress:
            quoted = gotext.quote(address.encode("utf-8", "surrogateescape"))
            raise Refused(f"error parsing endpoint {quoted}") from None
        endpoints.append(Endpoint(host, addresses.number(port) & 0xFFFF))
    return endpoints


def _listener(address: str, endpoints: Sequence[Endpoint]) -> socket.socket:
    try:
        host, port = addresses.split(address)
    except BadAddress:
        raise Refused(f"failed to validate listen address: {address}\n") from None
    try:
        own = set(addresses.lookup(host))
    except (OSError, UnicodeError):
        raise Refused(f"failed to resolve listen host: {host}\n") from None
    for endpoint in endpoints:
        try:
            theirs = addresses.lookup(endpoint.host)
        except (OSError, UnicodeError):
            raise Refused(f"failed to resolve endpoint host: {endpoint.host}\n") from None
        if str(endpoint.port) != port:
            continue
        for one in theirs:
            if one in own:
                raise Refused(
                    f"SRV or endpoint ({endpoint.address}->{one}:{endpoint.port}) should not"
                    f" resolve to the gateway listen addr ({address})\n"
                )
    if not endpoints:
        raise Refused("no endpoints found\n")
    return addresses.listen(address)


def serve(start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> int:
    """Runs until a signal, which then ends the process, as it ends etcd's."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        number = runner.run(_serve(start, stop))
    logs.close()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


async def _serve(start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(number: int) -> None:
        if not ended.done():
            ended.set_result(number)

    ignore_signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    loop.set_exception_handler(logs.loop_exception_handler)
    await start()
    notify_ready(os.environ)
    ended_by = await ended
    await stop()
    return ended_by
