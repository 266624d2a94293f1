"""Publishing: what is present is complete, on disks that rename and on object stores that do not."""

from __future__ import annotations

import datetime
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from ray_unlearn.errors import StoreError
from ray_unlearn.store import Storage, open_storage
from ray_unlearn.store import disk as module

PAYLOADS = {"model.safetensors": b"weights", "outputs.arrow": b"logits"}
RECORD = ("record.json", b"{}")
ADVICE = {
    errno.ENOSPC: "free some space there, then run the same command again",
    errno.EDQUOT: "free some space there, then run the same command again",
    errno.EACCES: "give this user the right to do it, or choose another storage",
    errno.EROFS: "it is mounted read-only: mount it writable, or choose another storage",
}
CUTS = ("fsync", "rename", "second file")


@pytest.fixture
def disk(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "disk"))


@pytest.fixture
def bucket() -> Storage:
    """An object store as far as `Storage` can see: not the local file system, nothing is renamed."""
    return Storage("s3://bucket/prefix", fs._MockFileSystem(datetime.datetime.now(datetime.UTC)), "bucket/prefix")


@pytest.fixture(params=["disk", "bucket"])
def storage(request: pytest.FixtureRequest) -> Storage:
    return request.getfixturevalue(request.param)


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """The process ends here: not an `Exception`, so that nothing tidies up that a kill would not let tidy up."""


def break_at(monkeypatch: pytest.MonkeyPatch, cut: str, error: BaseException) -> None:
    """Raise `error` at the first fsync, at the rename, or at the fsync of the second file."""
    calls = 0
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == (1 if cut == "fsync" else 2):
            raise error
        real(descriptor)

    def rename(self: Path, target: Path) -> None:
        raise error

    if cut == "rename":
        monkeypatch.setattr(Path, "rename", rename)
        monkeypatch.setattr(Path, "replace", rename)
    else:
        monkeypatch.setattr(os, "fsync", fsync)


def test_published_bytes_come_back(storage: Storage):
    """Law: read(publish(x)) is x; sizes, folders and existence agree."""
    assert not storage.exists("faces")
    assert (storage.sizes("faces"), storage.folders("faces")) == ({}, [])
    storage.publish_file("faces/study.json", b"12345")
    storage.publish_folder("faces/finetune/00007", PAYLOADS, RECORD)
    assert storage.read("faces/study.json") == b"12345"
    assert storage.sizes("faces") == {"study.json": 5}
    assert storage.folders("faces") == ["finetune"]
    assert storage.sizes("faces/finetune", recursive=True) == {
        "00007/model.safetensors": 7,
        "00007/outputs.arrow": 6,
        "00007/record.json": 2,
    }
    assert storage.exists("faces/finetune/00007/record.json")


def test_publish_file_replaces_the_old_one(storage: Storage):
    """Law: a second publish under the same name is what readers see."""
    storage.publish_file("a/b", b"old")
    storage.publish_file("a/b", b"new")
    assert storage.read("a/b") == b"new"
    assert storage.sizes("a") == {"b": 3}


def test_remove_takes_files_and_folders_and_is_idempotent(storage: Storage):
    """Law: after remove nothing is there, no matter what was."""
    storage.publish_folder("p/00000", PAYLOADS, RECORD)
    storage.remove("p/00000/record.json")
    assert storage.sizes("p/00000") == {"model.safetensors": 7, "outputs.arrow": 6}
    for _ in range(2):
        storage.remove("p/00000")
        assert storage.folders("p") == []


def test_read_of_a_missing_file_is_file_not_found(storage: Storage):
    """Law: absence is `FileNotFoundError`, so that callers can distinguish it from a broken store."""
    with pytest.raises(FileNotFoundError):
        storage.read("nowhere/record.json")


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))], ids=["killed", "full"])
def test_a_cut_off_folder_leaves_nothing_under_its_name(disk: Storage, tmp_path, monkeypatch, cut, error):
    """Law: no matter what happens before the rename, the final name does not exist, and no temporary file stays."""
    break_at(monkeypatch, cut, error)
    with pytest.raises((StoreError, Killed)):
        disk.publish_folder("p/00000", PAYLOADS, RECORD)
    assert not disk.exists("p/00000")
    assert everything_below(tmp_path) == []
    monkeypatch.undo()
    disk.publish_folder("p/00000", PAYLOADS, RECORD)
    assert disk.sizes("p/00000") == {"model.safetensors": 7, "outputs.arrow": 6, "record.json": 2}


@pytest.mark.parametrize("cut", ["fsync", "rename"])
def test_a_cut_off_file_leaves_the_old_one(disk: Storage, tmp_path, monkeypatch, cut):
    """Law: readers see the old bytes until they see the new ones."""
    disk.publish_file("study.json", b"old")
    break_at(monkeypatch, cut, Killed())
    with pytest.raises(Killed):
        disk.publish_file("study.json", b"new, and longer")
    assert disk.read("study.json") == b"old"
    assert everything_below(tmp_path / "disk") == ["study.json"]


@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_a_kill_between_payload_and_record_leaves_no_record(bucket: Storage, monkeypatch, survivors):
    """Law: on an object store the record's object is put after all payloads, so a kill before it leaves none."""
    real, puts = Storage._put, []

    def put(self: Storage, name: str, data: bytes) -> None:
        if len(puts) == survivors:
            raise Killed
        puts.append(name)
        real(self, name, data)

    monkeypatch.setattr(Storage, "_put", put)
    with pytest.raises(Killed):
        bucket.publish_folder("p/00000", PAYLOADS, RECORD)
    assert not bucket.exists("p/00000/record.json")
    assert len(bucket.sizes("p/00000")) == survivors
    monkeypatch.undo()
    bucket.publish_folder("p/00000", PAYLOADS, RECORD)
    assert bucket.read("p/00000/record.json") == b"{}"


