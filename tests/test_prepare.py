"""A source's shards are made once, completely, and from then on only mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs
from samples import column, copied, decoded, encoded, picture, prepare, write_parquet

from ray_unlearn.data import parquet, study_data
from ray_unlearn.data.decode import NOTE, decode_slice
from ray_unlearn.data.integrity import damaged, prepare_again
from ray_unlearn.data.parquet import ParquetSlice, open_parquet
from ray_unlearn.data.prepare import Prepared, in_place, prepare_source
from ray_unlearn.data.shards import Example, encode_shard, map_shard
from ray_unlearn.data.study_data import prepare_study
from ray_unlearn.errors import DataError
from ray_unlearn.store.filesystem import Storage, open_storage
from ray_unlearn.study.identity import digest
from ray_unlearn.study.schema import Columns


class Counting:
    """Decodes in place, counting the slices."""

    def __init__(self) -> None:
        self.slices = 0

    def __call__(self, slices, job):
        self.slices += len(slices)
        return in_place(slices, job)


def faces(folder: Path, count: int = 7, **options):
    """Return an open source of `count` images in row groups of three."""
    path = write_parquet(folder / "faces.parquet", [i % 3 for i in range(count)], rows_per_group=3, **options)
    return open_parquet((str(path),), Columns())


@pytest.fixture(autouse=True)
def short_slices(monkeypatch):
    """Make a slice of every row group, as if each had thousands of rows."""
    monkeypatch.setattr(parquet, "_SLICE_ROWS", 1)


def test_a_source_is_decoded_once(tmp_path):
    """Law: the second preparation decodes nothing and maps the same shards."""
    source, count = faces(tmp_path), Counting()
    first = prepare(source, tmp_path / "store", decode_all=count)
    again = prepare(source, tmp_path / "store", decode_all=count)
    assert count.slices == 3
    assert again.manifest == first.manifest
    assert np.array_equal(decoded(again), [picture(i) for i in range(7)])


def test_what_changes_the_shards_has_shards_of_its_own(tmp_path):
    """Law: image size, classes and skipping are part of the key; nothing is overwritten."""
    source = faces(tmp_path)
    variants = [{}, {"image_size": 16}, {"num_classes": 3}, {"class_names": ("a", "b", "c")}, {"skip_bad": True}]
    folders = [prepare(source, tmp_path / "store", **options).folder for options in variants]
    assert len(set(folders)) == 5
    assert decoded(prepare(source, tmp_path / "store", image_size=16)).shape == (7, 16, 16, 3)


@pytest.mark.parametrize("damage", ["removed", "truncated", "no manifest", "half a manifest"])
def test_incomplete_shards_are_decoded_again(tmp_path, damage):
    """Law: present means complete; no matter what is missing, the next preparation mends it to the same bytes."""
    source = faces(tmp_path)
    prepared = prepare(source, tmp_path / "store")
    folder = tmp_path / "store" / prepared.folder
    shard, manifest = folder / prepared.manifest.shards[1].name, folder / "manifest.json"
    whole = shard.read_bytes()
    if damage == "removed":
        shard.unlink()
    elif damage == "truncated":
        shard.write_bytes(whole[:-10])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_bytes(manifest.read_bytes()[:50])
    count = Counting()
    again = prepare(source, tmp_path / "store", decode_all=count)
    assert count.slices == 3
    assert again.manifest == prepared.manifest
    assert shard.read_bytes() == whole


def test_a_decoding_that_stops_midway_counts_for_nothing(tmp_path):
    """Law: the manifest comes last; an interrupted preparation leaves none."""
    source = faces(tmp_path)

    def stops(slices, job):
        yield next(iter(in_place(slices, job)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "store", decode_all=stops)
    assert list((tmp_path / "store").rglob("*.arrow"))
    assert not list((tmp_path / "store").rglob("manifest.json"))
    assert prepare(source, tmp_path / "store").manifest.num_images == 7


def test_slices_that_were_done_are_not_decoded_again(tmp_path, monkeypatch):
    """Law: a preparation that was killed goes on: only what was not done is read, and the manifest is the same."""
    source = faces(tmp_path)
    whole = prepare(source, tmp_path / "whole").manifest

    def stops(slices, job):
        yield from (decode_slice(slices[number], number, job) for number in (0, 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "store", decode_all=stops)
    folder = next((tmp_path / "store" / "data-cache").iterdir())
    assert sorted(path.name for path in folder.glob("*.json")) == ["00000.json", "00002.json"]
    (folder / "00002-000.arrow").write_bytes(b"short")
    (folder / "00001.json").write_bytes(b"half a no")
    read = []
    rows = ParquetSlice.rows
    monkeypatch.setattr(ParquetSlice, "rows", lambda self: (read.append(self.first_row), rows(self))[1])
    assert prepare(source, tmp_path / "store").manifest == whole
    assert read == [source.slices[1].first_row, source.slices[2].first_row]
    assert [path.name for path in folder.glob("*.json")] == ["manifest.json"]


def test_a_refused_slice_leaves_no_note(tmp_path):
    """Law: what was refused is looked at again, so that a mended source is read."""
    images = [encoded(picture(i)) for i in range(7)]
    images[5] = b"junk"
    source = faces(tmp_path, images=images)
    for _ in range(2):
        with pytest.raises(DataError, match="row 5: not an image"):
            prepare(source, tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").rglob("*.json")] == ["00000.json"]


def test_the_content_digest_is_that_of_all_examples(tmp_path):
    """Law: what is hashed slice by slice is the digest of the list of every example's, as it always was."""
    prepared = prepare(faces(tmp_path), tmp_path / "store")
    assert len(prepared.manifest.shards) > 1
    assert prepared.manifest.content == digest([each.hex() for each in column(prepared, "digest")])


