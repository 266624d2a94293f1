"""Data as people bring them, further (case A13, and issue 21's rows): depth of grey images, images that are not square.

An id names the row of the table of cases that a test holds; `test_data_cases` has the other rows about data.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, merged
from PIL import Image
from samples import encoded

from ray_unlearn.data.decode import decode
from ray_unlearn.data.study_data import StudyData, prepare_study
from ray_unlearn.errors import DataError
from ray_unlearn.store import open_storage
from ray_unlearn.study import parse_study


@pytest.fixture(autouse=True)
def _sets_of_any_size(monkeypatch):
    """Let a few images be enough: `test_preflight_of_data` has the warning about them."""
    monkeypatch.setattr("ray_unlearn.data.copies.FEW_IMAGES", 0)


def data_of(folder: Path, train: Any, **data: Any) -> StudyData:
    """Prepare the data of a study."""
    tree = merged(TINY, {"storage": str(folder / "store"), "data": {"test": None, "validation": None, "limit": None}})
    tree["data"] |= {"train": train, "image_size": 8, **data}
    return prepare_study(parse_study(tree, where="x"), open_storage(str(folder / "store")))


def grey(levels: np.ndarray, form: str = "PNG") -> bytes:
    """Return a 16-bit grey image."""
    sink = io.BytesIO()
    Image.fromarray(levels.astype(np.uint16)).save(sink, form)
    return sink.getvalue()


def deep_colours(levels_HWC: np.ndarray) -> bytes:
    """Return a PNG of 16-bit colours, which Pillow reads and does not write."""
    height, width, _ = levels_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels_HWC)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


RAMP = np.linspace(0, 4095, 64).reshape(8, 8)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a13_twelve_bits_in_sixteen(form: str):
    """Law: 12-bit data are refused with the reason, and keep all their levels once the study names the depth."""
    with pytest.raises(
        DataError, match=r"levels up to 4,095 of 65,535: .* 16 levels would be left; set data.grey_bits: 12"
    ):
        decode(grey(RAMP, form), 8)
    assert np.array_equal(decode(grey(RAMP, form), 8, grey_bits=12)[:, :, 0], RAMP.astype(np.uint16) >> 4)
    assert len(np.unique(decode(grey(RAMP, form), 8, grey_bits=12))) == 64
    assert decode(grey(RAMP, form), 8, grey_bits=16).max() == 15
    with pytest.raises(DataError, match=r"levels up to 4,095, which take more than the 10 bits of data\.grey_bits"):
        decode(grey(RAMP, form), 8, grey_bits=10)


def test_a13_sixteen_bits_and_black_are_as_before():
    """Law: an image that uses its sixteen bits, and one that is black, need no key."""
    assert decode(grey(RAMP * 16), 8).max() == 255
    assert decode(grey(RAMP * 0), 8).max() == 0


def test_a13_colours_of_twelve_bits():
    """Law: the same for colours, of which Pillow reads the upper eight of sixteen bits."""
    ramp = np.repeat(RAMP[:, :, None], 3, 2)
    with pytest.raises(DataError, match="16 levels would be left: it seems to hold twelve bits or fewer"):
        decode(deep_colours(ramp), 8)
    assert decode(deep_colours(ramp), 8, grey_bits=16).max() == 15
    assert decode(deep_colours(ramp * 16), 8).max() == 255


def faces(folder: Path, make: Callable[[int], bytes]) -> str:
    """Write two classes of six images each."""
    for number in range(12):
        file = folder / f"faces/{'ab'[number % 2]}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make(number))
    return str(folder / "faces")


def test_a13_in_a_study(tmp_path: Path):
    """Law: the keys of the study reach the decoder, and the cache holds each depth's images apart."""
    train = faces(tmp_path, lambda number: grey((RAMP - number).clip(0)))
    with pytest.raises(DataError, match=r"data\.grey_bits: 12"):
        data_of(tmp_path, train)
    twelve, sixteen = (data_of(tmp_path, train, grey_bits=bits) for bits in (12, 16))
    assert twelve.train.folder != sixteen.train.folder
    assert twelve.identity["images"] != sixteen.identity["images"]


