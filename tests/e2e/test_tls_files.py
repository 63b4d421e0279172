"""Files and flags of TLS that cannot be used, beside real etcd 3.5.1: etcd's words in one line, and
its exit code. What etcd says about the inside of a damaged certificate is Go's; ours is shorter.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

PAIR = ("--cert-file={cert}", "--key-file={key}")
PEER = ("--peer-cert-file={cert}", "--peer-key-file={key}")
NO_PEM = "tls: failed to find any PEM data in"
# Name: (scheme of clients, of peers, flags, what both say).
REFUSED: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "no such certificate": ("https", "http", ("--cert-file=none.pem", "--key-file={key}"),
                            "open none.pem: no such file or directory"),
    "no such key": ("https", "http", ("--cert-file={cert}", "--key-file=none.key"),
                    "open none.key: no such file or directory"),
    "a folder": ("https", "http", ("--cert-file=folder", "--key-file={key}"),
                 "read folder: is a directory"),
    "an empty certificate": ("https", "http", ("--cert-file=empty.pem", "--key-file={key}"),
                             f"{NO_PEM} certificate input"),
    "no key in it": ("https", "http", ("--cert-file={cert}", "--key-file=junk.pem"),
                     f"{NO_PEM} key input"),
    "a key for a certificate": ("https", "http", ("--cert-file={key}", "--key-file={key}"),
                                "PEM inputs may have been switched"),
    "a certificate for a key": ("https", "http", ("--cert-file={cert}", "--key-file={cert}"),
                                "tls: found a certificate rather than a key in the PEM"),
    "the key of another": ("https", "http", ("--cert-file={cert}", "--key-file={other}"),
                           "tls: private key does not match public key"),
    "no such authority": ("https", "http", (*PAIR, "--trusted-ca-file=none.pem"),
                          "open none.pem: no such file or directory"),
    "only a certificate": ("https", "http", ("--cert-file={cert}",),
                           "KeyFile and CertFile must both be present[key: , cert: {cert}]"),
    "only a key": ("https", "http", ("--key-file={key}",),
                   "KeyFile and CertFile must both be present[key: {key}, cert: ]"),
    "https without a certificate": ("https", "http", (),
                                    "TLS key/cert (--cert-file, --key-file) must be provided"),
    "half a client pair": ("https", "http", (*PAIR, "--client-cert-file={cert}"),
                           "ClientKeyFile and ClientCertFile must both be present or both absent"),
    "no such client pair": ("https", "http", (*PAIR, "--client-cert-file=none.pem",
                            "--client-key-file=none.key"), "open none.pem: no such file"),
    "a suite": ("https", "http", (*PAIR, "--cipher-suites=NONE"),
                'unexpected TLS cipher suite "NONE"'),
    "a suite without TLS": ("http", "http", ("--cipher-suites=NONE",),
                            'unexpected TLS cipher suite "NONE"'),
    "no peer certificate": ("http", "https", (), "KeyFile and CertFile are not presented"),
    "no such peer certificate": ("http", "https", ("--peer-cert-file=none.pem",
                                 "--peer-key-file={key}"), "open none.pem: no such file"),
    "only a peer certificate": ("http", "https", ("--peer-cert-file={cert}",),
                                "KeyFile and CertFile must both be present"),
    "a name and a host": ("http", "https", (*PEER, "--peer-trusted-ca-file={ca}",
                          "--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"),
                          "AllowedCN and AllowedHostname are mutually exclusive "
                          '(cn="a", hostname="b")'),
    "no validity": ("https", "http", ("--auto-tls", "--self-signed-cert-validity=0"),
                    "selfSignedCertValidity is invalid,it should be greater than 0"),
}  # fmt: skip
OURS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "an empty authority": ("https", "http", (*PAIR, "--trusted-ca-file=empty.pem"),
                           "no certificate of an authority in it"),
    "TLS 1.3 and suites": ("https", "http", (*PAIR, "--tls-min-version=TLS1.3",
                           "--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
                           "cipher suites cannot be configured when only TLS1.3 is enabled"),
}  # fmt: skip
WARNED = {
    "http and a certificate": ("http", "http", (*PAIR, *PEER), 2, "scheme is HTTP while key and "
                               "cert files are present; ignoring key and cert files"),
    "http and client certificates": ("http", "http", ("--client-cert-auth",), 1, "scheme is HTTP "
                                     "while --client-cert-auth is enabled; ignoring client cert "
                                     "auth for this URL"),
}  # fmt: skip


def names(authority: Any, folder: Path) -> dict[str, str]:
    pair = authority.issue("listener")
    (folder / "empty.pem").touch()
    (folder / "junk.pem").write_text("junk\n")
    (folder / "folder").mkdir()
    other = authority.issue("other").key
    return {"cert": pair.cert, "key": pair.key, "other": other, "ca": authority.path}


def ends(machine: Any, node_type: Any, case: Any, given: dict[str, str], program: str,
         name: str) -> tuple[int, str]:  # fmt: skip
    client, peer, flags, _ = case
    node = node_type(machine, name, *(flag.format(**given) for flag in flags), client=client,
                     peer=peer, program=program)  # fmt: skip
    return node.process.wait(), node.process.log


def test_what_is_refused_at_the_start(machine: Any, authority: Any, node_type: Any) -> None:
    given = names(authority, machine.folder)
    asked = [(program, name, REFUSED[name]) for name in REFUSED for program in ("pyetcd", "etcd")]
    asked += [("pyetcd", name, OURS[name]) for name in OURS]

    def run(row: Any) -> tuple[int, str]:
        program, name, case = row
        return ends(machine, node_type, case, given, program, re.sub(r"\W", "-", name))

    with ThreadPoolExecutor(2) as pool:
        for (program, name, case), (code, log) in zip(asked, pool.map(run, asked), strict=True):
            said = case[3].format(**given)
            last = log.strip().splitlines()[-1].replace('\\"', '"')
            assert code == 1 and said in last, (program, name, log[-1000:])
            assert "Traceback" not in log


@pytest.mark.parametrize("name", WARNED)
def test_what_is_only_warned_of(
    machine: Any, authority: Any, node_type: Any, name: str, wait_until: Any
) -> None:
    client, peer, flags, count, said = WARNED[name]
    given = names(authority, machine.folder)
    for program in ("etcd", "pyetcd"):
        argv = [flag.format(**given) for flag in flags]
        node = node_type(machine, "m", *argv, client=client, peer=peer, program=program)
        node.process.wait_healthy()
        assert [text for text, _ in node.said()].count(said) == count, program
        node.process.kill()
