"""Which etcd this is, and which pyetcd."""

import platform
import sys
from importlib import metadata

SERVER_VERSION = "3.5.1"  # the etcd whose behaviour is the reference
CLUSTER_VERSION_MAX = "3.5.0"  # the highest cluster version this member can take part in
MIN_CLUSTER_VERSION = "3.0.0"


def pyetcd_version() -> str:
    try:
        return metadata.version("pyetcd")
    except metadata.PackageNotFoundError:
        return "0+source"  # run from a checkout that was never installed


def runtime_version() -> str:
    """Stands where etcd names its Go version."""
    return f"python{platform.python_version()}"


def os_arch() -> str:
    """In Go's words: linux/amd64."""
    machine = platform.machine().lower()
    names = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386"}
    return f"{sys.platform}/{names.get(machine, machine)}"


def version_text() -> str:
    """The four lines of --version, under etcd's labels because scripts look for those."""
    return (
        f"etcd Version: {SERVER_VERSION}\n"
        f"Git SHA: pyetcd-{pyetcd_version()}\n"
        f"Go Version: {runtime_version()}\n"
        f"Go OS/Arch: {os_arch()}\n"
    )
