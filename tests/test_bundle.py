"""What travels to a cluster with a study, under which name, and what is refused before anything is sent."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, merged

from ray_unlearn.errors import MethodError, StudyError
from ray_unlearn.study import load_study
from ray_unlearn.submit import bundle as parcels
from ray_unlearn.submit import folder_cache
from ray_unlearn.submit.bundle import Parcel, pack
from ray_unlearn.usercode.sources import script_modules


def write(folder: Path, **changes: Any) -> Path:
    """Write TINY with changes as `folder`/study.yaml; its storage is an absolute folder next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(json.dumps(merged(TINY | {"storage": "/mnt/studies"}, changes), ensure_ascii=False))
    return file


def scripted(folder: Path, where: str = "mine.py") -> Path:
    """A study with a script `where`, next to which are three modules that it needs and one that it does not."""
    script = folder / where
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        "import torch\n\n\ndef unlearning(net, *loaders):\n    from nets.blocks import block\n    import loss\n"
    )
    (script.parent / "loss.py").write_text("import json\nfrom nets import blocks\nimport loss\n")
    (script.parent / "nets").mkdir(exist_ok=True)
    (script.parent / "nets" / "__init__.py").write_text("")
    (script.parent / "nets" / "blocks.py").write_text("from . import blocks\n")
    (script.parent / "unused.py").write_text("")
    (script.parent / "json").mkdir(exist_ok=True)  # no __init__.py: the standard library's is imported
    (script.parent / "json" / "big.py").write_text("")
    return write(folder, populations={"mine": {"method": f"{where}:unlearning"}})


def test_a_study_travels_alone_and_reads_back_to_itself(tmp_path: Path) -> None:
    """Law: the study that travels is the study here, overrides merged in; one file of its values, nothing else."""
    file = write(tmp_path, populations={"finetune": {"lr": 1e-05}}, model={"options": {"width": 4}})
    overrides = ["seed=7", "populations.finetune.count=5", "storage=s3://bucket/studies"]
    parcel = pack(file, overrides)
    folder = parcel.write(tmp_path / "parcels")
    assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == ["study.yaml"]
    assert load_study(folder / "study.yaml") == load_study(file, overrides)
    assert parcel.size_bytes == (folder / "study.yaml").stat().st_size < 2000
    assert (folder.stat().st_mode & 0o777) == 0o700


@pytest.mark.parametrize("words", ["1e5", "0o17", "on", "0123", "null", "~", "ä: [#]", "\U0001f600", "a\tb\n"])
def test_words_that_look_like_values_stay_words(tmp_path: Path, words: str) -> None:
    """Law: an id of the forget set reads back as the text it is."""
    file = write(tmp_path, data={"forget": {"fraction": None, "ids": ["x", words]}})
    folder = pack(file, []).write(tmp_path / "parcels")
    assert load_study(folder / "study.yaml").data.forget.ids == ("x", words)


def test_values_that_cannot_travel_are_refused(tmp_path: Path) -> None:
    """Law: infinity has no JSON; one line names the study."""
    file = write(tmp_path)
    with pytest.raises(StudyError, match=r"study.yaml: the study cannot be sent: expected plain, finite, print"):
        pack(file, ["model.options={width: .inf}"])


@pytest.mark.parametrize("where", ["mine.py", "methods/mine.py", "../elsewhere/mine.py"])
def test_a_script_travels_with_the_modules_it_imports(tmp_path: Path, where: str) -> None:
    """Law: the script, loss.py and the package nets, at the same places to one another; unused.py stays."""
    parcel = pack(scripted(tmp_path / "here", where), [], send=[tmp_path / "elsewhere"])
    folder = parcel.write(tmp_path / "parcels")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    assert names == {f"files/0/{name}" for name in ("mine.py", "loss.py", "nets/__init__.py", "nets/blocks.py")}
    method = load_study(folder / "study.yaml").populations["mine"].method
    assert method == f"{folder}/files/0/mine.py:unlearning"


