"""Data sets of the Hub, at a stated commit, and folders of save_to_disk: the images that their files hold."""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.spec import AbstractFileSystem
from hub_server import COMMITS, REPO, hub
from samples import IMAGE_STRUCT, column, decoded, encoded, picture, prepare, write_parquet

from ray_unlearn.data.parquet import open_parquet
from ray_unlearn.data.sources import open_source
from ray_unlearn.data.study_data import prepare_study
from ray_unlearn.errors import DataError
from ray_unlearn.store import open_storage
from ray_unlearn.study import parse_study
from ray_unlearn.study.schema import Columns, Source
from ray_unlearn.study.uris import label, without_keys

URI = f"hf://datasets/{REPO}/data/train-*.parquet"


class FakeHub(AbstractFileSystem):
    """The Hub's file system over a dictionary: commit -> path -> content."""

    protocol = "hf"
    cachable = False
    files: dict[str, dict[str, bytes]] = {}  # noqa: RUF012  one for the test

    def _contents(self) -> dict[str, bytes]:
        return {f"datasets/{REPO}@{at}/{path}": d for at, files in self.files.items() for path, d in files.items()}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path, found = path.strip("/"), dict[str, dict[str, Any]]()
        for name, data in self._contents().items():
            if name == path:
                found[name] = {"name": name, "size": len(data), "type": "file"}
            elif name.startswith(f"{path}/"):
                child = f"{path}/{name[len(path) + 1 :].partition('/')[0]}"
                kind = "file" if child == name else "directory"
                found[child] = {"name": child, "size": len(data) if kind == "file" else 0, "type": kind}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        return io.BytesIO(self._contents()[path])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, bytes]]:
    """A Hub in this process: commits' files; `main` and `v1` are branches."""
    commits = dict(COMMITS)
    files: dict[str, dict[str, bytes]] = {commit: {} for commit in commits.values()}

    def dataset_info(repo: str, revision: str) -> Any:
        if repo != REPO or revision not in commits:
            raise type("RepositoryNotFoundError", (Exception,), {})("404 Client Error.")
        return SimpleNamespace(sha=commits[revision])

    module = ModuleType("huggingface_hub")
    module.HfApi = lambda: SimpleNamespace(dataset_info=dataset_info)  # type: ignore[attr-defined]
    module.HfFileSystem = FakeHub  # type: ignore[attr-defined]
    module.commits = commits  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setattr(FakeHub, "files", files)
    monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "hf", FakeHub)
    return files


def parquet_bytes(folder: Path, labels: list[int]) -> bytes:
    rows = [encoded(picture(i)) for i in range(len(labels))]
    table = pa.table({"image": pa.array([{"bytes": row, "path": None} for row in rows], IMAGE_STRUCT), "label": labels})
    pq.write_table(table, folder / "tmp.parquet", compression="none")
    return (folder / "tmp.parquet").read_bytes()


def test_files_are_read_at_the_commit_of_a_branch(fake: dict[str, dict[str, bytes]], tmp_path: Path):
    """Law: the images are those of the file; the source names the commit; a tag is another commit."""
    fake[COMMITS["main"]]["data/train-0.parquet"] = parquet_bytes(tmp_path, [0, 1, 2, 1])
    fake[COMMITS["v1"]]["data/train-0.parquet"] = parquet_bytes(tmp_path, [1, 0])
    source = open_source(Source(path=URI), "train", Columns())
    assert (source.num_rows, source.revision) == (4, f"datasets/{REPO}@{COMMITS['main']}")
    found = prepare(source, tmp_path / "store")
    assert np.array_equal(decoded(found), [picture(i) for i in range(4)])
    assert column(found, "image_id")[0] == "train-0.parquet:0"
    older = open_source(Source(path=URI.replace(REPO, f"{REPO}@v1")), "train", Columns())
    assert (older.num_rows, older.revision) == (2, f"datasets/{REPO}@{COMMITS['v1']}")
    one = open_source(Source(path=f"hf://datasets/{REPO}/data/train-0.parquet"), "train", Columns())
    assert one.num_rows == 4


