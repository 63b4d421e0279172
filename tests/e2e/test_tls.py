"""TLS on both ports: real etcdctl over server TLS, mutual TLS and generated certificates; peers
that only talk to peers with a certificate of theirs; what is refused, and by whom.
"""

import json
import os
import ssl
import urllib.request
from typing import Any

import pytest
from cryptography import x509


def test_server_tls_for_etcdctl_our_ctl_and_http(
    machine: Any, authority: Any, node_type: Any
) -> None:
    pair = authority.issue("server")
    # A list of host names is for requests without TLS only.
    flags = (f"--cert-file={pair.cert}", f"--key-file={pair.key}", "--host-whitelist=elsewhere")
    node = node_type(machine, "a", *flags)
    trusted = f"--cacert={authority.path}"
    node.wait(trusted)
    assert node.ctl(trusted, "get", "k").stdout == "k\nv\n"
    ours = machine.run(machine.pyetcd, "ctl", f"--endpoints={node.endpoint}", trusted, "get", "k")
    assert ours.stdout == "k\nv\n"
    # Who does not trust the authority, and who speaks no TLS, gets nothing.
    assert node.ctl("--command-timeout=300ms", "get", "k", check=False).returncode
    plain = node.endpoint.replace("https", "http")
    refused = machine.run(
        machine.etcdctl, f"--endpoints={plain}", "--command-timeout=300ms", "get", "k", check=False
    )
    assert refused.returncode
    context = ssl.create_default_context(cafile=authority.path)
    with urllib.request.urlopen(f"{node.endpoint}/health", context=context, timeout=5) as answer:
        assert json.load(answer) == {"health": "true", "reason": ""}


def test_a_certificate_is_renewed_without_a_restart(
    machine: Any, authority: Any, wait_until: Any, node_type: Any
) -> None:
    pair = authority.issue("server")
    node = node_type(machine, "a", f"--cert-file={pair.cert}", f"--key-file={pair.key}")
    node.wait(f"--cacert={authority.path}")
    renewed = authority.issue("server").certificate

    def shown() -> int:
        pem = ssl.get_server_certificate(("127.0.0.1", node.client_port))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    wait_until(lambda: shown() == renewed.serial_number, "the new certificate")


