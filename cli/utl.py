"""`pyetcd utl`: etcdutl, the tool for the files of a stopped member. So far only its version."""

import sys

from pyetcd.cli.command import API_VERSION, VERSION


def main(argv: list[str]) -> int:
    """The entry point; returns the exit code."""
    if argv[:1] == ["version"]:
        print(f"etcdutl version: {VERSION}")
        print(f"API version: {API_VERSION}")
        return 0
    print("Error: etcdutl's commands are not implemented by pyetcd yet", file=sys.stderr)
    return 1
