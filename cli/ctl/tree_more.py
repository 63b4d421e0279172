"""The commands of `ctl` beside the everyday ones: auth, users, roles, snapshots, checks, locks."""

from pyetcd.cli.command import Command
from pyetcd.cli.flags import Flag, boolean, integer, text

CHECK = "pyetcd.cli.ctl.check:"


def _permission_flags(verb: str) -> tuple[Flag, ...]:
    return (
        boolean("prefix", f"{verb} a prefix permission"),
        boolean(
            "from-key",
            f"{verb} a permission of keys that are greater than or equal to the given key"
            " using byte compare",
        ),
    )


def _check_flags(name: str, prefix: str) -> tuple[Flag, ...]:
    return (
        text(
            "load",
            f"The {name} check's workload model."
            " Accepted workloads: s(small), m(medium), l(large), xl(xLarge)",
            "s",
        ),
        text("prefix", f"The prefix for writing the {name} check's keys.", prefix),
        boolean("auto-compact", "Compact storage with last revision after test is finished."),
        boolean("auto-defrag", "Defragment storage after test is finished."),
    )


_AUTH = Command(
    "auth <enable or disable>",
    "Enable or disable authentication",
    children=(
        Command("enable", "Enables authentication", "pyetcd.cli.ctl.auth:enable"),
        Command("disable", "Disables authentication", "pyetcd.cli.ctl.auth:disable"),
        Command("status", "Returns authentication status", "pyetcd.cli.ctl.auth:status"),
    ),
)

_USER = Command(
    "user <subcommand>",
    "User related commands",
    children=(
        Command(
            "add <user name or user:password> [options]",
            "Adds a new user",
            "pyetcd.cli.ctl.auth:user_add",
            (
                boolean(
                    "interactive",
                    "Read password from stdin instead of interactive terminal",
                    on=True,
                ),
                text("new-user-password", "Supply password from the command line flag"),
                boolean("no-password", "Create a user without password (CN based auth only)"),
            ),
        ),
        Command("delete <user name>", "Deletes a user", "pyetcd.cli.ctl.auth:user_delete"),
        Command(
            "get <user name> [options]",
            "Gets detailed information of a user",
            "pyetcd.cli.ctl.auth:user_get",
            (boolean("detail", "Show permissions of roles granted to the user"),),
        ),
        Command("list", "Lists all users", "pyetcd.cli.ctl.auth:user_list"),
        Command(
            "passwd <user name> [options]",
            "Changes password of user",
            "pyetcd.cli.ctl.auth:user_passwd",
            (
                boolean(
                    "interactive",
                    "If true, read password from stdin instead of interactive terminal",
                    on=True,
                ),
            ),
        ),
        Command(
            "grant-role <user name> <role name>",
            "Grants a role to a user",
            "pyetcd.cli.ctl.auth:user_grant_role",
        ),
        Command(
            "revoke-role <user name> <role name>",
            "Revokes a role from a user",
            "pyetcd.cli.ctl.auth:user_revoke_role",
        ),
    ),
)

_ROLE = Command(
    "role <subcommand>",
    "Role related commands",
    children=(
        Command("add <role name>", "Adds a new role", "pyetcd.cli.ctl.auth:role_add"),
        Command("delete <role name>", "Deletes a role", "pyetcd.cli.ctl.auth:role_delete"),
        Command(
            "get <role name>", "Gets detailed information of a role", "pyetcd.cli.ctl.auth:role_get"
        ),
        Command("list", "Lists all roles", "pyetcd.cli.ctl.auth:role_list"),
        Command(
            "grant-permission [options] <role name> <permission type> <key> [endkey]",
            "Grants a key to a role",
            "pyetcd.cli.ctl.auth:role_grant_permission",
            _permission_flags("grant"),
        ),
        Command(
            "revoke-permission <role name> <key> [endkey]",
            "Revokes a key from a role",
            "pyetcd.cli.ctl.auth:role_revoke_permission",
            _permission_flags("revoke"),
        ),
    ),
)

