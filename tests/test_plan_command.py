"""`plan`: every refusal at once, with its line; what is to make, and what it costs; nothing is decoded or written."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, merged, write_study

from ray_unlearn import models
from ray_unlearn.cli import main
from ray_unlearn.generation import generate
from ray_unlearn.generation.estimates import Estimate, Step, estimate, expected_sizes, total_s
from ray_unlearn.generation.forecast import _waited
from ray_unlearn.generation.measured_step import measure_step
from ray_unlearn.quickstart import STUDY
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.study import Study, load_study

FACES = Path(__file__).resolve().parents[1] / "jobs" / "studies" / "faces.yaml"


def planned(file: Path, *options: str, code: int = 0, capsys: Any) -> dict[str, Any]:
    """Return the JSON of `plan`."""
    capsys.readouterr()
    assert main(["plan", str(file), "--json", *options]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """The quickstart's study."""
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file


def test_the_quickstart_before_and_after_it_ran(quick: Path, capsys):
    """Law: before, a measured step is the basis, and no file appears; after, the runs are, and nothing is left."""
    counts = {name: spec.planned for name, spec in load_study(quick).populations.items()}
    before = planned(quick, capsys=capsys)
    assert {one["population"]: one["pending"] for one in before["populations"]} == counts
    assert {one["basis"] for one in before["populations"]} == {"a measured step"}
    assert before["problems"] == []
    assert before["workers"] == 2
    assert list(quick.parent.iterdir()) == [quick]
    overrides = ["training.epochs=1", *(f"populations.{name}.count=2" for name in counts if name != "original")]
    study = load_study(quick, overrides)
    assert generate(study, backend="inline").made == 1 + 2 * (len(counts) - 1)
    sets = [word for override in overrides for word in ("--set", override)]
    after = planned(quick, *sets, "--set", "populations.retrained.count=12", capsys=capsys)
    made = {one["population"]: (one["made"], one["pending"], one["basis"]) for one in after["populations"]}
    assert made.pop("original") == (1, 0, "1 made")
    assert made.pop("retrained") == (2, 10, "2 made")
    assert set(made.values()) == {(2, 0, "2 made")}
    sizes = [path.stat().st_size for path in (quick.parent / "digits/retrained/00000").iterdir()]
    record = (quick.parent / "digits/retrained/00000/record.json").stat().st_size
    assert after["size_bytes"] == 10 * (sum(sizes) - record)
    assert main(["plan", str(quick), *sets]) == 0
    assert f"nothing to do: all {1 + 2 * (len(counts) - 1)} runs are made" in capsys.readouterr().out
    changed = planned(quick, *sets, "--set", "training.lr=0.5", code=1, capsys=capsys)
    assert "training.lr: 0.003 -> 0.5" in changed["problems"][0]


THREE = """\
name: three
data:
  train: digits
  test: digits
  imag_size: 8
  forget: {fraction: 0.1}
training:
  lr: -1
populations:
  original: {method: train, on: train}
  fine:
    method: finetune
    epoch: 3
"""


def test_three_errors_are_three_lines(tmp_path: Path, capsys):
    """Law: an unknown key, a value out of range and a method's unknown option are all named, each with its line."""
    file = tmp_path / "study.yaml"
    file.write_text(THREE)
    assert main(["plan", str(file)]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"error: {file}:5: data.imag_size: unknown key (did you mean 'image_size'?)",
        f"error: {file}:8: training.lr: input should be greater than 0; found -1",
        f"error: {file}:13: populations.fine.epoch: unknown key (did you mean 'epochs'?) (method finetune)",
    ]
    assert said.out == "3 problems found\n"


