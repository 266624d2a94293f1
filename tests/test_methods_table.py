"""tests/bench/methods_table.py: the tables in methods/README.md, and the checks that they rest on."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
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


def job() -> Any:
    """Import the job."""
    spec = importlib.util.spec_from_file_location("methods_table", ROOT / "tests" / "bench" / "methods_table.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def table(*arguments: str) -> int:
    """Run the job in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["methods_table.py", *arguments])
        return int(job().main())


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


def test_the_table_by_hand(made, capsys):
    """Law: mean ± sd in %, N, no F below 3 runs, the median of seconds over the reference's: 3 of 1.5 is 2.00."""
    file, store = made
    for name, values in {"retrained": (1.0, 2.0), "finetune": (3.0, 3.0)}.items():
        for index, (seconds, accuracy) in enumerate(zip(values, (0.5, 0.7), strict=True)):
            metrics = {f"{split}_accuracy": accuracy for split in ("retain", "forget", "test")}
            times = {"seconds": {"train": seconds}, "cpu_seconds": {}}
            rewritten(store, Run(population=name, index=index), **times, metrics=metrics)
    assert table(file) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| population | N | retain | forget | test | F | cost | revision |"
    assert "| `finetune` | 2 | 60.0 ± 14.1 | 60.0 ± 14.1 | 60.0 ± 14.1 | - | 2.00 | 1 |" in lines
    assert any(line.startswith("| `null` | 2 |") and line.count("± 0.0") == 3 for line in lines)


def test_cost_is_of_cpu_time(made, capsys):
    """Law: 10 of 2 CPU seconds is 5.00, whatever the clock showed; the clock counts where a run has no CPU time."""
    file, store = made
    times = {"original": (1.0, 1.0), "retrained": (2.0, 1.5), "finetune": (10.0, 3.0), "null": (0.0, 0.0)}
    for name, (cpu, wall) in times.items():
        for index in store.made(name):
            seconds = {"seconds": {"train": wall}, "cpu_seconds": {"train": cpu}}
            rewritten(store, Run(population=name, index=index), **seconds)
    assert (table(file), _cost(capsys)) == (0, "5.00")
    assert table(file) == 0
    assert "\n\nAll 7 runs: 0.4 CPU minutes, on two cores 0.2 minutes.\n" in capsys.readouterr().out  # 1 + 4 + 20 s
    rewritten(store, Run(population="null", index=0), cpu_seconds={})
    assert (table(file), _cost(capsys)) == (0, "2.00")
    rewritten(store, Run(population="null", index=1), cpu_seconds={})
    assert table(file) == 0
    assert "CPU minutes" not in capsys.readouterr().out


def _cost(capsys: Any) -> str:
    """Return the cost of `finetune` in the table that was printed."""
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| `finetune`"))
    return row.split("|")[7].strip()