def test_a_file_that_is_replaced_is_read_anew(fake: dict[str, dict[str, bytes]], tmp_path: Path):
    """Law: a branch that moves to other images of the same size is noticed, and the identity names the commit."""
    fake[COMMITS["main"]]["data/train-0.parquet"] = before = parquet_bytes(tmp_path, [0, 1, 2] * 10)
    tree = {"name": "hub", "data": {"train": URI, "image_size": 8, "forget": {"fraction": 0.2}}}
    study = parse_study(tree | {"populations": {"original": {"method": "train", "on": "train"}}}, where="a test")
    first = prepare_study(study, open_storage(str(tmp_path)))
    assert first.identity["revisions"] == {"train": f"datasets/{REPO}@{COMMITS['main']}"}
    sys.modules["huggingface_hub"].commits["main"] = "c" * 40  # type: ignore[attr-defined]
    moved = parquet_bytes(tmp_path, [2, 1, 0] * 10)
    assert len(moved) == len(before)
    fake["c" * 40] = {"data/train-0.parquet": moved}
    second = prepare_study(study, open_storage(str(tmp_path)))
    assert second.identity["images"] != first.identity["images"]
    assert second.identity["revisions"] == {"train": f"datasets/{REPO}@{'c' * 40}"}


def test_a_study_without_the_hub_has_no_revisions(tmp_path: Path):
    """Law: identities of other sources are what they were."""
    write_parquet(tmp_path / "a.parquet", [0, 1, 2] * 10)
    data = {"train": str(tmp_path / "a.parquet"), "image_size": 8, "forget": {"fraction": 0.2}}
    tree = {"name": "local", "data": data, "populations": {"original": {"method": "train", "on": "train"}}}
    found = prepare_study(parse_study(tree, where="a test"), open_storage(str(tmp_path)))
    assert set(found.identity) == {"images", "splits", "image_size", "classes", "normalize"}


def test_without_the_extra_it_is_one_line(monkeypatch: pytest.MonkeyPatch):
    """Law: the message names what to install, and the path as it was written."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        DataError, match=r"train-\*\.parquet: reading from the Hub needs .*pip install 'ray-unlearn\[hub\]'"
    ):
        open_source(Source(path=URI), "train", Columns())


def test_without_a_network_it_is_one_line(fake: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch):
    """Law: the client's error of a connection becomes one line that says what to do."""

    def refused(repo: str, revision: str) -> None:
        raise ConnectionError("[Errno 111] Connection refused\n  and a page of hints")

    api = SimpleNamespace(dataset_info=refused)
    monkeypatch.setattr(sys.modules["huggingface_hub"], "HfApi", lambda: api)
    with pytest.raises(DataError, match=r"the Hub cannot be asked \(ConnectionError: .*refused\); download") as raised:
        open_source(Source(path=URI), "train", Columns())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (f"hf://datasets/{REPO}", "expected files of a data set"),
        ("hf://gpt2/model.safetensors", "expected files of a data set"),
        (f"hf://datasets/{REPO}@none/data/a.parquet", "no data set faces/small with revision none"),
        ("hf://datasets/faces/none/data/a.parquet", "no data set faces/none with revision main"),
        (f"hf://datasets/{REPO}/data/none-*.parquet", "none-*.parquet: no such file"),
    ],
)
def test_paths_that_are_no_files_of_a_data_set(fake: dict[str, dict[str, bytes]], uri: str, expected: str):
    """Law: one line with the path and what was expected."""
    fake[COMMITS["main"]]["data/train-0.parquet"] = b""
    with pytest.raises(DataError) as raised:
        open_source(Source(path=uri, format="parquet"), "train", Columns())
    assert expected in str(raised.value)


def test_the_real_client_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: huggingface_hub, against a server on loopback, lists and reads what the file has."""
    data = parquet_bytes(tmp_path, [0, 1, 2, 1])
    with hub({"main": {"data/train-0.parquet": data, "README.md": b"x"}, "v1": {}}) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        pytest.importorskip("huggingface_hub")  # the extra `hub`; not installed for development
        found = prepare(open_source(Source(path=URI), "train", Columns()), tmp_path / "store")
        assert np.array_equal(decoded(found), [picture(i) for i in range(4)])
        assert any(f"/resolve/{COMMITS['main']}/data/train-0.parquet" in path for path in asked)


def test_a_revision_is_no_credential():
    """Law: messages keep the @ of the Hub's paths, and cut the keys of others in the same text."""
    pinned = f"hf://datasets/{REPO}@{'a' * 40}/data/train-*.parquet"
    assert label(pinned) == pinned
    text = f"cannot read {pinned} nor s3://key:se/cr@bucket/x?token=y"
    assert without_keys(text) == f"cannot read {pinned} nor s3://bucket/x?..."
    assert "secret" not in label("hf://name:secret@datasets/a/b")


