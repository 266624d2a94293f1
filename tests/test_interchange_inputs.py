"""Files of other programs that do not fit together: each is one line, and no study is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from others_files import FORGET, LABELS, TRAIN, draw_logits, margins_of, write_easydub, write_klom_oracle, write_lira

from ray_unlearn.cli import main
from ray_unlearn.evaluation.confidence import logit_scaled_confidence
from ray_unlearn.evaluation.outputs import read_outputs
from ray_unlearn.store import StudyStore, open_storage

RUNS = 4
LOGITS = draw_logits(RUNS, 0)
MARGINS = margins_of(LOGITS)
KEEP = np.random.default_rng(0).random((RUNS, TRAIN)) < 0.5


def _lira(folder: Path) -> Path:
    return write_lira(folder / "lira", LOGITS, KEEP)


def _keep_of_another_size(folder: Path) -> list[str]:
    np.save(_lira(folder) / "experiment-2_4" / "keep.npy", KEEP[2][:30])
    return ["lira", f"{folder}/lira"]


def _an_unfinished_shadow(folder: Path) -> list[str]:
    (_lira(folder) / "experiment-2_4" / "logits" / f"{20:010d}.npy").unlink()
    return ["lira", f"{folder}/lira"]


def _no_shadow_with_keep(folder: Path) -> list[str]:
    for file in _lira(folder).glob("*/keep.npy"):
        file.unlink()
    return ["lira", f"{folder}/lira"]


def _labels(folder: Path, labels: np.ndarray) -> list[str]:
    np.save(folder / "labels.npy", labels)
    return ["lira", f"{_lira(folder)}", "--labels", f"{folder}/labels.npy"]


def _easydub(folder: Path) -> Path:
    return write_easydub(folder / "easydub", MARGINS, MARGINS)


def _a_short_file(folder: Path) -> list[str]:
    own = _easydub(folder) / "margins" / "cifar10" / "oracle" / "forget_2" / "forget" / "resnet9"
    np.save(own / "id_3_epoch_23.npy", np.zeros(3, np.float32))
    return ["easydub", f"{folder}/easydub"]


def _two_nets(folder: Path) -> list[str]:
    own = _easydub(folder) / "margins" / "cifar10" / "oracle" / "forget_2" / "val"
    shutil.copytree(own / "resnet9", own / "vit")
    return ["easydub", f"{folder}/easydub"]


def _klom(folder: Path, forget: torch.Tensor) -> list[str]:
    write_klom_oracle(folder / "oracle", MARGINS)
    torch.save(forget, folder / "forget.pt")
    return ["klom", f"retrained={folder}/oracle", "--forget", f"{folder}/forget.pt"]


def _another_split(folder: Path) -> list[str]:
    for name, columns in (("a", MARGINS), ("b", np.roll(MARGINS, 5, axis=1))):
        write_klom_oracle(folder / name, columns)
    train, test = (folder / "b" / f"{part}_margins_all.pt" for part in ("train", "val"))
    torch.save(torch.from_numpy(MARGINS[:, :30].copy()), train)
    torch.save(torch.from_numpy(MARGINS[:, 30:].copy()), test)
    np.save(folder / "forget.npy", FORGET)
    return ["klom", f"retrained={folder}/a", f"b={folder}/b", "--forget", f"{folder}/forget.npy"]


REFUSED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "keep.npy of another size": (_keep_of_another_size, "experiment-2_4/keep.npy: expected [40], as "),
    "a shadow that is not finished": (_an_unfinished_shadow, "experiment-2_4: expected logits of epoch 20"),
    "shadows without keep.npy": (_no_shadow_with_keep, "with keep.npy and logits; found 4 with logits alone"),
    "an augmentation that there is not": (
        lambda f: ["lira", f"{_lira(f)}", "--augmentation", "2"],
        "no augmentation 2; expected --augmentation 0 to 1",
    ),
    "labels of another length": (lambda f: _labels(f, LABELS), "labels: expected 40 whole numbers"),
    "labels with a fraction": (lambda f: _labels(f, LABELS[:TRAIN] + 0.5), "found float64 [40]"),
    "an epoch by name": (lambda f: ["lira", f"{_lira(f)}", "--epoch", "best"], "--epoch: expected a number; found 'b"),
    "an option that LiRA has no use for": (
        lambda f: ["lira", f"{_lira(f)}", "--train", "10"],
        "--train: the format lira does not take it",
    ),
    "a forget list beside EasyDUB's": (
        lambda f: ["easydub", f"{_easydub(f)}", "--forget", f"{f}/forget.npy"],
        "--forget: the format easydub does not take it",
    ),
    "a file that is too short": (_a_short_file, "id_3_epoch_23.npy: expected [6], as "),
    "margins of two nets": (_two_nets, "is of the same model and epoch"),
    "half positions": (lambda f: _klom(f, torch.tensor([3.5, 7.0])), "expected positions of training images, 0 to 39"),
    "a mask of another size": (lambda f: _klom(f, torch.ones(5, dtype=torch.bool)), "or 40 booleans; found bool [5]"),
    "another number of training images than the files have": (
        lambda f: [*_klom(f, torch.tensor([3.0])), "--train", "50"],
        "found 50, and the files have 40",
    ),
    "folders of other images": (_another_split, "b/train_margins_all.pt: expected 40 training images; found 30"),
    "a name that a population cannot have": (
        lambda f: [*(text.replace("retrained=", "re train=") for text in _klom(f, torch.tensor([3.0])))],
        "study.yaml: populations.re train: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Law: it is one line that names the file or the option, and nothing is written."""
    make, expected = REFUSED[case]
    code = main(["import", *make(tmp_path), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert (code in (1, 2), expected in said, len(said.splitlines())) == (True, True, 1), said
    assert not (tmp_path / "out").exists()


def test_what_of_lira_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Law: a folder without keep.npy is counted and named; the augmentation that is asked for is the one read."""
    (_lira(tmp_path) / "experiment-2_4" / "keep.npy").unlink()
    assert main(["import", "lira", f"{tmp_path}/lira", "--augmentation", "1", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "shadows: 3 runs; 1 folder with logits and no keep.npy is left out, such as experiment-2_4; " in said
    assert "augmentation 1 of 2 is read, from 0" in said
    store = StudyStore(open_storage(str(tmp_path / "out")), "lira")
    found = read_outputs(store, "shadows", store.made("shadows")).splits["retain"]
    mirrored = logit_scaled_confidence(LOGITS[0][:TRAIN][::-1], LABELS[:TRAIN])
    np.testing.assert_allclose(found.phi_RN[0], mirrored, atol=1e-5)


def test_a_tensor_with_a_gradient_is_read(tmp_path: Path):
    """Law: margins that were saved with their graph are the same numbers."""
    torch.save(torch.from_numpy(MARGINS).requires_grad_(), tmp_path / "own.pt")
    arguments = [*_klom(tmp_path, torch.tensor([3.0])), f"own={tmp_path}/own.pt", "-o", str(tmp_path / "out")]
    assert main(["import", *arguments]) == 0


def test_a_copied_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Law: two equal runs are read, because a method may have no seed, and a line says which they are."""
    torch.save(torch.from_numpy(MARGINS[[0, 1, 2, 1]]), tmp_path / "own.pt")
    arguments = [*_klom(tmp_path, torch.tensor([3.0])), f"own={tmp_path}/own.pt", "-o", str(tmp_path / "out")]
    assert main(["import", *arguments]) == 0
    assert capsys.readouterr().err.startswith("warning: own: run 3 has the same numbers as run 1: is it a copy?")


def test_a_store_of_another_study_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Law: runs of a study of this name are not replaced, wherever its file is."""
    arguments = ["import", *_klom(tmp_path, torch.tensor([3.0])), "-o", str(tmp_path / "out"), "--name", "mine"]
    assert main(arguments) == 0
    (tmp_path / "out" / "study.yaml").rename(tmp_path / "moved.yaml")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main(arguments) == 2
    assert "mine: holds a study already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
