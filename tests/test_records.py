"""The record's schema."""

from __future__ import annotations

import hashlib
import json

import pytest
from plans import finetune, plan_of, record_of
from pydantic import ValidationError

from ray_unlearn.store import Payload, Record
from ray_unlearn.store.records import payload_of


def test_payload_of_is_size_and_sha256():
    """Law: what a record says about bytes is their length and their sha256 (here: that of `abc`, FIPS 180-2)."""
    assert payload_of(b"abc") == Payload(
        size_bytes=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_record_survives_json():
    """Law: parse(dump(record)) is the record."""
    record = record_of(plan_of(2), finetune(1))
    assert Record.model_validate_json(record.model_dump_json(indent=1)) == record


def test_a_newer_records_extra_keys_are_ignored():
    """Law: a record with more keys than this version knows can still be read."""
    record = record_of(plan_of(2), finetune(1))
    text = json.dumps(json.loads(record.model_dump_json()) | {"from_the_future": 1})
    assert Record.model_validate_json(text) == record


@pytest.mark.parametrize("key", sorted(Record.model_fields))
def test_no_key_may_be_missing(key: str):
    """Law: a record that lost any key is not one."""
    content = json.loads(record_of(plan_of(2), finetune(1)).model_dump_json())
    del content[key]
    with pytest.raises(ValidationError):
        Record.model_validate(content)


@pytest.mark.parametrize("sha256", ["", "abc", hashlib.sha256(b"").hexdigest().upper(), "g" * 64])
def test_a_hash_is_64_hex_digits(sha256: str):
    """Law: a payload whose hash is no sha256 is refused, so that nothing can be verified against it."""
    with pytest.raises(ValidationError):
        Payload(size_bytes=0, sha256=sha256)
