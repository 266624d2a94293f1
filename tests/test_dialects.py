"""CSV files and lists of images to forget as tools and people write them: read alike, or refused by their cause."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import encoded, picture

from ray_unlearn.data.sources import open_source
from ray_unlearn.data.splits import ImageTable, make_splits
from ray_unlearn.errors import DataError
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Columns, Data, Source

NAMES = [f"{i:03d}" for i in range(1, 13)]
PLAIN = "path,label\n" + "".join(f"img/{name}.png,{i % 3}\n" for i, name in enumerate(NAMES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve images, img/001.png to img/012.png."""
    root = tmp_path_factory.mktemp("dialects")
    (root / "img").mkdir()
    for i, name in enumerate(NAMES):
        (root / "img" / f"{name}.png").write_bytes(encoded(picture(i)))
    return root


def rows_of(folder: Path, text: str | bytes, columns: dict[str, str] | None = None, images: str | None = None) -> Any:
    """Return (id, label, whether the file was found) of each row of a CSV file."""
    file = folder / "a.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_source(Source(path=str(file), images=images), "train", Columns(**(columns or {})))
    return [(row.image_id, row.label, row.image is not None) for part in source.slices for row in part.rows()]


EXPECTED = [(f"img/{name}.png", i % 3, True) for i, name in enumerate(NAMES)]
SAME = {
    "plain": PLAIN,
    "a byte order mark": PLAIN.encode("utf-8-sig"),
    "semicolons": PLAIN.replace(",", ";"),
    "semicolons, and a comma in a quoted name": PLAIN.replace(",", ";").replace("label", 'label;"note, free"'),
    "tabs": PLAIN.replace(",", "\t"),
    "Windows' line ends": PLAIN.replace("\n", "\r\n"),
    "quotes": PLAIN.replace(",", '","').replace("\n", '"\n"').replace("path", '"path').removesuffix('"'),
    "an index column": "".join(f"{i},{line}\n" for i, line in enumerate(PLAIN.splitlines())).replace("0,path", ",path"),
    "float labels": PLAIN.replace("0\n", "0.0\n").replace("1\n", "1.0\n").replace("2\n", "2.0\n"),
    "Windows' paths": PLAIN.replace("/", "\\"),
    "blank lines": PLAIN.replace("label\n", "label\n\n") + "\n",
    "a capital letter": PLAIN.replace("path", "Path"),
    "another name": PLAIN.replace("path", "fname"),
}


@pytest.mark.parametrize("dialect", SAME)
def test_dialects_are_read_alike(dialect: str, folder: Path):
    """Law: the same rows, whatever wrote the file."""
    assert rows_of(folder, SAME[dialect]) == EXPECTED


def test_ids_keep_their_zeros_and_file_names_may_lack_a_suffix(folder: Path):
    """Law: an id is what is written; the image's file is found with a suffix, in the folder `images`."""
    text = "image_id,age_class\n" + "".join(f"{name},{'abc'[i % 3]}\n" for i, name in enumerate(NAMES))
    found = rows_of(folder, text, {"path": "image_id", "id": "image_id", "label": "age_class"}, str(folder / "img"))
    assert found == [(name, "abc"[i % 3], True) for i, name in enumerate(NAMES)]


