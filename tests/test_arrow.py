"""No extension type of a file comes alive, no matter what is registered and wherever in a file it hides."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import encoded, picture

from ray_unlearn.data.parquet import open_parquet
from ray_unlearn.data.shards import Example, encode_shard, map_shard, read_columns
from ray_unlearn.errors import DataError, StoreError
from ray_unlearn.evaluation.outputs import decode_outputs
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.arrow import ipc_bytes, open_parquet_file, parquet_extension_types, read_table
from ray_unlearn.store.splits import read_image_names
from ray_unlearn.study.schema import Columns

awake: list[str] = []
"""Which method of the registered type was called."""


class Bites(pa.ExtensionType):
    """What a library may register: every way in which pyarrow calls it is noted."""

    def __init__(self, storage: pa.DataType | None = None) -> None:
        super().__init__(storage or pa.binary(), "stranger.bites")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Bites:
        awake.append("deserialize")
        return Bites(storage_type)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The type is known to pyarrow while a test runs, and no one woke it when it ends."""
    pa.register_extension_type(Bites())
    awake.clear()
    yield
    pa.unregister_extension_type("stranger.bites")


def bites(count: int) -> pa.Array:
    return pa.ExtensionArray.from_storage(Bites(), pa.array([b"x"] * count))


def hidden(where: str, count: int = 2) -> pa.Array:
    """Return a column of so many rows that is of the type, or holds it."""
    inner = bites(count)
    index = pa.array(range(count), pa.int32())
    offsets = pa.array(range(count + 1), pa.int32())
    return {
        "column": lambda: inner,
        "struct": lambda: pa.StructArray.from_arrays([inner], ["a"]),
        "list": lambda: pa.ListArray.from_arrays(offsets, inner),
        "list of structs": lambda: pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([inner], ["a"])),
        "dictionary of structs": lambda: pa.DictionaryArray.from_arrays(
            index, pa.StructArray.from_arrays([inner], ["a"])
        ),
        "map": lambda: pa.MapArray.from_arrays(offsets, pa.array([str(i) for i in range(count)]), inner),
        "type of a dictionary": lambda: pa.ExtensionArray.from_storage(
            Bites(pa.dictionary(pa.int32(), pa.string())), pa.array(["x"] * count).dictionary_encode()
        ),
    }[where]()


PLACES = ("column", "struct", "list", "list of structs", "dictionary of structs", "map", "type of a dictionary")


def ipc(table: pa.Table) -> bytes:
    data = ipc_bytes(table)
    awake.clear()
    return data


def test_pyarrow_itself_wakes_the_type():
    """The tests below can fail: to open a file is enough, no column need be read."""
    data = ipc(pa.table({"a": bites(1)}))
    pa.ipc.open_file(pa.BufferReader(data))
    assert awake
    awake.clear()
    pq.write_table(pa.table({"a": bites(1)}), sink := io.BytesIO())
    awake.clear()
    pq.read_metadata(sink)
    assert awake


@pytest.mark.parametrize("where", PLACES)
def test_an_arrow_file_of_a_strangers_type_is_refused_asleep(where: str):
    """Law: the column and the type are named; no method of the type's class is called."""
    data = ipc(pa.table({"label": [0, 1], "poison": hidden(where)}))
    with pytest.raises(ValueError, match=r"column 'poison' is of extension type 'stranger\.bites'; expected plain"):
        read_table(data)
    assert awake == []


def shard_with(column: pa.Array) -> bytes:
    """Return a shard with one more column."""
    shard = encode_shard([Example(picture(i), i, f"i{i}", "", 0.0, "") for i in range(len(column))])
    table = pa.ipc.open_file(pa.BufferReader(shard)).read_all()
    return ipc(table.append_column("poison", column))


@pytest.mark.parametrize("where", PLACES)
def test_a_poisoned_shard_is_refused_asleep(where: str, tmp_path: Path):
    """Law: mapped from a disk, or read without its pixels, it is one line with the shard."""
    data = shard_with(hidden(where))
    (tmp_path / "s.arrow").write_bytes(data)
    with pytest.raises(DataError, match=r"s\.arrow: not a readable shard \(column 'poison' is of extension type"):
        map_shard(str(tmp_path / "s.arrow"))
    with pa.BufferReader(data) as file, pytest.raises(DataError, match="column 'poison' is of extension type"):
        read_columns(file, size_bytes=len(data), rows=2, where="s")
    assert awake == []


def test_a_type_in_place_of_a_shards_own_column_is_refused_asleep(tmp_path: Path):
    """Law: the same for the columns that everybody reads: image ids, and the pixels themselves."""
    table = pa.ipc.open_file(pa.BufferReader(shard_with(pa.array([1, 2])))).read_all().drop_columns(["poison"])
    for name in ("image", "image_id"):
        data = ipc(table.set_column(table.column_names.index(name), name, bites(2)))
        (tmp_path / "s.arrow").write_bytes(data)
        with pytest.raises(DataError, match=f"column '{name}' is of extension type 'stranger.bites'"):
            map_shard(str(tmp_path / "s.arrow"))
    data = ipc(table.set_column(table.column_names.index("image_id"), "image_id", bites(2)))
    with pa.BufferReader(data) as file, pytest.raises(DataError, match="column 'image_id' is of extension type"):
        read_columns(file, size_bytes=len(data), rows=2, where="s")
    assert awake == []