def test_mutual_tls_names_and_revocation(
    machine: Any, authority: Any, node_type: Any, authority_type: Any
) -> None:
    server, good, bad = (authority.issue(name) for name in ("server", "good", "bad"))
    (machine.folder / "other").mkdir()
    stranger = authority_type(machine.folder / "other", "other").issue("stranger")
    node = node_type(
        machine,
        "a",
        f"--cert-file={server.cert}",
        f"--key-file={server.key}",
        f"--trusted-ca-file={authority.path}",
        "--client-cert-auth",
        f"--client-crl-file={authority.revoke(bad)}",
    )
    trusted = f"--cacert={authority.path}"

    def files(pair: Any) -> tuple[str, ...]:
        return trusted, f"--cert={pair.cert}", f"--key={pair.key}"

    node.wait(*files(good))
    for refused in ((trusted,), files(stranger), files(bad)):
        answer = node.ctl(*refused, "--command-timeout=300ms", "get", "k",
                          check=False)  # fmt: skip
        assert answer.returncode and not answer.stdout
    serial = bad.certificate.serial_number
    whole_bytes = serial.to_bytes((serial.bit_length() + 7) // 8).hex()  # as Go writes a string
    assert f"transport: certificate serial {whole_bytes} revoked" in node.process.log
    assert node.ctl(*files(good), "get", "k").stdout == "k\nv\n"


def test_generated_certificates(machine: Any, node_type: Any) -> None:
    node = node_type(machine, "a", "--auto-tls", "--peer-auto-tls", peer="https")
    unverified = ("--insecure-skip-tls-verify", "--insecure-transport=false")
    node.wait(*unverified)
    ours = machine.run(
        machine.pyetcd, "ctl", *unverified, f"--endpoints={node.endpoint}", "get", "k"
    )
    assert ours.stdout == "k\nv\n"  # gRPC's C library
    folder = machine.folder / "a" / "fixtures"
    for side in ("client", "peer"):
        assert os.stat(folder / side / "key.pem").st_mode & 0o777 == 0o600
    made = (folder / "client" / "cert.pem").read_bytes()
    node.process.kill()
    node.process.start()
    node.wait(*unverified)
    assert (folder / "client" / "cert.pem").read_bytes() == made


def test_three_nodes_with_peer_tls(
    machine: Any,
    free_ports: Any,
    authority: Any,
    node_type: Any,
    authority_type: Any,
    wait_until: Any,
) -> None:
    pairs = [authority.issue(f"m{i}") for i in range(3)]
    free = free_ports(6)
    ports = list(zip(free[:3], free[3:], strict=True))
    cluster = ",".join(f"m{i}=https://127.0.0.1:{peer}" for i, (_, peer) in enumerate(ports))
    nodes = [
        node_type(
            machine,
            f"m{i}",
            f"--peer-cert-file={pair.cert}",
            f"--peer-key-file={pair.key}",
            f"--peer-trusted-ca-file={authority.path}",
            "--peer-client-cert-auth",
            client="http",
            peer="https",
            ports=ports[i],
            cluster=cluster,
        )
        for i, pair in enumerate(pairs)
    ]
    for node in nodes:
        node.wait()
    assert nodes[2].ctl("get", "k").stdout == "k\nv\n"
    # Who has no certificate, or one of somebody else, is not let in.
    (machine.folder / "other").mkdir()
    stranger = authority_type(machine.folder / "other", "other").issue("stranger")
    for pair in (None, stranger):
        context = ssl.create_default_context(cafile=authority.path)
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        with pytest.raises(OSError):
            urllib.request.urlopen(
                f"https://127.0.0.1:{ports[0][1]}/members", context=context, timeout=5
            )
    # One whose certificate is for another address is rejected after the handshake.
    elsewhere = authority.issue("elsewhere", hosts=("192.0.2.1",))
    context = ssl.create_default_context(cafile=authority.path)
    context.load_cert_chain(elsewhere.cert, elsewhere.key)
    with pytest.raises(OSError):
        urllib.request.urlopen(
            f"https://127.0.0.1:{ports[0][1]}/members", context=context, timeout=5
        )
    why = "certificate is valid for 192.0.2.1, not 127.0.0.1"
    wait_until(lambda: why in nodes[0].process.log, "the log to say why")
    # One goes, perhaps the leader; the others go on, perhaps after an election.
    nodes[0].process.kill()
    nodes[1].wait()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--cert-file={cert}", "--key-file={key}", "--tls-min-version=TLS1.1"),
         'unexpected TLS version "TLS1.1"'),
        (("--cert-file={cert}", "--key-file={key}", "--tls-min-version=TLS1.3",
          "--tls-max-version=TLS1.2"), "min version (TLS1.3) is greater than max version (TLS1.2)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line(
    machine: Any, authority: Any, flags: tuple[str, ...], said: str, node_type: Any
) -> None:
    pair, other = authority.issue("server"), authority.issue("other")
    names = {"cert": pair.cert, "key": pair.key, "other": other.key}
    node = node_type(machine, "a", *(flag.format(**names) for flag in flags))
    assert node.process.wait() == 1
    last = node.process.log.strip().splitlines()[-1]
    assert said in last and "Traceback" not in node.process.log
    assert not (machine.folder / "a" / "member").exists()


def test_the_certificate_names_the_user(machine: Any, authority: Any, node_type: Any) -> None:
    """Item 51: the CN is the user when there is no token; a password goes before it."""
    server = authority.issue("server")
    node = node_type(
        machine,
        "cn",
        f"--cert-file={server.cert}",
        f"--key-file={server.key}",
        f"--trusted-ca-file={authority.path}",
        "--client-cert-auth",
        "--bcrypt-cost=4",
    )
    pairs = {name: authority.issue(name) for name in ("root", "ann", "nobody")}

    def ctl(name: str, *args: str) -> tuple[str, str]:
        pair = pairs[name]
        files = [f"--cert={pair.cert}", f"--key={pair.key}", f"--cacert={authority.path}"]
        done = node.ctl(*files, *args, check=False)
        said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        return done.stdout.strip(), " ".join(said)

    root = pairs["root"]
    node.wait(f"--cacert={authority.path}", f"--cert={root.cert}", f"--key={root.key}")
    for args in (
        ("user", "add", "root:pw"),
        ("user", "add", "ann", "--no-password"),
        ("role", "add", "r"),
        ("role", "grant-permission", "r", "readwrite", "a", "--prefix"),
        ("user", "grant-role", "ann", "r"),
        ("auth", "enable"),
    ):
        assert ctl("root", *args)[1] == "", args
    denied = ("", "Error: etcdserver: permission denied")
    assert ctl("ann", "put", "a1", "v") == ("OK", "")
    assert ctl("ann", "put", "b", "v") == denied
    assert ctl("root", "put", "b", "v") == ("OK", "")
    assert ctl("nobody", "put", "a1", "v") == denied
    assert ctl("ann", "--user", "root:pw", "put", "b", "w") == ("OK", "")
    assert ctl("ann", "user", "list") == denied
    assert ctl("ann", "user", "get", "ann")[0] == "User: ann\nRoles: r"
    assert "PermissionDenied" in ctl("ann", "watch", "b")[1]
