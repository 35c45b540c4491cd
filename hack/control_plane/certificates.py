"""The cluster's certificates, made in memory by Python and written once into the state folder.

Concept: one authority signs everything; a client certificate's common name is its user and its organizations are its
groups, as Kubernetes reads them (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates).
Boundary: X.509 only. Failure: none of its own; keys are readable by their owner alone.
"""

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A development cluster seldom lives for a week; a year spares surprises and still ends.
VALIDITY = datetime.timedelta(days=365)
# A clock that is a little behind must not find the certificate not yet valid.
BACKDATING = datetime.timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> None:
        """Write NAME.crt and NAME.key into the folder."""
        write_private(folder / f"{name}.crt", self.certificate)
        write_private(folder / f"{name}.key", self.key)

    @classmethod
    def read(cls, folder: Path, name: str) -> "KeyPair":
        """Read what `write` wrote."""
        return cls(
            certificate=folder.joinpath(f"{name}.crt").read_bytes(), key=folder.joinpath(f"{name}.key").read_bytes()
        )


def create_authority(common_name: str) -> KeyPair:
    """Return a new self-signed certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name, ())
    builder = _builder(subject=name, issuer=name, public_key=key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return _key_pair(builder.sign(key, hashes.SHA256()), key)


def issue_client(authority: KeyPair, user: str, groups: tuple[str, ...] = ()) -> KeyPair:
    """Return a client certificate that Kubernetes takes for `user` in `groups`."""
    return _issue(authority, _name(user, groups), usages=(ExtendedKeyUsageOID.CLIENT_AUTH,), alternatives=())


def issue_server(authority: KeyPair, common_name: str, hosts: tuple[str, ...]) -> KeyPair:
    """Return a certificate for a server reachable as any of `hosts` (names or addresses); it may act as client too."""
    usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    return _issue(authority, _name(common_name, ()), usages=usages, alternatives=hosts)


def create_signing_key() -> KeyPair:
    """Return a key pair for service-account tokens; its `certificate` is the bare public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(certificate=public, key=_key_pem(key))


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, at no moment otherwise."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _issue(
    authority: KeyPair, subject: x509.Name, *, usages: tuple[x509.ObjectIdentifier, ...], alternatives: tuple[str, ...]
) -> KeyPair:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey), "our authorities sign with elliptic curve keys"
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(subject=subject, issuer=issuer.subject, public_key=key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    # Python's own TLS is strict since 3.13 and asks for this link to the authority's key.
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
    )
    if alternatives:
        names = x509.SubjectAlternativeName([_general_name(host) for host in alternatives])
        builder = builder.add_extension(names, critical=False)
    return _key_pair(builder.sign(issuer_key, hashes.SHA256()), key)


def _builder(
    *, subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATING)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str, organizations: tuple[str, ...]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_key_pem(key))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # SEC 1 ("EC PRIVATE KEY"): Go's programs read it everywhere, the service-account signer included.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
