"""What `ctl` can do: every command with its flags, as data.

Nothing is imported here but the two small modules that describe commands, so that help and mistakes
cost nothing, and a command loads only what it runs. Names, defaults and flag texts are etcdctl's.
"""

from pyetcd.cli.command import Command
from pyetcd.cli.ctl.tree_extras import AT, DECODE, EXTRAS
from pyetcd.cli.ctl.tree_live import LIVE, PLAIN
from pyetcd.cli.ctl.tree_more import MORE
from pyetcd.cli.flags import Flag, boolean, integer, span, text

KV, LEASE = "pyetcd.cli.ctl.kv:", "pyetcd.cli.ctl.lease:"
MEMBER, ENDPOINT = "pyetcd.cli.ctl.member:", "pyetcd.cli.ctl.endpoint:"
MAINTENANCE = "pyetcd.cli.ctl.maintenance:"


GLOBAL = (
    Flag("endpoints", "list", "127.0.0.1:2379", "gRPC endpoints"),
    boolean("debug", "enable client-side debug logging"),
    text(
        "write-out",
        "set the output format (fields, json, protobuf, simple, table, yaml)",
        "simple",
        short="w",
    ),
    boolean("hex", "print byte strings as hex encoded strings"),
    span("dial-timeout", "dial timeout for client connections", "2s"),
    span("command-timeout", "timeout for short running command (excluding dial timeout)", "5s"),
    span("keepalive-time", "keepalive time for client connections", "2s"),
    span("keepalive-timeout", "keepalive timeout for client connections", "6s"),
    boolean("insecure-transport", "disable transport security for client connections", on=True),
    boolean(
        "insecure-discovery", "accept insecure SRV records describing cluster endpoints", on=True
    ),
    boolean(
        "insecure-skip-tls-verify",
        "skip server certificate verification"
        " (CAUTION: this option should be enabled only for testing purposes)",
    ),
    text("cert", "identify secure client using this TLS certificate file"),
    text("key", "identify secure client using this TLS key file"),
    text("cacert", "verify certificates of TLS-enabled secure servers using this CA bundle"),
    text("user", "username[:password] for authentication (prompt if password is not supplied)"),
    text(
        "password",
        "password for authentication"
        " (if this option is used, --user option shouldn't include password)",
    ),
    text(
        "discovery-srv",
        "domain name to query for SRV records describing cluster endpoints",
        short="d",
    ),
    text("discovery-srv-name", "service name to query when using DNS discovery"),
    integer(
        "max-request-bytes",
        "largest request that is sent, in bytes (0: 2 MiB)",
        since="3.6",
    ),
    integer("max-recv-bytes", "largest answer that is taken, in bytes (0: any)", since="3.6"),
    Flag(
        "auth-jwt-token",
        "string",
        "",
        "JWT for authentication (in the place of --user and --password)",
        since="3.7",
    ),
    PLAIN,
)

_CLUSTER = boolean("cluster", "use all endpoints from the cluster member list")
PUT = Command(
    "put [options] <key> <value> (<value> can also be given from stdin)",
    "Puts the given key into the store",
    KV + "put",
    (
        text("lease", "lease ID (in hexadecimal) to attach to the key", "0"),
        boolean("prev-kv", "return the previous key-value pair before modification"),
        boolean("ignore-value", "updates the key using its current value"),
        boolean("ignore-lease", "updates the key using its current lease"),
    ),
    long="""
Stores a value under a key. With no value on the command line, and without --ignore-value, the
value is all of standard input:

$ cat file | put <key>

A value that begins with '-' would be read as a flag, so put '--' before it:

$ put <key> -- <value>
$ put -- <key> <value>
""",
)

