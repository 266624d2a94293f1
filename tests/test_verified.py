"""A damaged shard is refused no matter which process maps it, and a shard that was found whole is not read again
without need.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, merged, payload_bytes

from ray_unlearn.cli import main
from ray_unlearn.data import verified
from ray_unlearn.data.prepare import MANIFEST
from ray_unlearn.data.verified import sha256_of
from ray_unlearn.errors import DataError, RayUnlearnError
from ray_unlearn.generation import generate
from ray_unlearn.store.records import parse_record


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read for their sha256, in order."""
    found: list[str] = []
    real = hashlib.file_digest

    def counted(file, name):
        found.append(Path(file.name).name)
        return real(file, name)

    monkeypatch.setattr(verified.hashlib, "file_digest", counted)
    return found


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A file whose last change is five seconds old, as the kernel reports."""
    path = tmp_path / "a.arrow"
    path.write_bytes(b"whole" * 1000)
    return path


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process has found."""
    monkeypatch.setattr(verified, "_whole", set())


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file's last change be far enough in the past to be marked."""
    monkeypatch.setattr(verified, "_SETTLED_NS", -(10**9))


def test_a_file_is_read_once_per_process(shard: Path, tmp_path: Path, reads):
    """Law: the same file is read once; another content, were it of the same size, is read again and reported."""
    expected = hashlib.sha256(shard.read_bytes()).hexdigest()
    assert [sha256_of(shard, expected, tmp_path / "cache") for _ in range(3)] == [expected] * 3
    assert len(reads) == 1
    time.sleep(0.01)
    shard.write_bytes(b"wHole" * 1000)
    assert sha256_of(shard, expected, tmp_path / "cache") == hashlib.sha256(b"wHole" * 1000).hexdigest()
    assert len(reads) == 2


def test_a_mark_spares_the_next_process(shard: Path, tmp_path: Path, reads, monkeypatch):
    """Law: found whole by one process, a file is not read by the next; a file that just changed is."""
    expected = hashlib.sha256(shard.read_bytes()).hexdigest()
    sha256_of(shard, expected, tmp_path / "cache")
    another_process(monkeypatch)
    sha256_of(shard, expected, tmp_path / "cache")
    assert len(reads) == 2  # it was written a moment ago: no mark
    settled(monkeypatch)
    for _ in range(3):
        another_process(monkeypatch)
        sha256_of(shard, expected, tmp_path / "cache")
    assert len(reads) == 3


def touch(path: Path) -> None:
    info = path.stat()
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))  # the old time of change; the inode's own shows it


