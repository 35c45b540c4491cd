"""The cluster's certificates: who Kubernetes takes their holders for, and that TLS accepts them."""

import socket
import ssl
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from control_plane.certificates import (
    KeyPair,
    create_authority,
    create_signing_key,
    issue_client,
    issue_server,
    write_private,
)


def subject(pair: KeyPair) -> dict[str, list[str]]:
    name = x509.load_pem_x509_certificate(pair.certificate).subject
    return {
        "user": [str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)],
        "groups": [str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)],
    }


def test_should_name_user_and_groups_as_kubernetes_reads_them() -> None:
    client = issue_client(create_authority("ca"), "alice", ("writers", "readers"))

    assert subject(client) == {"user": ["alice"], "groups": ["writers", "readers"]}


def test_should_be_signed_by_the_authority_that_issued_it() -> None:
    authority = create_authority("ca")

    server = issue_server(authority, "api", ("localhost",))

    issuer = x509.load_pem_x509_certificate(authority.certificate)
    x509.load_pem_x509_certificate(server.certificate).verify_directly_issued_by(issuer)


def test_should_list_names_and_addresses_of_a_server() -> None:
    server = issue_server(create_authority("ca"), "api", ("localhost", "127.0.0.1"))

    extension = x509.load_pem_x509_certificate(server.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert extension.value.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in extension.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_should_make_a_tls_connection_in_which_both_sides_show_certificates(tmp_path: Path) -> None:
    authority = create_authority("ca")
    issue_server(authority, "api", ("127.0.0.1",)).write(tmp_path, "server")
    issue_client(authority, "alice").write(tmp_path, "client")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    server_side.load_verify_locations(cadata=authority.certificate.decode())
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.create_default_context(cadata=authority.certificate.decode())
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    client_side.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")

    peer = handshake(server_side, client_side, "127.0.0.1")

    assert dict(item[0] for item in peer["subject"]) == {"commonName": "alice"}


def handshake(server_side: ssl.SSLContext, client_side: ssl.SSLContext, host: str) -> dict[str, Any]:
    """Return the client's certificate as the server saw it."""
    left, right = socket.socketpair()
    seen: list[dict[str, Any]] = []

    def serve() -> None:
        with server_side.wrap_socket(left, server_side=True) as connection:
            connection.recv(1)
            seen.append(connection.getpeercert() or {})

    thread = threading.Thread(target=serve)
    thread.start()
    with client_side.wrap_socket(right, server_hostname=host) as connection:
        connection.send(b"x")
        thread.join()
    return seen[0]


def test_should_make_a_signing_key_whose_public_half_stands_beside_it() -> None:
    pair = create_signing_key()

    private = serialization.load_pem_private_key(pair.key, password=None)
    assert (
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        == pair.certificate
    )


def test_should_write_keys_that_only_their_owner_can_read(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("older, readable by all")
    file.chmod(0o644)

    write_private(file, b"secret")

    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"secret", 0o600)


def test_should_read_back_what_it_wrote(tmp_path: Path) -> None:
    pair = create_authority("ca")

    pair.write(tmp_path, "authority")

    assert KeyPair.read(tmp_path, "authority") == pair


def test_should_refuse_a_certificate_of_another_authority() -> None:
    server = issue_server(create_authority("ca"), "api", ("localhost",))
    stranger = x509.load_pem_x509_certificate(create_authority("ca").certificate)

    with pytest.raises((InvalidSignature, ValueError)):
        x509.load_pem_x509_certificate(server.certificate).verify_directly_issued_by(stranger)
