"""Who a node is, before it exists: everything that names it or lets it prove itself, derived from one secret.

Each value is HMAC-SHA256(cluster secret, purpose, cluster, node): the same secret and names always give the same
identity, on any machine; none tells anything of another. The secret itself never leaves our side.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from builder.secrets import Secret as Secret


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 key as OpenSSH writes it. `private` is a whole file, `public` one line without a name."""

    public: str
    private: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """host_key  what sshd proves itself with; user_key  what this node's root proves itself with elsewhere
    token     authenticates the agent's reports; text, 64 hex digits
    """

    node: str
    machine_id: str
    mac: str
    host_key: KeyPair
    user_key: KeyPair
    token: Secret


def derive(secret: Secret, cluster: str, node: str) -> Identity:
    """The node's identity. MACs are locally administered (52:54:00, as libvirt's); 24 bits differ."""

    def bits(purpose: str) -> bytes:
        text = "\0".join(("philoxenia 1", purpose, cluster, node))
        return hmac.new(secret.reveal(), text.encode(), hashlib.sha256).digest()

    tail = bits("mac")[:3]
    return Identity(
        node=node,
        # Bits of a version 4 UUID, as machine-id(5) recommends.
        machine_id=_uuid4(bits("machine-id")[:16]),
        mac="52:54:00:" + ":".join(f"{b:02x}" for b in tail),
        host_key=key_pair(bits("host key"), node),
        user_key=key_pair(bits("user key"), f"root@{node}.{cluster}"),
        token=Secret(bits("token").hex().encode()),
    )


def operator_key(secret: Secret, cluster: str) -> KeyPair:
    """The key with which `phx ssh` enters every node of the cluster."""
    seed = hmac.new(secret.reveal(), f"philoxenia 1\0operator\0{cluster}".encode(), hashlib.sha256)
    return key_pair(seed.digest(), f"operator@{cluster}")


def _uuid4(raw: bytes) -> str:
    value = bytearray(raw)
    value[6] = value[6] & 0x0F | 0x40
    value[8] = value[8] & 0x3F | 0x80
    return value.hex()


def key_pair(seed: bytes, comment: str) -> KeyPair:
    """The ed25519 key of a 32-byte seed, in OpenSSH's own private format (PROTOCOL.key).

    Written here because libraries put a random check number into the file: the same seed must give the same bytes.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    point = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    raw = point.public_bytes(Encoding.Raw, PublicFormat.Raw)

    def string(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    kind = b"ssh-ed25519"
    public = string(kind) + string(raw)
    check = hashlib.sha256(b"check" + seed).digest()[:4]
    inner = check * 2 + public + string(seed + raw) + string(comment.encode())
    inner += bytes(range(1, -len(inner) % 8 + 1))
    blob = b"openssh-key-v1\0" + string(b"none") + string(b"none") + string(b"")
    blob += struct.pack(">I", 1) + string(public) + string(inner)
    text = base64.b64encode(blob).decode()
    lines = "\n".join(text[i : i + 70] for i in range(0, len(text), 70))
    private = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}\n-----END OPENSSH PRIVATE KEY-----\n"
    return KeyPair(f"ssh-ed25519 {base64.b64encode(public).decode()}", Secret(private.encode()))