# Folders of save_to_disk


def save_to_disk(folder: Path, labels: list[int], files: int = 2, **columns: Any) -> Path:
    """Write a folder as datasets.Dataset.save_to_disk does: Arrow streams, state.json, dataset_info.json."""
    folder.mkdir(parents=True)
    features = {"img": {"_type": "Image"}, "fine_label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    size = -(-len(labels) // files)
    names = []
    for number in range(files):
        part = labels[number * size : (number + 1) * size]
        images = [{"bytes": encoded(picture(number * size + i)), "path": None} for i in range(len(part))]
        own = {"img": pa.array(images, IMAGE_STRUCT), "fine_label": pa.array(part, pa.int64()), **columns}
        table = pa.table(own).replace_schema_metadata(metadata)
        names.append(f"data-{number:05d}-of-{files:05d}.arrow")
        with pa.OSFile(str(folder / names[-1]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


COLUMNS = Columns(image="img", label="fine_label")


def test_a_saved_data_set_has_the_same_images_as_its_parquet(tmp_path: Path):
    """Law: pixels, classes by name, order; every slice can be read again anywhere."""
    folder = save_to_disk(tmp_path / "saved", [2, 0, 1, 1, 0, 2, 1])
    source = open_source(Source(path=str(folder)), "train", COLUMNS)
    assert (source.num_rows, source.class_names, len(source.slices)) == (7, ("ant", "bee", "cat"), 2)
    found = prepare(source, tmp_path / "store")
    assert np.array_equal(decoded(found), [picture(i) for i in range(7)])
    assert column(found, "label") == [2, 0, 1, 1, 0, 2, 1]
    assert len({*column(found, "image_id")}) == 7


def test_columns_of_usual_names_are_suggested(tmp_path: Path):
    """Law: img, fine_label and coarse_label are named, as the study writes them, for both formats."""
    folder = save_to_disk(tmp_path / "saved", [0, 1], files=1, coarse_label=pa.array([0, 1]))
    expected = (
        r"has img, fine_label, coarse_label: data.columns: \{image: img, label: fine_label, group: coarse_label\}"
    )
    with pytest.raises(DataError, match=expected):
        open_source(Source(path=str(folder)), "train", Columns())
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow")) as file, pa.ipc.open_stream(file) as stream:
        pq.write_table(stream.read_all(), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=expected):
        open_parquet((str(tmp_path / "a.parquet"),), Columns())


def _cut(folder: Path) -> None:
    file = folder / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _text(folder: Path) -> None:
    (folder / "data-00001-of-00002.arrow").write_bytes(b"version https://git-lfs.github.com/spec/v1 and so on")


def _away(folder: Path) -> None:
    (folder / "data-00001-of-00002.arrow").unlink()


def _outside(folder: Path) -> None:
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../other.arrow"}]}))


def _several(folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_cut, "damaged Arrow stream"),
        (_text, "not a readable Arrow stream"),
        (_away, "no such file, which state.json lists"),
        (_outside, "expected names of files in this folder"),
        (_several, "holds the splits train, test; name the folder of one"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path: Path, damage: Any, expected: str):
    """Law: the file and what is wrong with it."""
    folder = save_to_disk(tmp_path / "saved", [0, 1, 2, 0])
    damage(folder)
    with pytest.raises(DataError, match=expected):
        open_source(Source(path=str(folder)), "train", COLUMNS)


class Alive(pa.ExtensionType):
    """An extension type that tells when it is made from a file."""

    made = 0

    def __init__(self) -> None:
        super().__init__(pa.int64(), "a_test.alive")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Alive:
        cls.made += 1
        return cls()


def test_no_extension_type_comes_alive(tmp_path: Path):
    """Law: a registered type of an unused column is never made; as the label it is refused."""
    pa.register_extension_type(Alive())
    try:
        storage = pa.array([0, 1, 2])
        folder = save_to_disk(
            tmp_path / "saved", [0, 1, 2], files=1, odd=pa.ExtensionArray.from_storage(Alive(), storage)
        )
        Alive.made = 0
        assert open_source(Source(path=str(folder)), "train", COLUMNS).num_rows == 3
        assert Alive.made == 0
        with pytest.raises(DataError, match="column 'odd' has an extension type"):
            open_source(Source(path=str(folder)), "train", Columns(image="img", label="odd"))
        assert Alive.made == 0
    finally:
        pa.unregister_extension_type("a_test.alive")
