"""What people get wrong, each with the one line that it gives and its exit code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_study
from PIL import Image
from safetensors.torch import save_file

from ray_unlearn.cli import main
from ray_unlearn.models import small_cnn

Case = Callable[[Path], list[str]]


def generate(folder: Path, *more: str, **changes: Any) -> list[str]:
    """Write TINY with changes into `folder`; return the command that generates it inline."""
    return ["generate", str(write_study(folder, **changes)), "--backend", "inline", *more]


def from_text(folder: Path, text: str) -> list[str]:
    (folder / "study.yaml").write_text(text)
    return ["generate", str(folder / "study.yaml"), "--backend", "inline"]


def png(file: Path, shade: int) -> bytes:
    """Write an 8x8 picture of one shade; return its bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, "PNG")
    return file.read_bytes()


def parquet(folder: Path, **columns: list[Any]) -> list[str]:
    """Generate from a Parquet file of 20 pictures in two classes, some column replaced."""
    images = [{"bytes": png(folder / "x.png", i), "path": None} for i in range(20)]
    table = {"image": images, "label": [i % 2 for i in range(20)], "name": [f"i{i}" for i in range(20)], **columns}
    pq.write_table(pa.table(table), folder / "train.parquet")
    data = {"train": "train.parquet", "test": None, "limit": None, "classes": 2, "columns": {"id": "name"}}
    return generate(folder, data=data)


def class_folders(folder: Path, damage: bytes) -> list[str]:
    """Generate from a folder per class, one of whose pictures is damaged."""
    for i in range(20):
        png(folder / "faces" / "ab"[i % 2] / f"{i}.png", i)
    (folder / "faces/a/4.png").write_bytes(damage)
    return generate(folder, data={"train": "faces", "test": None, "limit": None})


def competition(folder: Path, overlap: str) -> list[str]:
    """Generate from the competition's layout, where one image of the forget list is in another list, too."""
    lists = {"retain": range(10), "forget": range(10, 15), "validation": range(15, 20)}
    ids = {name: [f"f-{i}" for i in numbers] for name, numbers in lists.items()}
    ids[overlap][0] = "f-10"
    for name, image_ids in ids.items():
        rows = {"image_id": image_ids, "age_group": 1, "age": 30, "person_id": "p"}
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    for i in range(20):
        png(folder / "images/f" / f"{i}.png", i)
    data = {
        "train": ".",
        "test": None,
        "limit": None,
        "validation": "given",
        "forget": {"fraction": None, "given": True},
    }
    return generate(folder, data=data)


def weights(folder: Path, write: Callable[[Path], object], name: str = "w.safetensors") -> list[str]:
    """Generate from an imported original."""
    write(folder / name)
    return generate(folder, populations={"original": {"method": None, "on": None, "weights": name}})


def script(folder: Path, text: str, function: str = "unlearning") -> list[str]:
    (folder / "mine.py").write_text(text)
    return generate(folder, populations={"mine": {"method": f"mine.py:{function}"}})


def changed_lr(folder: Path) -> list[str]:
    assert main(generate(folder)) == 0
    return generate(folder, populations={"finetune": {"lr": 0.01}})


def changed_forget(folder: Path) -> list[str]:
    assert main(generate(folder)) == 0
    return generate(folder, data={"forget": {"fraction": 0.3}})


def one_class(folder: Path) -> list[str]:
    for shade in range(4):
        png(folder / "train" / "owl" / f"{shade}.png", shade)
    return generate(folder, data={"train": str(folder / "train"), "test": 0.5})


def file_as_storage(folder: Path) -> list[str]:
    (folder / "store").write_text("I am a file")
    return generate(folder)


def exporting(folder: Path, population: str) -> list[str]:
    file = generate(folder)[1]
    return ["export", file, str(folder / "out.zip"), "--population", population]


UNPICKLES = b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."
POPULATION = "populations.finetune"