def test_forgetting_quality_and_its_null(tmp_path, capsys):
    """Law: F of all runs against as many of the reference; the reference's row has F between halves of it."""
    from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality
    from ray_unlearn.evaluation.outputs import read_outputs

    file = tmp_path / "study.yaml"
    counts = {"retrained": {"count": 8}, "finetune": {"count": 4}, "null": None}
    file.write_text(yaml.safe_dump(merged(TINY, merged(STUDY, {"populations": counts})) | {"storage": str(tmp_path)}))
    study = load_study(file)
    generate(study, backend="inline")
    store = StudyStore(open_storage(study.storage), study.name)
    phi = {
        name: read_outputs(store, name, store.made(name)).splits["forget"].phi_RN for name in ("finetune", "retrained")
    }
    score = forgetting_quality(phi["finetune"], phi["retrained"][:4]).score
    capsys.readouterr()
    assert table(str(file)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = {line.split("|")[1].strip(" `"): line.split("|") for line in lines}
    assert rows["finetune"][6].strip() == f"{score:.3f}"
    assert rows["original"][6].strip() == "-"
    words = rows["retrained"][6].split()
    assert words[0] == "null"
    assert words[-2:] == ["N", "4"]
    assert float(words[2].strip("(")) <= float(words[1]) <= float(words[4].strip("),")) <= 1
    _f_of_the_runs_that_both_have(file, store, phi, capsys)


def _f_of_the_runs_that_both_have(file: Path, store: StudyStore, phi: dict[str, Any], capsys: Any) -> None:
    """Law: side by side, F is of the runs that both stores have, also where these are not the first ones."""
    before = load_study(file, [f"storage={file.parent / 'before'}", "populations.finetune.lr=0.5"])
    generate(before, backend="inline")
    earlier = StudyStore(open_storage(before.storage), before.name)
    earlier.discard(Run(population="finetune", index=0))
    earlier.discard(Run(population="retrained", index=1))
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:  # a score that states which runs it is of
        where = "ray_unlearn.evaluation.measures.forgetting_quality.forgetting_quality"
        patch.setattr(where, lambda runs, reference: SimpleNamespace(score=runs.sum() - 2 * reference.sum()))
        assert table(str(file), "--before", before.storage) == 0
    after = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| `finetune` | 3 | after |"))
    expected = phi["finetune"][[1, 2, 3]].sum() - 2 * phi["retrained"][[0, 2, 3]].sum()
    assert after.split("|")[7].strip() == f"{expected:.3f}"


def test_the_readme_between_its_markers(made, tmp_path, capsys):
    """Law: only what is between the study's markers is replaced; without markers it is one error."""
    file, _ = made
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- tiny: begin -->\nold\n<!-- tiny: end -->\nafter\n")
    assert table(file, "--readme", str(readme)) == 0
    shown, text = capsys.readouterr().out, readme.read_text()
    assert text.startswith("before\n<!-- tiny: begin -->\n| population |")
    assert text.endswith("-->\n<!-- tiny: end -->\nafter\n")
    assert shown in text
    assert "old" not in text
    readme.write_text("nothing\n")
    with pytest.raises(StoreError, match=r"README\.md: expected the lines <!-- tiny: begin --> and <!-- tiny: end -->"):
        table(file, "--readme", str(readme))


def test_what_a_row_was_made_with(made):
    """Law: another option changes a population's digest, and no other population's."""
    file, _ = made
    one, other = (job().made_with(load_study(file, change)) for change in ([], ["populations.finetune.lr=0.5"]))
    pairs = [dict(re.findall(r"(\w+) ([0-9a-f]{8})\b", text)) for text in (one, other)]
    assert set(pairs[0]) == {"original", "retrained", "null", "finetune"}
    assert {name for name in pairs[0] if pairs[0][name] != pairs[1][name]} == {"finetune"}


def test_before_and_after(made, capsys, tmp_path):
    """Law: populations whose outputs differ are shown twice; the others are named."""
    file, _ = made
    other = load_study(file, [f"storage={tmp_path / 'before'}", "populations.finetune.lr=0.5"])
    generate(other, backend="inline")
    capsys.readouterr()
    assert table(file, "--before", str(tmp_path / "before")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "The same outputs, byte for byte: null, original, retrained."
    shown = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines[2:-2]]
    assert shown == [["`finetune`", "2", "before"], ["`finetune`", "2", "after"]]


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
    timed = StudyStore(open_storage(again.storage), again.name)
    for name, seconds in {"retrained": 2.0, "finetune": 7.0}.items():
        for index in timed.made(name):
            rewritten(timed, Run(population=name, index=index), cpu_seconds={"train": seconds})
    capsys.readouterr()
    assert table(file, "--again", again.storage) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| `finetune`"))
    assert row.split("|")[2].strip() == "2"
    assert row.split("|")[7].strip() == "3.50"  # 7 over 2, of the runs made again
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
    assert "| `null` | 0 | - | - | - | - | - | 1 |" in lines
    assert "| `finetune` | 2 | - | - | 50.0 ± 0.0 | - | - | 1 |" in lines
    assert "| `mine` | 0 | - | - | - | - | - | - |" in lines
    assert [line for line in lines if line.startswith("problem: mine")] == ["problem: mine: 0 of 1 runs are made"]


def test_nothing_to_print_is_one_error(made, tmp_path):
    """Law: a study that is not made, or a file that is not there, is an error that states what to do."""
    with pytest.raises(StoreError, match=r"elsewhere/tiny: no run of the study is made there; `ray-unlearn generate`"):
        table(made[0], "--set", f"storage={tmp_path / 'elsewhere'}")
    with pytest.raises(StudyError, match=r"absent\.yaml: cannot be read"):
        table(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_studies_have_every_method(name):
    """Law: all but imports, each once, under the setting's preset, else its first published one; 4 runs or more."""
    study = load_study(ROOT / "jobs" / "studies" / f"methods-{name}.yaml")
    names = {spec.method: population for population, spec in study.populations.items()}
    assert set(names) == set(METHODS.own) - {"weights"}
    for population, spec in study.populations.items():
        assert spec.planned >= (1 if population == "original" else 4)
        method = METHODS[str(spec.method)]
        tuned = name if name in method.presets else None
        published = None if name == "digits" else next(iter(method.published), None)
        if method.name in names and method.name not in ("langevin", "noisy_finetune", "noisy_finetune_reference"):
            assert spec.preset == (tuned or published)
    assert json.dumps(study.populations["mix"].options["parts"]).count(f'"preset": "{name}"') == 2


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_readme_has_what_the_study_would_make(name):
    """Law: a row for every population, made with its method as it is now; a later change shows as a stale row.

    Where this fails, a method, a preset or the study was changed since the table was made: make it again.
    """
    study = load_study(ROOT / "jobs" / "studies" / f"methods-{name}.yaml")
    text = (ROOT / "ray_unlearn" / "methods" / "README.md").read_text()
    block = text.partition(f"<!-- methods-{name}: begin -->\n")[2].partition(f"<!-- methods-{name}: end -->")[0]
    table, _, comment = block.partition("<!-- made with")
    rows = [line.split("|") for line in table.splitlines()[2:] if line.startswith("|")]
    assert [row[1].strip(" `") for row in rows] == list(study.populations)
    for row, spec in zip(rows, study.populations.values(), strict=True):
        assert row[-2].strip() == str(METHODS[str(spec.method)].revision)
        assert int(row[2]) >= 1
    assert f"<!-- made with{comment}" == job().made_with(study)
    runs, minutes = re.findall(r"All (\d+) runs: .*, on two cores ([\d.]+) minutes\.", table)[0]
    assert int(runs) == sum(spec.planned for spec in study.populations.values())
    assert float(minutes) < 30  # both within an hour
