"""Stores of every format that there was: read as they are, continued, never made anew, and refused where damaged.

`stores/format-N.zip` are small stores (`stores/make.py`), each made by the first version of its format and committed
for good: a change that cannot read one of them breaks the promise that stores outlive the version that wrote them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyarrow as pa
import pytest

import ray_unlearn
from ray_unlearn.cli import main
from ray_unlearn.data.integrity import damaged
from ray_unlearn.data.prepare import read_manifest
from ray_unlearn.errors import NewerFormat
from ray_unlearn.evaluation.evaluate import read_scores
from ray_unlearn.evaluation.outputs import decode_outputs
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.arrow import ipc_bytes
from ray_unlearn.store.events import EventReader
from ray_unlearn.store.formats import FORMATS
from ray_unlearn.store.reading import decode
from ray_unlearn.store.splits import read_image_names

STORES = sorted((Path(__file__).parent / "stores").glob("format-*.zip"))
RUNS = {"original": 1, "retrained": 3, "finetune": 2, "mine": 1}


@pytest.fixture(params=STORES, ids=lambda path: path.stem)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A user's folder with a store of one format."""
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path)
    return tmp_path


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    """A user's folder with a store of the newest format."""
    with zipfile.ZipFile(STORES[-1]) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def said(folder: Path, command: str, *arguments: str, code: int = 0, study: str = "study") -> str:
    """Run a subcommand; return what it prints."""
    backend = ("--backend", "inline") if command == "generate" else ()
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        found = main([command, str(folder / f"{study}.yaml"), *arguments, *backend])
    assert found == code, printed.getvalue()
    return printed.getvalue()


def store_of(folder: Path) -> StudyStore:
    return StudyStore(open_storage(str(folder / "store")), "kept")


def run_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of every run, and of every population.json."""
    kept = folder / "store" / "kept"
    files = [path for path in kept.glob("*/*/*") if path.parent.name.isdigit()] + list(kept.glob("*/population.json"))
    return {str(path.relative_to(kept)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_there_is_a_store_of_every_format():
    """Law: 1 up to the newest."""
    assert [path.stem for path in STORES] == [f"format-{n}" for n in range(1, max(FORMATS.values()) + 1)]
    assert sum(path.stat().st_size for path in STORES) < 200_000


def test_every_command_works_on_it(folder: Path):
    """Law: nothing is to do; every command reads the store; no file of a run changes."""
    before = run_files(folder)
    assert "nothing to do: all 7 runs" in said(folder, "generate")
    for name, runs in RUNS.items():
        assert re.search(rf"^{name} .* {runs} +{runs} ", said(folder, "status"), re.MULTILINE)
    assert "verified 8 runs, 16 files" in said(folder, "verify")
    assert "population  N  score" in said(folder, "evaluate")
    page = folder / "page.html"
    said(folder, "report", "--output", str(page))
    assert "finetune" in page.read_text()
    said(folder, "export", str(folder / "a.zip"), "--population", "finetune")
    assert zipfile.ZipFile(folder / "a.zip").namelist() == [f"unlearned_checkpoint_{i}.pth" for i in range(2)]
    assert run_files(folder) == before


def test_its_population_grows(folder: Path):
    """Law: a raised count makes the runs that are missing and no other; the old ones stay byte for byte."""
    before = run_files(folder)
    more = ("--set", "populations.finetune.count=3", "--set", "populations.mine.count=2")
    assert "made 2 runs" in said(folder, "generate", *more)
    after = run_files(folder)
    assert {name: after[name] for name in before} == before
    assert {name.rpartition("/")[0] for name in after.keys() - before.keys()} == {"finetune/00002", "mine/00001"}
    assert "verified 10 runs, 20 files" in said(folder, "verify")


def test_what_was_reported_of_it_is_read(folder: Path):
    """Law: scores, splits, failures, events, decoded images and compacted records of each format are read."""
    store = store_of(folder)
    assert list(read_scores(store).populations) == list(RUNS)
    splits = str((store.held("finetune") or {})["identity"]["data"]["splits"])
    assert {name: len(ids) for name, ids in read_image_names(store, splits).ids.items()} == {
        "retain": 32,
        "forget": 6,
        "test": 10,
    }
    assert store.failures("fails")[0].error == "ValueError: on purpose (fails.py:2)"
    assert [events[-1]["event"] for events in EventReader(store).logs().values()] == ["ended"] * 3
    (images,) = store.storage.folders("data-cache")
    manifest = read_manifest(store.storage, f"data-cache/{images}")
    assert manifest is not None
    assert (manifest.num_images, damaged(store.storage)) == (48, [])
    for name, runs in RUNS.items():
        copies = decode(store.storage.read(store.layout.compacted(name)))
        assert {record.index: record for _, record in copies.values()} == store.made(name)
        assert len(copies) == runs
    study = store.study()
    assert study is not None
    assert list(study.populations) == list(RUNS)


def test_a_script_with_a_helper(folder: Path):
    """Law: 0.1.0 did not record a script's modules, so its runs are refused in words; later formats go on."""
    if "modules" in str(store_of(folder).held("helped")):
        assert "nothing to do" in said(folder, "generate", study="helped")
        return
    before = run_files(folder)
    told = said(folder, "generate", study="helped", code=1)
    assert 'method.modules: (absent) -> {"helper.py":"' in told
    assert "version 0.1.0 did not record the modules that a script imports from its folder" in told
    assert "It was made by ray-unlearn 0.1.0 or earlier.\nGive the population or the study another name" in told
    assert run_files(folder) == before


