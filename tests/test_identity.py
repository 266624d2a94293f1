"""Canonical JSON, digests, and the difference that a refused population shows."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from ray_unlearn.study.identity import canonical, diff, digest


def test_canonical_json_is_this_text() -> None:
    """Sorted keys, no spaces, ASCII; worked by hand."""
    assert (
        canonical({"b": [1, 2.5, None], "a": {"d": True, "c": "é"}})
        == '{"a":{"c":"\\u00e9","d":true},"b":[1,2.5,null]}'
    )


def test_a_digest_is_the_sha256_of_that_text() -> None:
    """64 hex digits that anyone can compute again; the empty mapping's is `sha256("{}")`."""
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert digest({"lr": 0.001}) == hashlib.sha256(b'{"lr":0.001}').hexdigest()


def test_order_of_keys_and_kind_of_sequence_do_not_matter() -> None:
    """Equal values have equal digests."""
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [({"a": 1}, {"a": 2}), ({"a": 1}, {"a": "1"}), ({"a": 1}, {"a": True}), ({"a": None}, {}), ([1, 2], [2, 1])],
)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    """Value, type, presence and order of a list all count."""
    assert digest(one) != digest(other)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_identity_holds_nan_or_infinity(number: float) -> None:
    """NaN is not equal to itself, so nothing that holds it can be reported to be the same."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"deep": [{"lr": number}]})


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"lr": 1}}, {"a": {"lr": 2}}, ["a.lr: 1 -> 2"]),
        ({"a": {"lr": 0.001, "wd": 0}}, {"a": {"lr": 0.01, "wd": 0}}, ["a.lr: 0.001 -> 0.01"]),
        ({"a": 1}, {"b": "x"}, ["a: 1 -> (absent)", 'b: (absent) -> "x"']),
        ({"m": "train"}, {"m": {"f": 1}}, ['m: "train" -> {"f":1}']),
        ({"splits": ["a", "b"]}, {"splits": ["a"]}, ['splits: ["a","b"] -> ["a"]']),
        ({"z": 1, "a": 1}, {"z": 2, "a": 2}, ["a: 1 -> 2", "z: 1 -> 2"]),
        ({"a": {"b": {"c": None}}}, {"a": {"b": {"c": True}}}, ["a.b.c: null -> true"]),
    ],
)
def test_a_difference_is_one_line_per_leaf(old: Any, new: Any, lines: list[str]) -> None:
    """`key.path: old -> new` in the order of the keys, values as JSON; worked by hand."""
    assert diff(old, new) == lines


def test_a_difference_shortens_long_values() -> None:
    """60 characters at most on either side: 55 of the value, three dots, and both quotes."""
    (line,) = diff({"a": "x" * 100}, {"a": "y"})
    assert line == 'a: "' + "x" * 55 + '..." -> "y"'


@pytest.mark.parametrize(("old", "new"), [({"a": 1}, {"a": True}), ({"a": 1}, {"a": 1.0})])
def test_what_digests_distinguish_has_a_difference(old: Any, new: Any) -> None:
    """A refusal is never without a reason: Python's `1 == True == 1.0` does not hide one."""
    assert digest(old) != digest(new)
    assert diff(old, new)
