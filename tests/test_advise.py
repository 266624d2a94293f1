"""`.ci/advise.py`: the table of advisories from a checkout of the database, here of a few entries made by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

CI = Path(__file__).parents[1] / ".ci"
sys.path.insert(0, str(CI))
import advise  # noqa: E402 - CI's scripts are no package
import audit  # noqa: E402

OLD = """# a note that stays
id,package,affected,what,source
CVE-5,numpy,<1.22,from elsewhere,GHSA-5
CVE-6,numpy,<1.2,covered by it,GHSA-6
CVE-8,pillow,<1,of the database before this one,PYSEC-8
"""


def entry(name: str, package: str, *events: dict[str, str], **more: object) -> tuple[str, str]:
    """Return an advisory's path and text."""
    affected = {"package": {"name": package, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    affected["ranges"].insert(0, {"type": "GIT", "repo": "x", "events": [{"introduced": "0"}, {"fixed": "abc"}]})
    content = {"id": name, "details": "Some\n words.", "affected": [affected], **more}
    return f"vulns/{package.lower()}/{name}.yaml", yaml.safe_dump(content)


def began(version: str) -> dict[str, str]:
    return {"introduced": version}


def mended(version: str) -> dict[str, str]:
    return {"fixed": version}


ENTRIES = [
    entry("PYSEC-1", "Pillow", began("0"), mended("9.0"), aliases=["GHSA-1", "CVE-1"]),
    entry("PYSEC-2", "pillow", began("2.0"), mended("2.6"), began("0"), mended("1.26"), aliases=["CVE-2"]),
    entry("PYSEC-3", "torch", began("1.8"), {"last_affected": "2.0.1"}, details="word " * 40),
    entry("PYSEC-4", "torch", began("0"), withdrawn="2023-11-08T00:54:24Z"),
    entry("PYSEC-5", "absent", began("0"), mended("1")),
    entry("PYSEC-6", "requests", began("2.30")),
    ("vulns/torch/PYSEC-7.yaml", yaml.safe_dump({"id": "PYSEC-7", "affected": [{"package": {"name": "torch"}}]})),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the entries, of a known date."""
    for path, text in ENTRIES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    who = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false")
    for arguments in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "x", "--date", "2024-10-10T12:00:00Z")):
        environment = {"GIT_COMMITTER_DATE": "2024-10-10T12:00:00Z", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, env=environment)
    return tmp_path


def test_the_table_is_the_database_and_what_was_there_from_elsewhere(checkout: Path):
    """Law: of what is installed; withdrawn ones, foreign packages and the database's older rows are left out; what
    another row covers, too; commit and date are reported, and notes stay."""
    text = advise.table(checkout, ["pillow", "torch", "requests", "numpy"], OLD)
    rows = audit.advisories(text)
    assert [(row["id"], row["package"], row["affected"], row["source"]) for row in rows] == [
        ("CVE-5", "numpy", "<1.22", "GHSA-5"),
        ("CVE-1", "pillow", "<9.0", "PYSEC-1"),
        ("PYSEC-6", "requests", ">=2.30", "PYSEC-6"),
        ("PYSEC-3", "torch", ">=1.8,<=2.0.1", "PYSEC-3"),
    ]
    assert rows[1]["what"] == "Some words."
    assert rows[3]["what"] == f"{'word ' * 18}..."
    commit = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    first, second, *_ = text.splitlines()
    assert first.startswith(f"# PYSEC-*: pypa/advisory-database at {commit.stdout.strip()}, 2024-10-10 ")
    assert second == "# a note that stays"
    again = advise.table(checkout, ["pillow", "torch", "requests", "numpy"], text)
    assert again == text


def row(affected: str, name: str = "CVE-0") -> dict[str, str]:
    return {"id": name, "package": "p", "affected": affected, "what": "", "source": ""}


@pytest.mark.parametrize(
    ("one", "other", "left"),
    [
        ("<2", "<3", ["<3"]),
        ("<3", ">=1,<2", ["<3"]),
        (">=1,<3", "<2", [">=1,<3", "<2"]),
        ("<2", "<=2", ["<=2"]),
        ("<2 or >=3,<4", ">=3.1,<3.9", ["<2 or >=3,<4"]),
        ("<2 or >=3,<4", "<4", ["<4"]),
        ("<2 or >=3,<4", ">=1,<3.5", ["<2 or >=3,<4", ">=1,<3.5"]),
        ("==1.5", "<2", ["<2"]),
        (">=1", ">=2,<9", [">=1"]),
        ("<2", "<2", ["<2"]),
    ],
)
def test_a_row_is_left_out_where_another_has_all_its_versions(one: str, other: str, left: list[str]):
    """Law: in either order; whether any version is affected is as before."""
    for rows in ([row(one, "CVE-1"), row(other, "CVE-2")], [row(other, "CVE-1"), row(one, "CVE-2")]):
        found = advise.fewest(rows)
        assert sorted(each["affected"] for each in found) == sorted(left)
        for version in map(str, map(Version, ("0.5", "1", "1.5", "2", "2.5", "3", "3.2", "3.95", "4", "9", "10"))):
            before = any(audit.is_affected(version, each["affected"]) for each in rows)
            assert any(audit.is_affected(version, each["affected"]) for each in found) == before


def test_a_range_that_is_not_understood_is_no_everything():
    """Law: a row by hand with another operator is refused: it would swallow the others of its package."""
    with pytest.raises(ValueError, match=r"~=1\.4: expected ranges"):
        advise.fewest([row("<2"), row("~=1.4", "CVE-1")])


def test_the_table_is_as_small_as_it_can_be():
    """Law: the one that is committed was written by the script: no row covers another, and it names its date."""
    text = audit.TABLE.read_text()
    rows = audit.advisories(text)
    assert advise.fewest(rows) == rows
    assert "# PYSEC-*: pypa/advisory-database at " in text
    assert all(row["source"] for row in rows)
    assert len(rows) < 100
