"""The entry point: `pyetcd`, or one of etcd's programs when called by its name.

`pyetcd server|ctl|utl|bench|version`. Called through a link named etcd, etcdctl or etcdutl it is
that program. Only what a command needs is imported: `ctl` starts in a few hundredths of a second
because neither typer nor the server is loaded on its way.
"""

import os
import sys
from collections.abc import Callable

_AS_PROGRAM = {"etcd": "server", "etcdctl": "ctl", "etcdutl": "utl"}


def main() -> int:
    """Runs the program that the command line names."""
    program = os.path.basename(sys.argv[0])
    argv = sys.argv[1:]
    if program in _AS_PROGRAM:
        argv = [_AS_PROGRAM[program], *argv]
    if argv and argv[0] in PROGRAMS:
        return PROGRAMS[argv[0]](argv[1:])
    from pyetcd.cli.app import main as show

    return show(argv, PROGRAMS)


def _server(argv: list[str]) -> int:
    from pyetcd.cli.serve import main as serve

    return serve(argv)


def _ctl(argv: list[str]) -> int:
    import signal

    from pyetcd.cli.context import Streams
    from pyetcd.cli.ctl.run import execute

    # As a Go program: ^C and a closed pipe end the process at once, without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    streams = Streams(sys.stdin.buffer, sys.stdout.buffer, sys.stderr.buffer, sys.stdout.isatty())
    code = execute(argv, os.environ, streams)
    streams.stdout.flush()
    streams.stderr.flush()
    # Nothing is left to be saved, and taking grpc's threads down costs more than many a command.
    os._exit(code)


def _utl(argv: list[str]) -> int:
    from pyetcd.cli.utl import main as utl

    return utl(argv)


def _bench(argv: list[str]) -> int:
    from pyetcd.cli.bench import main as bench

    return bench(argv)


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "server": _server,
    "ctl": _ctl,
    "utl": _utl,
    "bench": _bench,
}

if __name__ == "__main__":
    sys.exit(main())