_SNAPSHOT = Command(
    "snapshot <subcommand>",
    "Manages etcd node snapshots",
    children=(
        Command(
            "save <filename>",
            "Stores an etcd node backend snapshot to a given file",
            "pyetcd.cli.ctl.snapshot:save",
        ),
        Command(
            "restore <filename> [options]",
            "Restores an etcd member snapshot to an etcd directory",
            "pyetcd.cli.ctl.snapshot:restore",
            (
                text("data-dir", "Path to the data directory"),
                text("wal-dir", "Path to the WAL directory (use --data-dir if none given)"),
                text(
                    "initial-cluster",
                    "Initial cluster configuration for restore bootstrap",
                    "default=http://localhost:2380",
                ),
                text(
                    "initial-cluster-token",
                    "Initial cluster token for the etcd cluster during restore bootstrap",
                    "etcd-cluster",
                ),
                text(
                    "initial-advertise-peer-urls",
                    "List of this member's peer URLs to advertise to the rest of the cluster",
                    "http://localhost:2380",
                ),
                text("name", "Human-readable name for this member", "default"),
                boolean(
                    "skip-hash-check",
                    "Ignore snapshot integrity hash value (required if copied from data directory)",
                ),
            ),
            long="\nThe offline tool does this: etcdutl snapshot restore.\n",
        ),
        Command(
            "status <filename>",
            "[deprecated] Gets backend snapshot status of a given file",
            "pyetcd.cli.ctl.snapshot:status",
            long="\nThe offline tool does this: etcdutl snapshot status.\n",
        ),
    ),
)

_CHECK = Command(
    "check <subcommand>",
    "commands for checking properties of the etcd cluster",
    children=(
        Command(
            "perf [options]",
            "Check the performance of the etcd cluster",
            CHECK + "perf",
            _check_flags("performance", "/etcdctl-check-perf/"),
        ),
        Command(
            "datascale [options]",
            "Check the memory usage of holding data for different workloads"
            " on a given server endpoint.",
            CHECK + "datascale",
            _check_flags("datascale", "/etcdctl-check-datascale/"),
            long="""
Writes keys and values of 512 bytes each: 10,000 by 50 clients (s), 100,000 by 200 (m), a million by
500 (l), three million by 1000 (xl); says how much more memory the server uses, and deletes them.
Ctrl-C ends it early; the keys are deleted then, too.

The keys go to all endpoints; the memory is that of the first one's server, by its /metrics.
""",
        ),
    ),
)

_MIRROR = Command(
    "make-mirror [options] <destination>",
    "Makes a mirror at the destination etcd cluster",
    "pyetcd.cli.ctl.mirror:make_mirror",
    (
        text("prefix", "Key-value prefix to mirror"),
        text(
            "dest-prefix",
            "destination prefix to mirror a prefix to a different prefix"
            " in the destination cluster",
        ),
        boolean("no-dest-prefix", "mirror key-values to the root of the destination cluster"),
        text(
            "dest-cert",
            "Identify secure client using this TLS certificate file for the destination cluster",
        ),
        text("dest-key", "Identify secure client using this TLS key file"),
        text(
            "dest-cacert",
            "Verify certificates of TLS enabled secure servers using this CA bundle",
        ),
        boolean(
            "dest-insecure-transport", "Disable transport security for client connections", on=True
        ),
        text(
            "dest-user",
            "Destination username[:password] for authentication"
            " (prompt if password is not supplied)",
        ),
        text(
            "dest-password",
            "Destination password for authentication"
            " (if this option is used, --user option shouldn't include password)",
        ),
    ),
)

MORE = (
    _SNAPSHOT,
    _MIRROR,
    Command(
        "lock <lockname> [exec-command arg1 arg2 ...]",
        "Acquires a named lock",
        "pyetcd.cli.ctl.lock:lock",
        (integer("ttl", "timeout for session", 10),),
    ),
    Command(
        "elect <election-name> [proposal]",
        "Observes and participates in leader election",
        "pyetcd.cli.ctl.lock:elect",
        (boolean("listen", "observation mode", short="l"),),
    ),
    _AUTH,
    _USER,
    _ROLE,
    _CHECK,
)
