"""`status` warns of every population that `generate` would refuse, the ones that the last `generate` left out, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, merged

from ray_unlearn.cli import main
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.agreement import changed_scripts, disagreements
from ray_unlearn.study import load_study

HELPER = "RATE = 0.5\n"
SCRIPT = """
import torch
from helper import RATE

def unlearning(net, retain_loader, forget_loader, val_loader):
    with torch.no_grad():
        next(net.parameters()).mul_(RATE)
"""
LEFT_OUT = {"mine": None, "tuned": None, "retrained": None}


def write(folder: Path, **changes: Any) -> Path:
    """Write a study of an original, a script, a fine-tuned and a retrained population, with changes."""
    populations = {
        "finetune": {"method": "finetune", "count": 1},
        "mine": {"method": "mine.py:unlearning", "batch_size": 32},
        "tuned": {"method": "finetune", "lr": 0.01, "augment": {"flip": True}},
        "retrained": {"method": "retrain", "epochs": 1},
    }
    tree = merged(TINY, {"storage": "store", "populations": populations})
    (folder / "study.yaml").write_text(yaml.safe_dump(merged(tree, changes)))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of five populations, generated again without three of them; return its folder."""
    folder = tmp_path_factory.mktemp("agreement")
    (folder / "mine.py").write_text(SCRIPT)
    (folder / "helper.py").write_text(HELPER)
    for changes in ({}, {"populations": LEFT_OUT}):
        assert main(["generate", str(write(folder, **changes)), "--backend", "inline"]) == 0
    return folder


def warnings(file: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the warnings that `status` prints."""
    capsys.readouterr()
    assert main(["status", str(file)]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: made ")]


def test_an_unchanged_study_has_no_warning(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Law: populations that the last `generate` left out agree with the values that they were made from."""
    assert warnings(write(made), capsys) == []
    assert warnings(write(made, populations=LEFT_OUT), capsys) == []


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "an option": ({"populations": {"tuned": {"lr": 0.02}}}, "population tuned: lr: 0.01 -> 0.02"),
    "an option of a block": (
        {"populations": {"tuned": {"augment": {"flip": False}}}},
        "population tuned: augment.flip: true -> false",
    ),
    "an option of a script": ({"populations": {"mine": {"batch_size": 16}}}, "population mine: batch_size: 32 -> 16"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_value_of_a_population_that_was_left_out(
    made: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Law: `status` names the value, and `generate` refuses it."""
    changes, expected = CHANGES[what]
    file = write(made, **changes)
    assert warnings(file, capsys) == [
        f"warning: made from another value than the study has: {expected}; `generate` will refuse it"
    ]
    assert main(["generate", str(file), "--backend", "inline"]) == 1
    assert "was made differently" in capsys.readouterr().err


def test_values_of_the_whole_study_are_compared_with_the_last_generate(made: Path) -> None:
    """Law: where study.json differs already, its lines report it once; a study of left-out populations alone is
    compared with their own files: the seed of all, and the training of a retrained one.
    """
    store = StudyStore(open_storage(str(made / "store")), "tiny")
    assert disagreements(load_study(write(made, seed=1)), store) == ["seed: 0 -> 1"]
    alone = {
        "populations": {"finetune": None, "original": None, "mine": None},
        "seed": 1,
        "training": {"batch_size": 8},
    }
    found = disagreements(load_study(write(made, **alone)), store)
    assert found == [
        "population retrained: batch_size: 32 -> 8",
        "population retrained: seed: 0 -> 1",
        "population tuned: seed: 0 -> 1",
    ]


def test_an_original_that_was_made_anew_is_noticed(made: Path, tmp_path: Path) -> None:
    """Law: a left-out population of another original's runs, or of another split, differs from those that agree."""
    import json
    import shutil

    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "study.yaml").unlink()
    file = write(tmp_path)
    held = tmp_path / "store" / "tiny" / "tuned" / "population.json"
    content = json.loads(held.read_text())
    content["identity"] |= {"original_digest": "0" * 64}
    content["identity"]["data"] |= {"splits": "1" * 64}
    held.write_text(json.dumps(content))
    lines = disagreements(load_study(file), StudyStore(open_storage(str(tmp_path / "store")), "tiny"))
    assert [line.partition(': "')[0] for line in lines] == [
        "population tuned: data.splits",
        "population tuned: original_digest",
    ]


def test_an_edited_script_is_named(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Law: `status` names the script, or the module that it imports; `generate` refuses it with the file's name."""
    file = write(made)
    store = StudyStore(open_storage(str(made / "store")), "tiny")
    try:
        (made / "helper.py").write_text("RATE = 0.25\n")
        (found,) = warnings(file, capsys)
        assert "populations.mine.method: helper.py, which mine.py imports, was edited (sha256 " in found
        (made / "mine.py").write_text("import nothing\n" + SCRIPT.replace("from helper import RATE", "RATE = 1"))
        lines = changed_scripts(load_study(file), store)
        assert lines[0].startswith("populations.mine.method: mine.py was edited (sha256 ")
        assert lines[1:] == [
            "populations.mine.method: helper.py, which mine.py imports, was a module of it when the runs were made"
        ]
        (made / "mine.py").write_text(SCRIPT + "\n")
        assert main(["generate", str(file), "--backend", "inline"]) == 1
        assert '  method.script_sha256 of mine.py: "' in capsys.readouterr().err
        (made / "mine.py").unlink()
        assert changed_scripts(load_study(file), store) == []
    finally:
        (made / "helper.py").write_text(HELPER)
        (made / "mine.py").write_text(SCRIPT)
