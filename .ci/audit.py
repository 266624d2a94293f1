"""Compare what is installed with the advisories of `.ci/advisories.csv`; no network is asked.

    uv run python .ci/audit.py

Prints a line per package that is affected, and ends with 1 where there is one, and where something cannot be read: a
row of the table, a package without a name, a version that is none. What is not understood is not known to be safe. The
table is as old as its comments say (`.ci/advise.py` writes it); with a network, `uvx pip-audit` (or
`uv export | uvx pip-audit -r /dev/stdin`) asks the whole database.
"""

import csv
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

TABLE = Path(__file__).with_name("advisories.csv")
FIELDS = {"id", "package", "affected", "what", "source"}


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


def unread(installed: Mapping[str | None, str | None], rows: Sequence[Mapping[str | None, object]]) -> list[str]:
    """Return a line for each row and each package that cannot be judged, and one where there are no rows."""
    lines = [] if rows else ["the table of advisories is empty"]
    for number, row in enumerate(rows, 1):
        if set(row) != FIELDS or not all(isinstance(row[name], str) and row[name] for name in FIELDS):
            lines.append(f"advisory {number}: expected {', '.join(sorted(FIELDS))}; found {dict(row)}")
            continue
        for part in str(row["affected"]).split(" or "):
            try:
                if not SpecifierSet(part):
                    lines.append(f"advisory {number}: {row['id']}: an empty range of versions")
            except InvalidSpecifier:
                lines.append(f"advisory {number}: {row['id']}: not a range of versions: {part!r}")
    for name, version in installed.items():
        try:
            if not name or not version:
                lines.append(f"an installed package without a name or a version: {name} {version}")
            else:
                Version(version)
        except InvalidVersion:
            lines.append(f"{name}: not a version: {version!r}")
    return lines


def main() -> int:
    """Look at this environment."""
    found_here = {each.name: each.version for each in importlib.metadata.distributions()}
    rows = advisories(TABLE.read_text())
    problems = unread(found_here, rows)
    lines = problems or found(found_here, rows)
    for line in lines:
        print(line)  # noqa: T201
    what = "cannot be read" if problems else "affected"
    print(f"{len(found_here)} packages, {len(rows)} advisories: {len(lines)} {what}")  # noqa: T201
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
