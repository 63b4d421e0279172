"""etcdctl 3.5.1 and `pyetcd ctl` beside each other: each command with wrong and with odd arguments.

As in test_differential.py each row runs in both programs against the same real etcd.
"""

import pytest
from rows import lines, split

COMMANDS = """
auth
auth bogus
auth enable x
auth disable x
auth status x
auth status -w {f}
auth disable
user
user bogus
user add
user add a b
user add ''
user add :p
user add u --interactive=maybe
user add u --new-user-password
user delete
user delete a b
user delete nobody
user get
user get a b
user get nobody
user get nobody --detail
user list x
user list -w {f}
user passwd
user passwd a b
user passwd nobody --interactive=false << new
user passwd nobody << new|other|
user passwd nobody << new|new|
user grant-role
user grant-role a
user grant-role a b c
user grant-role nobody none
user revoke-role
user revoke-role a
user revoke-role nobody none
role
role bogus
role add
role add a b
role add ''
role delete
role delete a b
role delete none
role get
role get a b
role get none
role get none -w json
role list x
role list -w {f}
role grant-permission
role grant-permission r
role grant-permission r read
role grant-permission r bogus k
role grant-permission none read k
role grant-permission none READWRITE k
role grant-permission none read k k --prefix
role grant-permission none read k k --from-key
role grant-permission none read k --prefix --from-key
role grant-permission none read k k k
role revoke-permission
role revoke-permission r
role revoke-permission none k
role revoke-permission none k l
role revoke-permission none k --prefix
role revoke-permission none k --from-key
role revoke-permission none k l m
role revoke-permission none k --prefix --from-key
lock
lock --bogus
lock x --ttl=x
elect
elect x
elect x y z
elect x y -l
elect x y --listen=true
elect --listen
elect x --listen=maybe
make-mirror
make-mirror a b
make-mirror --bogus
make-mirror x --no-dest-prefix=maybe
snapshot
snapshot bogus
snapshot save
snapshot save a b
snapshot status
snapshot restore
snapshot save /nonexistent/x
check
check bogus
check perf --prefix
lease grant ''
lease grant 0x10
lease grant 10 -w bad
lease revoke ''
lease revoke 0x1
lease revoke 1 2
lease revoke -- -1
lease revoke 1 -w {f}
lease timetolive ''
lease timetolive 1 2
lease timetolive 1 --keys -w {f}
lease timetolive 1 --keys=maybe
lease list x
lease list --hex
lease keep-alive ''
lease keep-alive 1 2
lease keep-alive 1 --once -w {f}
lease bogus --help
lea list
lease l
member list x
member list --hex -w {f}
member add x --peer-urls=
member add x --peer-urls
member add x --peer-urls=http://127.0.0.1:1,foo
member add x --learner=maybe --peer-urls=http://127.0.0.1:1
member remove 1 2
member remove ''
member remove 1 -w {f}
member remove ffffffffffffffffff
member update 1 2 --peer-urls=http://127.0.0.1:1
member update 1 --peer-urls=foo
member update 1 --peer-urls=http://127.0.0.1:1 -w {f}
member promote 1 2
member promote 1 -w {f}
member promote ''
member bogus
endpoint bogus
endpoint health x
endpoint status x
endpoint hashkv x
endpoint health --cluster=maybe
endpoint status --cluster -w {f}
endpoint hashkv --cluster -w {f}
endpoint health --cluster -w {f}
endpoint hashkv --rev=-1
endpoint hashkv --rev
alarm bogus
alarm disarm --bogus
move-leader 1 2
move-leader ''
move-leader 0x1
watch k1 --prefix=maybe
watch k1 --rev
watch -i << watch|
watch -i << |
watch -i << watch k1 -w bad|
watch -i << progress|
watch --bogus
txn --bogus
txn -i << val("k1") = "v1"||get k1||get k2||
txn -i << val("k1") = "no"||get k1||put k2 x||
txn -i << bogus||
txn -i << |get||
txn << |get k1 --prefix --from-key||
txn << |get k1 --sort-by=BOGUS||
txn << |put k1 x --lease=zz||
txn << |del||
txn << |watch k1||
txn << |"unclosed||
txn << |get k --prefix --count-only|||
txn << |get k --prefix --keys-only|||
txn << |get k1 --rev=1000000000|||
txn --hex << |get k1|put k1 x --prev-kv|||
txn -w {f} << val("k1") = "v1"||get k --prefix|del k3||get k2||
txn << mod("k1") = "x"||||
txn << create("k1") = "x"||||
txn << lease("k1") = "zz"||||
txn << val("k1") ! "v1"||||
txn << ver("k1") = "99999999999999999999"||||
help txn
help watch --bogus
help -h
help get extra
hel
watc --help
--help get
get --help=false --help
--help=maybe
member --help
role --help
alarm --help
alarm list --help
alarm disarm --help
version --help
user list --help
user delete --help
user grant-role --help
user revoke-role --help
role add --help
role delete --help
role get --help
role list --help
auth enable --help
auth disable --help
auth status --help
snapshot save --help
snapshot status --help
lease list --help
lease revoke --help
member remove --help
member update --help
check --help
gets
txnn
memberlist
''
' '
-
--
-- bogus
-x
--endpoints= version
"""


@pytest.mark.parametrize("line", lines(COMMANDS))
def test_command(same, judge, line):
    argv, stdin = split(line, {})
    same(argv, {"ETCDCTL_ENDPOINTS": judge.endpoint} if "--endpoints" not in line else {}, stdin)
