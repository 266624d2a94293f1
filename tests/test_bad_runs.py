"""Runs whose code misbehaves: each is an outcome with its cause, and its neighbours' bytes stay what they were."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile import DRAWS

from ray_unlearn.errors import MethodError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.run.outcome import failure_of
from ray_unlearn.run.worker import Worker
from ray_unlearn.study import Run, Study
from ray_unlearn.usercode.memory import resident_bytes

UNSPEAKABLE = "class Unspeakable(Exception):\n    __str__ = __repr__ = lambda self: 1 / 0\n\n\n"


def scripted(tiny: Callable[..., Study], folder: Path, bad: str = "pass", **changes) -> Study:
    """Return a study of one original, one run of a bad script and two runs of a good one, which follow it."""
    imports = f"import gc, numpy, os, random, resource, sys, time, torch, warnings\n\n\n{UNSPEAKABLE}"
    (folder / "bad.py").write_text(f"{imports}def unlearning(net, retain, forget, val):\n    {bad}\n")
    (folder / "good.py").write_text(DRAWS)
    populations = {
        "finetune": None,
        "bad": {"method": f"{folder}/bad.py:unlearning", "count": 1},
        "good": {"method": f"{folder}/good.py:unlearning", "count": 2},
    }
    return tiny(populations=populations, **changes)


BAD = Run(population="bad", index=0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os._exit(0)", "its process ended with exit code 0 in the middle of the function (os._exit"),
        ("raise Unspeakable", "Unspeakable: (making its text raised ZeroDivisionError) (bad.py:"),
        ("raise ValueError('half \\ud800')", "ValueError: half \\ud800 (bad.py:"),
    ],
)
def test_a_run_that_ends_oddly_is_recorded_as_failed(tiny, tmp_path, body: str, said: str):
    """Law: neither the end of the process, nor an exception without a printable text, keeps the failure unheard."""
    study = scripted(tiny, tmp_path, body, execution={"max_attempts": 1})
    summary = generate(study, backend="inline")
    assert summary.failed[BAD].startswith(said)
    job = open_job(study)
    (failure,) = job.store.failures("bad").values()
    assert failure.error == summary.failed[BAD]
    assert ("unlearning" in failure.traceback) == ("_exit" not in body)


def test_an_error_of_a_script_names_its_line(tiny, tmp_path):
    """Law: what people read on the terminal states where to look; what is raised below the script counts, too."""
    bodies = {"raises": "raise ValueError('no')", "calls": "torch.empty(-1)"}
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(f"import torch\n\n\ndef unlearning(*_):\n    pass\n    {body}\n")
    populations = {"finetune": None} | {
        name: {"method": f"{tmp_path}/{name}.py:unlearning", "count": 1} for name in bodies
    }
    summary = generate(tiny(populations=populations, execution={"max_attempts": 1}), backend="inline")
    said = {run.population: error for run, error in summary.failed.items()}
    assert said["raises"] == "ValueError: no (raises.py:6)"
    assert said["calls"].startswith("RuntimeError: ")
    assert said["calls"].endswith(" (calls.py:6)")
    (tmp_path / "raises.py").write_text("import torch\n\ntorch.empty(-1)\n")
    with pytest.raises(MethodError, match=r"fails on import: RuntimeError: .* \(raises\.py:3\)$"):
        generate(tiny(populations=populations, name="other"), backend="inline")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (MemoryError(), "MemoryError: ; out of memory: a smaller batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), "OutOfMemoryError: CUDA out of memory.; out of GPU memory: "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "allocate memory; out of memory: a smaller"),
    ],
)
def test_out_of_memory_states_what_helps(error: Exception, hint: str):
    """Law: host and device state which memory ran out, in one line."""
    assert hint in failure_of(BAD, 0.0, error).error


def test_a_worker_that_grows_asks_to_be_replaced(tiny, monkeypatch):
    """Law: it stops once runs after the first have kept more than the study allows, and loses nothing."""
    held = iter(range(0, 100 * 2**26, 2**26))
    monkeypatch.setattr("ray_unlearn.run.worker.resident_bytes", lambda: next(held))
    study = tiny(populations={"finetune": {"count": 12}}, execution={"recycle_growth_gib": 0.2})
    job = open_job(study)
    job.store.admit(job.plan)
    worker = Worker(job, "cpu")
    worker.open()
    attempts = [(run, 1) for run in job.plan.runs]
    try:
        assert [outcome.error for outcome in worker.work(attempts[:1], flush=True)] == [""]
        outcomes = worker.work(attempts[1:])
    finally:
        worker.close()
    assert [outcome.error for outcome in outcomes] == [""] * len(outcomes)
    assert len(outcomes) == 4  # 4 x 64 MiB; it told all that it made, and made no more
    assert [outcome.recycle for outcome in outcomes] == [False] * 3 + [True]


def test_resident_memory_is_what_the_process_holds():
    """Law: 64 MiB written count, in bytes."""
    before = resident_bytes()
    with mmap.mmap(-1, 2**26, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(b"x" * 2**26)
        assert 0.8 * 2**26 < resident_bytes() - before < 2.5 * 2**26


def test_a_run_beyond_its_time_is_refused_inline(tiny):
    """Law: no process can end a run of its own safely, so the inline backend reports it before any work."""
    from ray_unlearn.errors import StudyError

    start = time.monotonic()
    with pytest.raises(StudyError, match=r"execution\.run_timeout_s: .*inline.*--backend ray"):
        generate(tiny(execution={"run_timeout_s": 30.0}), backend="inline")
    assert time.monotonic() - start < 20
