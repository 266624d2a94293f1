"""Digests of a study's runs as a small file, so that anyone who makes a run can compare it without having ours.

    write_digests(store, ["retrained", "finetune"], Path("cifar10.digests.csv"))
    compared = compare_digests(store, Path("cifar10.digests.csv"))
    compared.equal, compared.lines               # number of equal runs; a line for each that differs

A row is a run: population, run, the first 16 hexadecimal digits of its population's digest and of its outputs' sha256.
Equal sha256 means equal logits of every saved image, bit for bit.

Does not cover: checkpoints, which studies need not keep; files that were damaged since (`store.verify`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_unlearn.errors import StoreError, write_text
from ray_unlearn.store import StudyStore
from ray_unlearn.store.records import OUTPUTS

_HEAD = ("population", "run", "digest", "outputs_sha256")
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Compared:
    """A store's runs beside those of a file."""

    equal: int
    lines: tuple[str, ...]
    """One per population whose digest differs, else one per run whose outputs differ."""
    not_made: int
    """Runs of the file that the store does not have."""


def write_digests(store: StudyStore, populations: Sequence[str], file: Path) -> int:
    """Write a row per finished run; return their number.

    Raises:
        StoreError: the file cannot be written.

    """
    rows = [
        (name, str(index), record.digest[:_DIGITS], record.payloads[OUTPUTS].sha256[:_DIGITS])
        for name in populations
        for index, record in sorted(store.made(name).items())
    ]
    text = "".join(",".join(row) + "\n" for row in (_HEAD, *rows))
    write_text(file, text)
    return len(rows)


def compare_digests(store: StudyStore, file: Path) -> Compared:
    """Compare the store's runs with those of a file.

    Raises:
        StoreError: the file cannot be read, or is not of this form.

    """
    expected = _read(file)
    equal, lines, not_made = 0, list[str](), 0
    for name, runs in expected.items():
        made = store.made(name)
        digests = {record.digest[:_DIGITS] for record in made.values()}
        if made and digests != {digest for digest, _ in runs.values()}:
            wanted = next(iter(runs.values()))[0]
            lines.append(
                f"{name}: another experiment: expected the digest {wanted}; found {', '.join(sorted(digests))}"
            )
            continue
        for index, (_, sha256) in runs.items():
            if index not in made:
                not_made += 1
            elif (found := made[index].payloads[OUTPUTS].sha256[:_DIGITS]) != sha256:
                lines.append(f"{name}/{index}: other outputs: expected the sha256 {sha256}; found {found}")
            else:
                equal += 1
    return Compared(equal, tuple(lines), not_made)


def _read(file: Path) -> dict[str, dict[int, tuple[str, str]]]:
    """Return (digest, sha256 of the outputs) by population and run."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    try:
        head, *rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
        if tuple(head) != _HEAD:
            raise ValueError(f"the columns {', '.join(head)}")
        for name, index, digest, sha256 in rows:
            found.setdefault(name, {})[int(index)] = digest, sha256
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise StoreError(
            f"{file}: expected a file of `ray-unlearn export STUDY FILE.csv --format digests`; found {error}"
        ) from error
    return found