def overwrite(path: Path) -> None:
    info, data = path.stat(), bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def copy(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


@pytest.mark.parametrize("change", [touch, overwrite, copy])
def test_a_mark_is_for_one_file_as_it_was(change, shard: Path, tmp_path: Path, reads, monkeypatch):
    """Law: a file that was written with its old time set again, copied or replaced is read again."""
    settled(monkeypatch)
    expected = hashlib.sha256(shard.read_bytes()).hexdigest()
    sha256_of(shard, expected, tmp_path / "cache")
    another_process(monkeypatch)
    time.sleep(0.01)
    change(shard)
    assert (sha256_of(shard, expected, tmp_path / "cache") == expected) is (change is not overwrite)
    assert len(reads) == 2


def test_a_mark_ends(shard: Path, tmp_path: Path, reads, monkeypatch):
    """Law: a mark counts for a day, for this start of the machine, and only where none but its owner can write it."""
    settled(monkeypatch)
    expected = hashlib.sha256(shard.read_bytes()).hexdigest()
    sha256_of(shard, expected, tmp_path / "cache")
    (mark,) = tmp_path.glob(f"cache/verified/*/{expected}-*")

    def again() -> int:
        another_process(monkeypatch)
        before = len(reads)
        sha256_of(shard, expected, tmp_path / "cache")
        return len(reads) - before

    assert again() == 0
    os.utime(mark, (time.time() - 25 * 3600,) * 2)
    assert [again(), again()] == [1, 0]
    mark.chmod(0o622)
    assert [again(), again()] == [1, 0]
    mark.write_text(mark.read_text()[:-20])
    assert [again(), again()] == [1, 0]
    boot = tmp_path / "boot"
    boot.write_text("another-start\n")
    monkeypatch.setattr(verified, "_BOOT", boot)
    assert [again(), again()] == [1, 0]


def test_no_place_for_marks_is_no_error(shard: Path, tmp_path: Path, reads, monkeypatch):
    """Law: where a mark cannot be kept, the file is read."""
    settled(monkeypatch)
    expected = hashlib.sha256(shard.read_bytes()).hexdigest()
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        another_process(monkeypatch)
        assert sha256_of(shard, expected, tmp_path / "file") == expected
    assert len(reads) == 2


def flip(folder: Path, count: int = 600) -> Path:
    """Flip bits of pixels in the largest shard; its size and times of change stay."""
    file = max(folder.glob("data-cache/*/*.arrow"), key=lambda path: path.stat().st_size)
    info, data = file.stat(), bytearray(file.read_bytes())
    for place in range(20_000, 20_000 + count):
        data[place] ^= 0x10
    file.write_bytes(data)
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    return file


def made_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make tiny.yaml in this folder, from now on the current one; return its payloads."""
    monkeypatch.chdir(folder)
    Path("tiny.yaml").write_text(json.dumps(merged(TINY, {"storage": "store"})))
    assert main(["generate", "tiny.yaml", "--backend", "inline"]) == 0
    return payload_bytes(folder / "store/tiny")


def test_damaged_shards_make_no_run(tmp_path: Path, capsys, monkeypatch):
    """Law: 600 flipped bytes: `generate` makes nothing, names shard and command; repaired, all bytes are as before."""
    whole = made_in(tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "store/tiny/finetune/00001")
    file = flip(tmp_path / "store")
    capsys.readouterr()
    assert main(["generate", "tiny.yaml", "--backend", "inline"]) == 1
    error = capsys.readouterr().err
    assert f"error: {file}: a shard of decoded images is damaged: expected sha256 " in error
    assert "; run `ray-unlearn verify tiny.yaml --repair` for the study" in error
    assert not (tmp_path / "store/tiny/finetune/00001").exists()

    assert main(["verify", "tiny.yaml"]) == 1
    assert f"{file.name}: expected " in capsys.readouterr().out
    assert main(["verify", "tiny.yaml", "--repair"]) == 0
    said = capsys.readouterr().out
    assert "repaired: 0 runs pending again and 1 source to decode again" in said
    assert "unknown: whether" not in said
    assert main(["generate", "tiny.yaml", "--backend", "inline"]) == 0
    assert payload_bytes(tmp_path / "store/tiny") == whole
    assert main(["verify", "tiny.yaml"]) == 0


def test_a_worker_refuses_what_the_driver_saw_whole(tiny, monkeypatch):
    """Law: damage after the driver looked and before a worker maps is found by the worker."""
    from ray_unlearn.run.worker import Worker

    study = tiny()
    real, flipped = Worker.open, []

    def damaged_before(self):
        flipped.append(flipped or flip(Path(study.storage)))  # once, no matter which worker tries again
        return real(self)

    monkeypatch.setattr(Worker, "open", damaged_before)
    with pytest.raises(RayUnlearnError, match="a shard of decoded images is damaged"):
        generate(study, backend="inline")


def test_runs_made_from_other_shards_are_pending_again(tmp_path: Path, capsys, monkeypatch):
    """Law: shard and manifest changed together deceive `generate`; when they are repaired, runs made from them go."""
    whole = made_in(tmp_path, monkeypatch)
    file = flip(tmp_path / "store", 200_000)
    manifest = file.parent / MANIFEST
    good = manifest.read_text()
    bad = json.loads(good)
    bad["shards"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(bad))
    for index in (1, 2):
        shutil.rmtree(tmp_path / f"store/tiny/finetune/{index:05d}")
    assert main(["generate", "tiny.yaml", "--backend", "inline"]) == 0
    assert payload_bytes(tmp_path / "store/tiny") != whole
    manifest.write_text(good)
    capsys.readouterr()
    assert main(["verify", "tiny.yaml", "--repair"]) == 0
    said = capsys.readouterr().out
    folder = f"data-cache/{file.parent.name}"
    for index in (1, 2):
        assert (
            f"bad: finetune/{index:05d}/record.json: was made from other shards of {folder} than its manifest" in said
        )
    assert "finetune/00000/" not in said
    assert "repaired: 2 runs pending again" in said
    assert main(["generate", "tiny.yaml", "--backend", "inline"]) == 0
    assert payload_bytes(tmp_path / "store/tiny") == whole


def test_records_state_what_was_read_and_old_ones_that_they_do_not(tmp_path: Path, capsys, monkeypatch):
    """Law: a record names each source's folder; of records without, `--repair` states what it cannot know."""
    made_in(tmp_path, monkeypatch)
    folders = {f"data-cache/{path.name}" for path in (tmp_path / "store/data-cache").iterdir()}
    for path in sorted((tmp_path / "store/tiny").glob("*/*/record.json")):
        record = parse_record(path.read_bytes(), str(path))
        assert set(record.shards) == folders
        if record.index < 2:
            path.write_text(record.model_copy(update={"shards": {}}).sealed().model_dump_json())
    flip(tmp_path / "store")
    capsys.readouterr()
    assert main(["verify", "tiny.yaml", "--repair"]) == 0
    said = capsys.readouterr().out
    assert "unknown: whether 3 runs of version 0.1, such as finetune/00000, read the damaged images" in said
    assert "remove its folder and generate" in said


def test_a_nodes_damaged_copy_is_fetched_again(tmp_path: Path):
    """Law: a copy of a remote shard is replaced; only a storage that is damaged itself is refused."""
    from pyarrow import fs
    from samples import write_parquet

    from ray_unlearn.data.parquet import open_parquet
    from ray_unlearn.data.prepare import prepare_source
    from ray_unlearn.store import Storage
    from ray_unlearn.study.schema import Columns

    there = Storage("mock://", fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem()), ".")
    (tmp_path / "there").mkdir()
    source = open_parquet((str(write_parquet(tmp_path / "f.parquet", [0, 1])),), Columns())
    prepared = prepare_source(source, there, image_size=8)
    (first,) = prepared.map(tmp_path / "cache")
    (copy,) = tmp_path.glob("cache/shards/*.arrow")
    damaged = bytearray(copy.read_bytes())
    damaged[500] ^= 1
    time.sleep(0.01)
    copy.unlink()
    copy.write_bytes(damaged)
    (second,) = prepared.map(tmp_path / "cache")
    assert np.array_equal(second.pixels_NHWC, first.pixels_NHWC)
    assert copy.read_bytes() != bytes(damaged)

    (original,) = (tmp_path / "there").glob("data-cache/*/*.arrow")
    original.write_bytes(damaged)
    copy.unlink()
    copy.write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        prepared.map(tmp_path / "cache")
