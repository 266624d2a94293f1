"""Compare what is installed with the advisories of `.ci/advisories.csv`; no network is asked.

    uv run python .ci/audit.py

Prints a line per package that is affected, and ends with 1 where there is one. The table is as old as its comments say
(`.ci/advise.py` writes it); with a network, `uvx pip-audit` (or `uv export | uvx pip-audit -r /dev/stdin`) asks the
whole database.
"""

import csv
import importlib.metadata
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

TABLE = Path(__file__).with_name("advisories.csv")


def advisories(text: str) -> list[dict[str, str]]:
    """Return the table's rows: id, package, affected, what, source."""
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def is_affected(version: str, affected: str) -> bool:
    """Return whether a version lies in one of the ranges."""
    return any(SpecifierSet(part).contains(version, prereleases=True) for part in affected.split(" or "))


def found(installed: dict[str, str], rows: Iterable[dict[str, str]]) -> list[str]:
    """Return a line per advisory that an installed version is affected by."""
    held = {canonicalize_name(name): version for name, version in installed.items()}
    return [
        f"{row['package']} {held[row['package']]}: {row['id']} ({row['affected']}): {row['what']}"
        for row in rows
        if row["package"] in held and is_affected(held[row["package"]], row["affected"])
    ]


def main() -> int:
    """Look at this environment."""
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    rows = advisories(TABLE.read_text())
    lines = found(installed, rows)
    for line in lines:
        print(line)  # noqa: T201
    print(f"{len(installed)} packages, {len(rows)} advisories: {len(lines)} affected")  # noqa: T201
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
