"""The entry point: `pyetcd`, or one of etcd's programs when called by its name.

`pyetcd server|ctl|utl|bench|version`. Called through a link named etcd, etcdctl or etcdutl it is
that program. Only what a command needs is imported: `ctl` starts in a few hundredths of a second
because neither typer nor the server is loaded on its way.
"""

import os
import sys

from pyetcd.cli.programs import PROGRAMS

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


if __name__ == "__main__":
    sys.exit(main())
