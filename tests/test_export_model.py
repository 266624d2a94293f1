"""export of one model, as a person types it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from conftest import write_study
from safetensors.torch import load_file

from ray_unlearn.cli import main
from ray_unlearn.generation import generate
from ray_unlearn.models import small_cnn
from ray_unlearn.study import load_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file whose runs are made."""
    file = write_study(tmp_path_factory.mktemp("made"))
    assert generate(load_study(file), backend="inline").exit_code == 0
    return file


def export(study: Path, file: Path, *more: str) -> int:
    return main(["export", str(study), str(file), "--population", "finetune", *more])


def test_a_run_s_model_as_a_state_dict_and_as_published(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Law: both files hold run 1's weights; the .safetensors file is the run's own; the printed hash is the file's."""
    ours = study.parent / "store/tiny/finetune/00001/model.safetensors"
    for name in ("model.pth", "model.safetensors"):
        assert export(study, tmp_path / name, "--run", "1") == 0
        hashed = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert f"run finetune/00001 ({(tmp_path / name).stat().st_size:,} bytes, sha256 {hashed})" in (
            capsys.readouterr().out
        )
    assert (tmp_path / "model.safetensors").read_bytes() == ours.read_bytes()
    state, published = torch.load(tmp_path / "model.pth", weights_only=True), load_file(ours)
    small_cnn(10, width=4).load_state_dict(state, strict=True)
    assert all(torch.equal(state[name], published[name]) for name in published)


@pytest.mark.parametrize(
    ("name", "more", "complaint"),
    [
        ("a.pth", (), "a.pth holds one model; --run INDEX names the run, such as --run 0"),
        (
            "a.pth",
            ("--format", "competition"),
            "a.pth: the competition's format is a zip; expected a name that ends in",
        ),
        ("a.zip", ("--run", "0"), "a.zip: one model; expected a name that ends in .pth or .safetensors; found .zip"),
        ("a.onnx", ("--run", "0"), "expected a name that ends in .pth or .safetensors; found .onnx"),
        ("a", (), "a: the competition's format is a zip; expected a name that ends in .zip; it has no ending"),
        ("a.zip", ("--run", "0", "--format", "competition"), "--run is for one model"),
    ],
)
def test_an_ending_that_does_not_fit_is_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, more: tuple[str, ...], complaint: str
):
    """Law: no file has an ending that another program would read wrongly, and no file is left."""
    assert export(study, tmp_path / name, *more) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_made_is_refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Law: the message names the run; no file is left, and one that was there stays."""
    assert export(study, tmp_path / "a.pth", "--run", "9") == 1
    assert "run finetune/00009 has no model.safetensors (not made" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.pth").write_bytes(b"mine")
    assert export(study, tmp_path / "a.pth", "--run", "0") == 2
    assert (tmp_path / "a.pth").read_bytes() == b"mine"
    assert export(study, tmp_path / "a.pth", "--run", "0", "--overwrite") == 0
