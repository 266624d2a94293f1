"""Write `.ci/advisories.csv` anew from a checkout of https://github.com/pypa/advisory-database, for what is installed.

    git clone --depth 1 https://github.com/pypa/advisory-database /tmp/advisories
    uv run python .ci/advise.py /tmp/advisories > /tmp/advisories.csv && mv /tmp/advisories.csv .ci/advisories.csv

Rows of the table that come from elsewhere (no PYSEC in `source`) stay. A row is left out where another one of its
package affects all the versions that it does: whether a version is affected stays the same, and the table small.

Does not cover: packages that are not installed here, nor advisories younger than the checkout.
"""

import csv
import importlib.metadata
import io
import itertools
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import audit
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

COLUMNS = ("id", "package", "affected", "what", "source")
ORIGIN = "PYSEC-"
_TOLD = 90
_FIRST = Version("0.dev0")

Row = dict[str, str]
Interval = tuple[Version, Version, bool]
"""From, to, and whether the last one belongs to it."""


def entries(checkout: Path, packages: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each package with each of its advisories that still stands; the checkout may be bare."""
    wanted = set(packages)
    for path in _git(checkout, "ls-tree", "-r", "--name-only", "HEAD", "vulns/").splitlines():
        package = canonicalize_name(path.split("/")[1])
        if package in wanted and path.endswith(".yaml"):
            entry = yaml.safe_load(_git(checkout, "show", f"HEAD:{path}"))
            if "withdrawn" not in entry:
                yield package, entry


def row_of(package: str, entry: dict[str, Any]) -> Row:
    """Return the table's row of an advisory in the OSV format: https://ossf.github.io/osv-schema/."""
    names = [entry["id"], *entry.get("aliases", ())]
    affected = [one for one in entry["affected"] if canonicalize_name(one["package"]["name"]) == package]
    text = " ".join((entry.get("summary") or entry.get("details") or "").split())
    return {
        "id": next((name for name in names if name.startswith("CVE-")), entry["id"]),
        "package": package,
        "affected": " or ".join(part for one in affected for part in _parts(one)),
        "what": text if len(text) <= _TOLD else f"{text[:_TOLD].rpartition(' ')[0]} ...",
        "source": entry["id"],
    }


def _parts(affected: dict[str, Any]) -> list[str]:
    """Return the ranges as specifiers; where there is none, the versions one by one."""
    parts, low = list[str](), ""
    ranges = [one for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM"]
    for event in itertools.chain.from_iterable(one["events"] for one in ranges):
        if "introduced" in event:
            parts += [low] if low else []
            low = f">={event['introduced']}"
        else:
            end = f"<{event['fixed']}" if "fixed" in event else f"<={event['last_affected']}"
            parts.append(end if low in ("", ">=0") else f"{low},{end}")
            low = ""
    return [*parts, *([low] if low else [])] or [f"=={version}" for version in affected.get("versions", ())]


def fewest(rows: Iterable[Row]) -> list[Row]:
    """Return the rows without those whose versions another one of the package affects, too."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["package"], row["id"], row["source"])):
        if not any(_covers(other, row) for other in kept):
            kept = [*(other for other in kept if not _covers(row, other)), row]
    return kept


def _covers(one: Row, other: Row) -> bool:
    ours, theirs = _intervals(one["affected"]), _intervals(other["affected"])
    return one["package"] == other["package"] and all(
        any(low <= first and (last, closed) <= (high, shut) for low, high, shut in ours)
        for first, last, closed in theirs
    )


def _intervals(affected: str) -> list[Interval]:
    found = []
    for part in affected.split(" or "):
        ends = {one.operator: Version(one.version) for one in SpecifierSet(part)}
        if not ends.keys() <= {"==", "<=", "<", ">="}:
            raise ValueError(f"{part}: expected ranges with >=, <, <= and ==")
        exact = ends.get("==")
        high = exact or ends.get("<=") or ends.get("<") or Version("9999!0")
        found.append((exact or ends.get(">=", _FIRST), high, "<" not in ends))
    return found


def table(checkout: Path, packages: Iterable[str], old: str) -> str:
    """Return the new table, given the old one."""
    commit, date = _git(checkout, "log", "-1", "--format=%H %cs").split()
    elsewhere = [row for row in audit.advisories(old) if not row["source"].startswith(ORIGIN)]
    told = [row for found in entries(checkout, packages) if (row := row_of(*found))["affected"]]  # else commits only
    rows = fewest([*told, *elsewhere])
    notes = [line for line in old.splitlines() if line.startswith("#") and "pypa/advisory-database" not in line]
    text = io.StringIO()
    text.write(f"# {ORIGIN}*: pypa/advisory-database at {commit}, {date} (CC BY 4.0), by .ci/advise.py\n")
    text.writelines(f"{note}\n" for note in notes)
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ours
    return done.stdout.strip()


def main() -> None:
    """Print the table."""
    installed = {canonicalize_name(each.name) for each in importlib.metadata.distributions()}
    sys.stdout.write(table(Path(sys.argv[1]), installed, audit.TABLE.read_text()))


if __name__ == "__main__":
    main()
