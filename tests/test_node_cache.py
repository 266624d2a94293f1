"""The cache of decoded shards on a node: one fetch, whole and checked, within a limit, nothing in use removed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_unlearn.data import node_cache
from ray_unlearn.data.node_cache import NodeCache, cache_folder
from ray_unlearn.errors import DataError, StoreError
from ray_unlearn.store.filesystem import open_storage

SHARD = {name: name.encode() * 1000 for name in "abcdef"}
SHA256 = {name: hashlib.sha256(data).hexdigest() for name, data in SHARD.items()}


def fetching(name: str, counts: Counter[str]) -> Callable[[Path], str]:
    """Return what fetches a shard, counting."""

    def fetch(path: Path) -> str:
        counts[name] += 1
        path.write_bytes(SHARD[name])
        return SHA256[name]

    return fetch


def get(cache: NodeCache, name: str, counts: Counter[str] | None = None) -> Path:
    """Ask for a shard of 1000 bytes."""
    return cache.get(SHA256[name], 1000, fetching(name, Counter() if counts is None else counts))


def names(cache: NodeCache) -> str:
    """Return which shards are there."""
    there = {path.stem for path in (cache.folder / "shards").glob("*.arrow")}
    return "".join(name for name, sha256 in SHA256.items() if sha256 in there)


@pytest.fixture
def cache(tmp_path) -> NodeCache:
    """Room for three shards."""
    return NodeCache(tmp_path / "cache", 3000)


def forget_leases(cache: NodeCache) -> None:
    """Make what this process uses look like a dead one's: no one holds its lease."""
    shutil.rmtree(cache.folder / "leases")
    node_cache._leases.pop(cache.folder)


def test_a_shard_is_fetched_once_for_every_study(cache):
    """Law: the name is the content's, so a second asker gets the same file and fetches nothing."""
    counts: Counter[str] = Counter()
    first, second = get(cache, "a", counts), get(cache, "a", counts)
    assert first == second
    assert first.read_bytes() == SHARD["a"]
    assert counts == {"a": 1}


