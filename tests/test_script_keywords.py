"""Keyword arguments of a script's function are options of its populations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_study
from safetensors.torch import load_file

from ray_unlearn.cli import main
from ray_unlearn.errors import StudyError
from ray_unlearn.generation import open_job
from ray_unlearn.methods.keywords import checked, keywords_in
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.study import load_study
from ray_unlearn.study.changes import edits

SCRIPT = """
import torch


def unlearning(net, retain_loader, forget_loader, val_loader, step: float = 0.5, *, name="a", times: int | None = None):
    print("step", step, name, times)
    with torch.no_grad():
        for one in net.parameters():
            one += step


other = unlearning
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of the script, one population with and one without an option."""
    (tmp_path / "mine.py").write_text(SCRIPT)
    mine = {"plain": {"method": "mine.py:unlearning"}, "far": {"method": "mine.py:unlearning", "step": 2, "times": 3}}
    return write_study(tmp_path, populations={**mine, "finetune": None})


def test_arguments_reach_the_function_and_are_in_the_record(study: Path, capsys: pytest.CaptureFixture):
    """Law: the default where nothing is given, else the value; the record names what was given."""
    assert main(["generate", str(study), "--backend", "inline"]) == 0
    folder = study.parent / "store/tiny"
    states = {name: load_file(folder / name / "00000/model.safetensors") for name in ("original", "plain", "far")}
    name = "12.weight" if "12.weight" in states["original"] else next(n for n in states["original"] if "weight" in n)
    torch.testing.assert_close(states["plain"][name], states["original"][name] + 0.5)
    torch.testing.assert_close(states["far"][name], states["original"][name] + 2)
    record = json.loads((folder / "far/00000/record.json").read_text())
    assert record["options"]["arguments"] == {"step": 2, "times": 3}
    capsys.readouterr()
    assert main(["logs", str(study), "far/0"]) == 0
    assert "step 2 a 3" in capsys.readouterr().out


def test_only_given_arguments_are_in_the_identity(study: Path):
    """Law: a population without options has the identity that it had before there were any."""
    loaded = load_study(study)
    plain, far = (resolve(loaded, name).identity["options"] for name in ("plain", "far"))
    assert "arguments" not in plain
    assert far == {**plain, "arguments": {"step": 2, "times": 3}}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"stpe": 1.0}, r"populations.mine.stpe: unknown key \(did you mean 'step'\?\) \(method m.py:unlearning\)"),
        ({"step": "big"}, "populations.mine.step: expected float, as the function says; found 'big'"),
        ({"step": True}, "expected float, as the function says; found True"),
        ({"times": 1.5}, "populations.mine.times: expected None or int, as the function says; found 1.5"),
        ({"name": 3}, "populations.mine.name: expected str"),
        ({"net": 3}, "populations.mine.net: unknown key"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], complaint: str):
    """Law: the message names the key, the nearest argument, or the type that its annotation or default has."""
    with pytest.raises(StudyError, match=complaint):
        checked("populations.mine", "m.py:unlearning", SCRIPT, options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 8}, ["batch_size"]),
        ({"batch_size": 8, "arguments": {"batch_size": 16}}, []),
        ({"count": 2, "pixels": "raw"}, ["count"]),
        ({"lr": 0.5}, []),
    ],
)
def test_an_argument_with_the_name_of_another_key_is_named(tiny, tmp_path, options: dict[str, Any], said: list[str]):
    """Law: such a key means what it means everywhere; that the function keeps its default is said before any run."""
    (tmp_path / "m.py").write_text("def f(net, a, b, c, lr=0.1, batch_size=64, count=1): ...")
    job = open_job(tiny(populations={"mine": {"method": f"{tmp_path}/m.py:f", **options}}))
    assert [line.split()[2] for line in job.remarks] == said


def test_what_fits():
    """Law: a whole number passes for a float, None where the annotation has it; other types pass as they are."""
    options = {"step": 1, "times": None, "name": "b"}
    assert checked("p", "m.py:unlearning", SCRIPT, options) == options
    source = "def f(a, b, c, d, sizes=(1, 2), rate=-1e-3, on: bool | None = None, free=None): ..."
    assert keywords_in("m.py:f", source) == {
        "sizes": frozenset(),
        "rate": frozenset({"float"}),
        "on": frozenset({"bool", "None"}),
        "free": frozenset(),
    }
    assert checked("p", "m.py:f", source, {"sizes": [3], "rate": 2.0, "on": None, "free": "x"})


def test_a_function_that_is_no_def_takes_no_options():
    """Law: what cannot be read from the text is not guessed."""
    with pytest.raises(StudyError, match=r"m.py:other is no plain `def` at the top of its script"):
        checked("p", "m.py:other", SCRIPT, {"step": 1.0})
    assert checked("p", "m.py:other", SCRIPT, {}) == {}
    with pytest.raises(StudyError, match="its function has no keyword arguments"):
        checked("p", "m.py:f", "def f(a, b, c, d): ...", {"step": 1.0})


def test_the_refusal_after_an_edit_shows_the_lines(study: Path, capsys: pytest.CaptureFixture):
    """Law: the store keeps the script's text; the message has the lines that changed, and no other."""
    assert main(["generate", str(study), "--backend", "inline"]) == 0
    script = study.parent / "mine.py"
    kept = json.loads((study.parent / "store/tiny/plain/population.json").read_text())["script"]
    assert kept == script.read_text()
    script.write_text(SCRIPT.replace("one += step", "one += 2 * step"))
    capsys.readouterr()
    assert main(["generate", str(study), "--backend", "inline"]) == 1
    said = capsys.readouterr().err
    assert "mine.py was edited:" in said
    assert "    -            one += step\n    +            one += 2 * step\n" in said
    assert "import torch" not in said
    long = "".join(f"x{number} = 1\n" for number in range(60))
    shown = edits(long, long.replace("= 1", "= 2"), "mine.py")
    assert shown[-1] == "    ... and 97 more lines"
    assert edits("", long, "mine.py") == edits(long, long, "mine.py") == []