def test_a_wrong_value_hides_no_other_problem(tmp_path: Path, capsys):
    """Law: what the schema, the folders and torch find is named together, each wrong option of a method, too."""
    changes = {
        "data": {"train": "none.parquet", "forget": {"fraction": 2}, "validation": 1.5},
        "model": {"arch": "resnet19"},
        "populations": {"finetune": {"epochs": "two", "lr": -1}},
        "evaluation": {"reference": "nowhere"},
    }
    file = write_study(tmp_path, **changes)
    assert main(["plan", str(file)]) == 2
    said = [line.removeprefix(f"error: {file}:").partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert [line.partition(": ")[0] for line in said] == [
        "data.train",
        "data.validation",
        "data.forget.fraction",
        "model.arch",
        "populations.finetune.epochs",
        "populations.finetune.lr",
        "evaluation.reference",
    ]
    good = merged(TINY, {"evaluation": {"reference": "finetun"}})
    file.write_text(yaml.safe_dump(good, sort_keys=False))
    (problem,) = planned(file, code=2, capsys=capsys)["problems"]
    assert re.search(r":\d+: evaluation\.reference: 'finetun' is not a population .*'finetune'", problem)


def test_a_refusal_that_populations_share_is_one_problem(tmp_path: Path, capsys):
    """Law: it names the populations, and has the line of the key; another population's own stays its own."""
    changes = {
        "training": {"augment": {"transforms": ["RandomCropp"]}},
        "populations": {"other": {"method": "nothing"}},
    }
    file = write_study(tmp_path, **changes)
    first, second = planned(file, code=2, capsys=capsys)["problems"]
    assert re.search(
        r":\d+: training\.augment\.transforms: .*'RandomCropp'.* \(populations original, finetune\)$", first
    )
    assert re.search(r":\d+: populations\.other\.method: .*nothing", second)


def test_a_busy_machine_is_said(quick: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Law: where other processes use the cores, the line says that a measured step is no measure."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    for load, said in ((0.4, False), (3.0, True)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert main(["plan", str(quick)]) == 0
        line = f"warning: this machine is busy (load {load} on 2 cores), so the measured step took longer than alone"
        assert (line in capsys.readouterr().out) == said


@pytest.mark.parametrize(("cpu_s", "said"), [(9.0, ""), (2.5, "the runs that were made had 25 % of a core each")])
def test_runs_that_waited_for_the_cpu_are_no_measure(tiny: Callable[..., Study], cpu_s: float, said: str):
    """Law: 2.5 s of CPU time in 10 s are said, 9 s are not; nor is it where runs have several threads."""
    study = tiny()
    record = Record.model_construct(
        method="finetune", device="cpu", seconds={"train": 10.0}, cpu_seconds={"train": cpu_s}, payloads={}, options={}
    )
    records = {"finetune": {0: record}}
    found = estimate(study, records, {}, None)
    assert _waited(study, records, found).startswith(said)
    assert bool(_waited(study, records, found)) == bool(said)
    threads = study.model_copy(update={"execution": study.execution.model_copy(update={"cpus_per_worker": 2})})
    assert _waited(threads, records, found) == ""


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"data": {"train": "none.parquet"}}, 1, r":3: data\.train: .*none\.parquet"),
        ({"data": {"forget": {"fraction": None, "ids": "none.csv"}}}, 1, r"data\.forget\.ids: .*none\.csv"),
        ({"model": {"arch": "resnet19"}}, 1, r"model\.arch: .*resnet19"),
        ({"populations": {"mine": {"method": "mine.py:f"}}}, 1, r"populations\.mine: .*mine\.py"),
        ({"populations": {"original": None}}, 2, r"populations\.finetune: .*original"),
        ({"populations": {"finetune": {"originals": 3}}}, 2, r"populations\.finetune\.originals: expected at most 1"),
        ({"populations": {"given": {"weights": "none.safetensors"}}}, 1, r"populations\.given.*none\.safetensors"),
        ({"populations": {"finetune": {"precision": "tf32"}}}, 1, r"populations\.finetune: .*tf32"),
        ({"storage": "study.yaml/store"}, 1, r"storage: .*study\.yaml: is not a folder"),
    ],
)
def test_what_generate_refuses_is_a_problem(changes, code, says, tmp_path: Path, capsys):
    """Law: without decoding an image, without a file, and with the line of the key."""
    file = write_study(tmp_path, **changes)
    problems = planned(file, code=code, capsys=capsys)["problems"]
    (problem,) = problems
    assert re.search(says, problem), problem
    assert problem.startswith(f"{file}")
    assert list(tmp_path.iterdir()) == [file]


def test_a_number_of_classes_that_is_not_known_yet_is_no_problem(tmp_path: Path, capsys):
    """Law: labels that only decoding counts refuse neither a fixed head nor weights; damaged weights are refused."""
    np.savez(tmp_path / "three.npz", images=np.zeros((60, 8, 8), np.uint8), labels=np.arange(60) % 3)
    (tmp_path / "fixed.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))\n"
    )
    (tmp_path / "study.yaml").write_text(
        "name: three\ndata: {train: three.npz, test: 0.2, image_size: 8, forget: {fraction: 0.1}}\n"
        "model: {arch: 'fixed:net'}\nexecution: {device: cpu}\n"
        "populations: {original: {weights: w.pth}, finetune: {method: finetune}}\n"
    )
    (tmp_path / "w.pth").write_bytes(b"cut off")
    found = planned(tmp_path / "study.yaml", code=1, capsys=capsys)
    assert "not weights that can be read safely" in found["problems"][0]
    torch.save({"1.weight": torch.zeros(3, 192), "1.bias": torch.zeros(3)}, tmp_path / "w.pth")
    assert planned(tmp_path / "study.yaml", capsys=capsys)["problems"] == []
    assert generate(load_study(tmp_path / "study.yaml"), backend="inline").exit_code == 0


