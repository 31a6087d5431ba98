"""``hash_payload`` and ``sign_payload``: RFC 8785, and the bytes of 1.1.3 for payloads that it encodes by RFC 8785."""

from __future__ import annotations

import hashlib
import hmac
import random
import string
from typing import Any

import pytest
from actpass import ActPassArgumentError, ActPassClient
from support import SIGNING_KEY, Published

LARGEST = 2**53 - 1


def payloads(count: int) -> list[Any]:
    """Return reproducible payloads of ASCII keys, integers and strings."""
    rng = random.Random(8785)
    keys = string.printable
    characters = string.printable + "éß€中\u2028\u0080\x00\x1f\x7f😀\U0010ffff"

    def text(alphabet: str) -> str:
        return "".join(rng.choices(alphabet, k=rng.randrange(12)))

    def value(depth: int) -> Any:
        kind = rng.randrange(7 if depth else 4)
        if kind == 0:
            return rng.choice([0, 1, -1, LARGEST, -LARGEST, rng.randint(-LARGEST, LARGEST), rng.randrange(100)])
        if kind in {1, 2}:
            return text(characters)
        if kind == 3:
            return rng.choice([True, False, None])
        if kind == 4:
            return [value(depth - 1) for _ in range(rng.randrange(5))]
        return members(depth - 1)

    def members(depth: int) -> dict[str, Any]:
        return {text(keys): value(depth) for _ in range(rng.randrange(8))}

    return [{"number": at, **members(4)} for at in range(count)]


def test_hashes_and_signatures_match_1_1_3_for_200_payloads(published: Published) -> None:
    generated = payloads(200)
    calls: list[Any] = [("hash_payload", {"payload": payload}) for payload in generated]
    calls += [("sign_payload", {"secret": SIGNING_KEY, "payload": payload}) for payload in generated]
    theirs = published.call({}, calls)
    ours = [getattr(ActPassClient, method)(**arguments) for method, arguments in calls]
    assert len(theirs) == 400
    assert ours == theirs


#: The examples of RFC 8785, 3.2.2 and 3.2.3.
CANONICAL = [
    (
        {
            "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": '\u20ac$\u000f\nA\'B"\\\\"/',
            "literals": [None, True, False],
        },
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
    ),
    (
        {"€": "Euro", "\r": "CR", "\ufb33": "Dalet", "1": "One", "😀": "Smiley", "\x80": "Control", "ö": "O"},
        '{"\\r":"CR","1":"One","\x80":"Control","ö":"O","€":"Euro","😀":"Smiley","\ufb33":"Dalet"}',
    ),
    ([1.0, -0.0, 1e21, 1e-7, 5e-324, 1.7976931348623157e308], "[1,0,1e+21,1e-7,5e-324,1.7976931348623157e+308]"),
    ((LARGEST, -LARGEST, [], {}), "[9007199254740991,-9007199254740991,[],{}]"),
    ({1: 2, None: 3}, '{"1":2,"null":3}'),
    ("text", '"text"'),
    (None, "null"),
]


@pytest.mark.parametrize(("payload", "canonical"), CANONICAL)
def test_hashes_rfc_8785_form(payload: Any, canonical: str) -> None:
    assert ActPassClient.hash_payload(payload) == hashlib.sha256(canonical.encode()).hexdigest()
    signature = hmac.new(SIGNING_KEY.encode(), canonical.encode(), hashlib.sha256).hexdigest()
    assert ActPassClient.sign_payload(SIGNING_KEY, payload) == signature


@pytest.mark.parametrize("secret", ["", "é€😀", "x" * 1000, "\0"])
def test_accepts_any_text_as_signing_key(secret: str) -> None:
    expected = hmac.new(secret.encode(), b'{"a":1}', hashlib.sha256).hexdigest()
    assert ActPassClient.sign_payload(secret, {"a": 1}) == expected


@pytest.mark.parametrize(
    "payload",
    [
        float("nan"),
        float("inf"),
        [2**53],
        {"a": -(2**53)},
        10**30,
        10**400,
        "\ud800",
        {"\udfff": 1},
        {"a": object()},
        {1},
        b"x",
        {1: 1, "1": 2},
    ],
    ids=ascii,
)
def test_rejects_values_without_canonical_form(payload: Any) -> None:
    for call in (ActPassClient.hash_payload, lambda value: ActPassClient.sign_payload(SIGNING_KEY, value)):
        with pytest.raises(ActPassArgumentError, match=r"\Apayload\S*: "):
            call(payload)


@pytest.mark.parametrize("secret", [None, 1, b"bytes", "\ud800"])
def test_rejects_invalid_signing_key(secret: Any) -> None:
    with pytest.raises(ActPassArgumentError, match=r"\Asecret: "):
        ActPassClient.sign_payload(secret, {})
