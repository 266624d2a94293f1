"""tests/bench/methods_table.py: the README's table of methods, and the checks that it rests on."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, merged

from ray_unlearn.errors import StoreError, StudyError
from ray_unlearn.generation import generate
from ray_unlearn.methods import METHODS
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.study import load_study
from ray_unlearn.study.plan import Run

ROOT = Path(__file__).resolve().parents[1]
STUDY = {
    "data": {"validation": None},
    "populations": {
        "retrained": {"method": "retrain", "count": 2},
        "null": {"method": "null", "count": 2},
        "finetune": {"count": 2},
    },
    "outputs": {"splits": ["retain", "forget", "test"]},
    "evaluation": {"reference": "retrained"},
}


def table(*arguments: str) -> int:
    """Run the job in this process and return its exit code."""
    spec = importlib.util.spec_from_file_location("methods_table", ROOT / "tests" / "bench" / "methods_table.py")
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["methods_table.py", *arguments])
        return int(job.main())


def rewritten(store: StudyStore, run: Run, **changes: Any) -> None:
    """Replace a run's record by one that states something else."""
    record = store.record(run)
    assert record is not None
    text = Record.model_validate(record.model_dump() | changes).sealed().model_dump_json()
    store.storage.publish_file(store.layout.record(run), text.encode())


@pytest.fixture
def made(tmp_path: Path) -> tuple[str, StudyStore]:
    """A study that is made: its file, and its store."""
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(merged(TINY, STUDY) | {"storage": "store"}))
    study = load_study(file)
    generate(study, backend="inline")
    return str(file), StudyStore(open_storage(study.storage), study.name)