def test_content_is_the_same_wherever_the_source_lies(tmp_path):
    """Law: the digest that identities use knows pixels, labels and ids, never a path."""
    one = prepare(faces(tmp_path / "here"), tmp_path / "a")
    other = prepare(faces(tmp_path / "far" / "away"), tmp_path / "b")
    assert one.folder != other.folder
    assert one.manifest.content == other.manifest.content
    assert one.manifest.content != prepare(faces(tmp_path / "c", start=1), tmp_path / "a").manifest.content
    relabelled = open_parquet((str(write_parquet(tmp_path / "d" / "faces.parquet", [1] * 7)),), Columns())
    assert prepare(relabelled, tmp_path / "a").manifest.content != one.manifest.content


def test_skipped_images_are_in_the_manifest(tmp_path):
    """Law: every image left out is recorded with file, row and reason, and still is when the shards are reused."""
    images = [encoded(picture(i)) for i in range(7)]
    images[2], images[5] = b"junk", None
    source = faces(tmp_path, images=images)
    with pytest.raises(DataError, match=r"faces\.parquet row 2: not an image"):
        prepare(source, tmp_path / "store")
    for _ in range(2):
        prepared = prepare(source, tmp_path / "store", skip_bad=True)
        assert [skip["where"].rpartition("/")[2] for skip in prepared.manifest.skipped] == [
            "faces.parquet row 2",
            "faces.parquet row 5",
        ]
        assert prepared.manifest.skipped[1]["reason"] == "no image: the cell is null or empty"
        assert prepared.manifest.num_images == 5
        assert column(prepared, "image_id") == [f"faces.parquet:{i}" for i in (0, 1, 3, 4, 6)]


def test_nothing_left_is_refused(tmp_path):
    """Law: skipping every image is not an empty data set."""
    with pytest.raises(DataError, match=r"faces\.parquet: no images that can be decoded"):
        prepare(faces(tmp_path, 2, images=[b"x", b"y"]), tmp_path / "store", skip_bad=True)


def test_duplicate_ids_name_both_places(tmp_path):
    """Law: within a file or across files, an id that occurs twice is refused with both places."""
    path = write_parquet(tmp_path / "a.parquet", [0] * 4, key=["w", "x", "y", "x"], rows_per_group=2)
    with pytest.raises(DataError) as caught:
        prepare(open_parquet((str(path),), Columns(id="key")), tmp_path / "store")
    assert str(caught.value) == f"image id 'x' occurs twice: {path} row 1 and {path} row 3"
    one, other = (write_parquet(tmp_path / name / "same.parquet", [0]) for name in ("one", "two"))
    with pytest.raises(DataError) as caught:
        prepare(open_parquet((str(one), str(other)), Columns()), tmp_path / "store")
    assert str(caught.value) == f"image id 'same.parquet:0' occurs twice: {one} row 0 and {other} row 0"


