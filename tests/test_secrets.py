"""Keys in URIs reach no terminal, no store and no job server, no matter what characters are in them."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, merged
from plans import finetune, plan_of, record_of
from test_submitting import FakeServer

from ray_unlearn.cli import main
from ray_unlearn.cluster import job_server as ray_jobs
from ray_unlearn.errors import RayUnlearnError
from ray_unlearn.generation import generate
from ray_unlearn.run.outcome import failure_of
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study.uris import error_line, label, labelled, without_keys

ODD = [*string.punctuation, " ", "é", "%2F", "/+", "#?", "?@#"]
FEW = ["/", "#", "?", "+", " ", "'", "\\", "?@#"]
WORDS = ("AKIAID", "SECRETa", "bHIDDEN")


def uri(odd: str, scheme: str = "s3") -> str:
    """Return a URI as people write it, with a key that was not escaped, and with options that hold one."""
    return f"{scheme}://AKIAID:SECRETa{odd}bHIDDEN@bucket/prefix?nosuchoption=SECRETa"


def leaks(text: str) -> list[str]:
    return [word for word in WORDS if word in text]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeServer:
    fake = FakeServer([])
    monkeypatch.setattr(ray_jobs, "JobServer", fake)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return fake


WAYS: dict[str, Any] = {
    "storage": lambda key: {"storage": key},
    "data": lambda key: {"data": {"train": key}},
    "data of two files": lambda key: {"data": {"train": {"path": [key, f"{key}x"], "format": "parquet"}}},
    "a folder": lambda key: {"data": {"train": {"path": key, "format": "folder"}}},
    "the competition": lambda key: {"data": {"train": {"path": key, "format": "competition"}}},
    "ids": lambda key: {"data": {"forget": {"fraction": None, "ids": key}}},
    "weights": lambda key: {"populations": {"original": {"method": None, "on": None, "weights": f"{key}.pth"}}},
    "a number": lambda key: {"data": {"image_size": key}},
    "a choice": lambda key: {"training": {"optimizer": key}},
    "a block": lambda key: {"training": {"epochs": {"x": key}}},
    "an option": lambda key: {"populations": {"finetune": {"lr": key}}},
    "a name": lambda key: {"name": key},
    "a population": lambda key: {"populations": {key: {"method": "finetune"}}},
    "an architecture": lambda key: {"model": {"arch": key}},
    "an architecture's option": lambda key: {"model": {"options": {"width": key}}},
    "a method": lambda key: {"populations": {"finetune": {"method": key}}},
    "a script": lambda key: {"populations": {"finetune": {"method": f"{key}.py:f"}}},
    "a key": lambda key: {key: 1},
    "a reference": lambda key: {"evaluation": {"reference": key}},
}
COMMANDS = {
    "status": ["status"],
    "prepare": ["prepare", "--backend", "inline"],
    "generate": ["generate", "--backend", "inline"],
    "evaluate": ["evaluate"],
    "report": ["report"],
    "verify": ["verify"],
    "submit": ["submit"],
    "all": ["all", "--backend", "inline"],
    "export": ["export", "out.zip", "--population", "finetune"],
    "logs": ["logs", "finetune/0"],
}


@pytest.mark.parametrize("way", WAYS)
def test_no_command_states_a_key(server: FakeServer, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, way: str):
    """Law: wherever in a study a URI is, no command repeats its key, nor does the job that it submits."""
    monkeypatch.chdir(tmp_path)
    for odd in ODD if way == "storage" else FEW:
        some = (
            ("status", "submit")
            if odd not in FEW
            else COMMANDS
            if way == "storage"
            else ("status", "generate", "submit")
        )
        commands = {name: COMMANDS[name] for name in some}
        file = tmp_path / "study.yaml"
        file.write_text(json.dumps(merged(TINY | {"storage": str(tmp_path / "store")}, WAYS[way](uri(odd)))))
        for command, *options in commands.values():
            code = main([command, str(file), *options])
            said = "".join(capsys.readouterr())
            assert leaks(said) == [], (odd, command, said)
            if way == "storage":
                assert code != 0 or command == "submit", (odd, command)
    for sent in server.sent:
        assert leaks(json.dumps([dict(sent.metadata), sent.id, list(sent.entrypoint)])) == []


@pytest.mark.parametrize("how", ["status", "generate", "submit", "report"])
def test_no_override_is_repeated_with_its_key(
    server: FakeServer, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, how: str
):
    """Law: the same for --set, well and badly formed, and for hints that repeat what was typed."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(TINY | {"storage": str(tmp_path / "store")}))
    for odd in FEW:
        for override in (
            f"storage={uri(odd)}",
            f"storage=[{uri(odd)}",
            f"seed={uri(odd)}",
            uri(odd),
            f"x.y={uri(odd)}",
        ):
            main([how, str(file), "--set", override])
            said = "".join(capsys.readouterr())
            assert leaks(said) == [], (odd, override, said)


