"""The worker: a run's bytes depend on the run alone, and a bad run is an outcome, never an exception."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import payload_bytes
from safetensors.torch import load as load_safetensors
from samples import same_weights

from ray_unlearn.errors import ModelError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.run.worker import Job, Worker
from ray_unlearn.store import StudyStore
from ray_unlearn.study import Run, Study

ORIGINAL = Run(population="original", index=0)
MINE = Run(population="mine", index=0)


def open_worker(study: Study) -> tuple[Job, Worker]:
    """Admit a study and open a worker for it."""
    job = open_job(study)
    job.store.admit(job.plan)
    worker = Worker(job, "cpu")
    worker.open()
    return job, worker


def state_of(store: StudyStore, run: Run) -> dict[str, torch.Tensor]:
    return load_safetensors(store.payload(run, "model.safetensors"))


def execute(worker: Worker, run: Run) -> Outcome:
    """Make one run and wait until it is published."""
    (outcome,) = worker.work([(run, 1)], flush=True)
    return outcome


def attempt(study: Study) -> tuple[Job, Outcome]:
    """Make the original, then try the first run of `mine`."""
    job, worker = open_worker(study)
    assert execute(worker, ORIGINAL).error == ""
    return job, execute(worker, MINE)


@pytest.mark.parametrize("model", [{}, {"arch": "nets:dropping", "options": None}])
def test_order_and_company_do_not_change_a_runs_bytes(tiny, tmp_path, model):
    """Law: a worker that makes the runs backwards publishes the same bytes as one that makes them forwards.

    Also with dropout, which draws from torch's global generator and from nowhere else.
    """
    for folder, step in (("forwards", 1), ("backwards", -1)):
        job, worker = open_worker(tiny(storage=str(tmp_path / folder), model=model))
        first, *others = job.plan.runs
        for run in (first, *others[::step]):
            assert execute(worker, run).error == ""
    forwards, backwards = payload_bytes(tmp_path / "forwards/tiny"), payload_bytes(tmp_path / "backwards/tiny")
    assert len(forwards) == 4 * 2
    assert forwards == backwards
    models = {data for name, data in forwards.items() if name.endswith("model.safetensors")}
    assert len(models) == 4  # no two runs are alike


def test_run_i_starts_from_original_i_modulo_originals(scripted):
    """Law: a script that does nothing publishes its original: 0, 1, 0 of two originals."""
    originals = {"original": {"method": "train", "on": "train", "count": 2}}
    study = scripted("pass", count=3, mine={"originals": 2}, populations=originals)
    summary = generate(study, backend="inline")
    assert (summary.made, summary.exit_code) == (5, 0)
    job = open_job(study)
    zero, one = (state_of(job.store, Run(population="original", index=i)) for i in range(2))
    assert not same_weights(zero, one)
    for run, start in zip(job.plan.populations["mine"].runs, (zero, one, zero), strict=True):
        assert same_weights(state_of(job.store, run), start)
        record = job.store.record(run)
        assert record is not None
        assert record.original == run.index % 2


def test_a_run_without_its_original_fails_and_reports_it(tiny):
    """Law: a worker never makes up a start; the outcome names the original's missing checkpoint."""
    job, worker = open_worker(tiny())
    outcome = execute(worker, Run(population="finetune", index=0))
    assert "run original/00000 has no model.safetensors" in outcome.error
    assert job.store.indexes("finetune") == []


@pytest.mark.parametrize(
    ("body", "error", "final"),
    [
        ("raise ValueError('no such\\nluck')", "ValueError: no such luck", False),
        ("sys.exit(3)", "SystemExit: 3", False),
        ("net.missing()", "AttributeError: 'Sequential' object has no attribute 'missing'", False),
        ("with torch.no_grad():\n    net[-1].bias[0] = float('nan')", "tensor '14.bias' holds NaN or infinity", True),
        ("with torch.no_grad():\n    net[1].running_var.fill_(float('inf'))", "tensor '1.running_var' holds", True),
        ("with torch.no_grad():\n    net[-1].weight.fill_(3e38)", "forget_loss is nan after training", True),
    ],
)
def test_what_a_script_does_wrong_is_an_outcome(scripted, body: str, error: str, final: bool):
    """Law: exceptions, sys.exit and non-finite weights are one line and a traceback; nothing is published."""
    job, outcome = attempt(scripted(body))
    assert outcome.error.startswith(error)
    assert "\n" not in outcome.error
    assert (outcome.run, outcome.final) == (MINE, final)
    assert outcome.traceback.startswith("Traceback (most recent call last)")
    assert job.store.indexes("mine") == []


def test_a_scripts_traceback_shows_its_line(scripted):
    """Law: who debugs a script sees the script's own source line."""
    _, outcome = attempt(scripted("wanted = 7\nreturn wanted / 0"))
    assert 'script.py", line 7, in unlearning\n    return wanted / 0' in outcome.traceback


def test_a_failure_is_retried_then_recorded_with_its_traceback(scripted):
    """Law: after max_attempts, failed/00000.json holds the line and the traceback, the rest is made, exit code 3."""
    study = scripted("raise ValueError(f'{net[-1].bias.numel()} classes')")
    summary = generate(study, backend="inline")
    assert (summary.made, list(summary.failed), summary.exit_code) == (1, [MINE], 3)
    failure = open_job(study).store.failures("mine")[0]
    assert (failure.error, failure.attempts) == ("ValueError: 10 classes (script.py:6)", 2)
    assert "in unlearning" in failure.traceback


