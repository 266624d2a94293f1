"""What bytes depend on and no digest covers: reported before it is mixed, and wherever populations are looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import TINY, merged
from plans import finetune, plan_of, record_of
from typer.testing import CliRunner

from ray_unlearn.cli import app
from ray_unlearn.generation import generate
from ray_unlearn.run import worker
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.arithmetic import ADVICE, SCRIPT, mixing, mixtures
from ray_unlearn.study import Study


def records(*arithmetic: dict[str, str], torch: str = "2.9.1", threads: int = 1) -> dict[int, Record]:
    """Return runs 0, 1, ... that were made with this."""
    plan = plan_of(1)
    known = {"versions": {"torch": torch, "numpy": "2"}, "threads": threads}
    made = (record_of(plan, finetune(0)).model_copy(update={**known, "arithmetic": one}) for one in arithmetic)
    return dict(enumerate(made))


AVX2, AVX512 = {"cpu_capability": "AVX2"}, {"cpu_capability": "AVX512"}


def test_like_runs_are_no_mixture():
    """Law: equal values, and values that older records do not hold, are nothing to report."""
    assert mixtures({"a": records(AVX2, AVX2, {}), "b": records({}, AVX2), "c": {}}, "b") == []


def test_a_population_of_two_kinds_is_reported():
    """Law: the key, each value, and which runs have it."""
    (line,) = mixtures({"a": records(AVX2, AVX2, AVX512, AVX2)})
    assert line == f"population a: its runs differ in cpu_capability: AVX2 (runs 0-1, 3), AVX512 (runs 2); {ADVICE}"


def test_a_population_unlike_its_reference_is_reported():
    """Law: one line for each population, with both values of every key; the reference itself has none."""
    held = {"retrained": records(AVX2), "a": records(AVX512, threads=4), "b": records(AVX2)}
    (line,) = mixtures(held, "retrained")
    assert line == (
        "population a: differs from the reference retrained in cpu_capability (AVX512, there AVX2); "
        f"threads (4, there 1); {ADVICE}"
    )
    (line,) = mixtures({"retrained": records(AVX2), "a": records(AVX2, torch="2.10.0")}, "retrained")
    assert "torch (2.10.0, there 2.9.1)" in line


def test_a_worker_that_would_mix_is_reported():
    """Law: compared with the runs that a population has, and with the reference's, before one is made."""
    here = {"device": "cpu", "threads": "1", "torch": "2.9.1", **AVX512}
    held = {"retrained": records(AVX2), "a": records(AVX512), "b": {}}
    assert mixing(held, ["a"], here, "") == []
    lines = mixing(held, ["a", "b", "retrained"], here, "retrained")
    differ = f"in cpu_capability (AVX2, here AVX512); {ADVICE}"
    assert lines == [
        f"population a: new runs differ from the reference retrained {differ}",
        f"population b: new runs differ from the reference retrained {differ}",
        f"population retrained: new runs differ from its runs so far {differ}",
    ]


BEFORE, AFTER = "seeded before its import alone", SCRIPT["script"]


def test_runs_of_a_script_that_were_called_in_two_ways_are_reported():
    """Law: a record that does not say it is of the older way, where another of its population is of the newer one."""
    (line,) = mixtures({"mine": records({}, {}, SCRIPT)})
    assert line.startswith(
        f"population mine: its runs differ in script: {BEFORE} (runs 0-1), {AFTER} (runs 2); {ADVICE}; a script that "
        "seeds or draws random numbers on import drew others"
    )
    (line,) = mixing({"mine": records({}, {})}, ["mine"], {}, scripts={"mine"})
    assert f"mine: new runs differ from its runs so far in script ({BEFORE}, here {AFTER}); {ADVICE}; a script" in line


