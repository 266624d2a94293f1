"""The record's schema."""

from __future__ import annotations

import hashlib
import json
import re
import time

import pytest
from plans import finetune, plan_of, record_of
from pydantic import ValidationError

from ray_unlearn import __version__
from ray_unlearn.errors import DamagedFile, NewerFormat
from ray_unlearn.store import FailedRecord, Payload, Record
from ray_unlearn.store.formats import FORMATS
from ray_unlearn.store.records import failure_bytes, parse_failure, parse_record, payload_of


def test_payload_of_is_size_and_sha256():
    """Law: what a record states about bytes is their length and their sha256 (here: that of `abc`, FIPS 180-2)."""
    assert payload_of(b"abc") == Payload(
        size_bytes=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


RECORD = record_of(plan_of(2), finetune(1)).sealed()


def sealed(content: dict[str, object]) -> str:
    """Return the text of a record with these keys, sealed as the format states: by hand, not by `Record`."""
    body = json.dumps({key: value for key, value in content.items() if key != "checksum"}, separators=(",", ":"))
    return f'{body[:-1]},"checksum":"{hashlib.sha256(body.encode()).hexdigest()}"}}'


def test_a_record_survives_json():
    """Law: parse(dump(record)) is the record, however the text is laid out; the checksum is its last member."""
    for indent in (None, 1, 4):
        assert parse_record(RECORD.model_dump_json(indent=indent).encode(), "here") == RECORD
    assert list(Record.model_fields)[-1] == "checksum"
    assert RECORD.text == sealed(json.loads(RECORD.text))


def test_a_newer_records_extra_keys_are_kept_and_ignored():
    """Law: a record with keys that only a later version knows is this version's record, its text kept as it is."""
    text = sealed(json.loads(RECORD.text) | {"from_the_future": {"rate": 1e-05, "text": 'a " b, "checksum":"0"'}})
    read = parse_record(text, "here")
    assert read.text == text
    fields = set(Record.model_fields) - {"checksum"}
    assert read.model_dump(include=fields) == RECORD.model_dump(include=fields)


def test_an_extra_key_that_was_changed_is_damage():
    """Law: the checksum covers what this version does not know."""
    text = sealed(json.loads(RECORD.text) | {"from_the_future": 1})
    with pytest.raises(DamagedFile, match="here: changed since it was written"):
        parse_record(text.replace('"from_the_future":1', '"from_the_future":2'), "here")


def test_a_record_of_format_1_is_read_as_it_is():
    """Law: version 0.1.0 wrote no `format` and no later field; numbers are compared as they are written."""
    later = ("format", "arithmetic", "checksum")
    content = {key: value for key, value in json.loads(RECORD.text).items() if key not in later}
    text = sealed(content)
    assert (parse_record(text, "here").format, parse_record(text, "here").arithmetic) == (1, {})
    body = text[: text.index(',"checksum"')].replace('"train":1.0', '"train":1e-5') + "}"
    written = f'{body[:-1]},"checksum":"{hashlib.sha256(body.encode()).hexdigest()}"}}'
    assert parse_record(written, "here").seconds == {"train": 0.00001}


KEYS_OF_FORMAT_1 = (
    "population",
    "index",
    "original",
    "digest",
    "method",
    "options",
    "seeds",
    "original_sha256",
    "payloads",
    "metrics",
    "epoch_loss",
    "stages",
    "seconds",
    "started_at",
    "device",
    "threads",
    "host",
    "versions",
    "attempt",
)


def test_no_key_of_format_1_may_be_missing():
    """Law: a record that lost a key of version 0.1.0, and was sealed again without it, is no record; nor one unsealed.

    The keys are written down here: a field that becomes optional would read damaged records as whole ones.
    """
    content = json.loads(RECORD.text)
    for key in KEYS_OF_FORMAT_1:
        with pytest.raises(DamagedFile, match=f"^here: {key}: Field required$"):
            parse_record(sealed({name: value for name, value in content.items() if name != key}), "here")
    with pytest.raises(DamagedFile, match=r"^here: changed since it was written"):
        parse_record(json.dumps({name: value for name, value in content.items() if name != "checksum"}), "here")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, RECORD.text.encode()[:-1], RECORD.text.encode()[:-9]]
)
def test_what_is_no_record_is_damage(data: bytes):
    """Law: bytes that hold no record are one error that names the file."""
    with pytest.raises(DamagedFile, match=r"^here: [^\n]*$"):
        parse_record(data, "here")


def test_an_endless_string_is_refused_at_once():
    """Law: a damaged record costs no more than its length: 200 kB without an end of a string, in seconds."""
    start = time.monotonic()
    for text in ('"\\' * 100_000, '{"a": ' + '"\\' * 100_000):
        with pytest.raises(DamagedFile):
            parse_record(text, "here")
    assert time.monotonic() - start < 5


def test_a_newer_format_is_refused_by_name():
    """Law: a later format is no damage: the error names the version that wrote it, or a later build of this one."""
    newer = json.loads(RECORD.text) | {"format": FORMATS["record"] + 1, "versions": {"ray-unlearn": "9.8.7"}}
    with pytest.raises(NewerFormat, match=r"here: format 3 of a record file, written by ray-unlearn 9\.8\.7.*upgrade"):
        parse_record(sealed(newer), "here")
    with pytest.raises(NewerFormat, match=f"to a later build of {re.escape(__version__)}, such as its newest commit"):
        parse_record(sealed(newer | {"versions": {"ray-unlearn": __version__}}), "here")


def test_the_record_of_a_failure_survives_its_file():
    """Law: a failure is read back as it was, from a file that states its format; a later one's keys are ignored."""
    failure = FailedRecord(
        population="a", index=1, digest="", error="no", traceback="", attempts=1, host="", failed_at=""
    )
    content = json.loads(failure_bytes(failure))
    assert content["format"] == FORMATS["failed record"]
    assert parse_failure(json.dumps(content | {"log": 1}).encode(), "here") == failure
    with pytest.raises(NewerFormat):
        parse_failure(json.dumps(content | {"format": 99}).encode(), "here")
    with pytest.raises(DamagedFile, match="here: error: Field required"):
        parse_failure(json.dumps({k: v for k, v in content.items() if k != "error"}).encode(), "here")


@pytest.mark.parametrize("sha256", ["", "abc", hashlib.sha256(b"").hexdigest().upper(), "g" * 64])
def test_a_hash_is_64_hex_digits(sha256: str):
    """Law: a payload whose hash is no sha256 is refused, so that nothing can be verified against it."""
    with pytest.raises(ValidationError):
        Payload(size_bytes=0, sha256=sha256)
