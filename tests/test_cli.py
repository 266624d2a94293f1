"""The command line: every subcommand, every exit code."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import payload_bytes, write_study
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.torch import load_file
from samples import encoded, picture

from ray_unlearn import __version__
from ray_unlearn.cli import _command, main
from ray_unlearn.methods import METHODS
from ray_unlearn.models import small_cnn
from ray_unlearn.report import curves
from ray_unlearn.store import Record
from ray_unlearn.study.template import TEMPLATE


def inline(file: str, *more: str) -> int:
    return main(["generate", file, "--backend", "inline", *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("made")
    assert inline(str(write_study(folder))) == 0
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


COMMANDS = (
    "quickstart",
    "init",
    "methods",
    "prepare",
    "generate",
    "status",
    "verify",
    "logs",
    "evaluate",
    "report",
    "export",
    "submit",
    "all",
)


def study_of(folder: Path) -> str:
    return str(folder / "study.yaml")


def test_version_and_help(capsys):
    """Law: both print and end with 0; the help names every subcommand."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert name in text
        assert main([name, "--help"]) == 0


def test_the_command_line_is_built_once(capsys):
    """Law: the second command of a process finds it built, which takes 18 ms."""
    for _ in range(2):
        assert main(["--version"]) == 0
    assert _command.cache_info().misses == 1


def test_a_summary_fits_a_line_of_80_columns(capsys, monkeypatch):
    """Law: the list of subcommands is read whole; typer cuts what does not fit."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


@pytest.mark.parametrize(
    "arguments",
    [["generat"], ["generate"], ["generate", "s.yaml", "--backend", "spark"], ["status", "s.yaml", "--no-such"]],
)
def test_usage_errors_end_with_2(arguments: list[str], capsys):
    """Law: what the command line itself cannot parse is usage, and reports it on standard error."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "Error" in captured.err
    assert captured.out == ""