def test_quick_checks_import_no_torch(quick: Path):
    """Law: --quick needs neither torch nor Ray."""
    code = (
        "import sys; from ray_unlearn.cli import main; main(sys.argv[1:]); print({'torch', 'ray'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "plan", str(quick), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "an unknown time" in done.stdout


def test_time_is_shared_by_workers_after_the_originals():
    """Law: 8 runs of 10 s and 4 of 5 s take 2 workers 50 s; with more workers than runs, the original and then the
    longest run; a pack is one worker's."""

    def one(name: str, count: int, seconds: float) -> Estimate:
        return Estimate(population=name, planned=count, made=0, seconds=seconds, size_bytes=1, basis="", relative=None)

    parts = [one("a", 8, 10.0), one("b", 4, 5.0)]
    assert total_s(parts, 2) == 50.0
    assert total_s([one("original", 1, 30.0), *parts], 2) == 65.0
    assert total_s([one("original", 1, 30.0), *parts], 100) == 40.0
    packed = dataclasses.replace(one("c", 16, 1.0), pack=8)
    assert (total_s([packed], 1), total_s([packed], 2), total_s([packed], 4)) == (16.0, 8.0, 8.0)
    unknown = Estimate(population="c", planned=2, made=1, seconds=None, size_bytes=None, basis="", relative=None)
    assert total_s([unknown], 1) is None


def test_sizes_are_expected_as_they_are_drawn(tiny: Callable[..., Study]):
    """Law: what is expected before decoding is what the drawn splits have."""
    from ray_unlearn.generation.job import open_job

    study = tiny()
    job = open_job(study)
    sizes = expected_sizes(study, {"train": 1437, "test": 360}, 10)
    assert {name: sizes[name] for name in job.data.splits.sizes()} == job.data.splits.sizes()


def test_a_step_is_scaled_by_epochs_and_images(tiny: Callable[..., Study]):
    """Law: epochs of the population times the images it trains on; weights and logits by their size."""
    study = tiny(populations={"finetune": {"epochs": 3}})
    sizes = {"train": 90, "retain": 80, "forget": 10, "test": 360, "classes": 10}
    found = estimate(study, {}, sizes, Step(train_s=1.0, predict_s=0.1, parameters=1000))
    assert found["original"].seconds == pytest.approx(90 + 37)
    assert found["finetune"].seconds == pytest.approx(240 + 37)
    assert found["finetune"].size_bytes == 4000 + 370 * 56
    assert estimate(study, {}, sizes, None)["finetune"].seconds is None


def test_a_packed_step_is_measured_for_packed_populations(tiny: Callable[..., Study], monkeypatch: pytest.MonkeyPatch):
    """Law: images and epochs times a packed step, per run; the second pack of 5 runs is as long as a full one of 4."""
    study = tiny(populations={"finetune": {"count": 5}}, execution={"pack": 4})
    sizes = {"train": 90, "retain": 80, "forget": 10, "test": 360, "classes": 10}
    step = Step(train_s=1.0, predict_s=0.0, parameters=1, packed_s=0.25)
    found = estimate(study, {}, sizes, step, ["finetune"])
    assert (found["original"].seconds, found["original"].pack) == (90.0, 1)
    assert (found["finetune"].seconds, found["finetune"].pack) == (80 * 0.25 * 8 / 5, 4)
    model = models.build(study.model, 10, Seeds(study=0))
    monkeypatch.setattr("ray_unlearn.generation.measured_step._LEAST_S", 0.0)
    assert measure_step(study, model, 10, torch.device("cpu")).packed_s > 0


@pytest.mark.shared
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_faces_take_the_time_that_is_planned(tmp_path: Path, shared: Path, capsys):
    """Law: jobs/studies/faces.yaml on 600 images: after ten runs of each population, the rest takes what `plan` says,
    within a factor of 1.5, in CPU time: on a machine that others use, wall times of two moments do not compare."""
    file = tmp_path / "faces.yaml"
    shutil.copy(FACES, file)
    faces = shared / "data" / "fairface64"
    scale = ["data.limit=600", "training.epochs=2", "execution.workers=1", "outputs.splits=[retain,forget]"]
    scale += [f"data.train={faces}/train.parquet", f"data.test={faces}/test.parquet"]
    few = [f"populations.{name}.count=10" for name in ("retrained", "finetune", "ngp")]
    more = [f"populations.{name}.count=16" for name in ("retrained", "finetune", "ngp")]
    generate(load_study(file, [*scale, *few]), backend="inline")
    sets = [word for override in (*scale, *more) for word in ("--set", override)]
    plan = planned(file, *sets, capsys=capsys)
    assert sum(one["pending"] for one in plan["populations"]) == 18
    study = load_study(file, [*scale, *more])
    took = generate(study, backend="inline").phases["runs"]
    store = StudyStore(open_storage(study.storage), study.name)
    runs = [one for name in ("retrained", "finetune", "ngp") for one in store.made(name).values()]
    known, new = ([one for one in runs if (one.index < 10) == first] for first in (True, False))
    share = sum(map(cpu_s, known)) / sum(sum(one.seconds.values()) for one in known)
    planned_s, took_s = plan["seconds"] * share, sum(map(cpu_s, new))
    print(f"planned {plan['seconds']:.1f} s, took {took:.1f} s; of CPU time, {planned_s:.1f} s and {took_s:.1f} s")
    assert 1 / 1.5 < took_s / planned_s < 1.5


def cpu_s(record: Record) -> float:
    """Return a run's CPU seconds."""
    return sum(record.cpu_seconds.values())
