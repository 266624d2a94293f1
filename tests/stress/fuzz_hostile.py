"""Kinds of fuzzing by someone who means it: shards that were damaged or poisoned, special files, bombs.

    attack = shard(Bench(root, template), rng)

Importing this registers an Arrow extension type that leaves a file when pyarrow wakes it, as some libraries' types
unpickle; the judge finds that file.

Does not cover: accidents (`fuzz_sources`, `fuzz_stores`).
"""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_bench import Attack, Bench
from fuzz_bytes import damaged, encoded
from fuzz_study import TREE

from ray_unlearn.store.arrow import ipc_bytes
from ray_unlearn.store.records import payload_of


class _Poison(pa.ExtensionType):  # type: ignore[misc]
    """Leaves a file `pwned` in the current folder when a file's schema states its name."""

    def __init__(self, storage: pa.DataType | None = None) -> None:
        super().__init__(storage or pa.binary(), "fuzz.poison")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "_Poison":
        Path("pwned").write_bytes(b"")
        return _Poison(storage_type)


pa.register_extension_type(_Poison())


def _poison(rng: Random, count: int, *, dictionaries: bool = True) -> pa.Array:
    """Return a column of the type, or one that hides it; Parquet takes no dictionaries of structs."""
    inner = pa.ExtensionArray.from_storage(_Poison(), pa.array([b"x"] * count))
    for _ in range(rng.choice((0, 1, 1, 2))):
        offsets = pa.array(range(count + 1), pa.int32())
        numbers = pa.array(range(count), pa.int32())
        what = rng.choice(("struct", "list", "dictionary" if dictionaries else "list"))
        if what == "list":
            inner = pa.ListArray.from_arrays(offsets, inner)
        else:
            inner = pa.StructArray.from_arrays([inner], ["a"])
            inner = pa.DictionaryArray.from_arrays(numbers, inner) if what == "dictionary" else inner
    return inner


def _poisoned(rng: Random, file: Path) -> bytes:
    """Return an Arrow file with a poisoned column, of its own or in place of another."""
    table = pa.ipc.open_file(pa.BufferReader(file.read_bytes())).read_all()
    column = _poison(rng, len(table))
    name = rng.choice((*table.column_names, "more"))
    if name == "more":
        table = table.append_column("more", column)
    else:
        table = table.set_column(table.column_names.index(name), name, column)
    return ipc_bytes(table)


def _agree(file: Path) -> None:
    """Let a shard's manifest state what the file is now."""
    manifest = file.parent / "manifest.json"
    found = json.loads(manifest.read_text())
    actual = payload_of(file.read_bytes())
    found["shards"] = [{**s, **actual.model_dump()} if s["name"] == file.name else s for s in found["shards"]]
    manifest.write_text(json.dumps(found))


def shard(bench: Bench, rng: Random) -> Attack:
    """Bring a finished study with a run to make, one of whose shards is damaged or poisoned."""
    study = bench.made()
    file = rng.choice(sorted(bench.here.glob("store/data-cache/*/*.arrow")))
    whole, what = file.read_bytes(), rng.random()
    if what < 0.4:
        file.write_bytes(damaged(rng, whole))
    elif what < 0.7:
        file.write_bytes(_poisoned(rng, file))
    else:
        pixels = bytearray(whole)
        start = rng.randrange(len(pixels) - 600)
        pixels[start : start + 600] = bytes(value ^ 0x10 for value in pixels[start : start + 600])
        file.write_bytes(pixels)
    trusted = rng.random() < 0.3
    if trusted:
        _agree(file)
    elif file.stat().st_size == len(whole) and file.read_bytes() != whole:  # another size is decoded anew
        shutil.rmtree(bench.store / "finetune/00001", ignore_errors=True)
        return Attack([["generate", study, "--backend", "inline"]], refused=True)
    repaired = [["verify", study, "--repair"], ["generate", study, "--backend", "inline"]]
    return Attack(rng.choice(([["generate", study, "--backend", "inline"]], [["verify", study]], repaired)))


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _compressed(file: Path) -> None:
    file.write_bytes(gzip.compress(b"image_id\n" + b"," * 10**7))


def _sparse(file: Path) -> None:
    with file.open("wb") as held:
        held.truncate(2**40)


def special(bench: Bench, rng: Random) -> Attack:
    """Put a pipe, a device, a terabyte of nothing, or a compressed file where an image, CSV, Parquet or weights are."""
    make: Callable[[Path], None] = rng.choice((_pipe, _device, _device, _compressed, _sparse))
    prepare = ["prepare", "study.yaml", "--backend", "inline"]
    skip = rng.choice(("refuse", "skip"))
    for i in range(12):
        bench.write(f"faces/{'ab'[i % 2]}/{i}.png", encoded("PNG", 8))
        bench.write(f"images/f/{i}.png", encoded("PNG", 8))
    for name, numbers in {"retain": range(6), "forget": range(6, 9), "validation": range(9, 12)}.items():
        rows = [f"f-{i},{i % 2},30,p{i}" for i in numbers]
        bench.write(f"{name}.csv", "\n".join(["image_id,age_group,age,person_id", *rows]).encode())
    place = rng.choice(("faces/a/0.png", "images/f/1.png", "forget.csv", "ids.csv", "t.parquet", "w.pth"))
    (bench.here / place).unlink(missing_ok=True)
    make(bench.here / place)
    if place == "w.pth":
        tree = {**TREE, "populations": {**TREE["populations"], "original": {"weights": place}}}
        return Attack([["open", bench.study_of(tree)]])
    if place in ("t.parquet", "faces/a/0.png"):
        bench.study(train=place.partition("/")[0], on_bad_image=skip)
    else:
        forget = {"ids": "ids.csv"} if place == "ids.csv" else {"given": True}
        bench.study(train=".", validation="given", forget=forget, on_bad_image=skip)
    return Attack([prepare])


def bomb(bench: Bench, rng: Random) -> Attack:
    """Write Parquet that repeats one value, names a million classes or hides a type; YAML that merges without end."""
    file, what = bench.here / "t.parquet", rng.choice(("repeated", "classes", "labels", "merges", "poison"))
    count = 40
    columns = {"image": pa.array([encoded("PNG", 8)] * count), "label": pa.array([i % 2 for i in range(count)])}
    names = ["a", "b"]
    if what == "repeated":
        column = rng.choice(("image", "label"))
        value = rng.choice((b"\0" * 40_000_000, b"x" * 5_000_000))
        values = pa.array([value if column == "image" else "x" * len(value)])
        columns[column] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), values)
    elif what == "classes":
        names = [str(i) for i in range(1_000_000)]
    elif what == "labels":
        columns["label"] = pa.array([rng.choice((0, 1, 2**31 - 2, 10**6)) for _ in range(count)])
    elif what == "poison":
        columns[rng.choice(("image", "label", "more"))] = _poison(rng, count, dictionaries=False)
    elif what == "merges":
        keys = ", ".join(f"k{i}: 1" for i in range(1000))
        text = f"name: x\nz: &a {{{keys}}}\ny: {{<<: [{', '.join(['*a'] * 1000)}]}}"
        return Attack([["status", str(bench.write("study.yaml", text.encode()))]])
    table = pa.table(columns)
    if what != "labels":
        features = {"info": {"features": {"label": {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, file, compression=rng.choice(("zstd", "none")))
    return Attack([["prepare", bench.study(train="t.parquet"), "--backend", "inline"]])