def test_a_complete_folder_is_never_replaced(disk: Storage, tmp_path):
    """Law: the first stays; the second's bytes are dropped without a trace."""
    disk.publish_folder("p/00000", PAYLOADS, RECORD)
    before = (tmp_path / "disk/p/00000/model.safetensors").stat().st_mtime_ns
    disk.publish_folder("p/00000", {"model.safetensors": b"other"}, RECORD)
    assert disk.read("p/00000/model.safetensors") == b"weights"
    assert (tmp_path / "disk/p/00000/model.safetensors").stat().st_mtime_ns == before
    assert names(tmp_path / "disk/p") == ["00000"]


def test_an_incomplete_folder_is_replaced_whole(disk: Storage, tmp_path):
    """Law: a folder without its record (someone's interrupted copy) is not in the way, nor mix in."""
    half = tmp_path / "disk/p/00000"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"torn")
    (half / "stray").write_bytes(b"?")
    disk.publish_folder("p/00000", PAYLOADS, RECORD)
    assert disk.sizes("p/00000") == {"model.safetensors": 7, "outputs.arrow": 6, "record.json": 2}
    assert names(tmp_path / "disk/p") == ["00000"]


def dead_pid() -> int:
    """Return the number of a process that has ended, and been waited for."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_sweep_removes_what_dead_processes_of_this_machine_left(disk: Storage, tmp_path):
    """Law: dead pids' temporaries go; live ones', other machines' and finished runs stay."""
    folder = tmp_path / "disk/p"
    here, dead = socket.gethostname(), dead_pid()
    (folder / f".tmp-{here}-{dead}-aaaa").mkdir(parents=True)
    (folder / f".tmp-{here}-{dead}-aaaa/model.safetensors").write_bytes(b"half")
    (folder / f".tmp-{here}-{dead}-bbbb").write_bytes(b"half")
    kept = {f".tmp-{here}-{os.getpid()}-cccc", f".tmp-another.host-{dead}-dddd", "00000"}
    for name in kept:
        (folder / name).mkdir()
    assert disk.folders("p") == ["00000"]
    disk.sweep("p")
    assert set(names(folder)) == kept


def test_temporary_names_state_whose_they_are(disk: Storage, tmp_path, monkeypatch):
    """Law: what a killed writer leaves is exactly what `sweep` recognises."""
    seen = []
    monkeypatch.setattr(module, "_write_synced", lambda path, data: seen.append(path.parent.name))
    disk.publish_folder("p/00000", PAYLOADS, RECORD)
    assert seen[0].startswith(f".tmp-{socket.gethostname()}-{os.getpid()}-")
    left = tmp_path / "disk/p" / seen[0].replace(f"-{os.getpid()}-", f"-{dead_pid()}-")
    left.mkdir()
    disk.sweep("p")
    assert not left.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_refuses_is_one_line(disk: Storage, tmp_path, monkeypatch, number):
    """Law: full, forbidden, read-only: one line names the storage, the file and the reason; nothing is left."""
    break_at(monkeypatch, "fsync", OSError(number, os.strerror(number)))
    with pytest.raises(StoreError) as caught:
        disk.publish_file("faces/study.json", b"x")
    assert str(caught.value) == f"{disk.uri}: cannot write faces/study.json: {os.strerror(number)}; {ADVICE[number]}"
    assert everything_below(tmp_path) == []


def test_a_storage_that_is_a_file_is_one_line(tmp_path):
    """Law: a file where the folder must be is refused by every verb, not half-used."""
    (tmp_path / "disk").write_bytes(b"a file")
    storage = open_storage(str(tmp_path / "disk"))
    for verb, act in (
        ("write", lambda: storage.publish_file("a", b"x")),
        ("write", lambda: storage.publish_folder("a", PAYLOADS, RECORD)),
        ("read", lambda: storage.read("a")),
    ):
        with pytest.raises(StoreError, match=rf"disk: cannot {verb} a: .+") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert (tmp_path / "disk").read_bytes() == b"a file"


def test_an_object_stores_failure_is_one_line(bucket: Storage, monkeypatch):
    """Law: what pyarrow raises while writing becomes a StoreError, and the record is not there."""

    def refuse(self: Storage, name: str, data: bytes) -> None:
        raise OSError("AWS Error ACCESS_DENIED during PutObject\nrequest id 123")

    monkeypatch.setattr(Storage, "_put", refuse)
    with pytest.raises(StoreError) as caught:
        bucket.publish_folder("p/00000", PAYLOADS, RECORD)
    assert str(caught.value) == ("s3://bucket/prefix: cannot write p/00000: AWS Error ACCESS_DENIED during PutObject")


@pytest.mark.parametrize("uri", ["nosuch://bucket/prefix", "s4://x", "://"])
def test_an_unknown_scheme_is_refused(uri: str):
    """Law: a storage that pyarrow cannot open is refused by name."""
    with pytest.raises(StoreError, match="cannot be opened"):
        open_storage(uri)


def test_opening_creates_nothing(tmp_path):
    """Law: open_storage looks at no disk."""
    open_storage(str(tmp_path / "later")).exists("x")
    assert names(tmp_path) == []