def test_shards_encode_to_the_same_bytes_and_back():
    """Law: a shard's bytes are a function of its examples; every column survives, NaN stays NaN."""
    examples = [Example(picture(i), i, f"i{i}", "" if i else "p", float("nan"), "forget") for i in range(3)]
    assert encode_shard(examples) == encode_shard(copied(examples))


def test_a_mapped_shard_copies_nothing(tmp_path):
    """Law: mapping 3 MB of pixels allocates none of them; the array is a read-only view of the file."""
    examples = [Example(picture(i, 64, 64), i, f"i{i}", "", 0.0, "") for i in range(256)]
    (tmp_path / "a.arrow").write_bytes(encode_shard(examples))
    before = pa.total_allocated_bytes()
    shard = map_shard(str(tmp_path / "a.arrow"))
    assert pa.total_allocated_bytes() - before < 100_000
    assert shard.pixels_NHWC.nbytes == 256 * 64 * 64 * 3
    assert not shard.pixels_NHWC.flags.owndata
    assert not shard.pixels_NHWC.flags.writeable
    assert np.array_equal(shard.pixels_NHWC[200], picture(200, 64, 64))


def test_a_note_left_over_does_not_vouch_for_a_damaged_shard(tmp_path):
    """Law: a death just after the manifest leaves notes; what is prepared again is decoded again all the same."""
    source, storage = faces(tmp_path), open_storage(str(tmp_path / "store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray_unlearn.data.prepare.remove_notes", lambda *given: None)
        first = prepare_source(source, storage, image_size=8)
    assert [name for name in storage.sizes(first.folder) if NOTE.fullmatch(name)]
    shard = tmp_path / "store" / first.folder / first.manifest.shards[0].name
    shard.write_bytes(b"x" * shard.stat().st_size)
    prepare_again(storage, damaged(storage))
    prepare_source(source, storage, image_size=8)
    assert damaged(storage) == []


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0 not really", None])
def test_a_file_that_is_no_shard(tmp_path, content):
    """Law: a damaged shard is refused with its path and the way out."""
    path = tmp_path / "a.arrow"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.arrow: not a readable shard .*ray-unlearn prepare"):
        map_shard(str(path))


def test_shards_of_a_remote_storage_are_copied_once(tmp_path):
    """Law: without a local path shards go through a cache, are checked by sha256, and are not fetched twice."""
    local = prepare(faces(tmp_path), tmp_path / "store")
    bucket = Storage("bucket://store", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "store")
    remote = Prepared(bucket, local.folder, local.manifest)
    with pytest.raises(DataError, match="need a local cache folder"):
        remote.map()
    cache = tmp_path / "cache"
    assert np.array_equal(np.concatenate([s.pixels_NHWC for s in remote.map(cache)]), decoded(local))
    for shard in local.manifest.shards:
        (tmp_path / "store" / local.folder / shard.name).write_bytes(b"x" * shard.size_bytes)
    assert np.array_equal(np.concatenate([s.pixels_NHWC for s in remote.map(cache)]), [picture(i) for i in range(7)])
    with pytest.raises(DataError, match="damaged; remove the folder and prepare again"):
        remote.map(tmp_path / "other-cache")


def test_a_study_never_tests_on_its_training_images(tiny, tmp_path):
    """Law: an image that two sources share is refused, wherever its file is."""
    write_parquet(tmp_path / "a" / "f.parquet", [0, 1, 2] * 5)
    write_parquet(tmp_path / "b" / "f.parquet", [0, 1, 2] * 5)
    study = tiny(data={"train": f"{tmp_path}/a/f.parquet", "test": f"{tmp_path}/b/f.parquet", "limit": None})
    with pytest.raises(DataError, match=r"data\.test: image 'f\.parquet:0' is in data\.train too"):
        prepare_study(study, open_storage(study.storage))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (2, "label .*: expected a class number from 0 to 1; `data.classes` sets their number"),
        (("a", "b"), "label 'c' is none of the 2 classes"),
        (("a", "b", "cc"), "label 'c' is none of the 3 classes"),
    ],
)
def test_classes_that_do_not_fit_the_data_are_refused(tiny, tmp_path, classes, expected):
    """Law: a class beyond `data.classes`, by number or by name, is refused by file and row."""
    path = write_parquet(tmp_path / "f.parquet", [0, 1, 2] * 5, names=["a", "b", "c"])
    study = tiny(data={"train": str(path), "test": 0.2, "limit": None, "classes": classes})
    with pytest.raises(DataError, match=rf"f\.parquet row 2: {expected}"):
        prepare_study(study, open_storage(study.storage))