def test_askers_at_once_fetch_once(cache):
    """Law: eight threads that ask for the same shard at the same time wait for one fetch."""
    counts: Counter[str] = Counter()
    fetch = fetching("a", counts)

    def slowly(path: Path) -> str:
        threading.Event().wait(0.1)  # the others ask meanwhile
        return fetch(path)

    threads = [threading.Thread(target=cache.get, args=(SHA256["a"], 1000, slowly)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {"a": 1}


@pytest.mark.parametrize("arrived", [SHA256["b"], ""])
def test_what_is_not_the_shard_is_refused_and_leaves_nothing(cache, arrived):
    """Law: a shard appears under its name only with its sha256."""

    def fetch(path: Path) -> str:
        path.write_bytes(SHARD["b"])
        return arrived

    with pytest.raises(DataError, match="not the shard"):
        cache.get(SHA256["a"], 1000, fetch)
    assert list((cache.folder / "shards").iterdir()) == []


def test_a_short_copy_is_fetched_again(cache):
    """Law: a file of another size than the shard's is no copy of it."""
    get(cache, "a").write_bytes(b"short")
    assert get(cache, "a").read_bytes() == SHARD["a"]


def test_what_was_asked_for_longest_ago_goes_first(cache):
    """Law: with room for three, a fourth takes the place of the one that was used least recently."""
    for age, name in enumerate("abc"):
        os.utime(get(cache, name), (age, age))
    get(cache, "a")  # used again
    forget_leases(cache)
    get(cache, "d")
    assert names(cache) == "acd"


def test_what_is_in_use_stays_and_a_full_cache_is_refused(cache, monkeypatch):
    """Law: a shard that a live process uses is never removed, however old; then there is no room, which is reported."""
    for name in "abc":
        get(cache, name)
    with pytest.raises(DataError, match=r"full of shards in use: .* raise RAY_UNLEARN_CACHE_GIB"):
        get(cache, "d")
    assert names(cache) == "abc"


_CHILD = """
import sys
from pathlib import Path
from ray_unlearn.data.node_cache import NodeCache
cache = NodeCache(Path(sys.argv[1]), 3000)
cache.get(sys.argv[2], 1000, None)
print("has it", flush=True)
sys.stdin.read()
"""


def test_another_process_keeps_its_shards_until_it_dies(cache):
    """Law: what a process uses stays while it lives, and may go once it was killed; no one else reports it."""
    for name in "abc":
        get(cache, name)
    command = [sys.executable, "-c", _CHILD, str(cache.folder), SHA256["a"]]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "has it\n"
        os.utime(cache.folder / "shards" / f"{SHA256['a']}.arrow", (0, 0))
        own = node_cache._leases.pop(cache.folder)
        own.unlink()  # ours goes; the child's stays
        get(cache, "d")
        assert "a" in names(cache)
    finally:
        child.kill()
        child.communicate()
    node_cache._leases.pop(cache.folder).unlink()
    get(cache, "e")
    get(cache, "f")
    assert "a" not in names(cache)


def test_a_dead_process_leaves_no_lock_and_no_part(cache):
    """Law: what was half fetched by a process that is gone is removed by the next one that fetches."""
    shards = cache.folder / "shards"
    shards.mkdir(parents=True)
    dead = shards / f"{SHA256['a']}.{os.getpid()}-0.part"  # of a process of our id, in a pod of its own
    dead.write_bytes(b"half")
    get(cache, "b")
    assert not dead.exists()


def test_a_part_that_is_being_fetched_stays(cache):
    """Law: who fetches another shard meanwhile sweeps no part that is locked, no matter what process ids it sees."""

    def fetch(path: Path) -> str:
        path.write_bytes(SHARD["a"][:500])
        get(NodeCache(cache.folder, 3000), "b")
        assert path.exists()
        path.write_bytes(SHARD["a"])
        return SHA256["a"]

    assert SHA256["a"][:2] != SHA256["b"][:2]  # else they would wait for one another
    assert cache.get(SHA256["a"], 1000, fetch).read_bytes() == SHARD["a"]


def test_what_was_just_fetched_is_not_evicted(cache, monkeypatch):
    """Law: who makes room between the fetch and the return finds the shard in use: a path that is returned is there."""
    fetch = NodeCache._fetch

    def then_full(self, *given):
        fetch(self, *given)
        NodeCache(cache.folder, 0)._free_space(0)

    monkeypatch.setattr(NodeCache, "_fetch", then_full)
    with pytest.raises(DataError, match="full of shards in use"):
        get(cache, "a")
    assert names(cache) == "a"


def test_a_cache_that_is_deleted_under_a_process_is_made_anew(cache):
    """Law: its lease goes with the folder; the next shard is fetched, and leased, as if it were the first."""
    get(cache, "a")
    shutil.rmtree(cache.folder)
    assert get(cache, "a").read_bytes() == SHARD["a"]
    assert cache._in_use() == {SHA256["a"]}


def test_a_full_disk_is_reported_before_anything_is_fetched(cache, monkeypatch):
    """Law: where the disk has no room for a shard, the line states which disk, and how to name another."""
    usage = shutil.disk_usage(cache.folder.parent)._replace(free=10)
    monkeypatch.setattr(node_cache.shutil, "disk_usage", lambda path: usage)
    counts: Counter[str] = Counter()
    with pytest.raises(DataError, match=r"no space for a decoded shard of 1,000 bytes, 10 are free.*RAY_UNLEARN_CACHE"):
        get(cache, "a", counts)
    assert not counts


def test_a_disk_that_fills_while_fetching_leaves_nothing(cache):
    """Law: a fetch that fails halfway leaves no part behind, and its reason is what the user sees."""

    def fetch(path: Path) -> str:
        path.write_bytes(b"half")
        raise StoreError(os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match="No space left"):
        cache.get(SHA256["a"], 1000, fetch)
    assert list((cache.folder / "shards").iterdir()) == []


def test_the_environment_of_a_node_comes_before_the_drivers_word(tmp_path, monkeypatch):
    """Law: folder and limit are each node's; `~` is the home of anyone who opens the cache, not of the driver."""
    monkeypatch.delenv("RAY_UNLEARN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert NodeCache.of(cache_folder()) == NodeCache(tmp_path / ".cache/ray_unlearn", 64 * 2**30)
    monkeypatch.setenv("RAY_UNLEARN_CACHE", "/scratch")
    monkeypatch.setenv("RAY_UNLEARN_CACHE_GIB", "0.5")
    assert NodeCache.of(Path("~/elsewhere")) == NodeCache(Path("/scratch"), 2**29)
    monkeypatch.setenv("RAY_UNLEARN_CACHE_GIB", "much")
    with pytest.raises(DataError, match="RAY_UNLEARN_CACHE_GIB: expected a number of GiB; found 'much'"):
        NodeCache.of(cache_folder())


def test_a_copy_comes_in_pieces_and_states_what_was_written(tmp_path, monkeypatch):
    """Law: a storage's file is copied piece by piece; the sha256 is that of all of them."""
    monkeypatch.setattr("ray_unlearn.store.filesystem._PIECE_BYTES", 300)
    storage = open_storage(str(tmp_path))
    storage.publish_file("a", SHARD["a"])
    assert storage.copy_to("a", tmp_path / "copy") == SHA256["a"]
    assert (tmp_path / "copy").read_bytes() == SHARD["a"]
    with pytest.raises(StoreError, match="cannot copy a"):
        storage.copy_to("a", tmp_path)
