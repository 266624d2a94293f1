"""tests/bench/on_gpu.py: every row that a GPU is asked for is in the table of the README, and its code runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ray_unlearn.errors import RayUnlearnError

BENCH = Path(__file__).resolve().parent / "bench"
sys.path.append(str(BENCH))  # as `python tests/bench/on_gpu.py` has it
on_gpu = importlib.import_module("on_gpu")


def test_the_readme_has_every_row():
    """Law: measured or not, the table has the rows that the script would fill, in its order."""
    lines = (BENCH / "README.md").read_text().splitlines()
    start = lines.index("| group | what | figure |") + 2
    rows = [line.strip("| ").split(" | ") for line in lines[start:] if line.startswith("| ")]
    expected = [[row.group, row.what] for row in on_gpu.unmeasured()]
    assert [row[:2] for row in rows[: len(expected)]] == expected


def test_the_rows_of_a_step(monkeypatch, tmp_path, capsys):
    """Law: plain and with a forget objective, in each precision of the device, eager and captured; then written."""
    profile_step = importlib.import_module("profile_step")
    monkeypatch.setattr(profile_step, "floors", lambda job, elements: {"bytes_ms": 1.0, "flops_ms": 2.0})
    monkeypatch.setattr(profile_step, "launches", lambda job: {"operators": 3.0})
    torch.set_num_threads(1)
    rows = on_gpu.main(["--dry", "--only", "step", "--out", str(tmp_path / "found")])
    expected = [row.what for row in on_gpu.unmeasured() if row.group == "step" and "tf32" not in row.what]
    assert [row.what for row in rows] == expected
    assert all(row.figure.endswith("floor 2.00 ms; 3 operators") for row in rows)
    assert [one["what"] for one in json.loads((tmp_path / "found.json").read_text())] == [row.what for row in rows]
    assert (tmp_path / "found.md").read_text().strip() in capsys.readouterr().out


def test_what_fails_or_is_late_is_named(monkeypatch):
    """Law: a group that fails keeps the rows that it has, and the next one is measured; none begins after the end."""

    def failing(asked, folder):
        yield on_gpu.Row("loop", "fp32", "1")
        raise RayUnlearnError("no room\nat all")

    monkeypatch.setattr(
        on_gpu, "GROUPS", {"loop": failing, "pack": lambda asked, folder: [on_gpu.Row("pack", "all", "2")]}
    )
    found = on_gpu.main(["--dry", "--only", "loop,pack"])
    assert [(row.what, row.figure) for row in found] == [("fp32", "1"), ("the rest", "left out: no room"), ("all", "2")]
    assert [row.figure for row in on_gpu.main(["--dry", "--only", "pack", "--minutes", "-1"])] == [
        "left out: -1 minutes are over"
    ]


@pytest.mark.long
def test_the_whole_script_on_a_cpu(tmp_path):
    """Law: `on_gpu.sh --dry` has a figure in every row; only what this version or machine lacks is left out."""
    command = [str(BENCH / "on_gpu.sh"), "--dry", "--out", str(tmp_path / "found")]
    subprocess.run(command, check=True, timeout=900, stdout=subprocess.DEVNULL)
    rows = json.loads((tmp_path / "found.json").read_text())
    assert {row["group"] for row in rows} == set(on_gpu.GROUPS)
    left_out = [row for row in rows if row["figure"].startswith("left out")]
    assert all("execution.pack" in row["figure"] for row in left_out)
