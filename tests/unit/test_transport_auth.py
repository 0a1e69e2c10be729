"""The handshake: who holds the secret is let in, nobody else, on both sides."""

from __future__ import annotations

import ast
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.transport import auth, handshake

SECRET = b"s" * 32
NONCE = bytes(range(32))


def verdict_for(client_secret: bytes, server_secret: bytes = SECRET) -> tuple[bytes, bytes]:
    hello = auth.hello(b"n" * 32, "model#abcdef")
    proof = auth.proof(client_secret, hello, NONCE)
    assert len(proof) == auth.PROOF_BYTES
    assert len(hello) == auth.HELLO_BYTES
    verdict = auth.check_proof(server_secret, hello, proof)
    assert len(verdict) == auth.VERDICT_BYTES
    return hello, verdict


@given(st.binary(min_size=1, max_size=64))
def test_the_same_secret_is_welcome(secret: bytes) -> None:
    hello, verdict = verdict_for(secret, secret)
    auth.check_verdict(secret, hello, NONCE, verdict)


def test_another_secret_is_refused_and_told_so() -> None:
    hello, verdict = verdict_for(b"other")
    with pytest.raises(auth.AuthError, match="another instance"):
        auth.check_verdict(b"other", hello, NONCE, verdict)


@given(st.binary(min_size=auth.VERDICT_BYTES, max_size=auth.VERDICT_BYTES))
def test_a_server_without_the_secret_is_refused(verdict: bytes) -> None:
    hello = auth.hello(b"n" * 32, "")
    with pytest.raises(auth.AuthError):
        auth.check_verdict(SECRET, hello, NONCE, verdict)


def test_a_client_proof_sent_back_is_no_server_proof() -> None:
    hello = auth.hello(b"n" * 32, "")
    proof = auth.proof(SECRET, hello, NONCE)
    with pytest.raises(auth.AuthError, match="did not prove"):
        auth.check_verdict(SECRET, hello, NONCE, bytes([auth.Verdict.WELCOME]) + proof[-32:])


def test_a_proof_for_one_nonce_is_worth_nothing_for_another() -> None:
    proof = auth.proof(SECRET, auth.hello(b"1" * 32, ""), NONCE)
    verdict = auth.check_proof(SECRET, auth.hello(b"2" * 32, ""), proof)
    assert verdict[0] == auth.Verdict.WRONG_SECRET


def test_another_replica_and_an_unnamed_one_are_told_apart() -> None:
    hello = auth.hello(NONCE, "model#abcdef")
    auth.check_hello(hello, "model#abcdef")
    auth.check_hello(hello, "")
    auth.check_hello(auth.hello(NONCE, ""), "model#abcdef")
    with pytest.raises(auth.WrongReplicaError, match="out of date"):
        auth.check_hello(hello, "model#uvwxyz")


def test_another_program_and_another_version_are_named() -> None:
    with pytest.raises(auth.AuthError, match="HTTP/1"):
        auth.check_prefix(b"HTTP/1.1 400 Bad Request")
    with pytest.raises(auth.AuthError, match="protocol 770"):
        auth.check_prefix(auth.MAGIC + b"\x02\x03")


@pytest.mark.parametrize("module", [auth, handshake])
def test_the_handshake_knows_no_pickle(module: object) -> None:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {"pickle", "decode", "loads"} & imported