def test_init_writes_a_study_once(tmp_path, capsys):
    """Law: init writes the template, states what is next, and never overwrites a file."""
    file = tmp_path / "study.yaml"
    assert main(["init", str(file)]) == 0
    assert capsys.readouterr().out == f"wrote {file}; next: ray-unlearn all {file}\n"
    assert file.read_text() == TEMPLATE
    file.write_text("mine")
    assert main(["init", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}: exists already and is not overwritten")
    assert file.read_text() == "mine"


def test_init_schema_is_json_schema(capsys):
    """Law: --schema prints the JSON schema, with the study's own keys."""
    assert main(["init", "--schema", "schema.json"]) == 2
    assert "--schema prints the schema and writes no file; found schema.json, too" in capsys.readouterr().err
    assert main(["init", "--schema", "--template", "deletion"]) == 2
    assert "--schema is that of all study files, requests too; leave --template out" in capsys.readouterr().err
    assert main(["init", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"name", "data", "populations", "stages", "execution"} <= schema["properties"].keys()
    assert main(["init"]) == 2


def test_methods_lists_all_with_their_options(capsys):
    """Law: a line per method; NAME gives its options; --json gives each option with its default, of all."""
    assert main(["methods", "finetune"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("finetune\n  ")
    assert "\n  lr = 0.001" in page
    assert "  preset published_sparse: batch_size: 256, class_weights: none, augment: {crop: 4, flip: true}, " in page
    assert "epochs: 10.0, lr: 0.01, schedule: constant, the rest as below  # as published" in page
    assert "\n  schedule_per = epoch  # One of: epoch, batch. How often the rate changes (official: epoch).\n" in page
    assert "\n  epochs = 1.0  # Passes over the set; fractions stop inside an epoch.\n" in page
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    *rows, script, _, _ = lines
    assert [line.split()[0] for line in rows] == list(METHODS)
    assert all(METHODS[line.split()[0]].summary in line for line in rows)
    assert script.startswith("path/to/script.py:function ")
    assert main(["methods", "--json"]) == 0
    found = {method["name"]: method for method in json.loads(capsys.readouterr().out)}
    assert found.keys() == METHODS.keys()
    options = {option["name"]: option for option in found["finetune"]["options"]}
    assert (options["lr"]["default"], options["noise_std"]["default"]) == (0.001, 0.0)
    assert options["batch_size"]["from_training"]
    assert main(["methods", "finetune", "--json"]) == 0
    assert [method["name"] for method in json.loads(capsys.readouterr().out)] == ["finetune"]


def test_prepare_decodes_and_makes_no_checkpoint(tmp_path, capsys):
    """Law: prepare prints classes and set sizes, fills data-cache, and touches no population."""
    file = str(write_study(tmp_path))
    for _ in range(2):
        assert main(["prepare", file, "--backend", "inline"]) == 0
        text = capsys.readouterr().out
        assert "10 classes" in text
        assert "retain 81, forget 9, validation 10, test 360" in text
    assert [item.name for item in (tmp_path / "store").iterdir()] == ["data-cache"]


def test_generate_makes_everything_once(tmp_path, capsys):
    """Law: 0 and `made 4 runs`; again 0 and `nothing to do`, with no byte changed."""
    file = str(write_study(tmp_path))
    assert inline(file) == 0
    first = capsys.readouterr()
    assert first.out.startswith("start: ")
    assert "\nmade 4 runs in " in first.out
    assert first.out.endswith(f"4 of 4 done, 0 failed; store {tmp_path / 'store/tiny'}\n")
    assert "4 of 4 runs to make, in this process on cpu" in first.err
    before = payload_bytes(tmp_path / "store/tiny")
    assert inline(file) == 0
    assert capsys.readouterr().out == f"nothing to do: all 4 runs in {tmp_path / 'store/tiny'} are made\n"
    assert payload_bytes(tmp_path / "store/tiny") == before


def test_only_and_set_narrow_and_change_a_study(tmp_path, capsys):
    """Law: --only makes a population and its original; --set counts like the file; names may be comma-separated."""
    file = str(write_study(tmp_path, populations={"retrained": {"method": "train", "on": "retain"}}))
    assert inline(file, "--only", "finetune", "--set", "populations.finetune.count=1") == 0
    assert "made 2 runs" in capsys.readouterr().out
    assert inline(file, "--populations", "finetune,retrained") == 0  # what `evaluate` calls it
    assert "made 3 runs" in capsys.readouterr().out


def test_a_study_with_failed_runs_ends_with_3(tmp_path, capsys):
    """Law: a run that diverges at lr 1e9 is named with its reason, the others are made, exit code 3."""
    hot = {"method": "finetune", "lr": 1e9, "epochs": 3, "weight_decay": 1.0}
    file = str(write_study(tmp_path, populations={"hot": hot}))
    assert inline(file) == 3
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("not made: hot/00000: ")
    assert lines[1] == f"`ray-unlearn logs {file} hot/00000` shows its traceback; `generate` tries it again"
    assert lines[-1].startswith("made 4 runs in ")
    assert "4 of 5 done, 1 failed" in lines[-1]
    assert "Traceback" not in captured.out + captured.err
    assert not list(tmp_path.glob("store/tiny/hot/0*"))
    assert main(["status", file, "--json"]) == 0
    hot_status = json.loads(capsys.readouterr().out)["populations"][2]
    assert hot_status["failed"]["0"]["attempts"] == 1
    assert main(["status", file]) == 0
    assert "failed: hot/00000 after 1 attempt: " in capsys.readouterr().out


def test_status_counts_runs(made: Path, capsys):
    """Law: planned, done, failed and to make, per population; before anything is made, too; runs beyond are kept."""
    assert main(["status", study_of(made)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:-1] == [
        "population  planned  done  failed  to make",
        "original          1     1       0        0",
        "finetune          3     3       0        0",
    ]
    assert lines[-1].startswith("last generate: 1 worker busy ")
    assert main(["status", study_of(made), "--set", "populations.finetune.count=5"]) == 0
    assert "finetune          5     3       0        2" in capsys.readouterr().out
    assert main(["status", study_of(made), "--set", "populations.finetune.count=1"]) == 0
    assert "finetune: 2 runs beyond the planned 1 are kept" in capsys.readouterr().out
    assert main(["status", study_of(made), "--set", "name=other"]) == 0
    assert "finetune          3     0       0        3" in capsys.readouterr().out


def test_status_json(made: Path, capsys):
    """Law: the same numbers for machines."""
    assert main(["status", study_of(made), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["study"], status["store"]) == ("tiny", str(made / "store/tiny"))
    rows = {row["population"]: row for row in status["populations"]}
    assert (rows["finetune"]["planned"], rows["finetune"]["done"], rows["finetune"]["failed"]) == (3, 3, {})


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_status_plot_saves_curves(made: Path, tmp_path, ending: str, begins: bytes):
    """Law: a picture in the format of the file's ending."""
    file = tmp_path / f"curves.{ending}"
    assert main(["status", study_of(made), "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(begins)


def test_status_plot_names_who_is_not_in_it(copy: Path, tmp_path, capsys):
    """Law: runs without a loss by epoch, as a script's, and populations without runs are reported; --json stays
    JSON.
    """
    for file in (copy / "store/tiny/finetune").glob("0*/record.json"):
        record = Record.model_validate_json(file.read_text())
        file.write_text(record.model_copy(update={"epoch_loss": []}).sealed().model_dump_json())
    picture = tmp_path / "curves.png"
    late = ["--set", "populations.late.method=finetune"]
    assert main(["status", study_of(copy), "--json", "--plot", str(picture), *late]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["study"] == "tiny"
    assert said.err.splitlines() == [
        f"not in {picture}: finetune: its runs recorded no loss by epoch",
        f"not in {picture}: late: no run is made yet",
        f"wrote {picture}",
    ]


def test_status_plot_of_an_unknown_ending_or_nothing_is_refused(made: Path, tmp_path, capsys):
    """Law: one line, exit code 1, no file; matplotlib's other formats are none of the three."""
    for name, found in {"curves.txt": ".txt", "curves.jpg": ".jpg", "curves": "no ending"}.items():
        assert main(["status", study_of(made), "--plot", str(tmp_path / name)]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.endswith(f"{name}: expected a name that ends in .png, .svg or .pdf; found {found}\n")
    assert main(["status", study_of(made), "--plot", str(tmp_path / "c.png"), "--set", "name=other"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_curves_have_whole_epochs_and_none_hides_another():
    """Law: of splits with the same accuracies, each left out changes the picture; ticks are whole numbers."""
    for epochs in (1, 2, 20):
        stages = [{"epoch": float(e), **{f"{s}_accuracy": 0.5 for s in curves._LINES}} for e in range(1, epochs + 1)]
        pictures = {without: curves_drawn(stages, without) for without in ("", *curves._LINES)}
        assert len({picture for picture, _ in pictures.values()}) == 5
        ticks = pictures[""][1]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)


def curves_drawn(stages: list[dict[str, float]], without: str) -> tuple[bytes, list[float]]:
    """Return the pixels of accuracies without one split and without a legend, and the visible ticks of epochs."""
    kept = [{key: value for key, value in stage.items() if key != f"{without}_accuracy"} for stage in stages]
    figure = Figure(figsize=(4, 3), dpi=100)
    axes = figure.add_subplot()
    curves._accuracies(axes, [SimpleNamespace(stages=kept)] * 16)  # opaque, one upon another
    axes.get_legend().remove()
    axes.set_xlim(0, len(stages) + 1)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    low, high = axes.get_xlim()
    return bytes(canvas.buffer_rgba()), [tick for tick in axes.get_xticks() if low <= tick <= high]


def test_verify_counts_what_it_read(made: Path, capsys):
    """Law: 4 runs of 2 files; their bytes are those on disk."""
    assert main(["verify", study_of(made)]) == 0
    size = sum(p.stat().st_size for p in made.glob("store/tiny/*/0*/*") if p.name != "record.json")
    said = f"verified 4 runs, 8 files, {size:,} bytes in {made / 'store/tiny'}, and the decoded images\n"
    assert capsys.readouterr().out == said


def test_a_class_without_an_image_is_warned_of(tmp_path: Path, capsys):
    """Law: an empty class folder counts as a class; prepare and generate name it, and go on."""
    for index in range(20):
        path = tmp_path / "faces" / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(index)))
    (tmp_path / "faces" / "bird").mkdir()
    data = {"train": "faces", "test": None, "limit": None}
    original = {"method": "train", "on": "train"}
    file = str(write_study(tmp_path, data=data, populations={"original": original, "finetune": None}))
    warning = "warning: data.train: no image of class bird, which counts as one of the 3 classes all the same"
    assert main(["prepare", file, "--backend", "inline"]) == 0
    assert warning in capsys.readouterr().out.splitlines()
    assert inline(file) == 0
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count(f"{warning}\n") == 1


def test_verify_of_nothing_reports_it(tmp_path: Path, copy: Path, capsys):
    """Law: where no run is made none is verified; images that another study decoded there are named, and only they."""
    (tmp_path / "alone").mkdir()
    alone = str(write_study(tmp_path / "alone"))
    assert main(["verify", alone]) == 0
    said = f"no run is made in {tmp_path / 'alone/store/tiny'} yet; `ray-unlearn generate {alone}` makes the runs\n"
    assert capsys.readouterr().out == said
    assert main(["verify", study_of(copy), "--set", "name=another"]) == 0
    assert "store/another yet; the decoded images are whole; `ray-unlearn" in capsys.readouterr().out
    assert not (tmp_path / "alone/store").exists()


def test_verify_repair_generate_mends(copy: Path, capsys):
    """Law: a flipped byte, a truncated file and a damaged shard are found, repaired, made to the same bytes."""
    whole = payload_bytes(copy / "store/tiny")
    shard = next((copy / "store/data-cache").rglob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    flipped, cut = (
        copy / "store/tiny" / name for name in ("finetune/00001/model.safetensors", "original/00000/outputs.arrow")
    )
    data = flipped.read_bytes()
    flipped.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    cut.write_bytes(cut.read_bytes()[:-1])
    assert main(["verify", study_of(copy)]) == 1
    captured = capsys.readouterr()
    bad = [line for line in captured.out.splitlines() if line.startswith("bad: ")]
    assert [line.split(":")[1].strip() for line in bad] == [
        "finetune/00001/model.safetensors",
        "original/00000/outputs.arrow",
        str(shard.relative_to(copy / "store")),
    ]
    mends = f"ray-unlearn verify {study_of(copy)} --repair"
    assert captured.err == f"error: 3 problems; `{mends}` makes the affected runs pending again\n"
    assert main(["verify", study_of(copy), "--repair"]) == 0
    assert "repaired: 2 runs pending again" in capsys.readouterr().out
    assert inline(study_of(copy)) == 0
    assert "made 2 runs" in capsys.readouterr().out
    assert main(["verify", study_of(copy)]) == 0
    assert payload_bytes(copy / "store/tiny") == whole


def export(folder: Path, zip_file: Path, *more: str) -> int:
    return main(["export", study_of(folder), "--population", "finetune", str(zip_file), *more])


def test_export_writes_exactly_n_checkpoints(made: Path, tmp_path, capsys):
    """Law: unlearned_checkpoint_0..N-1.pth, each the run's weights, strictly; the same zip every time."""
    assert export(made, tmp_path / "a.zip") == 0
    assert capsys.readouterr().out.startswith("wrote 3 checkpoints (")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"unlearned_checkpoint_{i}.pth" for i in range(3)]
        states = []
        for name in archive.namelist():
            with archive.open(name) as file:
                states.append(torch.load(file, weights_only=True))
    for index, state in enumerate(states):
        small_cnn(10, width=4).load_state_dict(state, strict=True)
        saved = load_file(made / f"store/tiny/finetune/0000{index}/model.safetensors")
        assert all(torch.equal(state[name], saved[name]) for name in saved)
    assert export(made, tmp_path / "b.zip") == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_export_overwrites_only_when_asked_to(made: Path, tmp_path, capsys):
    """Law: a file that exists stays, with the exit code that `init` has, too."""
    (tmp_path / "a.zip").write_bytes(b"mine")
    assert export(made, tmp_path / "a.zip") == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/a.zip: exists already and is not overwritten; choose another name, or use --overwrite\n"
    )
    assert (tmp_path / "a.zip").read_bytes() == b"mine"
    assert export(made, tmp_path / "a.zip", "--overwrite", "--format", "competition") == 0
    assert zipfile.is_zipfile(tmp_path / "a.zip")


@pytest.mark.parametrize("how", ["missing", "flipped"])
def test_export_refuses_what_is_not_whole(copy: Path, tmp_path, capsys, how: str):
    """Law: one checkpoint missing or damaged, and no zip is left, whole or in part; one that was there stays."""
    run = copy / "store/tiny/finetune/00002"
    if how == "missing":
        shutil.rmtree(run)
    else:
        data = (run / "model.safetensors").read_bytes()
        (run / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert export(copy, tmp_path / "new.zip") == 1
    expected = {
        "missing": "error: population finetune: 1 of 3 checkpoints are missing (runs 2)",
        "flipped": f"error: {copy}/store/tiny: run finetune/00002: model.safetensors differs from its record",
    }
    assert capsys.readouterr().err.startswith(expected[how])
    (tmp_path / "old.zip").write_bytes(b"earlier")
    assert export(copy, tmp_path / "old.zip", "--overwrite") == 1
    assert (tmp_path / "old.zip").read_bytes() == b"earlier"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["copy", "old.zip"]
