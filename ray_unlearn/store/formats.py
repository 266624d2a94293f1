"""The formats of a store's files, and the refusal of a file that a later version wrote.

    content = stamped("population", {"digest": ..., "identity": ...})     # with `format` and `made_by`
    check_format("population", content, where="./studies/faces/finetune/population.json")

A format rises where an older reader would misunderstand the file; a new optional key raises nothing: a reader ignores
the keys that it does not know and takes a key's default where it is absent. A file without `format` is of format 1.

Does not cover: the meaning of keys, which each file's own module documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ray_unlearn import __version__
from ray_unlearn.errors import DamagedFile, NewerFormat

FORMATS: Mapping[str, int] = {
    "record": 2,  # 2: its checksum covers its text as stored; later fields may be absent
    "failed record": 2,  # 2: states its format
    "population": 2,  # 2: states its format and `made_by`
    "study": 2,  # 2: states its format and `made_by`
    "splits": 2,  # 2: states its format, in the schema's metadata
    "outputs": 2,  # 2: margins of an imported run; one with logits states no format, so that its bytes stay the same
    "manifest": 2,  # 2: states its format; the shards that it lists are of its format
    "events": 2,  # 2: the first event of a log states the format
    "unfinished run": 1,
    "records.jsonl": 2,  # 2: every line holds the record's text as stored, and states its format
}
"""Formats by kind of file: the newest that this version reads, and the one that it writes. 1 is that of version 0.1.0.

The format of scores.json, which rises with every change of a number, is `evaluation.scores.FORMAT`.
"""

_STRING = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")')


def stamped(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's content with the format that this version writes, and with this version."""
    return {"format": FORMATS[kind], "made_by": __version__, **content}


def parse_object(kind: str, data: bytes | str, where: str, newest: int | None = None) -> dict[str, Any]:
    """Return the keys and values of a JSON file; unknown keys are included.

    The arguments are those of `check_format`.

    Raises:
        NewerFormat: the file is of a newer format than this version reads.
        DamagedFile: it is not JSON, or no object.

    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{where}: expected a JSON object; found {type(value).__name__}")
    check_format(kind, value, where, newest)
    return value


def minified(text: str) -> str:
    """Return JSON without the spaces between its tokens; numbers and strings stay as they are written.

    Only for text that was parsed: a string without an end would cost the square of its length.
    """
    parts = _STRING.split(text)
    parts[::2] = ["".join(between.split()) for between in parts[::2]]  # every other part is a string
    return "".join(parts)


def first_complaint(error: ValidationError) -> str:
    """Return the first validation error of a file's keys, in one line."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def check_format(kind: str, content: Mapping[Any, Any], where: str, newest: int | None = None) -> int:
    """Return the format of a file.

    Args:
        kind: what kind of file it is, as in `FORMATS`.
        content: the file's keys and values, or the metadata of an Arrow schema.
        where: the file, for the message.
        newest: the newest format that this version reads; default that of `FORMATS`.

    Raises:
        NewerFormat: the file is of a newer format than this version reads.
        DamagedFile: its format is not a whole number from 1.

    """
    stated = content.get("format", content.get(b"format", 1))
    known = FORMATS[kind] if newest is None else newest
    try:
        found = int(stated) if isinstance(stated, bytes) else stated
    except ValueError:
        found = 0
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise DamagedFile(f"{where}: format: expected a whole number from 1; found {stated!r}")
    if found > known:
        writer = _writer(content)
        upgrade = "that version" if writer != __version__ else f"a later build of {writer}, such as its newest commit"
        raise NewerFormat(
            f"{where}: format {found} of a {kind} file, written by ray-unlearn {writer}; this is "
            f"ray-unlearn {__version__}, which reads formats up to {known}: upgrade ray-unlearn to {upgrade}"
        )
    return found


def _writer(content: Mapping[Any, Any]) -> str:
    """Return the version that a file names as its writer; records and scores list it among their versions."""
    named = content.get("made_by", content.get(b"made_by"))
    versions = content.get("versions")
    if named is None and isinstance(versions, Mapping):
        named = versions.get("ray-unlearn (evaluation)", versions.get("ray-unlearn"))
    return named.decode(errors="replace") if isinstance(named, bytes) else str(named or "of a later version")
