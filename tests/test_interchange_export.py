"""What is written for other programs is what `import` reads of them; a hub's folder loads as a data set."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from evaluated import SIZES, draw_logits, evaluated_store, labels_of, publish

from ray_unlearn.cli import main
from ray_unlearn.evaluation.evaluate import evaluate, read_scores
from ray_unlearn.evaluation.outputs import read_outputs
from ray_unlearn.interchange import hub
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.membership import fingerprint, half_of_train, membership_matrix
from ray_unlearn.store.records import payload_of
from ray_unlearn.study import Run, parse_study

COUNTS = {"retrained": 6, "finetune": 4, "shifted": 6}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file whose store holds outputs, shadows among them, and scores."""
    folder = tmp_path_factory.mktemp("study")
    shadows = {"method": "train", "on": {"half_of": "train", "balanced": True}, "count": 8}
    found, store = evaluated_store(folder, COUNTS)
    evaluate(found, store)
    for index in range(8):
        members = half_of_train(0, "shadows", index, SIZES)
        on = {"options": {"on": {"half_of": "train"}}, "seeds": {"study": 0}, "original_sha256": ""}
        logits = draw_logits(900 + index)
        publish(store, "shadows", index, logits, **on, membership=fingerprint(members))
    tree = found.model_dump(mode="json")
    tree["populations"]["shadows"] = shadows
    (folder / "study.yaml").write_text(yaml.safe_dump(tree))
    return folder / "study.yaml"


def store_of(study: Path) -> StudyStore:
    return StudyStore(open_storage(str(study.parent)), "tiny")


def phi(store: StudyStore, name: str) -> np.ndarray:
    """Return phi [runs, images] of retain, then forget, then test images."""
    splits = read_outputs(store, name, store.made(name)).splits
    return np.concatenate([splits[split].phi_RN for split in SIZES], axis=1)


def exported(study: Path, folder: Path, form: str, *more: str) -> Path:
    assert main(["export", str(study), str(folder), "--format", form, *more]) == 0
    return folder


def test_klom_there_and_back(study: Path, tmp_path: Path):
    """Law: margins are phi as float32, images in the order of images.csv; a second round trip keeps every bit."""
    first = exported(study, tmp_path / "klom", "klom", "--population", "retrained,shifted")
    train = torch.load(first / "shifted" / "train_margins_all.pt", weights_only=True)
    assert tuple(train.shape) == (6, SIZES["retain"] + SIZES["forget"])
    ids = pd.read_csv(first / "images.csv")
    assert ids["image_id"][SIZES["retain"]] == "forget-000"
    arguments = [f"{name}={first / name}" for name in ("retrained", "shifted")]
    forget = ["--forget", f"{first}/forget_indices.npy", "--labels", f"{first}/labels.npy"]
    assert main(["import", "klom", *arguments, *forget, "-o", str(tmp_path / "back")]) == 0
    back = StudyStore(open_storage(str(tmp_path / "back")), "klom")
    for name in ("retrained", "shifted"):
        np.testing.assert_allclose(phi(back, name), phi(store_of(study), name), atol=1e-5)
    split = read_outputs(back, "shifted", back.made("shifted")).splits["forget"]
    assert np.array_equal(split.labels_N, labels_of("forget"))
    again = exported(tmp_path / "back" / "study.yaml", tmp_path / "again", "klom")
    for file in ("shifted/train_margins_all.pt", "retrained/val_margins_all.pt", "forget_indices.npy"):
        assert (again / file).read_bytes() == (first / file).read_bytes()


def test_easydub_there_and_back(study: Path, tmp_path: Path):
    """Law: the reference is the oracle, one file a model; others are an .npz; `import` reads both."""
    folder = exported(study, tmp_path / "easydub", "easydub", "--population", "shifted,retrained")
    assert len(list(folder.glob("margins/*/oracle/forget_1/val/*/id_*_epoch_0.npy"))) == 6
    arguments = [str(folder), f"shifted={folder}/shifted.npz", "-o", str(tmp_path / "back")]
    assert main(["import", "easydub", *arguments]) == 0
    back = StudyStore(open_storage(str(tmp_path / "back")), "easydub")
    for name in ("retrained", "shifted"):
        np.testing.assert_allclose(phi(back, name), phi(store_of(study), name), atol=1e-5)