# Images that are not square


def wide(number: int = 0) -> bytes:
    """Return an image of 24x8 pixels: a red, a green and a blue square."""
    colours = np.eye(3, dtype=np.uint8) * (255 - number)
    return encoded(np.repeat(np.repeat(colours[None], 8, 1), 8, 0).transpose(0, 1, 2))


@pytest.mark.parametrize(
    ("resize", "column"),
    [("stretch", [0, 1, 2]), ("crop", [1, 1, 1]), ("pad", [0, 1, 2])],
)
def test_issue_21_resize(resize: Any, column: list[int]):
    """Law: stretch shows all thirds over the whole height, crop the middle one, pad all with black above and below."""
    found = decode(wide(), 24, resize)
    assert [int(found[12, x].argmax()) for x in (2, 12, 21)] == column
    assert (found[2].max() == 0) == (resize == "pad")
    assert np.array_equal(found[12], decode(wide(), 24, resize)[11])
    square = encoded(np.full((8, 8, 3), 7, np.uint8))
    assert np.array_equal(decode(square, 24, resize), decode(square, 24))


def test_issue_21_resize_in_a_study(tmp_path: Path):
    """Law: the study's key chooses, and without it the digests are as before."""
    train = faces(tmp_path, wide)
    found = {name: data_of(tmp_path, train, resize=name).identity["images"]["train"] for name in ("crop", "pad")}
    found["stretch"] = data_of(tmp_path, train).identity["images"]["train"]
    assert len({*found.values()}) == 3


# Forget lists in every usual form


def in_folders(folder: Path) -> str:
    """Write images a/0.png to a/5.png and b/0.png to b/5.png, and b/only.png."""
    for number, name in enumerate([*(f"{c}/{i}" for c in "ab" for i in range(6)), "b/only"]):
        file = folder / f"faces/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(np.full((8, 8, 3), 10 + number, np.uint8)))
    return str(folder / "faces")


def forgotten(data: StudyData) -> list[str]:
    """Return the ids of the forget set."""
    ids = [value for table in data.train.columns() for value in table["image_id"].to_pylist()]
    return [ids[i] for i in data.splits.sets["forget"]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.csv", "image_id\na/0.png\nb/only.png\n"),
        ("f.csv", "\ufefffilename;age\r\na/0.png;3\r\nonly.png;4\r\n"),
        ("f.csv", "path\n/home/me/faces/a/0.png\nC:\\faces\\b\\only.png\n"),
        ("f.csv", "a/0\nonly\n"),
        ("f.tsv", "index\tname\n0\tx\n12\ty\n"),
        ("f.txt", "faces/a/0.png\n\nonly\n"),
        ("f.json", '["a/0.png", "only.png"]'),
        ("f.txt", "0\n12\n"),
    ],
)
def test_issue_21_forget_lists(name: str, text: str, tmp_path: Path):
    """Law: ids, positions and file names, with or without folders and suffix, under any usual heading, are taken."""
    train = in_folders(tmp_path)
    (tmp_path / name).write_bytes(text.encode())
    assert forgotten(data_of(tmp_path, train, forget={"ids": str(tmp_path / name)})) == ["a/0.png", "b/only.png"]


def test_issue_21_a_file_name_of_two_images_is_refused(tmp_path: Path):
    """Law: a name without its folder has to mean one image."""
    train = in_folders(tmp_path)
    with pytest.raises(DataError, match=r"'3\.png' is the name of 2 images; name them with their folders"):
        data_of(tmp_path, train, forget={"ids": ["3.png"]})


# CSV files of images


MUFAC = "image_path,age_class,family\n" + "".join(f"x{i:02d}.png,{i % 3},F0{i % 2}\n" for i in range(12))