MULTI = "image_path,gender,age,smile\nimg/001.png,1,0,1\nimg/002.png,0,0,1\n"
REFUSED = {
    "UTF-16": (PLAIN.encode("utf-16"), r"it is UTF-16 .*; save it as CSV UTF-8"),
    "Latin 1": (PLAIN.replace("2\n", "é\n").encode("latin-1"), r"line 4 is not UTF-8 \(byte 0xe9\); save it"),
    "no text": (b"PAR1\0\0\0", "zero bytes, so it is no text"),
    "no header": (PLAIN.partition("\n")[2], r"its first line is a row, 'img/001\.png': write the columns' names"),
    "MUFAC's class": (PLAIN.replace("label", "age_class"), r"no column 'label'.*\{label: age_class\}"),
    "MUCAC's columns": (MULTI, r"gender, age, smile are 0 or 1: several labels per image \(multi-label\)"),
    "a list": (PLAIN.replace(",0", ',"[1, 0]"'), "holds several labels, '\\[1, 0\\]'"),
    "names in one cell": (PLAIN.replace(",0", ",Mass").replace(",1", ",Mass|Edema"), r"several labels, 'Mass\|Edema'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_table_of_one_class_per_image_is_refused_in_words(what: str, folder: Path):
    """Law: one line with the cause and the next step."""
    text, message = REFUSED[what]
    with pytest.raises(DataError, match=message):
        rows_of(folder, text)


# Lists of images to forget.


def array(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def forgotten(folder: Path, ids: Any, names: list[str] | None = None) -> list[str]:
    """Return the ids of the images that a list selects; a pair is a file's name and content."""
    if isinstance(ids, tuple):
        file = folder / ids[0]
        file.write_bytes(ids[1] if isinstance(ids[1], bytes) else ids[1].encode())
        ids = str(file)
    own = names or [f"img/{name}.png" for name in NAMES]
    table = ImageTable(
        ids=own,
        labels_N=np.zeros(len(own), np.int64),
        groups=[""] * len(own),
        given=[""] * len(own),
        num_train=len(own),
        num_validation=0,
        class_names=None,
    )
    data = Data.model_validate({"train": "digits", "forget": {"ids": ids}})
    return [own[i] for i in make_splits(data, Seeds(study=0), table).sets["forget"]]


THIRD = ["img/003.png"]
LISTS = {
    "with folder": THIRD,
    "without folder": ["003.png"],
    "without suffix": ["img/003"],
    "another root": ["/data/faces/img/003.png"],
    "Windows' path": ["img\\003.png"],
    "CSV": ("f.csv", "image_path,age_class\nimg/003.png,a\n"),
    "CSV with semicolons and a mark": ("f.csv", "\ufeffimage_id;x\n003.png;a\n"),
    "CSV with another heading": ("f.csv", "filename;age\r\n003.png;3\r\n"),
    "CSV of Windows' paths": ("f.csv", "path\nC:\\faces\\img\\003.png\n"),
    "CSV without a heading": ("f.csv", "img/003\n"),
    "JSON": ("f.json", '["003.png"]'),
    "a series of pandas": ("f.csv", ",0\n0,003.png\n"),
    "text of Windows": ("f.txt", "\ufeff003.png\r\n"),
    "an array of positions": ("f.npy", array(np.array([2]))),
    "a column of positions": ("f.npy", array(np.array([[2]]))),
    "an array of booleans": ("f.npy", array(np.arange(12) == 2)),
    "an array of names": ("f.npy", array(np.array(["003.png"]))),
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_are_read_in_every_form(form: str, folder: Path):
    """Law: ids, file names with or without folder and suffix, positions, in any of the usual files."""
    assert forgotten(folder, LISTS[form]) == THIRD


NUMBERED = [f"image-{i}-x.png" for i in range(12)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("f.txt", "3, 4\n"),
        ("f.txt", "[3 4]\n"),
        ("f.txt", "3.000000000000000000e+00\n4.000000000000000000e+00\n"),
        ("f.tsv", "index\tname\n3\tx\n4\ty\n"),
    ],
)
def test_positions_may_be_in_one_line_in_a_column_or_as_numpy_saves_them(file: str, text: str, folder: Path):
    """Law: the same positions."""
    assert forgotten(folder, (file, text), NUMBERED) == NUMBERED[3:5]


NUMBERS = ["12", "7", "30", "5", "9", "11"]


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("f.txt", "12\n7\n\n", ["12", "7"]),
        ("f.json", '[12, "7"]', ["12", "7"]),
        ("f.npy", array(np.array([12, 7])), ["12", "7"]),
        ("f.npy", array(np.array(["12", "7"])), ["12", "7"]),
        ("f.npy", array(np.array([0, 4, 2])), ["12", "30", "9"]),
        ("f.npy", array(np.array([True, False, False, True, False, False])), ["12", "5"]),
        ("f.csv", " image_id ,x\n12,1\n7.0,1\n", ["12", "7"]),
        ("f.csv", "image_id\n12.0\n7\n", ["12", "7"]),
        ("f.csv", "image_id,forget,male\n12,1,0\n7,1,1\n", ["12", "7"]),
        ("f.csv", "path,class,deleted_at\n12,cat,\n7,dog,2026-01-01\n", ["12", "7"]),
    ],
)
def test_numbers_are_ids_where_one_is(file: str, content: str | bytes, expected: list[str], folder: Path):
    """Law: ids as text or numbers; positions where no entry is an id; one boolean per image."""
    assert forgotten(folder, (file, content), NUMBERS) == expected


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        (
            ("f.txt", "12\n1234\n"),
            NUMBERS,
            r"entry 1: image id '1234' is not in .*; as a position, it is none of 0 to 5",
        ),
        (("f.txt", "-1\n"), NUMBERS, r"image id '-1' is not in data\.train; as a position, it is none of 0 to 5"),
        (("f.npy", array(np.arange(6) % 3 // 2)), NUMBERS, r"already named at .*; a mask of zeros and ones is wri"),
        (
            ("f.json", '{"forget": [1], "retain": [2]}'),
            NUMBERS,
            "found a dictionary with the keys 'forget', 'retain': w",
        ),
        (("f.npy", array(np.array([12, 8]))), NUMBERS, r"entry 1: image id '8' is not in data\.train"),
        (("f.npy", array(np.array([0, 1, -1]))), NUMBERS, r"entry 2: -1 is no position in .*, which has 0 to 5"),
        (("f.npy", array(np.array([1, 6]))), NUMBERS, r"entry 1: 6 is no position in data\.train, which has 0 to 5"),
        (("f.csv", "image_id,Forget?\n12,0\n7,1\n"), NUMBERS, r"column 'Forget\?' says .* such as '0', '1'; all rows"),
        (("f.csv", "image_id,forget\n12,x\n7,\n"), NUMBERS, r"column 'forget' says which rows .* such as '', 'x'"),
        (("f.csv", "image_id,forget\n12,0\n7,0\n"), NUMBERS, r"column 'forget' says which rows .* such as '0'"),
        (
            ("f.csv", "image_id,split\n12,retain\n7,forget\n"),
            NUMBERS,
            "column 'split' says which rows .*'forget', 'reta",
        ),
        (("f.json", "[[1]]"), NUMBERS, "expected a list of ids"),
        (("f.json", "["), NUMBERS, "cannot be read as a list of ids"),
        (("f.csv", "image_id\n012\n"), NUMBERS, r"image id '012' is not in data\.train \(did you mean '12'\?\)"),
        (["3"], None, r"3 is the position of image 'img/004\.png', and the name of image 'img/003\.png'; write the im"),
        (["003"], None, r"003 is the position of image 'img/004\.png', and the name of image 'img/003\.png'"),
        (("f.npy", array(np.arange(5) == 3)), None, "5 booleans, and data.train has 12 images"),
        (("f.npy", array(np.array(["a"], object))), None, "a pickle, which may run code"),
        (("f.csv", b"PK\x03\x04"), None, r"compressed \(zip\)"),
    ],
)
def test_lists_that_mean_two_things_or_none_are_refused(ids: Any, names: Any, message: str, folder: Path):
    """Law: file and entry are named; a number that is one image's position and another's name is not guessed.

    Neither is a mask of other length; a number written otherwise is suggested by its value; no pickle is read.
    """
    with pytest.raises(DataError, match=message):
        forgotten(folder, ids, names)


FOLDERS = [*(f"{c}/{i}.png" for c in "ab" for i in range(6)), "b/only.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("3.png", r"'3\.png' is the name of 2 images; name them with their folders"),
        ("a/only.png", r"is not in data\.train"),
        ("x/a/only", r"is not in data\.train"),
        ("b/x/only.png", r"is not in data\.train"),
        ("C:\\a\\only.png", r"is not in data\.train"),
    ],
)
def test_a_file_name_has_to_mean_one_image_of_its_folder(name: str, message: str, folder: Path):
    """Law: a name of two images, and a folder that has no such image, are refused; nothing is guessed."""
    with pytest.raises(DataError, match=message):
        forgotten(folder, [name], FOLDERS)


def test_a_number_is_the_same_written_as_a_fraction(folder: Path):
    """Law: ids that pandas wrote as 12.0 are found by 12 and 12.0, not taken for positions."""
    names = [f"{10 - i}.0" for i in range(10)]
    assert forgotten(folder, ["3"], names) == forgotten(folder, ["3.0"], names) == ["3.0"]
    assert forgotten(folder, ["3.0"], [str(10 - i) for i in range(10)]) == ["3"]
