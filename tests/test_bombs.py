"""Small or special files that would take all memory or wait for ever: one line, at once."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from samples import encoded, picture, write_parquet

from ray_unlearn.data.csv_files import read_csv
from ray_unlearn.data.files import read_local
from ray_unlearn.data.folders import open_competition
from ray_unlearn.data.parquet import _batch_rows, open_parquet
from ray_unlearn.data.prepare import prepare_source
from ray_unlearn.errors import DataError, ModelError, StoreError, did_you_mean
from ray_unlearn.models import read_file
from ray_unlearn.store import open_storage
from ray_unlearn.study.schema import Columns
from ray_unlearn.study.yaml12 import parse_yaml


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "special")
    return "a named pipe"


def zero(folder: Path) -> str:
    (folder / "special").symlink_to("/dev/zero")
    return "a device"


SPECIAL = pytest.mark.parametrize("make", [pipe, zero])


@SPECIAL
def test_special_files_are_not_opened(make, tmp_path: Path):
    """Law: as an image, CSV, weights, Parquet, or a file of a store, a pipe or device is refused by what it is."""
    what, file = make(tmp_path), tmp_path / "special"
    with pytest.raises(OSError, match=f"it is {what}, not a file"):
        read_local(file)
    with pytest.raises(DataError, match=f"special: not a readable CSV file: it is {what}, not a file"):
        read_csv(file)
    with pytest.raises(ModelError, match=rf"special: cannot be read \(.*it is {what}, not a file"):
        read_file(str(file))
    with pytest.raises(DataError, match=f"special: not a readable Parquet file: .*it is {what}, not a file"):
        open_parquet((str(file),), Columns())
    with pytest.raises(StoreError, match=f"cannot read special: it is {what}, not a file"):
        open_storage(str(tmp_path)).read("special")


@SPECIAL
def test_special_files_in_a_source_are_bad_images(make, tmp_path: Path):
    """Law: in the competition's layout and next to a Parquet file they are images that cannot be read."""
    what = make(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/f").symlink_to(tmp_path)
    (tmp_path / "1.png").symlink_to(tmp_path / "special")
    for name, first in (("retain", 1), ("forget", 2), ("validation", 3)):
        (tmp_path / f"{name}.csv").write_text(f"image_id,age_group,age,person_id\nf-{first},0,30,p\n")
    rows = list(open_competition(str(tmp_path)).slices[0].rows())
    assert rows[0].image is None
    assert f"it is {what}, not a file" in rows[0].problem
    file = write_parquet(tmp_path / "p.parquet", [0], images=[{"bytes": None, "path": "special"}])
    (row,) = open_parquet((str(file),), Columns()).slices[0].rows()
    assert f"it is {what}, not a file" in row.problem


def test_a_file_larger_than_any_image_is_refused(tmp_path: Path):
    """Law: a terabyte that takes no room on the disk takes none in memory."""
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="larger than 1,073,741,824 bytes"):
        read_local(tmp_path / "sparse.png")
    with pytest.raises(
        ModelError, match=r"cannot be read \(it has 1,099,511,627,776 bytes, and there are [\d,]+ of memory"
    ):
        read_file(str(tmp_path / "sparse.png"))


