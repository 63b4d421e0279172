"""The entry point: `pyetcd`, or one of etcd's programs when called by its name.

`pyetcd server|ctl|utl|bench|gateway|proxy|version`. Called through a link named etcd, etcdctl or
etcdutl it is that program. Only what a command needs is imported: `ctl` starts in a few hundredths
of a second because neither typer nor the server is loaded on its way.
"""

import os
import signal
import sys

from pyetcd.cli.programs import PROGRAMS

_AS_PROGRAM = {"etcd": "server", "etcdctl": "ctl", "etcdutl": "utl"}
_OF_ETCD = ("gateway", "grpc-proxy")  # what the etcd program is besides a server, by its first word


def main() -> int:
    """Runs the program that the command line names."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # As a Go program: ^C ends the process at once, without a word. Who has something to put
        # away says so later; where it is ignored, as in a shell's background, it stays so.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from pyetcd.cli.standard import mend

        mend()
    program = os.path.basename(sys.argv[0])
    argv = sys.argv[1:]
    if program in _AS_PROGRAM and not (program == "etcd" and argv[:1] and argv[0] in _OF_ETCD):
        argv = [_AS_PROGRAM[program], *argv]
    if argv and argv[0] in PROGRAMS:
        return PROGRAMS[argv[0]](argv[1:])
    from pyetcd.cli.app import main as show

    return show(argv, PROGRAMS)


if __name__ == "__main__":
    sys.exit(main())