def test_a_tests_label_must_be_one_of_trainings(tiny, tmp_path):
    """Law: without names, the training labels state how many classes there are."""
    train = write_parquet(tmp_path / "train.parquet", [0, 1] * 8)
    test = write_parquet(tmp_path / "test.parquet", [0, 1, 2], start=50)
    study = tiny(data={"train": str(train), "test": str(test), "limit": None})
    with pytest.raises(DataError, match=r"test\.parquet row 2: label 2: expected a class number from 0 to 1"):
        prepare_study(study, open_storage(study.storage))


def test_the_identity_of_a_studys_data_knows_no_place(tiny, tmp_path):
    """Law: other folders and storages leave the identity alone; seed, image size and scaling change it."""

    def identity(place: str, **changes) -> object:
        path = write_parquet(tmp_path / place / "f.parquet", [0, 1, 2] * 5)
        base = {"train": str(path), "test": 0.2, "limit": None}
        study = tiny(storage=str(tmp_path / place), seed=changes.pop("seed", 0), data=base | changes)
        return prepare_study(study, open_storage(study.storage)).identity

    first = identity("a")
    assert identity("b") == first
    for changes in ({"seed": 1}, {"image_size": 16}, {"normalize": "raw"}, {"test": 0.3}, {"classes": 4}):
        assert identity("a", **changes) != first


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::Warning:ray")  # ray.data warns of its own defaults
def test_ray_data_decodes_to_the_same_manifest(ray_cluster, tmp_path):
    """Law: who decodes changes no byte: Ray Data and a plain loop give the same shards, skips and refusals."""
    from ray_unlearn.cluster.decoding import decode_with_ray

    images = [encoded(picture(i)) for i in range(30)]
    images[11] = b"junk"
    path = write_parquet(tmp_path / "f.parquet", [i % 3 for i in range(30)], images=images, rows_per_group=3)
    source = open_parquet((str(path),), Columns())
    assert len(source.slices) == 10
    here = prepare(source, tmp_path / "a", skip_bad=True)
    there = prepare(source, tmp_path / "b", skip_bad=True, decode_all=decode_with_ray)
    assert there.manifest == here.manifest
    assert len(here.manifest.skipped) == 1
    assert np.array_equal(decoded(there), decoded(here))
    messages = []
    for name, how in (("c", in_place), ("d", decode_with_ray)):
        with pytest.raises(DataError) as caught:
            prepare(source, tmp_path / name, decode_all=how)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{path} row 11: ")


def test_prepare_study_opens_the_test_part_for_tests(tiny, tmp_path, monkeypatch):
    """Law: embedded sets give their test part to test and validation, their train part to train alone."""
    parts = []
    opened = study_data.open_source
    monkeypatch.setattr(study_data, "open_source", lambda s, part, *how: (parts.append(part), opened(s, part, *how))[1])
    study = tiny()
    data = prepare_study(study, open_storage(study.storage))
    assert parts == ["train", "test"]
    assert (data.num_classes, data.splits.sizes()["test"]) == (10, 360)


def test_a_manifest_whose_digest_of_the_images_is_not_its_shards_is_damaged(tmp_path):
    """Law: every identity holds that digest; one that changed on the disk refuses all runs, and preparing mends it."""
    source, storage = faces(tmp_path), open_storage(str(tmp_path / "store"))
    first = prepare_source(source, storage, image_size=8)
    file = tmp_path / "store" / first.folder / "manifest.json"
    file.write_text(file.read_text().replace(first.manifest.content, "0" * 64))
    (problem,) = damaged(storage)
    assert str(problem) == f"{first.folder}/manifest.json: its digest of the images is not that of its shards"
    prepare_again(storage, [problem])
    assert prepare_source(source, storage, image_size=8).manifest.content == first.manifest.content
    assert damaged(storage) == []