def table(folder: Path, text: str, images: str = "train_images") -> str:
    """Write a CSV file, and 12 images in a folder beside it."""
    for i in range(12):
        file = folder / images / f"x{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(np.full((8, 8, 3), 10 + i, np.uint8)))
    (folder / "train.csv").write_bytes(text.encode())
    return str(folder / "train.csv")


def test_issue_21_mufacs_csv(tmp_path: Path):
    """Law: a CSV of paths and classes is a source; groups are read, and ids are the paths as they are written."""
    path = table(tmp_path, MUFAC)
    columns = {"label": "age_class", "group": "family"}
    source = {"path": path, "images": str(tmp_path / "train_images")}
    data = data_of(tmp_path, source, columns=columns, forget={"ids": ["x03"]})
    shard = data.train.columns()[0]
    assert shard["image_id"].to_pylist() == [f"x{i:02d}.png" for i in range(12)]
    assert shard["label"].to_pylist() == [i % 3 for i in range(12)]
    assert shard["group"].to_pylist() == [f"F0{i % 2}" for i in range(12)]
    assert data.num_classes == 3


@pytest.mark.parametrize(
    "text",
    [
        MUFAC.replace("\n", "\r\n"),
        "\ufeff" + MUFAC.replace(",", ";"),
        MUFAC.replace(",", "\t"),
        "".join(f"{i - 1 if i else ''},{line}\n" for i, line in enumerate(MUFAC.splitlines())),
        "".join(",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in MUFAC.splitlines()),
        MUFAC.replace(".png", "").replace("image_path", "file_name"),
        "".join(re.sub(r",(\d),", r",\1.0,", line) + "\n" for line in MUFAC.splitlines()),
    ],
)
def test_issue_21_csv_dialects(text: str, tmp_path: Path):
    """Law: BOM, semicolons, tabs, CRLF, quotes, an index column, no suffix and float classes give the same images."""
    columns = {"label": "age_class"}
    data = data_of(tmp_path, table(tmp_path, text, "."), columns=columns)
    assert data.train.columns()[0]["label"].to_pylist() == [i % 3 for i in range(12)]


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        (
            MUFAC,
            {},
            r"no column 'label' for data\.columns\.label.*age_class.*name it by data\.columns: \{label: \.\.\.\}",
        ),
        (
            MUFAC.replace("image_path", "who"),
            {"label": "age_class"},
            r"no column with the images' paths; .*who, age_class",
        ),
        (MUFAC, {"label": "age_class", "path": "pth"}, r"no column 'pth' for data\.columns\.path"),
        (
            MUFAC.replace(",1,", ",1 0 1,"),
            {"label": "age_class"},
            r"row 1: column 'age_class' holds several labels, '1 0 1'",
        ),
        (MUFAC.replace(",1,", ",,"), {"label": "age_class"}, r"row 1: column 'age_class' is empty; expected a class"),
        ("image_path,label\n", {}, "no rows; expected one per image"),
        (MUFAC.replace("x03", "gone"), {"label": "age_class"}, r"row 3: .*gone\.png cannot be read"),
    ],
)
def test_issue_21_csv_refusals(text: str, columns: dict[str, str], said: str, tmp_path: Path):
    """Law: what is missing is named with its row or column, and with what to write."""
    with pytest.raises(DataError, match=said):
        data_of(tmp_path, table(tmp_path, text, "."), columns=columns)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["0", "1", "nan"], "data.train: 2 of 3 classes are whole numbers from 0, and others are not, such as 'nan': "),
        (["-1", "1", "2"], "data.train: 2 of 3 classes are whole numbers from 0, and others are not, such as '-1': "),
        (["a", "b", "c"], ""),
        (["0", "1", "2"], ""),
    ],
)
def test_issue_21_csv_classes_that_are_partly_numbers(cells: list[str], said: str, tmp_path: Path):
    """Law: a cell that stands for `no label` among numbers would be a class of its own, which is reported."""
    text = "".join(re.sub(r",(\d),", lambda found: f",{cells[int(found[1])]},", f"{line}\n") for line in MUFAC.split())
    found = data_of(tmp_path, table(tmp_path, text, "."), columns={"label": "age_class"}).warnings
    assert len(found) == bool(said)
    assert all(line.startswith(said) for line in found)


