"""tests/bench/benchmark.py, below the table: accuracies compared, a GPU's memory, and the time for 512 checkpoints."""

from __future__ import annotations

import importlib
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent / "bench"
sys.path.append(str(BENCH))  # as `python tests/bench/benchmark.py` has it
remarks, device_memory = (importlib.import_module(name) for name in ("benchmark_remarks", "device_memory"))

SMI = """#!/bin/sh
echo "$@" >> "$FAKE_ASKED"
[ -e "$FAKE_USED" ] || exit 9
cat "$FAKE_USED"
"""


def figures(d_forget: list[float], **changes: Any) -> dict[str, Any]:
    """Return one repeat: a's two checkpoints in 8 s of 10, d's in 1 s of 4."""
    shared = {"repeat": 0, "precision": "fp32", "checkpoints": 2, "peak_mb": None}
    a = shared | {"side": "a", "steady_s": 8.0, "wall_s": 10.0, "peak_device_mb": 900.0}
    d = shared | {"side": "d", "steady_s": 1.0, "wall_s": 4.0, "peak_device_mb": 1234.6}
    a["accuracy"] = {"forget": [0.5, 0.6], "test": [0.7, 0.7]}
    d["accuracy"] = {"forget": d_forget, "test": [0.7, 0.8]}
    return {"results": [a | changes, d | changes]}


def test_accuracies_by_hand():
    """Law: 50 and 60 % are 55 ± 7.07; d's mean of 54 is between 50 and 60, and its mean of 75 beyond 70."""
    forget, test = remarks.accuracy_lines(figures([0.53, 0.55]))
    assert forget == (
        "accuracy on forget images, %: a 55.00 ± 7.07 (50.00 to 60.00, N = 2), d 54.00 ± 1.41 (53.00 to 55.00, N = 2)"
        ": d's mean is within a's range; fewer than 8: says little"
    )
    assert "d's mean is OUTSIDE a's range" in test
    enough = figures([0.53] * 8)
    enough["results"][0]["accuracy"]["forget"] = [0.5, 0.6] * 4
    assert remarks.accuracy_lines(enough)[0].endswith("d's mean is within a's range")


def test_only_the_first_repeat_counts_for_accuracy():
    """Law: another repeat makes the same seeds again, so N stays 2."""
    found = figures([0.5, 0.6])
    again = {"repeat": 1, "accuracy": {"forget": [0, 1], "test": [0, 1]}}
    found["results"] += [each | again for each in found["results"]]
    assert "d 55.00 ± 7.07 (50.00 to 60.00, N = 2)" in remarks.accuracy_lines(found)[0]


def test_what_is_over_at_once_is_not_compared():
    """Law: a median steady time below a second is named first, with its side; one second and more is not."""
    assert remarks.short_lines(figures([0.5, 0.6])) == []  # a 8 s, d 1 s
    found = figures([0.5, 0.6])
    found["results"][1]["steady_s"] = 0.125
    said = "too short to compare: d 0.12 s steady; ratios and rates mean little, raise --images or --epochs"
    assert remarks.remark_lines(found)[0] == said
    found["results"] += [{**found["results"][1], "repeat": repeat, "steady_s": 3.0} for repeat in (1, 2)]
    assert remarks.short_lines(found) == []


def test_512_checkpoints_by_hand():
    """Law: 256 times 8 s, and 2 s next to it, are 34.2 min; where 512 were made, it is a measurement."""
    (line,) = remarks.many_lines(figures([0.5, 0.6]))
    assert line.endswith(": a 34.2, d 4.3")
    (line,) = remarks.many_lines(figures([0.5, 0.6], checkpoints=512))
    assert line.endswith(": a 0.2 (measured), d 0.1 (measured)")


def test_memory_is_reported_where_it_was_seen():
    """Law: MB of each side; nothing on a CPU."""
    assert remarks.memory_lines(figures([0.5, 0.6])) == ["memory of the GPU at most, MB: a 900, d 1,235"]
    assert remarks.memory_lines(figures([0.5, 0.6], peak_device_mb=None)) == []


@pytest.fixture
def smi(tmp_path, monkeypatch) -> Path:
    """Put a stand-in for nvidia-smi into PATH; return the file that states how many MiB are in use."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(SMI)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_USED", str(tmp_path / "used"))
    monkeypatch.setenv("FAKE_ASKED", str(tmp_path / "asked"))
    monkeypatch.setattr(device_memory, "_EVERY_S", 0.02)
    return tmp_path / "used"


def test_the_peak_is_what_came_on_top(smi, monkeypatch, tmp_path):
    """Law: 1,500 MiB at most, of which 500 were there before; of the first GPU that this process may see."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    smi.write_text("500\n")
    with device_memory.watched("cuda") as memory:
        for used in ("1500\n", "700\n"):
            smi.write_text(used)
            time.sleep(0.3)
    assert memory.peak_mb == pytest.approx(1000 * 2**20 / 1e6)
    assert "--id=3 --query-gpu=memory.used" in (tmp_path / "asked").read_text()


def test_a_silent_nvidia_smi_is_no_figure(smi):
    """Law: none on a CPU, which is not asked; none where it fails."""
    for device in ("cpu", "cuda"):
        with device_memory.watched(device) as memory:
            pass
        assert memory.peak_mb is None
