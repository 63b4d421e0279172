"""What etcdctl does not have: commands and flags for those who look at keys."""

from pyetcd.cli.flags import Flag

SINCE = "pyetcd"  # the release that brought it

DECODE = Flag(
    "decode",
    "bool",
    "false",
    "Print readable JSON or YAML: text as text, JSON values as JSON, other bytes as base64",
    since=SINCE,
)