def test_lira_there_and_back(study: Path, tmp_path: Path):
    """Law: keep.npy is the half that each shadow was trained on; logits keep their bits."""
    folder = exported(study, tmp_path / "lira", "lira")
    assert main(["import", "lira", str(folder), "-o", str(tmp_path / "back")]) == 0
    back, store = StudyStore(open_storage(str(tmp_path / "back")), "lira"), store_of(study)
    assert np.array_equal(membership_matrix(back, "shadows"), membership_matrix(store, "shadows"))
    train = SIZES["retain"] + SIZES["forget"]
    found = read_outputs(back, "shadows", back.made("shadows")).splits["retain"].phi_RN
    assert np.array_equal(found, phi(store, "shadows")[:, :train])


def test_imported_margins_are_compared_with_the_study_that_they_came_from(study: Path, tmp_path: Path):
    """Law: images.csv names the images, so that a study is compared with what another program made of them."""
    first = exported(study, tmp_path / "klom", "klom", "--population", "retrained,shifted")
    arguments = [f"{name}={first / name}" for name in ("retrained", "shifted")]
    about = [
        "--forget",
        f"{first}/forget_indices.npy",
        "--labels",
        f"{first}/labels.npy",
        "--ids",
        f"{first}/images.csv",
    ]
    assert main(["import", "klom", *arguments, *about, "-o", str(tmp_path / "back")]) == 0
    tree = yaml.safe_load(study.read_text())
    tree["evaluation"] |= {
        "reference": "oracle",
        "populations": {"oracle": str(tmp_path / "back" / "klom" / "retrained")},
    }
    for name in ("shifted", "finetune", "original"):  # as a study states its outputs
        held = store_of(study).held(name) or {}
        held["identity"]["outputs"] = {"splits": ["retain", "forget", "test"], "retain_sample": None}
        store_of(study).storage.publish_file(f"tiny/{name}/population.json", json.dumps(held).encode())
    for name in ("retrained", "shadows", "finetune"):
        del tree["populations"][name]
    found = evaluate(parse_study(tree, where="a test"), store_of(study), first=6)
    expected = read_scores(store_of(study)).populations["shifted"].measures
    ours = found.populations["shifted"].measures
    assert ours["forgetting_quality"].value == expected["forgetting_quality"].value
    assert ours["score"].value is None
    assert ours["score"].missing.endswith("(oracle)"), "the side that does not know its answers is named"