def test_issue_21_csv_of_several_splits(tmp_path: Path):
    """Law: a column that puts rows into splits is reported as not read; the classes may be called so."""
    lines = [f"{line},{'Training' if i % 2 else 'Test'}" for i, line in enumerate(MUFAC.split())]
    text = "\n".join([lines[0].rpartition(",")[0] + ",usage", *lines[1:]])
    path = table(tmp_path, text, ".")
    found = data_of(tmp_path, path, columns={"label": "age_class"}).warnings
    assert found == (
        "data.train: column 'usage' names splits (Test, Training), and is not read: all 12 rows are taken; write a CSV "
        "file for each split",
    )
    assert data_of(tmp_path, path, columns={"label": "usage"}).warnings == ()


# NumPy's arrays


@pytest.mark.parametrize("text", ["a/only.png", "x/a/only", "b/x/only.png", "C:\\a\\only.png"])
def test_issue_21_a_file_of_another_folder_is_another_image(text: str, tmp_path: Path):
    """Law: an id in a folder that has no such image is refused, though another folder has one of this name."""
    train = in_folders(tmp_path)
    with pytest.raises(DataError, match=r"is not in data\.train"):
        data_of(tmp_path, train, forget={"ids": [text]})


def arrays(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return grey images of 8x8 pixels, all different, and their classes."""
    return np.arange(start, start + count, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2), np.arange(
        count
    ) % 3


def test_issue_21_medmnists_npz(tmp_path: Path):
    """Law: one file serves as train, validation and test, each with its own arrays."""
    held = {}
    for number, role in enumerate(("train", "val", "test")):
        images, labels = arrays(12, 50 * number)
        held |= {f"{role}_images": images, f"{role}_labels": labels[:, None]}
    np.savez_compressed(tmp_path / "m.npz", **held)
    file = str(tmp_path / "m.npz")
    data = data_of(tmp_path, file, test=file, validation=file, forget={"ids": ["m-train-00003"]})
    assert {name: len(members) for name, members in data.splits.sets.items()} == {
        "retain": 11,
        "forget": 1,
        "validation": 12,
        "test": 12,
    }
    assert data.num_classes == 3
    assert data.test is not None
    assert data.test.map()[0].pixels_NHWC[:, 0, 0, 0].tolist() == list(range(100, 112))


IMAGES, LABELS = arrays(12)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES[:, None], LABELS),
        (IMAGES[:, None].repeat(3, 1), LABELS.astype(np.float32)),
        (IMAGES[..., None].repeat(3, 3), LABELS.astype(np.uint8)),
        (IMAGES.astype(np.float32), LABELS),
        ((IMAGES / 255).astype(np.float32)[:, None].repeat(3, 1), LABELS),
        (IMAGES, np.array(["cat", "dog", "owl"])[LABELS]),
    ],
)
def test_issue_21_npy_folder(images: np.ndarray, labels: np.ndarray, tmp_path: Path):
    """Law: SCRUB's data.npy and label.npy are read in every layout and type that loses nothing."""
    np.save(tmp_path / "data.npy", images)
    np.save(tmp_path / "label.npy", labels)
    data = data_of(tmp_path, str(tmp_path), forget={"fraction": 0.3})
    shard = data.train.map()[0]
    assert shard.pixels_NHWC[:, 4, 4].tolist() == [[i] * 3 for i in range(12)]
    assert shard.labels_N.tolist() == LABELS.tolist()
    assert data.class_names == (("cat", "dog", "owl") if labels.dtype.kind == "U" else None)


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_issue_21_npy_black_and_white(dtype: type, tmp_path: Path):
    """Law: booleans, and fractions that are all 0 or 1, are black and white, not two shades of black."""
    np.save(tmp_path / "data.npy", (IMAGES % 2).astype(dtype))
    np.save(tmp_path / "label.npy", LABELS)
    shard = data_of(tmp_path, str(tmp_path), forget={"fraction": 0.3}).train.map()[0]
    assert shard.pixels_NHWC[:, 4, 4, 0].tolist() == [0, 255] * 6


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES, LABELS[:, None].repeat(14, 1), r"several labels per image \(multi-label\), and one-hot rows"),
        (IMAGES / 100 - 1, LABELS, r"numbers from -1 to .*; expected 0\.\.255, or fractions in 0\.\.1"),
        (IMAGES, LABELS[:9], "has 12 images, and label 9 labels"),
        (IMAGES[:, 0, :5], LABELS, r"expected images \[N, H, W\] or \[N, H, W, 3\]; found uint8 \[12, 5\]"),
        (
            np.array([{"a": 1}] * 12, dtype=object),
            LABELS,
            "holds Python objects, a pickle, which may run code when read",
        ),
        (IMAGES, LABELS + 0.5, "expected whole numbers; found float64"),
        (IMAGES, LABELS.astype("datetime64[D]"), r"expected whole numbers; found datetime64\[D\]"),
        (IMAGES.astype(np.complex64), LABELS, r"expected images .*; found complex64 \[12, 8, 8\]"),
        (IMAGES[:0], LABELS, "has 0 images, and label 12 labels"),
        (IMAGES[..., None].repeat(2, 3), LABELS, r"or \[N, H, W, 3\]; found uint8 \[12, 8, 8, 2\]"),
        (IMAGES[..., None].repeat(4, 3), LABELS, r"or \[N, H, W, 3\]; found uint8 \[12, 8, 8, 4\]"),
        (IMAGES % 2, LABELS, "whole numbers 0 and 1, of which only black would be left"),
    ],
)
def test_issue_21_arrays_refusals(images: np.ndarray, labels: np.ndarray, said: str, tmp_path: Path):
    """Law: arrays that are no images of one class each are refused with what was found; no pickle is read."""
    np.save(tmp_path / "data.npy", images, allow_pickle=True)
    np.save(tmp_path / "label.npy", labels)
    with pytest.raises(DataError, match=said):
        data_of(tmp_path, str(tmp_path))
    np.savez(tmp_path / "a.npz", other=IMAGES)
    with pytest.raises(
        DataError, match=r"a\.npz: no images and labels for data\.train; it holds other; expected train_im"
    ):
        data_of(tmp_path, str(tmp_path / "a.npz"))