def test_scripts_of_two_folders_do_not_meet(tmp_path: Path) -> None:
    """Law: two scripts of one name from two folders are two files."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"def unlearning(net, *loaders):\n    {name!r}\n")
    populations = {name: {"method": f"{name}/mine.py:unlearning"} for name in ("a", "b")}
    folder = pack(write(tmp_path, populations=populations), []).write(tmp_path / "parcels")
    assert "'a'" in (folder / "files/0/mine.py").read_text()
    assert "'b'" in (folder / "files/1/mine.py").read_text()


def test_a_factory_next_to_the_study_travels_to_where_a_job_imports_from(tmp_path: Path) -> None:
    """Law: of `arch: nets.blocks:make`, the package and what it imports from the study's folder are at the top of the
    working_dir, where `python -m` finds them; another source is another job; what is elsewhere stays there."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/__init__.py").write_text("import parts\n")
    (tmp_path / "nets/blocks.py").write_text("from parts import size\nimport ray_unlearn\nmake = size\n")
    (tmp_path / "parts.py").write_text("size = 7\n")
    (tmp_path / "other.py").write_text("")
    (tmp_path / "ray_unlearn").mkdir()
    (tmp_path / "ray_unlearn/__init__.py").write_text("")
    parcel = pack(write(tmp_path, model={"arch": "nets.blocks:make", "options": None}), [])
    assert sorted(parcel.files) == ["nets/__init__.py", "nets/blocks.py", "parts.py"]
    folder = parcel.write(tmp_path / "parcels")
    command = [sys.executable, "-c", "import nets.blocks; print(nets.blocks.make)"]
    assert subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout == "7\n"
    (tmp_path / "parts.py").write_text("size = 8\n")
    assert pack(tmp_path / "study.yaml", []).digest != parcel.digest
    for arch in ("torchvision.models:resnet18", "ray_unlearn.models:small_cnn", "small_cnn"):
        assert pack(write(tmp_path, model={"arch": arch, "options": None}), []).files == {}


def test_ids_travel_and_weights_by_relative_paths(tmp_path: Path) -> None:
    """Law: forget.csv and a.pth travel; weights by an absolute path, or a URI, are named as they are."""
    (tmp_path / "forget.csv").write_text("image_id\n1\n")
    (tmp_path / "a.pth").write_bytes(b"weights")
    weights = ["a.pth", str(tmp_path / "a.pth"), "s3://bucket/b.pth"]
    file = write(
        tmp_path,
        data={"forget": {"fraction": None, "ids": "forget.csv"}},
        populations={"original": {"method": None, "on": None, "weights": weights}},
    )
    parcel = pack(file, [])
    assert set(parcel.files) == {"files/0/forget.csv", "files/0/a.pth"}
    folder = parcel.write(tmp_path / "parcels")
    study = load_study(folder / "study.yaml")
    assert study.data.forget.ids == f"{folder}/files/0/forget.csv"
    assert study.populations["original"].weights == (f"{folder}/files/0/a.pth", *weights[1:])


