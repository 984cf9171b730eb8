"""What the broker proves itself with on the private network, and agents to it: derived from the cluster's secret."""

from __future__ import annotations

import datetime
import hashlib
import hmac
from dataclasses import dataclass

from contextualize.identity import Secret

PORT = 8443


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM texts, and the SHA-256 of the certificate's DER form in hex."""

    certificate: bytes
    key: Secret
    pin: str


def certificate(secret: Secret, cluster: str) -> Certificate:
    """The broker's: ed25519, self-signed, the same bytes from the same secret."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    text = f"philoxenia 1\0broker\0{cluster}".encode()
    seed = hmac.new(secret.reveal(), text, hashlib.sha256).digest()
    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"broker.{cluster}")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(seed).digest()[:16], "big") >> 1 | 1)
        # Guests' clocks may be anywhere; the pin is what counts.
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(2100, 1, 1))
        .sign(key, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pin = hashlib.sha256(made.public_bytes(Encoding.DER)).hexdigest()
    return Certificate(made.public_bytes(Encoding.PEM), Secret(private), pin)


def proof(token: Secret, node: str, pin: str) -> str:
    """What an agent of the node says in its Authorization header."""
    text = f"philoxenia channel\n{node}\n{pin[:32]}".encode()
    return hmac.new(token.reveal(), text, hashlib.sha256).hexdigest()
