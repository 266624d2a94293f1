"""YAML as people expect it: words stay words, numbers are numbers, and nothing is constructed but plain values."""

from __future__ import annotations

import math

import pytest
import yaml

from ray_unlearn.study.yaml12 import parse_yaml


@pytest.mark.parametrize(
    "word", ["on", "On", "off", "yes", "No", "y", "010", "0001", "1:30", "2024-01-01", "1_000", "1.5e"]
)
def test_what_yaml_1_1_reads_into_a_word_stays_the_word(word: str) -> None:
    """Booleans, octal and sexagesimal numbers and dates of YAML 1.1 are text here, in keys and in values."""
    assert parse_yaml(f"{word}: {word}") == {word: word}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-1.5e+2", -150.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("64", 64),
        ("-7", -7),
        ("0", 0),
        ("0x1F", 31),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("''", ""),
        ("'1e-3'", "1e-3"),
    ],
)
def test_a_scalar_has_the_value_and_the_type_that_it_looks_like(text: str, value: object) -> None:
    """`1e-3` is a number, and quotes make any scalar text."""
    found = parse_yaml(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: 2\na: 3", 3), ("x: {a: 1, a: 1}", 1), ("x:\n  - a: 1\n    a: 2", 3), ("'a': 1\na: 2", 2)],
)
def test_a_key_given_twice_is_refused_at_its_line(text: str, line: int) -> None:
    """PyYAML keeps the last of two equal keys; a study that states two things is wrong, at any depth."""
    with pytest.raises(yaml.YAMLError, match=r"the key 'a' is given twice") as caught:
        parse_yaml(text)
    assert f"line {line}," in str(caught.value)


def test_a_merge_key_is_not_a_key_given_twice() -> None:
    """`<<` copies keys in and the mapping's own win, also where another mapping merges it before it is read."""
    text = "a: &a {lr: 1, wd: 5}\nx: {deep: {b: &b {<<: *a, lr: 2}}}\nc: {<<: *b, epochs: 3}"
    assert parse_yaml(text) == {
        "a": {"lr": 1, "wd": 5},
        "x": {"deep": {"b": {"lr": 2, "wd": 5}}},
        "c": {"lr": 2, "wd": 5, "epochs": 3},
    }


@pytest.mark.parametrize(
    "text",
    [
        "name: {{ name }}",  # a template that no one filled in
        "? [a, b]\n: c",
        "a: b: c",
        "a: *unknown",
        "--- 1\n--- 2",
        "a: \x00",
        "a: !!python/object/apply:os.getcwd []",
        "a: !!python/name:os.getcwd",
    ],
)
def test_everything_else_is_a_yaml_error(text: str) -> None:
    """What is not plain YAML ends in `YAMLError` and nothing else; no tag constructs an object."""
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_the_changes_do_not_leak_into_pyyaml() -> None:
    """Other users of PyYAML in this process keep their YAML 1.1."""
    assert yaml.safe_load("on: 2") == {True: 2}
    assert yaml.safe_load("a: 1\na: 2") == {"a": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 10)}]\n" for m, n in ("ab", "bc", "cd", "de", "ef")),
            "too many values",
        ),
        ("a: &a [*a]", "nested too deeply"),
        ("a: " + "[" * 150 + "]" * 150, "nested too deeply"),
        ("a: " + "[" * 100_000, "nested too deeply"),
        (f"a: {'9' * 10_000}", "ValueError"),
        (f"a: 0x{'f' * 5_000}", "an integer of 20,000 bits"),
        (f"? 0x{'f' * 5_000}\n: a", "an integer of 20,000 bits"),
        ("a: !!int abc", "ValueError"),
        ("a: !!bool maybe", "KeyError"),
        ("a: !!timestamp never", "AttributeError"),
        ('a: !!int ""', "IndexError"),
    ],
)
def test_yaml_that_bites_is_a_yaml_error(text: str, said: str) -> None:
    """Aliases that unfold without end, nesting without end, and false tags; found by tests/stress/fuzz.py."""
    with pytest.raises(yaml.YAMLError, match=said):
        parse_yaml(text)


def test_aliases_that_people_write_are_fine() -> None:
    """A hundred levels and some thousand values are more than any study has."""
    assert parse_yaml("a: &a {lr: 1}\nb: [" + ", ".join(["*a"] * 1_000) + "]")["b"][999] == {"lr": 1}
    assert parse_yaml("[" * 90 + "]" * 90)