def test_shards_travel_with_their_list(tmp_path: Path) -> None:
    """Law: a list of shards is sent with the files beside it that it names, and with no other."""
    shards = {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "../secret.safetensors"}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for name in ("m-1.safetensors", "m-2.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
    file = write(
        tmp_path, populations={"original": {"method": None, "on": None, "weights": "m.safetensors.index.json"}}
    )
    assert set(pack(file, []).files) == {
        f"files/0/{n}" for n in ("m.safetensors.index.json", *list(shards.values())[:2])
    }


def test_the_folder_of_a_csvs_images_is_not_relative(tmp_path: Path) -> None:
    """Law: images are not sent, so a CSV file and its folder of images have to be where every node sees them."""
    file = write(tmp_path, data={"train": {"path": "/mnt/labels.csv", "images": "faces"}})
    with pytest.raises(StudyError, match=r"data\.train: faces is relative, and images are not sent with a job"):
        pack(file, [])


OUTSIDE: dict[str, dict[str, Any]] = {
    "weights": {"populations": {"original": {"method": None, "on": None, "weights": "../secret.pth"}}},
    "a link": {"populations": {"original": {"method": None, "on": None, "weights": "link.pth"}}},
    "one of two": {"populations": {"original": {"method": None, "on": None, "weights": ["a.pth", "../secret.pth"]}}},
    "ids": {"data": {"forget": {"fraction": None, "ids": "../secret.pth"}}},
    "a script": {"populations": {"mine": {"method": "../secret.py:f"}}},
    "a module beside": {"populations": {"mine": {"method": "mine.py:f"}}},
    "a factory's module": {"model": {"arch": "nets:f", "options": None}},
}


@pytest.mark.parametrize("way", OUTSIDE)
def test_files_outside_the_studys_folder_stay_here(tmp_path: Path, way: str) -> None:
    """Law: a study cannot send what is elsewhere, by `..` or a link; the user can, by name or folder."""
    here = tmp_path / "here"
    file = write(here, **OUTSIDE[way])
    for name in ("secret.pth", "secret.py", "here/a.pth"):
        (tmp_path / name).write_text("def f():\n    pass\n")
    (here / "link.pth").symlink_to("../secret.pth")
    (here / "mine.py").write_text("import linked\n")
    (here / "linked.py").symlink_to("../secret.py")
    (here / "nets").mkdir()
    (here / "nets/__init__.py").symlink_to("../../secret.py")
    with pytest.raises(StudyError, match=r"is outside the study's folder.* allow it: --send .*/secret\.p"):
        pack(file, [])
    for allowed in ([tmp_path / "secret.pth", tmp_path / "secret.py"], [tmp_path]):
        assert pack(file, [], send=allowed).files


def test_every_file_that_travels_is_listed(tmp_path: Path) -> None:
    """Law: a line for each, with its place here; this package's own files are one line."""
    parcel = pack(scripted(tmp_path), [], ship_code=True)
    lines = parcel.lines()
    assert lines[0] == "study.yaml, overrides merged in"
    assert lines[1:-1] == [
        f"files/0/{name} from {tmp_path / name}"
        for name in ("loss.py", "mine.py", "nets/__init__.py", "nets/blocks.py")
    ]
    assert lines[-1].startswith("ray_unlearn/, ")
    assert parcel.lines() != pack(tmp_path / "study.yaml", []).lines()


def test_weights_that_are_null_stay_null(tmp_path: Path) -> None:
    """Law: `weights: null` next to a method travels as it is, not as an empty list."""
    file, overrides = write(tmp_path), ["populations.finetune.weights=null"]
    folder = pack(file, overrides).write(tmp_path / "parcels")
    assert load_study(folder / "study.yaml") == load_study(file, overrides)


REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "storage left out": ({"storage": None}, [], r"storage: \./studies is relative.*--set storage=s3://bucket/prefix"),
    "storage relative": ({"storage": "studies"}, [], r"study.yaml: storage: studies is relative"),
    "storage at home": ({"storage": "~/studies"}, [], r"storage: ~/studies is relative"),
    "storage overridden": ({}, ["storage=here"], r"storage: here is relative"),
    "storage in a job": ({"storage": "/tmp/ray/s/working_dir_files/p/x"}, [], r"temporary folder, which Ray deletes"),
    "train relative": ({"data": {"train": "faces/train.parquet"}}, [], r"data.train: faces/train.parquet is relative"),
    "one of many": ({"data": {"train": ["/a.parquet", "b.parquet"]}}, [], r"data.train: b.parquet is relative"),
    "test in full": ({"data": {"test": {"path": "b", "format": "folder"}}}, [], r"data.test: b is relative.*bucket/b"),
    "validation": ({}, ["data.validation=held"], r"data.validation: held is relative"),
    "ids missing": ({"data": {"forget": {"fraction": None, "ids": "f.csv"}}}, [], r"f.csv: no such file.*is sent with"),
    "script missing": ({"populations": {"m": {"method": "m.py:f"}}}, [], r"m.py: no such file; .*is sent with"),
    "weights missing": ({"populations": {"m": {"weights": "m.pth"}}}, [], r"m.pth: no such file"),
    "method unknown": ({"populations": {"m": {"method": "finetun"}}}, [], r"no method 'finetun' \(did you mean"),
    "option unknown": ({"populations": {"finetune": {"lrr": 1}}}, [], r"populations.finetune.lrr: unknown key"),
    "key unknown": ({"naem": 1}, [], r"naem: unknown key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_sent(tmp_path: Path, case: str) -> None:
    """Law: one StudyError that names key, value, and what to do."""
    changes, overrides, message = REFUSED[case]
    with pytest.raises(StudyError, match=message) as refused:
        pack(write(tmp_path, **changes), overrides)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_what_is_on_the_cluster_is_named_and_not_looked_for(tmp_path: Path) -> None:
    """Law: absolute paths that this machine does not have are the cluster's; nothing of them travels."""
    changes = {
        "data": {
            "train": "/mnt/train.parquet",
            "test": "s3://b/test.parquet",
            "forget": {"fraction": None, "ids": "/m.csv"},
        },
        "populations": {
            "m": {"method": "/mnt/m.py:f"},
            "original": {"method": None, "on": None, "weights": "/mnt/o.pth"},
        },
    }
    parcel = pack(write(tmp_path, **changes), [])
    assert parcel.files == {}
    assert all(name in parcel.text for name in ("/mnt/train.parquet", "/m.csv", "/mnt/m.py:f", "/mnt/o.pth"))


def test_too_much_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: beyond Ray's limit the largest file is named; 3 MiB of 2 allowed."""
    monkeypatch.setattr(parcels, "LIMIT_BYTES", 2 * 2**20)
    (tmp_path / "big.pth").write_bytes(bytes(3 * 2**20))
    file = write(tmp_path, populations={"original": {"method": None, "on": None, "weights": "big.pth"}})
    with pytest.raises(StudyError, match=r"tiny: 3 MiB would be sent, expected at most 2; .*big.pth \(3 MiB\)"):
        pack(file, [])


def test_a_module_that_is_not_python_is_refused(tmp_path: Path) -> None:
    """Law: the file is named."""
    file = scripted(tmp_path)
    (tmp_path / "loss.py").write_text("def")
    with pytest.raises(MethodError, match=r"loss.py: not Python that can be read"):
        pack(file, [])


def test_modules_are_found_once_however_they_are_imported(tmp_path: Path) -> None:
    """Law: `import a.b`, `from a import b`, inside functions, in circles; relative imports stay in their package."""
    scripted(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in script_modules(tmp_path / "mine.py")]
    assert sorted(found) == ["loss.py", "nets/__init__.py", "nets/blocks.py"]


def test_the_code_travels_when_asked(tmp_path: Path) -> None:
    """Law: --ship-code takes the package's files, bytecode and documents left out.

    It is 2.6 MB of text, 1.0 MB in a zip file, as Ray sends it; a data set or a build product would show.
    """
    parcel = pack(write(tmp_path), [], ship_code=True)
    assert {"ray_unlearn/__init__.py", "ray_unlearn/py.typed", "ray_unlearn/report/page.css"} <= set(parcel.files)
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in parcel.files)
    assert not any(name.endswith(".md") for name in parcel.files)
    assert parcel.size_bytes < 2_900_000


def names_of(file: Path, *overrides: str, **how: Any) -> str:
    return pack(file, list(overrides), **how).submission_id(1)


def test_the_name_is_the_study_and_what_it_states(tmp_path: Path) -> None:
    """Law: equal content has one name, wherever it is; what changes anything that travels, or the stage, another."""
    names = [names_of(scripted(tmp_path / "a"))]
    assert names_of(scripted(tmp_path / "b")) == names[0]
    study = scripted(tmp_path / "a")
    names.append(names_of(study, "populations.finetune.count=9"))
    names.append(names_of(study, "name=other"))
    names.append(names_of(study, stage="evaluate"))
    names.append(names_of(study, ship_code=True))
    (tmp_path / "a" / "loss.py").write_text("x = 1\n")
    names.append(names_of(study))
    assert len(set(names)) == len(names)
    assert [name[:-12] for name in names] == ["tiny", "tiny", "other", "tiny-evaluate", "tiny", "tiny"]
    assert all(name.endswith("-a1") and len(name.split("-")[-2]) == 8 for name in names)


@pytest.mark.parametrize(
    ("storage", "slashed"),
    [
        ("/mnt/studies", "/mnt/studies/"),
        ("s3://bucket/x", "s3://bucket/x//"),
        ("s3://bucket/x?region=eu", "s3://bucket/x/?region=eu"),
    ],
)
def test_a_slash_at_the_end_makes_no_other_job(tmp_path: Path, storage: str, slashed: str) -> None:
    """Law: one store has one name, in the digest and in what a rival is shown; a root stays one."""
    parcel, other = (pack(write(tmp_path), [f"storage={value}"]) for value in (storage, slashed))
    assert (other.submission_id(1), other.storage) == (parcel.submission_id(1), storage)
    assert pack(write(tmp_path), ["storage=/"]).storage == "/"
    assert pack(write(tmp_path), ["storage=file:///"]).storage == "file:///"


def test_a_folder_that_is_there_is_used_again(tmp_path: Path) -> None:
    """Law: writing twice changes nothing and leaves nothing else."""
    parcel = pack(scripted(tmp_path / "here"), [])
    first = parcel.write(tmp_path / "parcels")
    assert parcel.write(tmp_path / "parcels") == first
    assert [path.name for path in (tmp_path / "parcels").iterdir()] == [first.name] == [parcel.prefix[:-2]]


def test_old_parcels_go_but_for_the_newest_and_what_was_used_today(tmp_path: Path) -> None:
    """Law: next to twelve folders of the last day, which all stay, none of two days ago does; later, the nine newest
    stay next to the one just used. What a killed submission left goes after a day."""
    parent, file = tmp_path / "parcels", scripted(tmp_path / "here")
    first = pack(file, []).write(parent)
    days = {f"old-{i:02d}": 2 + i / 100 for i in range(15)} | {f"today-{i:02d}": 0.5 for i in range(12)}
    for name, age in {**days, ".new-killed": 1.1, ".new-now": 0.1}.items():
        (parent / name / "files").mkdir(parents=True)
        os.utime(parent / name, (time.time() - 86_400 * age,) * 2)
    os.utime(first, (time.time() - 86_400 * 9,) * 2)
    assert pack(file, []).write(parent) == first
    left = {path.name for path in parent.iterdir()}
    assert left == {first.name, *(name for name in days if name.startswith("today")), ".new-now"}
    for name in sorted(name for name in left if name.startswith("today")):
        os.utime(parent / name, (time.time() - 86_400 * 3,) * 2)
    pack(file, []).write(parent)
    assert len([path for path in parent.iterdir() if path.name.startswith("today")]) == folder_cache.KEPT - 1


def test_a_parcel_does_not_change_the_study_it_packs(tmp_path: Path) -> None:
    """Law: packing reads; the file here stays as it is."""
    file = scripted(tmp_path)
    before = copy.deepcopy(file.read_bytes())
    parcel = pack(file, [])
    assert isinstance(parcel, Parcel)
    assert json.loads(parcel.text.partition("\n")[2])["name"] == "tiny"
    assert file.read_bytes() == before


def test_a_folder_goes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: a process that is stopped while old folders go leaves none under its name with some of its files."""
    monkeypatch.setattr(folder_cache, "KEPT", 1)
    for name in ("old", "older"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))

    def stopped(path: Path, **_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_cache.shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        folder_cache.sweep(tmp_path)
    assert sorted(path.name.startswith(".old-") for path in tmp_path.iterdir()) == [False, True]