def test_a_run_that_diverges_is_recorded_as_failed_and_not_retried(tiny):
    """Law: a loss that becomes NaN or infinite fails the run once; it is never published; others are made."""
    hot = {"method": "finetune", "count": 1, "lr": 1e30, "epochs": 3}
    study = tiny(populations={"hot": hot})
    summary = generate(study, backend="inline")
    run = Run(population="hot", index=0)
    assert (summary.made, list(summary.failed), summary.exit_code) == (4, [run], 3)
    store = open_job(study).store
    assert store.indexes("hot") == []
    failure = store.failures("hot")[0]
    assert failure.attempts == 1
    assert failure.error.startswith(("the training loss of epoch", "tensor "))


def test_a_failed_original_blocks_its_runs_only(tiny):
    """Law: who starts from a failed original is blocked, who does not is made; the next generate tries again."""
    retrained = {"method": "train", "on": "retain", "count": 2}
    study = tiny(populations={"original": {"lr": 1e30, "epochs": 3}, "retrained": retrained})
    for made in (2, 0):
        summary = generate(study, backend="inline")
        assert (summary.made, list(summary.failed), len(summary.blocked)) == (made, [ORIGINAL], 3)
        assert summary.exit_code == 3


def test_a_full_disk_fails_the_run_and_leaves_nothing(tiny, monkeypatch):
    """Law: ENOSPC while publishing is an outcome; no folder appears under the run's name."""
    job, worker = open_worker(tiny())

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ray_unlearn.store.disk._write_synced", full)
    outcome = execute(worker, ORIGINAL)
    said = "cannot write tiny/original/00000: No space left on device; free some space there"
    assert said in outcome.error
    assert not outcome.final
    assert job.store.indexes("original") == []


def test_keep_checkpoints_false_keeps_outputs_and_originals(tiny, tmp_path):
    """Law: outputs of every run, checkpoints of originals alone; the outputs are the same as with checkpoints."""
    kept, dropped = tiny(), tiny(storage=str(tmp_path / "dropped"), keep_checkpoints=False)
    for study in (kept, dropped):
        assert generate(study, backend="inline").made == 4
    with_models = payload_bytes(Path(kept.storage) / "tiny")
    without = payload_bytes(Path(dropped.storage) / "tiny")
    assert [name for name in without if name.endswith(".safetensors")] == ["original/00000/model.safetensors"]
    assert without.items() <= with_models.items()
    assert len(with_models) - len(without) == 3


def test_a_bf16_study_rounds_parameters_and_keeps_buffers(scripted):
    """Law: parameters are saved in bf16, normalisation buffers in fp32, and runs start from exactly what was saved."""
    study = scripted("pass", checkpoint_dtype="bf16")
    assert generate(study, backend="inline").exit_code == 0
    store = open_job(study).store
    original, run = state_of(store, ORIGINAL), state_of(store, MINE)
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in original.items()}
    assert kinds == {
        "weight": torch.bfloat16,
        "bias": torch.bfloat16,
        "running_mean": torch.float32,
        "running_var": torch.float32,
        "num_batches_tracked": torch.int64,
    }
    assert same_weights(original, run)


def test_the_record_states_how_the_run_was_made(tiny):
    """Law: record.json holds seeds, options, times, device, threads and versions, as plain JSON."""
    study = tiny()
    generate(study, backend="inline")
    job = open_job(study)
    contents = [json.loads(job.store.storage.read(job.store.layout.record(run))) for run in job.plan.runs]
    last = contents[-1]
    assert (last["population"], last["index"], last["method"]) == ("finetune", 2, "finetune")
    assert (last["options"]["noise_std"], last["device"], last["threads"], last["attempt"]) == (0.01, "cpu", 1, 1)
    assert last["digest"] == job.plan.populations["finetune"].digest
    assert last["seconds"].keys() == last["cpu_seconds"].keys() == {"train", "predict"}
    assert {"python", "torch", "ray-unlearn"} <= last["versions"].keys()
    assert last["seeds"] == {"study": 0, "original": 0, "run": 2}
    start = contents[0]["payloads"]["model.safetensors"]["sha256"]
    assert [content["original_sha256"] for content in contents] == ["", start, start, start]


def test_cpu_time_is_what_the_run_computed(scripted):
    """Law: waiting costs wall time and no CPU time; computing costs both."""
    study = scripted("import time; time.sleep(0.5)")
    assert generate(study, backend="inline").exit_code == 0
    store = open_job(study).store
    waited, trained = store.record(MINE), store.record(ORIGINAL)
    assert waited.seconds["train"] >= 0.5 > 2 * waited.cpu_seconds["train"]
    assert 0 < trained.cpu_seconds["train"] < 1.5 * trained.seconds["train"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused(tiny):
    """Law: no silent fallback to the CPU."""
    with pytest.raises(ModelError, match="device cuda: this machine has no GPU"):
        Worker(open_job(tiny()), "cuda").open()
