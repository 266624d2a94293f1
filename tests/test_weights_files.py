"""`weights:` as people have them: a glob, a folder, a CSV file; the same files whichever way they are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, merged

from ray_unlearn.errors import StudyError
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.store import Record
from ray_unlearn.study import load_study
from ray_unlearn.submit.bundle import pack

NAMES = ["sd_2____epoch_23.pt", "sd_10____epoch_23.pt", "sd_1____epoch_23.pt"]


def study_file(folder: Path, weights: object) -> Path:
    for name in NAMES:
        (folder / "ckpt").mkdir(exist_ok=True)
        torch.save({"a": torch.full((1,), float(name.split("_")[1]))}, folder / "ckpt" / name)
    file = folder / "study.yaml"
    tree = merged(TINY, {"populations": {"oracle": {"weights": weights}}})
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.mark.parametrize(
    "weights", ["ckpt", "ckpt/", "ckpt/sd_*____epoch_23.pt", ["ckpt/sd_?_*", "ckpt/sd_10*"], "all.csv"]
)
def test_the_same_files_whichever_way_they_are_named(tmp_path: Path, weights: object):
    """Law: in the order of the numbers in their names; one run per file, the same identity."""
    rows = [f"ckpt/sd_{number}____epoch_23.pt" for number in (1, 2, 10)]
    (tmp_path / "all.csv").write_text("path\n" + "\n".join(rows) + "\n")
    study = load_study(study_file(tmp_path, weights))
    named = load_study(study_file(tmp_path, rows))
    assert study.populations["oracle"].planned == 3
    assert [Path(path).name for path in study.populations["oracle"].weights or ()] == [Path(row).name for row in rows]
    assert resolve(study, "oracle").identity == resolve(named, "oracle").identity


def test_a_csv_says_seeds_and_originals(tmp_path: Path):
    """Law: the columns become options; intervals know which runs share an original."""
    text = "path;seed;original\r\nckpt/sd_1____epoch_23.pt;7;0\r\nckpt/sd_2____epoch_23.pt;8;1\r\n"
    (tmp_path / "two.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    use = resolve(load_study(study_file(tmp_path, "two.csv")), "oracle")
    options = use.options.model_dump()
    assert (options["seeds"], options["from_originals"]) == ((7, 8), (0, 1))
    assert use.identity["options"]["from_originals"] == [0, 1]
    runs = [{"method": "weights", "options": options, "index": index, "original_sha256": ""} for index in (0, 1, 1)]
    records = tuple(Record.model_construct(**run) for run in runs)  # type: ignore[arg-type]
    assert Outputs("oracle", records, {}).originals_R.tolist() == [0, 1, 1]
    none = tuple(Record.model_construct(**run | {"options": {}}) for run in runs)  # type: ignore[arg-type]
    assert Outputs("oracle", none, {}).originals_R.tolist() == [-1, -2, -3]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (
            ["ckpt/sd_1*", "ckpt/sd_10*"],
            "oracle.weights: .*ckpt/sd_10____epoch_23.pt is named twice; runs are taken as",
        ),
        (["ckpt", "./ckpt/../ckpt/sd_2____epoch_23.pt"], "sd_2____epoch_23.pt is named twice"),
        ("twice.csv", "oracle.weights: .*twice.csv: .*sd_2____epoch_23.pt is named twice"),
        ("none_*.pt", "populations.oracle.weights: .*none_.*no file matches"),
        ("empty", "the folder holds no weights"),
        ("bad.csv", "expected rows with a column path, and seed, original; found columns file"),
        ("seed.csv", "seed.csv row 0: seed: expected a whole number; found 'x'"),
        ("gone.csv", "cannot be read"),
        ("blank.csv", "blank.csv row 1: path: expected a local file; found none"),
        ("uri.csv", "uri.csv row 0: path: expected a local file; found s3://b/a.pt"),
        ("misspelt.csv", "misspelt.csv: column 'originals' is not read; did you mean 'original'?"),
    ],
)
def test_refused_by_name(tmp_path: Path, weights: object, expected: str):
    """Law: one line with the key, the file and what was expected."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice.csv").write_text("path\nckpt/sd_2____epoch_23.pt\n./ckpt/sd_2____epoch_23.pt\n")
    (tmp_path / "bad.csv").write_text("file\na\n")
    (tmp_path / "seed.csv").write_text("path,seed\na,x\n")
    (tmp_path / "blank.csv").write_text("path,seed\na,1\n,2\n")
    (tmp_path / "uri.csv").write_text("path\ns3://b/a.pt\n")
    (tmp_path / "misspelt.csv").write_text("path,originals\na,1\n")
    with pytest.raises(StudyError, match=expected):
        load_study(study_file(tmp_path, weights))


def test_a_bundle_holds_the_files_of_a_glob(tmp_path: Path):
    """Law: every file that a relative glob stands for travels with the job, and the study names it there."""
    parcel = pack(study_file(tmp_path, "ckpt/sd_*.pt"), ["storage=s3://bucket/studies"])
    assert sorted(Path(name).name for name in parcel.files) == sorted(NAMES)


def test_a_store_by_a_relative_path_is_not_sent(tmp_path: Path):
    """Law: a submitted study names stores that every node sees."""
    file = study_file(tmp_path, "ckpt")
    with pytest.raises(StudyError, match=r"evaluation\.populations\.theirs: \.\./a/b/c is relative"):
        pack(file, ["storage=s3://bucket/studies", "evaluation={reference: theirs, populations: {theirs: ../a/b/c}}"])