# Damage and later versions


def truncate(text: str) -> str:
    return text[: len(text) // 2]


def edit(text: str) -> str:
    return re.sub(r'"forget_accuracy": ?[0-9.]+', '"forget_accuracy": 0.99', text, count=1)


def age(text: str) -> str:
    """Return a record as a version of a later format would write it."""
    return re.sub(r"\A\{\s*", '{"format": 99, ', text).replace('"ray-unlearn": "', '"ray-unlearn": "9')


BAD = {
    "truncated": (truncate, r"finetune/00001/record\.json: not JSON .*`ray-unlearn verify \S+/study\.yaml --repair`"),
    "edited": (edit, r"finetune/00001/record\.json: changed since .*`ray-unlearn verify \S+/study\.yaml --repair`"),
    "newer": (age, r"finetune/00001/record\.json: format 99 of a record file, written by ray-unlearn 9.*upgrade"),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "generate": (),
    "status": (),
    "evaluate": (),
    "report": (),
    "export": ("a.zip", "--population", "finetune"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_record_is_an_error_everywhere(newest: Path, how: str):
    """Law: truncated, edited or newer: each command is one error with exit code 1, and nothing is made again."""
    change, expected = BAD[how]
    record = newest / "store" / "kept" / "finetune" / "00001" / "record.json"
    text = record.read_text()
    text = text if '"format"' not in text or how != "newer" else re.sub(r'"format": ?\d+,\s*', "", text, count=1)
    record.write_text(change(text))
    before = run_files(newest)
    for command, arguments in COMMANDS.items():
        at = tuple(str(newest / one) if one.endswith(".zip") else one for one in arguments)
        lines = said(newest, command, *at, code=1).strip().splitlines()
        assert re.search(expected, lines[-1]), command
    assert run_files(newest) == before
    if how == "newer":
        assert re.search(expected, said(newest, "verify", "--repair", code=1))
        assert run_files(newest) == before
        return
    assert "finetune/00001/record.json: cannot be read as a record, or was changed" in said(newest, "verify", code=1)
    assert "repaired: 1 run pending again" in said(newest, "verify", "--repair")
    assert "made 1 run" in said(newest, "generate")
    assert "verified 8 runs" in said(newest, "verify")


def test_other_files_of_a_later_format_are_refused_by_name(newest: Path):
    """Law: each kind of file that is read again is refused where a later format wrote it; a cache is not."""
    store = store_of(newest)
    splits = str((store.held("finetune") or {})["identity"]["data"]["splits"])
    (images,) = store.storage.folders("data-cache")
    (log, *_) = store.storage.sizes(store.layout.events_folder)
    readers: dict[str, Callable[[], object]] = {
        store.layout.population_json("finetune"): lambda: store.held("finetune"),
        store.layout.study_json: store.study,
        store.layout.scores_json: lambda: read_scores(store),
        f"{store.layout.failures('fails')}/00000.json": lambda: store.failures("fails"),
        f"data-cache/{images}/manifest.json": lambda: read_manifest(store.storage, f"data-cache/{images}"),
        f"{store.layout.events_folder}/{log}": lambda: EventReader(store).logs(),
    }
    for name, read in readers.items():
        read()
        first, *rest = store.storage.read(name).decode().splitlines(keepends=True)
        whole = first if name.endswith(".jsonl") else "".join((first, *rest))
        later = json.dumps(json.loads(whole) | {"format": 99, "made_by": "9.9"})
        store.storage.publish_file(name, later.encode())
        with pytest.raises(NewerFormat, match=r"format 99 of a .* file, written by ray-unlearn .*: upgrade"):
            read()
    table = pa.ipc.open_file(pa.BufferReader(store.storage.read(store.layout.splits(splits)))).read_all()
    store.storage.publish_file(store.layout.splits(splits), as_arrow(table))
    with pytest.raises(NewerFormat, match=r"splits/.* format 99 of a splits file, written by ray-unlearn 9\.9"):
        read_image_names(store, splits)
    with pytest.raises(NewerFormat, match="a/outputs: format 99 of a outputs file"):
        decode_outputs(as_arrow(table), "a/outputs")


def as_arrow(table: pa.Table) -> bytes:
    """Return a table as a file of a later format."""
    table = table.replace_schema_metadata({"format": "99", "made_by": "9.9"})
    return ipc_bytes(table)


# A simulated later version


def later_version(folder: Path) -> Path:
    """Return a copy of this package with one more optional field in records and one more neutral option in finetune."""
    package = folder / "later" / "ray_unlearn"
    shutil.copytree(Path(ray_unlearn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    records = package / "store" / "records.py"
    text = records.read_text()
    added = text.replace("    attempt: int\n", '    attempt: int\n    later: str = ""\n', 1)
    assert added != text
    records.write_text(added)
    finetune = package / "methods" / "finetune.py"
    text = finetune.read_text()
    mark = "from typing import Annotated\nfrom ray_unlearn.study.identity import Since\n"
    added = re.sub(
        r'(class FinetuneOptions\(Recipe\):\n    """.*?"""\n)',
        r'\1\n    dropout: Annotated[float, Since("0.9", neutral=0.0)] = 0.0\n',
        text.replace("from __future__ import annotations\n", f"from __future__ import annotations\n{mark}", 1),
        count=1,
        flags=re.DOTALL,
    )
    assert "dropout" in added
    finetune.write_text(added)
    return package.parent


def by_later(later: Path, folder: Path, *commands: tuple[str, ...]) -> str:
    """Run commands of the later version, one after another in one process; return what they print."""
    code = (
        "import json, sys\nfrom ray_unlearn.cli import main\nfor one in json.loads(sys.argv[1]): assert main(one) == 0"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(later)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_later_version_has_nothing_to_do(tmp_path: Path):
    """Law: reproductions (a) and (c): with one more record field and one more neutral option, all runs are made.

    What it makes, this version reads: it knows neither, and reports nothing of either.
    """
    later, more = later_version(tmp_path), ("--set", "populations.finetune.count=3")
    before, commands = {}, []
    for store in STORES:
        folder = tmp_path / store.stem
        with zipfile.ZipFile(store) as archive:
            archive.extractall(folder)
        before[folder] = run_files(folder)
        generate = ("generate", f"{store.stem}/study.yaml", "--backend", "inline")
        commands += [generate, ("verify", f"{store.stem}/study.yaml"), (*generate, *more)]
    printed = by_later(later, tmp_path, *commands)
    of_each = r"nothing to do: all 7 runs.*verified 8 runs.*made 1 run "
    assert re.search(".*".join([of_each] * len(STORES)), printed, re.DOTALL)
    for folder, files in before.items():
        assert files.items() < run_files(folder).items()
        assert '"later"' in (folder / "store" / "kept" / "finetune" / "00002" / "record.json").read_text()
        assert "nothing to do: all 8 runs" in said(folder, "generate", *more)
        assert "verified 9 runs" in said(folder, "verify")


def test_a_damaged_study_json_is_mended_by_generate(newest: Path):
    """Law: what compares the study with it states that it is damaged; `generate` writes it again and makes nothing."""
    path = newest / "store" / "kept" / "study.json"
    whole = path.read_text()
    for text in ("{half", "[]", '{"name": 7}'):
        path.write_text(text)
        for command in ("status", "evaluate"):
            expected = r"study\.json: .*`ray-unlearn generate \S+/study\.yaml` writes it again$"
            assert re.search(expected, said(newest, command, code=1).strip().splitlines()[-1]), command
    assert "nothing to do" in said(newest, "generate")
    assert json.loads(path.read_text()).keys() == json.loads(whole).keys()


def test_keys_of_a_later_study_are_left_out(newest: Path):
    """Law: a study.json with keys that this version does not know, at any depth, is compared in those that it knows."""
    path = newest / "store" / "kept" / "study.json"
    content = json.loads(path.read_text())
    content["training"]["ema"] = 0.9
    content["data"]["train"]["revision"] = "main"
    content["later"] = {"a": [1]}
    path.write_text(json.dumps(content))
    assert "warning: made from another value" not in said(newest, "status")
    assert "training.lr: 0.01 -> 0.5" in said(newest, "status", "--set", "training.lr=0.5")
