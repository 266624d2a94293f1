"""Data as people bring them, further (case A13, and issue 21's rows): depth of grey images, images that are not square.

An id names the row of the table of cases that a test holds; `test_data_cases` has the other rows about data.
"""

from __future__ import annotations

import io
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