@pytest.fixture(scope="module")
def folder(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's folder, whose shards hold two runs each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "SHARD_BYTES", 2 * 5000)
        return exported(study, tmp_path_factory.mktemp("hub") / "out", "hub", "--licence", "mit")


def test_a_hubs_folder_has_few_files(folder: Path, study: Path):
    """Law: runs share files; every number of a run is in one of them, with the image's id and class."""
    assert not list(folder.rglob("*.safetensors"))
    parts = sorted((folder / "outputs" / "shifted").iterdir())
    assert 1 < len(parts) < 6
    table = pd.concat([pd.read_parquet(part) for part in parts])
    one = table[(table["run"] == 4) & (table["split"] == "forget")]
    assert one["image_id"].tolist()[:2] == ["forget-000", "forget-001"]
    assert np.array_equal(one["label"], labels_of("forget"))
    expected = read_outputs(store_of(study), "shifted", store_of(study).made("shifted"))
    assert len(table) == 6 * sum(SIZES.values())
    logits = np.stack(one["logits"].tolist())
    assert np.array_equal(logits.argmax(1) == one["label"], expected.splits["forget"].correct_RN[4])
    runs = pd.read_parquet(folder / "runs" / "runs.parquet")
    assert runs.groupby("population").size().to_dict() == {"original": 1, "shadows": 8, **COUNTS}


def test_the_card_says_what_a_reader_must_know(folder: Path):
    """Law: licence, N, null, digest, recipe; no path of this machine."""
    text = (folder / "README.md").read_text()
    settings = yaml.safe_load(text.split("---")[1])
    assert settings["license"] == "mit"
    assert [one["config_name"] for one in settings["configs"]] == ["outputs", "runs", "images"]
    row = next(line for line in text.splitlines() if line.startswith("| shifted | 6 | finetune |"))
    assert re.search(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\] \(N = 6\)", row)
    assert "`digest of shifte`" in row
    assert "against itself, 3 runs a side, reaches F" in text
    assert "lr:" in text
    assert str(folder.parent) not in text


def test_the_folder_loads_as_a_data_set(folder: Path, tmp_path: Path):
    """Law: datasets.load_dataset reads every configuration and split."""
    datasets = pytest.importorskip("datasets")  # not installed for development: 40 packages for one test
    found = datasets.load_dataset(str(folder), "outputs", split="shifted", cache_dir=str(tmp_path))
    assert len(found) == 6 * sum(SIZES.values())
    assert len(found[0]["logits"]) == 3
    assert len(datasets.load_dataset(str(folder), "runs", split="train", cache_dir=str(tmp_path))) == 25


def test_checkpoints_are_packed(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Law: tensors of several runs in one file, named by run, as the runs published them."""
    store = store_of(study)
    tensors = [{"fc.weight": torch.full((2, 2), float(index))} for index in range(3)]
    for index, state in enumerate(tensors):
        data = safetensors.torch.save(state)
        record = store.made("finetune")[index]
        kept = {**record.payloads, "model.safetensors": payload_of(data)}
        outputs = store.payload(Run(population="finetune", index=index), "outputs.arrow", record)
        run = Run(population="packed", index=index)
        made = record.model_copy(update={"population": "packed", "digest": "digest of packed", "payloads": kept})
        held = store.storage.read(store.layout.population_json("finetune")).replace(b"of finetune", b"of packed")
        store.storage.publish_file(store.layout.population_json("packed"), held)
        store.publish(run, {"outputs.arrow": outputs, "model.safetensors": data}, made)
    tree = yaml.safe_load(study.read_text())
    tree["populations"]["packed"] = {"method": "finetune", "count": 3}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
    out = exported(tmp_path / "study.yaml", tmp_path / "out", "hub", "--population", "packed", "--checkpoints")
    found = safetensors.torch.load_file(out / "checkpoints" / "packed" / "00000.safetensors")
    assert {name: float(value[0, 0]) for name, value in found.items()} == {
        f"0000{i}/fc.weight": float(i) for i in range(3)
    }

    def full(*given: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    again = ["export", str(tmp_path / "study.yaml"), str(tmp_path / "again"), "--format", "hub"]
    assert main([*again, "--population", "packed", "--checkpoints"]) == 1
    assert re.fullmatch(r"error: 00000\.safetensors: cannot be written: .*No space left.*\n", capsys.readouterr().err)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--format", "klom", "--population", "none"], "--population none: not a population"),
        (["--format", "klom", "--run", "1"], "--run is for one model"),
        (["--format", "klom", "--checkpoints"], "--checkpoints and --licence are for --format hub"),
        (["--population", "shifted", "--licence", "mit"], "--checkpoints and --licence are for --format hub"),
        (["--format", "easydub", "--population", "shifted"], "name the reference, --population retrained"),
        (["--format", "lira", "--population", "shifted"], "one population of shadows"),
        ([], "--population NAME"),
    ],
)
def test_refused_in_one_line(
    study: Path, tmp_path: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
):
    """Law: what a format cannot hold is one line, and nothing is written."""
    assert main(["export", str(study), str(tmp_path / "out"), *arguments]) in (1, 2)
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing half written either"


def test_a_folder_is_not_overwritten(folder: Path, study: Path, capsys: pytest.CaptureFixture[str]):
    """Law: an export never writes over a folder."""
    assert main(["export", str(study), str(folder), "--format", "hub"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(study), str(folder), "--format", "hub", "--overwrite"]) == 2
    assert "--overwrite is for a file; --format hub writes a folder, which must be new" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (["evaluate"], "--only", ""),
        (["evaluate"], "--only", ","),
        (["generate", "--backend", "inline"], "--only", ""),
        (["report", "--format", "csv"], "--columns", ""),
        (["export", "--format", "klom"], "--population", ""),
        (["export", "--format", "digests"], "--population", ""),
    ],
)
def test_a_list_of_no_names_is_refused(
    study: Path, tmp_path: Path, command: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
):
    """Law: a shell's variable without a value does not choose everything, as it did, nor end in a traceback."""
    out = [str(tmp_path / "out.csv")] if command[0] == "export" else []
    assert main([command[0], str(study), *out, *command[1:], option, value]) == 2
    assert capsys.readouterr().err == f"error: {option}: expected names, such as {option} a,b; found {value!r}\n"
    assert not list(tmp_path.iterdir())
