"""An identity depends on the secret and the names alone, tells nothing of another, and is never printed."""

from __future__ import annotations

import copy
import pickle
import re
import traceback

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from contextualize.identity import Secret, derive, key_pair, operator_key
from tests.invented import SECRET, masked

VALUE = b"not to be seen"


def values(identity):
    return {
        identity.machine_id, identity.mac, identity.host_key.public, identity.user_key.public,
        identity.host_key.private.reveal(), identity.user_key.private.reveal(), identity.token.reveal(),
    }  # fmt: skip


def test_the_same_names_give_the_same_identity():
    assert derive(SECRET, "demo", "head-1") == derive(Secret(SECRET.reveal()), "demo", "head-1")
    assert values(derive(SECRET, "demo", "head-1")) == values(derive(SECRET, "demo", "head-1"))


def test_golden(golden):
    """Its bytes are a promise: a cluster that runs would not know its own nodes after a change."""
    i = derive(SECRET, "demo", "head-1")
    golden("identity.txt", "\n".join([
        i.node, i.machine_id, i.mac, i.host_key.public, i.user_key.public, i.token.reveal().decode(),
        masked(i.host_key.private.reveal().decode()), operator_key(SECRET, "demo").public,
    ]) + "\n")  # fmt: skip


@pytest.mark.parametrize(
    ("why", "secret", "cluster", "node"),
    [
        ("another secret", Secret(b"another"), "demo", "head-1"),
        ("another cluster", SECRET, "demo2", "head-1"),
        ("another node", SECRET, "demo", "head-2"),
        ("the letters of both names run on", SECRET, "demohead", "-1"),
    ],
)
def test_all_of_it_differs_for(why, secret, cluster, node):
    assert not values(derive(SECRET, "demo", "head-1")) & values(derive(secret, cluster, node)), why


def test_each_purpose_has_a_value_of_its_own():
    i = derive(SECRET, "demo", "head-1")
    assert len(values(i)) == 7
    operator = operator_key(SECRET, "demo")
    assert operator.public not in values(i)
    assert operator_key(SECRET, "other").public != operator.public


def test_forms():
    i = derive(SECRET, "demo", "head-1")
    assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", i.machine_id), (
        "machine-id(5)"
    )
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", i.mac)
    assert re.fullmatch(r"[0-9a-f]{64}", i.token.reveal().decode())


@given(st.binary(min_size=32, max_size=32), st.text("abc-@.", max_size=70))
def test_key_files_are_what_openssh_reads(seed, comment):
    pair = key_pair(seed, comment)
    private = load_ssh_private_key(pair.private.reveal(), None)
    assert private.private_bytes_raw() == seed
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert pair.public == public
    load_ssh_public_key(pair.public.encode())


def test_a_key_carries_its_comment():
    import base64

    def blob(pair):
        return base64.b64decode(b"".join(pair.private.reveal().splitlines()[1:-1]))

    i = derive(SECRET, "demo", "head-1")
    assert b"root@head-1.demo" in blob(i.user_key)
    assert b"operator@demo" in blob(operator_key(SECRET, "demo"))


def test_a_secret_is_not_printed():
    secret = Secret(VALUE)
    i = derive(secret, "demo", "head-1")
    for text in (
        repr(secret), str(secret), f"{secret}", f"{secret!s:>20}", f"{secret!r}", "%s %r" % (secret, secret),  # noqa: UP031
        f"{[secret]}", f"{ {'a': secret} }", repr(i), str(i.host_key), repr(operator_key(secret, "demo")),
    ):  # fmt: skip
        assert VALUE.decode() not in text and "PRIVATE" not in text
        assert i.token.reveal().decode() not in text
    assert str(secret) == repr(secret) == f"{secret}" == "***"


def test_nor_in_the_text_of_an_error():
    secret = Secret(VALUE)
    for wrong in (
        lambda: secret + "a", lambda: len(secret), lambda: secret.encode(), lambda: bytes(secret),
        lambda: secret[0], lambda: "".join([secret]), lambda: derive(secret, 1, 2), lambda: int(secret),
    ):  # fmt: skip
        with pytest.raises((TypeError, AttributeError, ValueError)) as caught:
            wrong()
        text = "".join(traceback.format_exception(caught.value))
        assert VALUE.decode() not in text


def test_nor_kept_by_accident_in_json():
    import json

    with pytest.raises(TypeError):
        json.dumps({"secret": Secret(VALUE)})


def test_secrets_are_values():
    assert Secret(b"a") == Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != b"a"
    assert len({Secret(b"a"), Secret(b"a"), Secret(b"b")}) == 2
    assert copy.deepcopy(Secret(b"a")) == Secret(b"a")
    assert pickle.loads(pickle.dumps(Secret(b"a"))).reveal() == b"a"
