"""What etcdctl does not have: commands and flags for those who look at keys."""

from pyetcd.cli.command import Command
from pyetcd.cli.flags import Flag, boolean, integer

SINCE = "pyetcd"  # the release that brought it

DECODE = Flag(
    "decode",
    "bool",
    "false",
    "Print readable JSON or YAML: text as text, JSON values as JSON, other bytes as base64",
    since=SINCE,
)

AT = Flag(
    "at",
    "string",
    "",
    "The keys as they were at a time: how long ago (10m), or when (2006-01-02T15:04:05Z)",
    since=SINCE,
)

EXTRAS = (
    Command(
        "diff [options] <revision> <revision> [prefix]",
        "Shows what was added, changed and deleted between two revisions",
        "pyetcd.cli.ctl.diff:diff",
        (DECODE,),
        long="""
Compares the keys with the prefix, or all keys, as they were at the two revisions; 0 is the present
one. Lines with '-' are of the first, lines with '+' of the second; nothing is printed where they
are the same. Of values that are texts of several lines only the lines around a change are shown,
behind a line '@@ "key" -first,count +first,count @@'.

$ diff 100 200 /config/
$ diff 100 0 -w json
""",
        since=SINCE,
    ),
    Command(
        "history [options] <key>",
        "Shows every change of a key that is not yet compacted",
        "pyetcd.cli.ctl.history:history",
        (
            boolean("prefix", "Changes of all keys with this prefix"),
            integer("limit", "Maximum number of changes, the newest"),
            boolean("newest-first", "Begin with the newest change"),
            DECODE,
        ),
        long="""
One line a change, the oldest first: its revision, whether it was a put or a deletion, and of a put
the revision in which the key was created, its version since then, its lease and its value. After a
compaction the first line is of the last change before it, and standard error names the revision;
with --prefix there is such a line for each key, in the order of the keys.

With --limit or --newest-first the changes are in memory before they are shown.
""",
        since=SINCE,
    ),
    Command(
        "tree [options] [prefix]",
        "Shows keys as a tree, by the slashes in them",
        "pyetcd.cli.ctl.keytree:tree",
        (
            integer("depth", "Levels to show; of a folder that is not opened, the number of keys"),
            integer("rev", "Specify the kv revision"),
        ),
        long="""
One line a folder, which ends with '/', and a line a key, further to the right with each level. All
is of one revision. Values are not read, and with --depth only the count of what is not shown.
""",
        since=SINCE,
    ),
)