# Pre-flight


def test_issue_21_groups_that_straddle_sets(tmp_path: Path):
    """Law: persons whose images are partly forgotten are counted; those that are forgotten whole are not."""
    columns = {"label": "age_class", "group": "family"}
    data = data_of(tmp_path, table(tmp_path, MUFAC, "."), columns=columns, forget={"ids": ["x03"]})
    assert data.warnings == (
        "data: 1 of 1 groups in forget have images in retain too, such as 'F01': they are trained on all the same",
    )
    whole = data_of(tmp_path, table(tmp_path, MUFAC, "."), columns=columns, forget={"group": "family", "count": 1})
    assert whole.warnings == ()


def test_issue_21_strict(tmp_path: Path):
    """Law: with data.strict, what would be warned of is refused; a clean set passes."""
    columns = {"label": "age_class", "group": "family"}
    path = table(tmp_path, MUFAC, ".")
    with pytest.raises(DataError, match=r"data\.strict: data: 1 of 1 groups in forget have images in retain too"):
        data_of(tmp_path, path, columns=columns, forget={"ids": ["x03"]}, strict=True)
    (tmp_path / "x04.png").write_bytes((tmp_path / "x03.png").read_bytes())
    with pytest.raises(DataError, match=r"retain too, .* \(and 1 more such, which data\.strict: false prints\)"):
        data_of(tmp_path, path, columns=columns, forget={"ids": ["x03"]}, strict=True)
    path = table(tmp_path, MUFAC, ".")  # without the copy
    assert data_of(tmp_path, path, columns=columns, forget={"group": "family", "count": 1}, strict=True).warnings == ()