GET = Command(
    "get [options] <key> [range_end]",
    "Gets the key or a range of keys",
    KV + "get",
    (
        text("consistency", "Linearizable(l) or Serializable(s)", "l"),
        text("order", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
        text("sort-by", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
        integer("limit", "Maximum number of results"),
        boolean("prefix", "Get keys with matching prefix"),
        boolean(
            "from-key",
            "Get keys that are greater than or equal to the given key using byte compare",
        ),
        integer("rev", "Specify the kv revision"),
        boolean("keys-only", "Get only the keys"),
        boolean("count-only", "Get only the count"),
        boolean("print-value-only", 'Only write values when using the "simple" output format'),
        integer("min-create-rev", "Minimum create revision", since="3.6"),
        integer("max-create-rev", "Maximum create revision", since="3.6"),
        integer("min-mod-rev", "Minimum modification revision", since="3.6"),
        integer("max-mod-rev", "Maximum modification revision", since="3.6"),
        Flag(
            "stream", "bool", "false", "Get the answer in pieces, for very many keys", since="3.7"
        ),
        DECODE,
        AT,
    ),
)

DEL = Command(
    "del [options] <key> [range_end]",
    "Removes the specified key or range of keys [key, range_end)",
    KV + "delete",
    (
        boolean("prefix", "delete keys with matching prefix"),
        boolean("prev-kv", "return deleted key-value pairs"),
        boolean(
            "from-key",
            "delete keys that are greater than or equal to the given key using byte compare",
        ),
        Flag("range", "bool", "false", "delete range of keys", since="3.6"),
    ),
)

WATCH = Command(
    "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    "Watches events stream on keys or prefixes",
    "pyetcd.cli.ctl.watch:watch",
    (
        boolean("interactive", "Interactive mode", short="i"),
        boolean("prefix", "Watch on a prefix if prefix is set"),
        integer("rev", "Revision to start watching"),
        boolean("prev-kv", "get the previous key-value pair before the event happens"),
        boolean("progress-notify", "get periodic watch progress notification from server"),
        DECODE,
    ),
)

_TXN = Command(
    "txn [options]",
    "Txn processes all the requests in one transaction",
    "pyetcd.cli.ctl.txn_text:txn",
    (boolean("interactive", "Input transaction in interactive mode", short="i"),),
)

_LEASE = Command(
    "lease <subcommand>",
    "Lease related commands",
    children=(
        Command("grant <ttl>", "Creates leases", LEASE + "grant"),
        Command("revoke <leaseID>", "Revokes leases", LEASE + "revoke"),
        Command(
            "timetolive <leaseID> [options]",
            "Get lease information",
            LEASE + "time_to_live",
            (boolean("keys", "Get keys attached to this lease"),),
        ),
        Command("list", "List all active leases", LEASE + "list_all"),
        Command(
            "keep-alive [options] <leaseID>",
            "Keeps leases alive (renew)",
            LEASE + "keep_alive",
            (
                boolean(
                    "once",
                    "Resets the keep-alive time to its original value"
                    " and cobrautl.Exits immediately",
                ),
            ),
        ),
    ),
)

_MEMBER = Command(
    "member <subcommand>",
    "Membership related commands",
    children=(
        Command(
            "add <memberName> [options]",
            "Adds a member into the cluster",
            MEMBER + "add",
            (
                text("peer-urls", "comma separated peer URLs for the new member."),
                boolean("learner", "indicates if the new member is raft learner"),
            ),
        ),
        Command("remove <memberID>", "Removes a member from the cluster", MEMBER + "remove"),
        Command(
            "update <memberID> [options]",
            "Updates a member in the cluster",
            MEMBER + "update",
            (text("peer-urls", "comma separated peer URLs for the updated member."),),
        ),
        Command(
            "list",
            "Lists all members in the cluster",
            MEMBER + "list_all",
            long="""
One line a member in the simple format, its items between commas:
ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.
""",
        ),
        Command(
            "promote <memberID>",
            "Promotes a non-voting member in the cluster",
            MEMBER + "promote",
            long="\nMakes a learner that has caught up a voting member.\n",
        ),
    ),
)

_ENDPOINT = Command(
    "endpoint <subcommand>",
    "Endpoint related commands",
    inherited=(_CLUSTER,),
    children=(
        Command(
            "health",
            "Checks the healthiness of endpoints specified in `--endpoints` flag",
            ENDPOINT + "health",
        ),
        Command(
            "status",
            "Prints out the status of endpoints specified in `--endpoints` flag",
            ENDPOINT + "status",
            long="""
One line an endpoint in the simple format, its items between commas:
endpoint, ID, version, db size, is leader, is learner, raft term, raft index,
raft applied index, errors.
""",
        ),
        Command(
            "hashkv",
            "Prints the KV history hash for each endpoint in --endpoints",
            ENDPOINT + "hash_kv",
            inherited=(integer("rev", "maximum revision to hash (default: all revisions)"),),
        ),
    ),
)

_DOWNGRADE = Command(
    "downgrade <TARGET_VERSION>",
    "Downgrade related commands",
    since="3.6",
    children=(
        Command(
            "validate <TARGET_VERSION>",
            "Validate downgrade capability before starting downgrade",
            MAINTENANCE + "downgrade_validate",
        ),
        Command(
            "enable <TARGET_VERSION>",
            "Start a downgrade action to cluster",
            MAINTENANCE + "downgrade_enable",
        ),
        Command(
            "cancel",
            "Cancel the ongoing downgrade action to cluster",
            MAINTENANCE + "downgrade_cancel",
        ),
    ),
)

_ALARM = Command(
    "alarm <subcommand>",
    "Alarm related commands",
    children=(
        Command("disarm", "Disarms all alarms", MAINTENANCE + "alarm_disarm"),
        Command("list", "Lists all alarms", MAINTENANCE + "alarm_list"),
    ),
)

HELP = Command(
    "help [command]",
    "Help about any command",
    "pyetcd.cli.ctl.run:help",
    long="Prints the help text of a command: etcdctl help [path to command].",
)

REQUESTS = Command("", "", children=(GET, PUT, DEL))  # what a line of a txn may be

ROOT = Command(
    "etcdctl",
    "A simple command line client for etcd3.",
    inherited=GLOBAL,
    children=(  # in the order in which suggestions are listed
        GET,
        PUT,
        DEL,
        _TXN,
        Command(
            "compaction [options] <revision>",
            "Compacts the event history in etcd",
            KV + "compaction",
            (
                boolean(
                    "physical",
                    "'true' to wait for compaction to physically remove all old revisions",
                ),
            ),
        ),
        _ALARM,
        Command(
            "defrag",
            "Defragments the storage of the etcd members with given endpoints",
            MAINTENANCE + "defrag",
            (
                text(
                    "data-dir",
                    "Optional. If present, defragments a data directory not in use by etcd.",
                ),
            ),
            inherited=(_CLUSTER,),
        ),
        _ENDPOINT,
        Command(
            "move-leader <transferee-member-id>",
            "Transfers leadership to another etcd cluster member.",
            MAINTENANCE + "move_leader",
        ),
        WATCH,
        Command("version", "Prints the version of etcdctl", MAINTENANCE + "version"),
        _LEASE,
        _MEMBER,
        *MORE,
        *EXTRAS,
        HELP,
        _DOWNGRADE,
        Command(
            "completion <bash|zsh|fish>",
            "Generate the autocompletion script for the specified shell",
            "pyetcd.cli.ctl.run:completion",
            long="\nLoad it with: source <(etcdctl completion bash)\n",
            since="3.6",
        ),
        Command(
            "options",
            "Show the global command-line flags",
            "pyetcd.cli.ctl.run:options",
            since="3.7",
        ),
        *LIVE,
    ),
)
