"""The programs that `pyetcd` is, each imported only when it runs."""

import os
from collections.abc import Callable


def _server(argv: list[str]) -> int:
    from pyetcd.cli.serve import main as serve

    return serve(argv)


def _ctl(argv: list[str]) -> int:
    import signal

    from pyetcd.cli.standard import open_streams
    from pyetcd.cli.terminal import Exit

    environment = dict(os.environ)
    if environment.get("ETCDCTL_API") == "2":
        del environment["ETCDCTL_API"]  # not for what exec-watch runs
        from pyetcd.cli.ctl2.run import execute
    else:
        from pyetcd.cli.ctl.run import execute

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as a Go program
    streams = open_streams()
    try:
        code = execute(argv, environment, streams)
        streams.stdout.flush()
    except Exit as end:  # stdout cannot be written
        code = end.code
    streams.stderr.flush()
    # Nothing is left to be saved, and taking grpc's threads down costs more than many a command.
    os._exit(code)


def _utl(argv: list[str]) -> int:
    from pyetcd.cli.utl.run import main as utl

    return utl(argv)


def _bench(argv: list[str]) -> int:
    from pyetcd.cli.bench import main as bench

    return bench(argv)


def _gateway(argv: list[str]) -> int:
    from pyetcd.cli.gateway import main as gateway

    return gateway(argv)


def _proxy(argv: list[str]) -> int:
    from pyetcd.cli.proxy import main as proxy

    return proxy(argv)


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "server": _server,
    "ctl": _ctl,
    "utl": _utl,
    "bench": _bench,
    "gateway": _gateway,
    "proxy": _proxy,
    "grpc-proxy": _proxy,
}