def test_how_a_script_is_called_is_no_difference_from_other_methods():
    """Law: neither from a reference of another method or way, nor within populations of one way or another method."""
    held = {"old": records({}, {}), "new": records(SCRIPT, SCRIPT), "retrained": records({})}
    assert mixtures(held, "retrained") == []
    assert mixtures(held | {"mixed": records({}, SCRIPT)}, "new") == mixtures({"mixed": records({}, SCRIPT)})
    assert mixing(held, ["new", "retrained", "none"], {}, "retrained", {"new", "none"}) == []
    assert mixing(held, ["retrained"], {}, "new", {"new", "old"}) == []


def test_older_runs_of_a_script_are_mixed_with_a_warning(
    tiny: Callable[..., Study], tmp_path: Path, monkeypatch, capsys
):
    """Law: records of scripts' runs alone say how they were called; to raise an older population's count warns."""
    (tmp_path / "mine.py").write_text("def unlearning(net, *loaders):\n    net[-1].bias.data += 1\n")

    def made(count: int) -> str:
        mine = {"method": f"{tmp_path}/mine.py:unlearning", "count": count}
        generate(tiny(populations={"finetune": {"count": count}, "mine": mine}), backend="inline")
        return capsys.readouterr().err

    with monkeypatch.context() as earlier:
        earlier.setattr(worker, "SCRIPT", {})
        made(1)
    shown = made(2)
    assert shown.count(" differ ") == 1
    assert f"warning: population mine: new runs differ from its runs so far in script ({BEFORE}, here" in shown
    store = StudyStore(open_storage(str(tmp_path / "store")), "tiny")
    held = {name: store.made(name) for name in ("finetune", "mine")}
    assert {name: [one.arithmetic.get("script") for one in each.values()] for name, each in held.items()} == {
        "finetune": [None, None],
        "mine": [None, AFTER],
    }
    assert len(mixtures(held, "finetune")) == 1
    assert " differ " in made(3)  # still, because a part of the runs is of the older way


@pytest.fixture
def another_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next runs be made on a CPU of other instructions."""
    monkeypatch.setattr(worker, "arithmetic", lambda device, execution: {"cpu_capability": "VSX"})


def test_a_record_states_what_its_bits_depend_on(tiny: Callable[..., Study], another_cpu: None):
    """Law: the CPU's instructions are in the record of every run."""
    study = tiny(populations={"finetune": {"count": 1}})
    generate(study, backend="inline")
    made = StudyStore(open_storage(study.storage), "tiny").made("finetune")
    assert made[0].arithmetic == {"cpu_capability": "VSX"}
    assert set(made[0].versions) >= {"torch", "torchvision"}


def test_every_command_states_it(tmp_path: Path, request: pytest.FixtureRequest):
    """Law: `generate` before it mixes; `status`, `evaluate` and `report` after."""
    file, run = tmp_path / "tiny.yaml", CliRunner()
    populations = {"finetune": {"count": 2}, "retrained": {"method": "train", "on": "retain", "count": 3}}
    tree = merged(TINY, {"populations": populations, "evaluation": {"reference": "retrained"}})
    file.write_text(yaml.safe_dump(tree))

    def said(*arguments: str) -> str:
        result = run.invoke(app, [arguments[0], str(file), *arguments[1:]])
        assert result.exit_code == 0, result.output
        return result.output

    assert "warning: population finetune: new runs" not in said("generate", "--backend", "inline")
    assert "differ" not in said("status")
    request.getfixturevalue("another_cpu")
    more = said("generate", "--backend", "inline", "--set", "populations.finetune.count=3")
    assert "warning: population finetune: new runs differ from its runs so far in cpu_capability" in more
    assert "warning: population finetune: new runs differ from the reference retrained in cpu_capability" in more
    expected = "population finetune: its runs differ in cpu_capability: "
    again = ("--set", "populations.finetune.count=3")
    assert expected in said("status", *again)
    assert expected in said("evaluate", *again)
    page = tmp_path / "page.md"
    scores = tmp_path / "studies" / "tiny" / "scores.json"
    content = json.loads(scores.read_text())
    scores.write_text(json.dumps(content | {"warnings": []}))  # as a version wrote them that did not compare
    said("report", "--format", "markdown", "--output", str(page), *again)
    assert expected in page.read_text()