def test_pixels_stay_views_of_the_mapped_file(tmp_path: Path):
    """Law: a mapped shard copies no pixel, and they are those that were written."""
    images = [picture(i) for i in range(5)]
    (tmp_path / "s.arrow").write_bytes(encode_shard([Example(p, 0, str(i), "", 0.0, "") for i, p in enumerate(images)]))
    before = pa.total_allocated_bytes()
    shard = map_shard(str(tmp_path / "s.arrow"))
    assert np.array_equal(shard.pixels_NHWC, np.stack(images))
    assert pa.total_allocated_bytes() - before < shard.pixels_NHWC.nbytes
    assert not shard.pixels_NHWC.flags.owndata
    maps = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if "s.arrow" in line
    ]
    place = shard.pixels_NHWC.ctypes.data
    assert any(int(start, 16) <= place < int(end, 16) for start, end in maps)


def test_outputs_and_splits_of_a_strangers_type_are_refused_asleep(tmp_path: Path):
    """Law: what `evaluate` and `report` read, too."""
    data = ipc(pa.table({"split": bites(1), "position": [0], "label": [0], "logits": [[0.0]]}))
    with pytest.raises(ValueError, match="column 'split' is of extension type"):
        decode_outputs(data)
    store = StudyStore(open_storage(str(tmp_path)), "s")
    store.storage.publish_file(store.layout.splits("a" * 64), ipc(pa.table({"split": ["x"], "image_id": bites(1)})))
    with pytest.raises(StoreError, match=r"is damaged"):
        read_image_names(store, "a" * 64)
    assert awake == []


@pytest.mark.parametrize("where", [place for place in PLACES if "dictionary" not in place])
def test_parquet_of_a_strangers_type_is_read_asleep(where: str, tmp_path: Path):
    """Law: as the image it is refused by column; in a column that no one asks for it sleeps, also when read."""
    images = pa.array([encoded(picture(i)) for i in range(2)])
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": images, "label": [0, 1], "poison": hidden(where)}), file)
    awake.clear()
    assert len(list(open_parquet((str(file),), Columns()).slices[0].rows())) == 2
    for role in ("image", "label", "id"):
        with pytest.raises(DataError, match=r"t\.parquet: column 'poison' has an extension type; expected plain"):
            open_parquet((str(file),), Columns(**{role: "poison"}))
    assert awake == []
    with pa.memory_map(str(file)) as mapped:
        parquet = open_parquet_file(mapped)
        assert parquet_extension_types(parquet) == {"poison": "stranger.bites"}
        assert not any(isinstance(field.type, pa.BaseExtensionType) for field in parquet.schema_arrow)
        parquet.read()
    assert awake == []


def test_two_arrow_schemas_in_a_footer_are_refused(tmp_path: Path):
    """Law: which of them counts is not for a stranger to choose."""
    table = pa.table({"a": [1]}).replace_schema_metadata({"ARROW_schema": "x"})
    pq.write_table(table, sink := io.BytesIO())
    data = sink.getvalue().replace(b"ARROW_schema", b"ARROW:schema")
    with pytest.raises(ValueError, match="several Arrow schemas"):
        open_parquet_file(pa.BufferReader(data))


def test_a_long_footer_is_read_whole():
    """Law: a footer beyond the first 64 KiB that are read of a file's end is read, too."""
    names = [f"column-{i:05d}" for i in range(3000)]
    pq.write_table(pa.table({name: [i] for i, name in enumerate(names)}), sink := io.BytesIO())
    assert open_parquet_file(pa.BufferReader(sink.getvalue())).schema_arrow.names == names


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"ARROW1\0\0" + b"\xff" * 4 + b"ARROW1", b"\0" * 100])
def test_what_is_no_arrow_file_is_a_value_error(data: bytes):
    """Law: a false end is refused before anything is read where it points."""
    with pytest.raises(ValueError, match="its end is missing or damaged"):
        read_table(data)


def test_rays_pickled_objects_are_never_unpickled(tmp_path: Path):
    """Law: `import ray.data`, which any large `prepare` does, teaches Arrow to unpickle; a shard runs nothing."""
    pytest.importorskip("ray.data")
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    class Bite:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    poison = pa.ExtensionArray.from_storage(
        ArrowPythonObjectType(), pa.array([pickle.dumps(Bite())] * 2, pa.large_binary())
    )
    data = shard_with(poison)
    (tmp_path / "s.arrow").write_bytes(data)
    with pytest.raises(DataError, match=r"extension type 'ray\.data\.arrow_pickled_object'"):
        map_shard(str(tmp_path / "s.arrow"))
    assert not (tmp_path / "pwned").exists()
    pa.ipc.open_file(pa.BufferReader(data)).read_all().column("poison")[0].as_py()
    assert (tmp_path / "pwned").exists()


def test_plain_tables_in_memory_are_read_without_a_thread_of_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow reads a file of Python's in a thread; one that still frees its last table when Python ends, aborts it."""
    data = ipc_bytes(pa.table({"split": pa.array(["test", "retain"]).dictionary_encode(), "position": [0, 1]}))
    monkeypatch.delattr(pa, "PythonFile")
    assert read_table(data).column("position").to_pylist() == [0, 1]