def test_the_table_by_hand(made, capsys, tmp_path):
    """Law: mean ± sd in %, N, and the median of seconds over the reference's: 3 of 1.5 is 2.00; deterministic: sd 0."""
    file, store = made
    for name, values in {"retrained": (1.0, 2.0), "finetune": (3.0, 3.0)}.items():
        for index, (seconds, accuracy) in enumerate(zip(values, (0.5, 0.7), strict=True)):
            metrics = {f"{split}_accuracy": accuracy for split in ("retain", "forget", "test")}
            rewritten(store, Run(population=name, index=index), seconds={"train": seconds}, metrics=metrics)
    assert table(file, "--as", str(tmp_path / "table.md")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| population | N | retain | forget | test | cost |"
    assert "| `finetune` | 2 | 60.0 ± 14.1 | 60.0 ± 14.1 | 60.0 ± 14.1 | 2.00 |" in lines
    assert any(line.startswith("| `null` | 2 |") and line.count("± 0.0") == 3 for line in lines)
    assert (tmp_path / "table.md").read_text().splitlines() == lines


def test_what_does_not_hold_is_reported(made, capsys):
    """Law: equal checkpoints and a missing run each end with 1 and a line that names the population."""
    file, store = made
    first = store.record(Run(population="finetune", index=0))
    assert first is not None
    rewritten(store, Run(population="finetune", index=1), payloads=first.payloads)
    store.discard(Run(population="retrained", index=1))
    assert table(file) == 1
    said = capsys.readouterr().out
    assert "problem: finetune: 1 different checkpoints; finetune should have 2" in said
    assert "problem: retrained: 1 of 2 runs are made" in said


def test_a_loss_that_is_not_finite_is_reported(made, capsys, monkeypatch):
    """Law: NaN in a training or an output loss is named with its run."""
    read = StudyStore.made

    def bad(self: StudyStore, population: str, known: Any = None) -> dict[int, Record]:
        records = read(self, population, known)
        changes = {"finetune": {"epoch_loss": [1.0, math.nan]}, "null": {"metrics": {"test_loss": math.inf}}}
        return {i: record.model_copy(update=changes.get(population, {})) for i, record in records.items()}

    monkeypatch.setattr(StudyStore, "made", bad)
    assert table(made[0]) == 1
    said = capsys.readouterr().out
    assert "problem: finetune/00000: a loss is not finite: [1.0, nan" in said
    assert "problem: null/00001: a loss is not finite: [inf]" in said


def test_runs_made_again_are_compared(made, capsys, tmp_path):
    """Law: the same study made in another store has the same bytes; one that has not is named, as is one left out."""
    file, _ = made
    again = load_study(file, [f"storage={tmp_path / 'again'}", "populations.finetune.count=1"])
    generate(again, backend="inline")
    assert table(file, "--again", again.storage) == 0
    other = StudyStore(open_storage(again.storage), again.name)
    first = other.record(Run(population="null", index=0))
    assert first is not None
    rewritten(other, Run(population="finetune", index=0), payloads=first.payloads)
    other.discard(Run(population="null", index=0))
    other.discard(Run(population="null", index=1))
    capsys.readouterr()
    assert table(file, "--again", again.storage) == 1
    said = capsys.readouterr().out
    assert f"problem: finetune/00000: other bytes in {other.uri}" in said
    assert f"problem: null: {other.uri} has none of its runs to compare" in said


def test_a_study_without_checkpoints_is_reported_by_its_outputs(made, capsys):
    """Law: with `keep_checkpoints: false` equal outputs are equal runs; `null` has one for both of its runs."""
    file, store = made
    for name in ("retrained", "null", "finetune"):
        for index, record in store.made(name).items():
            outputs = {key: value for key, value in record.payloads.items() if key != "model.safetensors"}
            assert len(outputs) == len(record.payloads) - 1
            rewritten(store, Run(population=name, index=index), payloads=outputs)
    assert table(file) == 0
    first = store.made("finetune")[0]
    rewritten(store, Run(population="finetune", index=1), payloads=first.payloads)
    assert table(file) == 1
    assert "problem: finetune: 1 different checkpoints" in capsys.readouterr().out


def test_what_has_no_figure_is_a_dash(made, capsys):
    """Law: a population without runs, and a split without outputs, are dashes; a script's method is one like others."""
    file, store = made
    for name in ("retrained", "null"):
        for index in (0, 1):
            store.discard(Run(population=name, index=index))
    for index in (0, 1):
        rewritten(store, Run(population="finetune", index=index), metrics={"test_accuracy": 0.5})
    script = Path(file).with_name("mine.py")
    script.write_text("def unlearning(net, retain_loader, forget_loader, val_loader): ...\n")
    assert table(file, "--set", f"populations.mine.method={script}:unlearning") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "| `null` | 0 | - | - | - | - |" in lines
    assert "| `finetune` | 2 | - | - | 50.0 ± 0.0 | - |" in lines
    assert "| `mine` | 0 | - | - | - | - |" in lines
    assert [line for line in lines if line.startswith("problem: mine")] == ["problem: mine: 0 of 1 runs are made"]


def test_nothing_to_print_is_one_error(made, tmp_path):
    """Law: a study that is not made, or a file that is not there, is an error that states what to do."""
    with pytest.raises(StoreError, match=r"elsewhere/tiny: no run of the study is made there; `ray-unlearn generate`"):
        table(made[0], "--set", f"storage={tmp_path / 'elsewhere'}")
    with pytest.raises(StudyError, match=r"absent\.yaml: cannot be read"):
        table(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(("name", "preset"), [("digits", "digits"), ("faces", "cifar10")])
def test_the_studies_have_every_method(name, preset):
    """Law: each that starts from an original, 8 or more runs, under one preset; `null` and `retrained` next to them."""
    study = load_study(ROOT / "jobs" / "studies" / f"methods-{name}.yaml")
    own = {n: m for n, m in METHODS.items() if m.starts_from == "original"}
    methods = {n: m for n, m in own.items() if n in ("null", "mix") or preset in m.presets}
    assert set(study.populations) == {*methods, "original", "retrained"}
    for population, spec in study.populations.items():
        assert spec.planned >= (1 if population == "original" else 8)
        if population in methods and population not in ("null", "mix"):
            assert (spec.method, spec.preset, spec.options) == (population, preset, {})
    assert json.dumps(study.populations["mix"].options["parts"]).count(f'"preset": "{preset}"') == 2