# name: (how to provoke it, exit code, the line after `error: `)
CASES: dict[str, tuple[Case, int, str]] = {
    "unknown key": (lambda f: generate(f, trainig={}), 2, r".*: trainig: unknown key \(did you mean 'training'\?\)"),
    "wrong type": (lambda f: generate(f, data={"image_size": "big"}), 2, r".*data\.image_size: .*found 'big'"),
    "value out of range": (
        lambda f: generate(f, training={"lr": -1}),
        2,
        r".*training\.lr: .*greater than 0; found -1",
    ),
    "not a number": (lambda f: generate(f, training={"lr": float("nan")}), 2, r".*training\.lr: .*finite.*"),
    "required key missing": (lambda f: generate(f, name=None), 2, r".*: name: missing; this key is required"),
    "wrong choice": (
        lambda f: generate(f, training={"optimizer": "adm"}),
        2,
        r".*training\.optimizer: .*found 'adm' \(did you mean 'adam'\?\)",
    ),
    "--set without value": (lambda f: generate(f, "--set", "seed"), 2, r"--set 'seed': expected KEY\.KEY=VALUE.*"),
    "--shard beyond its count": (lambda f: generate(f, "--shard", "4/3"), 2, r"--shard '4/3': expected I/K.*"),
    "--shard of nothing": (lambda f: generate(f, "--shard", "0/0"), 2, r"--shard '0/0': expected I/K.*"),
    "--set with a typo": (
        lambda f: generate(f, "--set", "training.epoch=3"),
        2,
        r".*training\.epoch: unknown key \(did you mean 'epochs'\?\)",
    ),
    "--set not YAML": (lambda f: generate(f, "--set", "seed=[1"), 2, r"--set 'seed=\[1': the value is not YAML: .*"),
    "study file missing": (
        lambda f: ["generate", str(f / "none.yaml"), "--backend", "inline"],
        2,
        r".*none\.yaml: cannot be read \(No such file or directory\); `ray-unlearn init FILE` writes one.*",
    ),
    "study file is a folder": (lambda f: ["generate", str(f)], 2, r".*: cannot be read \(Is a directory\)"),
    "not YAML": (lambda f: from_text(f, "name: [1"), 2, r".*study\.yaml: not YAML: .*line 1.*"),
    "not a mapping": (lambda f: from_text(f, "- name"), 2, r".*expected a mapping .*; found list"),
    "a key twice": (lambda f: from_text(f, "name: a\nname: b\n"), 2, r".*the key 'name' is given twice.*line 2.*"),
    "method typo": (
        lambda f: generate(f, populations={"finetune": {"method": "finetun"}}),
        2,
        rf"{POPULATION}\.method: no method 'finetun' \(did you mean 'finetune'\?\).*",
    ),
    "method option typo": (
        lambda f: generate(f, populations={"finetune": {"noise_sd": 0.1}}),
        2,
        rf"{POPULATION}\.noise_sd: unknown key \(did you mean 'noise_std'\?\) \(method finetune\)",
    ),
    "population key typo": (
        lambda f: generate(f, populations={"finetune": {"cuont": 3}}),
        2,
        rf"{POPULATION}\.cuont: unknown key \(did you mean 'count'\?\) \(method finetune\)",
    ),
    "method option impossible": (
        lambda f: generate(f, populations={"finetune": {"noise_std": -1}}),
        2,
        rf"{POPULATION}\.noise_std: .*found -1 \(method finetune\)",
    ),
    "count 0": (lambda f: generate(f, populations={"finetune": {"count": 0}}), 2, rf".*{POPULATION}\.count: .*found 0"),
    "no original": (
        lambda f: generate(f, populations={"original": None}),
        2,
        rf"{POPULATION}: finetune starts from a population called `original`, which is not defined; .*",
    ),
    "too few originals": (
        lambda f: generate(f, populations={"finetune": {"originals": 2}}),
        2,
        rf"{POPULATION}\.originals: expected at most 1, as the study has; found 2",
    ),
    "a reserved name": (lambda f: generate(f, name="data-cache"), 2, r".*'data-cache' is a name that the store uses.*"),
    "a name with a slash": (lambda f: generate(f, name="../up"), 2, r".*: name: .*found '\.\./up'"),
    "an undefined reference": (
        lambda f: generate(f, evaluation={"reference": "retraind"}),
        2,
        r".*evaluation\.reference: 'retraind' is not a population of the study .*",
    ),
    "unknown --only": (
        lambda f: generate(f, "--only", "finetun"),
        2,
        r"--only finetun: not a population of the study \(did you mean 'finetune'\?\)",
    ),
    "unknown --population": (
        lambda f: exporting(f, "finetun"),
        2,
        r"--population finetun: not a population of the study \(did you mean 'finetune'\?\)",
    ),
    "export before generate": (
        lambda f: exporting(f, "finetune"),
        1,
        r".* has no population finetune; run `ray-unlearn generate \S+/study\.yaml` first",
    ),
    "two ways to forget": (
        lambda f: generate(f, data={"forget": {"label": 3}}),
        2,
        r".*data\.forget: expected exactly one of fraction, label, group, ids, given, hardest; found .*",
    ),
    "forget ids unknown": (
        lambda f: generate(f, data={"forget": {"fraction": None, "ids": ["digits-9999"]}}),
        1,
        r"data\.forget\.ids\[0\]: image id 'digits-9999' is not in data\.train.*",
    ),
    "outputs of a missing set": (
        lambda f: generate(f, data={"test": None}, outputs={"splits": ["test"]}),
        2,
        r"outputs\.splits: test has no images in this study; leave it out of the list",
    ),
    "train file missing": (lambda f: generate(f, data={"train": "none.parquet"}), 1, r".*none\.parquet.*"),
    "train folder missing": (lambda f: generate(f, data={"train": "none"}), 1, r".*/none: no such folder; expected .*"),
    "corrupt image": (
        lambda f: class_folders(f, b"\x89PNG\r\n\x1a\n and then nothing"),
        1,
        r".*faces/a/4\.png: not an image that can be decoded \(.*\); `data\.on_bad_image: skip` .*",
    ),
    "label 99": (
        lambda f: parquet(f, label=[99 if i == 7 else i % 2 for i in range(20)]),
        1,
        r".*train\.parquet row 7: label 99: expected a class number from 0 to 1; `data\.classes` .*",
    ),
    "duplicate ids": (
        lambda f: parquet(f, name=["same" if i in (3, 5) else f"i{i}" for i in range(20)]),
        1,
        r"image id 'same' occurs twice: .*train\.parquet row 3 and .*train\.parquet row 5",
    ),
    "missing column": (
        lambda f: [*parquet(f), "--set", "data.columns.label=age"],
        1,
        r".*train\.parquet: no column 'age'.*",
    ),
    "forget and validation overlap": (lambda f: competition(f, "validation"), 1, r"image id 'f-10' occurs twice: .*"),
    "forget and retain overlap": (lambda f: competition(f, "retain"), 1, r"image id 'f-10' occurs twice: .*"),
    "storage is a file": (file_as_storage, 1, r".*/store: cannot .*"),
    "storage of an unknown scheme": (
        lambda f: generate(f, storage="nosuch://bucket/x"),
        1,
        r"storage nosuch://\.\.\.: cannot be opened: .*",
    ),
    "weights that are none": (
        lambda f: weights(f, lambda file: file.write_bytes(b"no weights")),
        1,
        r".*w\.safetensors: not weights that can be read safely \(.*\)",
    ),
    "weights that run code": (
        lambda f: weights(f, lambda file: file.write_bytes(UNPICKLES), "w.pth"),
        1,
        r".*w\.pth: not weights that can be read safely \(.*\)",
    ),
    "weights of another shape": (
        lambda f: weights(f, lambda file: save_file(small_cnn(7, width=4).state_dict(), file)),
        1,
        r".*w\.safetensors: tensor '14\.weight': .* expects \[10, 16\]; the file has \[7, 16\] .*7 classes, .*",
    ),
    "weights of another net": (
        lambda f: weights(f, lambda file: save_file({"fc.weight": torch.zeros(1)}, file)),
        1,
        r".*w\.safetensors: no tensor '0\.weight', which the model has.*is model\.arch the right one\? .*",
    ),
    "weights file missing": (
        lambda f: weights(f, lambda file: None),
        1,
        r".*w\.safetensors: no such file; expected weights.*",
    ),
    "unknown architecture": (
        lambda f: generate(f, model={"arch": "resnet81", "options": None}),
        1,
        r"model\.arch: 'resnet81' is neither built in nor torchvision's \(did you mean 'resnet18'\?\)",
    ),
    "architecture option typo": (
        lambda f: generate(f, model={"options": {"widht": 4}}),
        1,
        r"model small_cnn: does not take options .*widht.*",
    ),
    "script fails on import": (
        lambda f: script(f, "import no_such_module_anywhere\n"),
        1,
        r".*mine\.py:unlearning: the script fails on import: ModuleNotFoundError: .*",
    ),
    "script is not Python": (lambda f: script(f, "def unlearning(:\n"), 1, r".*fails on import: SyntaxError: .*"),
    "script lacks the function": (
        lambda f: script(f, "def unlearn():\n    pass\n"),
        1,
        r".*: no function 'unlearning' in .*mine\.py \(did you mean 'unlearn'\?\)",
    ),
    "script missing": (
        lambda f: generate(f, populations={"mine": {"method": "none.py:unlearning"}}),
        1,
        r".*none\.py cannot be read \(No such file or directory\)",
    ),
    "script exits on import": (
        lambda f: script(f, "import sys\nsys.exit(0)\n"),
        1,
        r".*mine\.py:unlearning: the script fails on import: SystemExit: 0 \(mine\.py:2\); it ends Python when .*",
    ),
    "changed lr on an existing population": (changed_lr, 1, r"population finetune in .* was made differently .*"),
    "one class": (one_class, 1, r"data\.train: 1 class \(owl\); a classifier needs two or more.*"),
    "unknown method to list": (
        lambda f: ["methods", "finetun"],
        2,
        r"no method 'finetun' \(did you mean 'finetune'\?\)",
    ),
    "status of no study": (lambda f: ["status", str(f / "none.yaml")], 2, r".*none\.yaml: cannot be read .*"),
    "plot of nothing": (
        lambda f: ["status", generate(f)[1], "--plot", str(f / "c.png")],
        1,
        r".*no finished run has a training loss yet; nothing to plot",
    ),
    "init into a folder that is not there": (
        lambda f: ["init", str(f / "none/study.yaml")],
        1,
        r".*none/study\.yaml: cannot be written: No such file or directory",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(name: str, tmp_path: Path, capsys, monkeypatch):
    """Law: one `error:` line on standard error, its exit code; no run appears, nothing half-written is left."""
    monkeypatch.chdir(tmp_path)
    provoke, code, expected = CASES[name]
    arguments = provoke(tmp_path)
    records = set(tmp_path.rglob("record.json"))
    capsys.readouterr()
    assert main(arguments) == code
    captured = capsys.readouterr()
    first, *others = [line for line in captured.err.splitlines() if line != "opening study tiny"]
    assert re.fullmatch(rf"error: (\S+study\.yaml(:\d+)?: )?{expected}", first)
    assert others == [] or name == "changed lr on an existing population"
    assert captured.out == "" or name == "plot of nothing"  # the status itself is printed first
    assert set(tmp_path.rglob("record.json")) == records
    assert not list(tmp_path.rglob(".tmp-*"))
    assert not (tmp_path / "pwned").exists()


def test_the_refused_change_is_shown(tmp_path: Path, capsys):
    """Law: the lines below the refusal state which key changed from what to what, and what to do."""
    assert main(changed_lr(tmp_path)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "  options.lr: 0.001 -> 0.01" in lines
    assert (
        lines[-1]
        == "Rename the changed population or the study, leave the population out of the file, or change it back."
    )


@pytest.mark.parametrize(
    ("provoke", "theirs", "ours"),
    [
        (changed_lr, r"options\.lr: \S+ -> 0\.01", r"populations\.finetune\.lr: \S+ -> 0\.01"),
        (changed_forget, r'data\.splits: "\w{55}\.\.\." -> "\w{55}\.\.\."', r"data\.forget\.fraction: \S+ -> 0\.3"),
    ],
)
def test_a_change_is_refused_in_the_words_of_the_study_file(provoke, theirs: str, ours: str, tmp_path: Path, capsys):
    """Law: next to what the store holds is what one would change back in the file."""
    assert main(provoke(tmp_path)) == 1
    said = capsys.readouterr().err
    assert re.search(
        rf"^  {theirs}$\n  in the study: {ours}$\n^It was made by ray-unlearn .*\n^Rename ", said, re.MULTILINE
    )