def test_a_compressed_csv_is_named(tmp_path: Path):
    """Law: 100 MB of commas in 100 kB are not unpacked; the message states what the file is."""
    for name in ("forget.csv", "forget.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"image_id\n" + b"," * 10**8))
        with pytest.raises(DataError, match=rf"{name}: compressed \(gzip\); expected plain CSV: unpack it first"):
            read_csv(tmp_path / name)


def test_every_cell_is_an_id(tmp_path: Path):
    """Law: NA, null, nan and 007 are ids and groups like any other; an empty age is unknown, an empty class refused."""
    words = ["NA", "null", "nan", "None", "007", "1e5"]
    (tmp_path / "ids.csv").write_text("image_id\n" + "\n".join(words) + "\n")
    assert read_csv(tmp_path / "ids.csv")["image_id"].tolist() == words
    for name, person in (("retain", "NA"), ("forget", "null"), ("validation", "")):
        text = f"image_id,age_group,age,person_id\nf-{name},3,,{person}\nf-{name}2,4,nan,p\nf-{name}3,4,31.5,p\n"
        (tmp_path / f"{name}.csv").write_text(text)
    rows = list(open_competition(str(tmp_path)).slices[0].rows())
    assert [row.group for row in rows] == ["NA", "p", "p", "null", "p", "p", "", "p", "p"]
    assert [row.label for row in rows] == [3, 4, 4] * 3
    assert [str(row.age) for row in rows] == ["nan", "nan", "31.5"] * 3
    (tmp_path / "retain.csv").write_text("image_id,age_group,age,person_id\nf-1,,3,p\nf-2,1,3,p\n")
    with pytest.raises(DataError, match=r"retain\.csv row 0: age_group: expected an integer or a name"):
        open_competition(str(tmp_path))


def repeated(file: Path, value: bytes, count: int, compression: str) -> Path:
    """Write a Parquet file whose image column stores one value once."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))
    table = pa.table({"image": column, "label": [i % 2 for i in range(count)]})
    pq.write_table(table, file, compression=compression)
    return file


def test_one_large_value_repeated_is_refused(tmp_path: Path):
    """Law: 2 kB that would be 12.5 GB are refused by what the footer states."""
    file = repeated(tmp_path / "t.parquet", b"\0" * 50_000_000, 250, "zstd")
    assert file.stat().st_size < 20_000
    with pytest.raises(DataError, match=r"would unpack to 12,\d{3},\d{3},\d{3} bytes from [\d,]+"):
        open_parquet((str(file),), Columns())


_READ = """
import resource, sys
from ray_unlearn.data.parquet import open_parquet
from ray_unlearn.study.schema import Columns
rows = open_parquet((sys.argv[1],), Columns()).slices[0].rows()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in zip(range(30), rows):
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


def test_a_large_value_repeated_is_read_a_few_at_a_time(tmp_path: Path):
    """Law: 30 MB stored once for 200 rows: honest, and six gigabytes at once; what is held stays below two."""
    file = repeated(tmp_path / "t.parquet", os.urandom(30_000_000), 200, "none")
    assert _batch_rows(pq.read_metadata(file), [0], 256) == 8
    done = subprocess.run([sys.executable, "-c", _READ, str(file)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2


def test_ordinary_files_are_read_in_ordinary_batches(tmp_path: Path):
    """Law: images of a few kB are read 256 rows at a time, as before."""
    file = write_parquet(tmp_path / "a.parquet", [0] * 300, images=[encoded(picture(i)) for i in range(300)])
    assert _batch_rows(pq.read_metadata(file), [0], 256) == 256


def test_a_million_classes_are_refused_at_once(tmp_path: Path):
    """Law: names of a million classes end in one line before anything is decoded."""
    file = write_parquet(tmp_path / "a.parquet", [0, 1], names=[f"c{i}" for i in range(1_000_000)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"1,000,000 classes; expected at most 100,000"):
        prepare_source(open_parquet((str(file),), Columns()), open_storage(str(tmp_path / "s")), image_size=8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 2**10


def test_a_class_name_that_is_none_is_refused(tmp_path: Path):
    """Law: a label of a megabyte is named by its beginning, in one line."""
    file = write_parquet(tmp_path / "a.parquet", ["x" * 10**6, "y"])
    with pytest.raises(DataError, match=r"a class name of 1,000,000 characters, 'x{40}'\.\.\.; expected at most 1,000"):
        prepare_source(open_parquet((str(file),), Columns()), open_storage(str(tmp_path / "s")), image_size=8)


def test_a_long_word_is_compared_with_nothing():
    """Law: no name is near to megabytes of text, and to look for one took 40 bytes a character."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert did_you_mean("x" * 20_000_000, ["a", "b"]) == ""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10


def test_merges_that_multiply_are_refused():
    """Law: `<<` that copies a hundred thousand keys and more ends in one error, in a moment."""
    keys = ", ".join(f"k{i}: 1" for i in range(2000))
    with pytest.raises(yaml.YAMLError, match="too many keys copied by `<<`"):
        parse_yaml(f"a: &a {{{keys}}}\nb: {{<<: [{', '.join(['*a'] * 2000)}]}}")


def test_merges_of_merges_end():
    """Law: sixty merges, each of the last one twice, copy its one key, not two to the sixtieth."""
    lines = ["a0: &a0 {k: 1}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60)]
    assert parse_yaml("\n".join(lines))["a59"] == {"k": 1}


def test_a_merge_is_a_merge():
    """Law: what is given wins over what is copied, and of copies the first."""
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}"
    assert parse_yaml(text)["c"] == {"x": 1, "y": 3, "z": 2}
