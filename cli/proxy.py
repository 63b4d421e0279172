"""`pyetcd proxy start`, as `etcd grpc-proxy start`."""

import sys
from collections.abc import Sequence

from pyetcd.cli import cobra
from pyetcd.cli.flags import FlagSet


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    return cobra.main(cobra.Group("grpc-proxy", "start the grpc proxy", (), _start), argv)


def _start(flags: FlagSet) -> int:
    del flags
    sys.stderr.write("the gRPC proxy is not there yet\n")
    return 1
