"""What `utl` can do: every command with its flags, as data. Names, defaults and texts are those of
etcdutl 3.5; hashkv and completion are of 3.6, --bump-revision and --mark-compacted of 3.5.10."""

from typing import Final

from pyetcd.cli.command import Command
from pyetcd.cli.flags import Flag, boolean, integer, text

SNAPSHOT, OFFLINE = "pyetcd.cli.utl.snapshot:", "pyetcd.cli.utl.offline:"
DEFAULT_NAME: Final = "default"
DEFAULT_PEER_URLS: Final = "http://localhost:2380"

RESTORE_FLAGS: Final = (
    text("data-dir", "Path to the output data directory"),
    text("wal-dir", "Path to the WAL directory (use --data-dir if none given)"),
    text(
        "initial-cluster",
        "Initial cluster configuration for restore bootstrap",
        f"{DEFAULT_NAME}={DEFAULT_PEER_URLS}",
    ),
    text(
        "initial-cluster-token",
        "Initial cluster token for the etcd cluster during restore bootstrap",
        "etcd-cluster",
    ),
    text(
        "initial-advertise-peer-urls",
        "List of this member's peer URLs to advertise to the rest of the cluster",
        DEFAULT_PEER_URLS,
    ),
    text("name", "Human-readable name for this member", DEFAULT_NAME),
    boolean(
        "skip-hash-check",
        "Ignore snapshot integrity hash value (required if copied from data directory)",
    ),
    Flag(
        "bump-revision", "uint", "0", "How much to increase the latest revision after restore", ""
    ),
    boolean(
        "mark-compacted",
        "Mark the latest revision after restore as the point of scheduled compaction"
        " (required if --bump-revision > 0, disallowed otherwise)",
    ),
)

HELP: Final = Command("help [command]", "Help about any command", "pyetcd.cli.utl.run:help")

ROOT: Final = Command(
    "etcdutl",
    "An administrative command line tool for etcd3.",
    inherited=(
        text(
            "write-out",
            "set the output format (fields, json, protobuf, simple, table, yaml)",
            "simple",
            short="w",
        ),
    ),
    children=(
        Command(
            "backup",
            "[legacy] offline backup of etcd directory",
            OFFLINE + "backup",
            (
                text("data-dir", "Path to the etcd data dir"),
                text("wal-dir", "Path to the etcd wal dir"),
                text("backup-dir", "Path to the backup dir"),
                text("backup-wal-dir", "Path to the backup wal dir"),
                boolean("with-v3", "Backup v3 backend data", on=True),
            ),
        ),
        Command(
            "completion <bash|zsh|fish>",
            "Generate the autocompletion script for the specified shell",
            "pyetcd.cli.utl.run:completion",
        ),
        Command(
            "defrag",
            "Defragments the storage of the etcd",
            OFFLINE + "defrag",
            (text("data-dir", "Required. Defragments a data directory not in use by etcd."),),
        ),
        Command(
            "hashkv <filename>",
            "Prints the KV history hash of a given file",
            OFFLINE + "hash_kv",
            (integer("rev", "maximum revision to hash (default: latest revision)"),),
        ),
        HELP,
        Command(
            "snapshot <subcommand>",
            "Manages etcd node snapshots",
            children=(
                Command(
                    "save <filename>",
                    "Stores an etcd node backend snapshot to a given file",
                    SNAPSHOT + "save",
                ),
                Command(
                    "restore <filename> --data-dir {output dir} [options]",
                    "Restores an etcd member snapshot to an etcd directory",
                    SNAPSHOT + "restore",
                    RESTORE_FLAGS,
                ),
                Command(
                    "status <filename>",
                    "Gets backend snapshot status of a given file",
                    SNAPSHOT + "status",
                ),
            ),
        ),
        Command("version", "Prints the version of etcdutl", "pyetcd.cli.utl.run:version"),
    ),
)

# By the command's path below the root.
REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "backup": ("backup-dir", "data-dir"),
    "defrag": ("data-dir",),
    "snapshot restore": ("data-dir",),
}
DEPRECATED: Final[dict[str, str]] = {  # not listed in the help
    "snapshot save": "Use `etcdctl snapshot save` to download snapshot"
}
ARGUMENTS: Final[dict[str, int]] = {"completion": 1, "hashkv": 1}  # checked by cobra