def test_a_broken_file_is_not_quoted(tmp_path: Path, capsys):
    """Law: PyYAML repeats the line that it cannot read, cut off anywhere; we state where it is."""
    file = tmp_path / "study.yaml"
    for number, odd in enumerate(ODD):
        texts = (f"storage: {uri(odd)}: x\n", f"storage: '{uri(odd)}\n", f"a: {{b: {uri(odd)}\nc: 1\n", f"@{uri(odd)}")
        for text in texts if odd in FEW else texts[number % 4 :][:1]:
            file.write_text(text)
            main(["status", str(file)])
            said = "".join(capsys.readouterr())
            assert leaks(said) == [], (text, said)


def test_a_key_reaches_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny):
    """Law: study.json, population.json, records, failures and events hold no key."""
    for number, odd in enumerate(ODD):
        plan = plan_of(2)
        populations = {
            name: replace(each, identity={**each.identity, "options": {"root": uri(odd)}})
            for name, each in plan.populations.items()
        }
        data = plan.study.data.model_copy(update={"train": plan.study.data.train.model_copy(update={"path": uri(odd)})})
        study = plan.study.model_copy(update={"storage": uri(odd), "data": data})
        plan = replace(plan, study=study, populations=populations)
        store = StudyStore(open_storage(str(tmp_path / str(number))), "tiny")
        store.admit(plan)
        run = finetune(0)
        store.publish(run, {"model.safetensors": b"weights", "outputs.arrow": b"logits"}, record_of(plan, run))
    script = tmp_path / "mine.py"
    for number, odd in enumerate(("/", "#", "?", "+", ":")):
        script.write_text(f"def f(net, *loaders):\n    raise OSError('cannot open {uri(odd)} today')\n")
        bad = {"method": f"{script}:f", "count": 1}
        assert generate(tiny(name=f"bad{number}", populations={"finetune": None, "bad": bad}), backend="inline").failed
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != script]
    assert len(files) > 100
    assert any("today" in path.read_text(errors="replace") for path in files if path.suffix == ".json")
    assert [(str(path), found) for path in files if (found := leaks(path.read_text("latin-1")))] == []


def test_an_error_in_a_run_states_no_key():
    """Law: what a worker reports, line and traceback, is without keys, before it is cut to its length."""
    for odd in ("/", "#", "?", "+"):
        try:
            raise ValueError("x" * 470 + " " + uri(odd))
        except ValueError as error:
            outcome = failure_of(finetune(0), 0.0, error)
        assert leaks(outcome.error) == []
        assert leaks(outcome.traceback.replace(f"uri({odd!r})", "")) == []


@pytest.mark.parametrize("odd", ODD)
def test_a_label(odd: str):
    """Law: a label is what follows the last @, in values, trees and errors alike."""
    assert label(uri(odd)) == "s3://bucket/prefix"
    assert labelled({"a": [uri(odd)], "b": (1, uri(odd))}) == {
        "a": ["s3://bucket/prefix"],
        "b": [1, "s3://bucket/prefix"],
    }
    assert leaks(error_line(OSError(f"Cannot parse '{uri(odd)}'"), uri(odd))) == []
    for scheme in ("s3", "gs", "abfs"):
        with pytest.raises(RayUnlearnError) as caught:
            open_storage(uri(odd, f"no{scheme}"))
        assert leaks(str(caught.value)) == []


def test_a_text_keeps_what_is_no_key():
    """Law: hosts, ports, paths and sentences stay; what was cut off before its @ goes."""
    for text in (
        "http://127.0.0.1:8265 does not answer",
        "http://127.0.0.1:82a65: no server",
        "s3://bucket/x: no such file; write to me@example.org",
        "gs://bucket: denied",
        "ray job submit --address http://[::1]:8265 --working-dir /home/ada@lab/x",
        "no URI",
    ):
        assert without_keys(text) == text
    assert without_keys("at s3://AKIAID:SECR...; gs://b/x?k=v, s3://b") == "at s3://... gs://b/x?..., s3://b"
    assert without_keys("s3://AKIAID:SE/CR@b and s3://x/y") == "s3://b and s3://x/y"


def test_a_study_with_keys_continues(tmp_path: Path, tiny):
    """Law: an option that is a URI with a key does not look changed because the store holds it without."""
    study = tiny(populations={"finetune": {"count": 1}}, model={"options": {"width": 4}})
    generate(study, backend="inline")
    assert generate(study, backend="inline").made == 0
    from ray_unlearn.store.agreement import disagreements

    other = study.model_copy(update={"model": study.model.model_copy(update={"options": {"root": uri("/")}})})
    store = StudyStore(open_storage(study.storage), study.name)
    store.storage.publish_file(store.layout.study_json, json.dumps(labelled(other.model_dump(mode="json"))).encode())
    assert disagreements(other, store) == []
