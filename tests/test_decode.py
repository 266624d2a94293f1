"""One encoded image -> exact pixels, or a refusal that states why."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from samples import encoded, picture

from ray_unlearn.data.decode import DecodeJob, decode, decode_slice
from ray_unlearn.data.rows import Row
from ray_unlearn.errors import DataError
from ray_unlearn.store.filesystem import open_storage


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_images_keep_every_pixel(form):
    """Law: an image of the right size is not touched."""
    pixels = picture(1)
    if form == "GIF":  # 256 colours at most: an image of few
        pixels = (pixels // 128) * 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    assert np.array_equal(decode(buffer.getvalue(), 8), pixels)


def test_pixels_given_as_arrays_are_taken_as_they_are():
    """Law: sources that hold pixels (digits, cifar10) skip the codec, grey becomes RGB."""
    pixels = picture(2)
    assert np.array_equal(decode(pixels, 8), pixels)
    assert np.array_equal(decode(pixels[:, :, 0], 8), np.repeat(pixels[:, :, :1], 3, axis=2))


def test_every_colour_mode_becomes_rgb():
    """Law: grey repeats into three channels, alpha is dropped, a palette is looked up, one bit is 0 or 255."""
    grey = picture(3)[:, :, 0]
    assert np.array_equal(decode(encoded(grey), 8), np.stack([grey] * 3, axis=2))

    rgba = np.dstack([picture(4), np.full((8, 8), 7, np.uint8)])
    assert np.array_equal(decode(encoded(rgba), 8), rgba[:, :, :3])

    palette = Image.frombytes("P", (8, 8), bytes(i % 2 for i in range(64)))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert decode(buffer.getvalue(), 8)[0, :2].tolist() == [[10, 20, 30], [200, 100, 50]]

    buffer = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=bool)).save(buffer, "PNG")
    assert np.array_equal(decode(buffer.getvalue(), 8)[:, :, 1], np.eye(8, dtype=np.uint8) * 255)


def test_sixteen_bits_keep_their_upper_half():
    """Law: 16-bit grey is scaled, not clipped: 0x0A00 -> 0x0A, 0xFFFF -> 0xFF."""
    deep = np.array([[0x0000, 0x0A00], [0xC8FF, 0xFFFF]], dtype=np.uint16).repeat(4, 0).repeat(4, 1)
    pixels = decode(encoded(deep), 8)
    assert pixels[::4, ::4, 0].tolist() == [[0x00, 0x0A], [0xC8, 0xFF]]


@pytest.mark.parametrize(("height", "width"), [(4, 16), (16, 4), (33, 20)])
def test_other_sizes_are_resized_to_the_square(height, width):
    """Law: bilinear, without keeping the aspect ratio; a constant image stays constant."""
    constant = np.full((height, width, 3), (9, 99, 199), np.uint8)
    assert np.array_equal(decode(encoded(constant), 8), np.full((8, 8, 3), (9, 99, 199), np.uint8))
    pixels = picture(5, height, width)
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(encoded(pixels), 8), expected)


def test_resizing_worked_by_hand():
    """Law: halving averages with the bilinear kernel's weights: 2 -> 1 pixel is the plain mean."""
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, 4:] = 200
    assert decode(encoded(halves), 4)[0, :, 0].tolist()[::3] == [0, 200]
    two = np.array([[[10] * 3, [30] * 3]] * 2, np.uint8)
    assert decode(encoded(two), 1).tolist() == [[[20, 20, 20]]]


def damaged(case: str) -> bytes:
    """Return bytes that are no whole image."""
    whole = {"PNG": encoded(picture(6, 32, 32)), "JPEG": encoded(picture(6, 32, 32), "JPEG")}
    return {
        "corrupt JPEG": whole["JPEG"][:20] + b"\0" * 40 + whole["JPEG"][60:],
        "truncated JPEG": whole["JPEG"][: len(whole["JPEG"]) // 2],
        "truncated PNG": whole["PNG"][: len(whole["PNG"]) // 2],
        "wrong checksum": whole["PNG"][:60] + bytes([whole["PNG"][60] ^ 1]) + whole["PNG"][61:],
        "text": b"not an image at all",
        "one byte": b"\xff",
    }[case]


@pytest.mark.parametrize(
    "case", ["corrupt JPEG", "truncated JPEG", "truncated PNG", "wrong checksum", "text", "one byte"]
)
def test_damaged_images_are_refused(case):
    """Law: no half-decoded image is ever taken; the reason is one line."""
    with pytest.raises(DataError, match="not an image that can be decoded") as caught:
        decode(damaged(case), 8)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)  # an address would differ from run to run


def job(tmp_path, **changes) -> DecodeJob:
    """Return a job that decodes to 8x8, three named classes."""
    known = {
        "storage": open_storage(str(tmp_path)),
        "folder": "cache",
        "image_size": 8,
        "class_names": ("cat", "dog", "eel"),
        "num_classes": 3,
        "skip_bad": False,
    }
    return DecodeJob(**{**known, **changes})


class Rows:
    """A slice that yields given rows."""

    def __init__(self, *rows: Row) -> None:
        self._rows = rows

    def rows(self):
        return iter(self._rows)


def row(label, image=None, **changes) -> Row:
    """Return a row of `faces.parquet`."""
    image = encoded(picture(0)) if image is None else image
    return Row(**{"image": image, "image_id": "a", "label": label, "where": "faces.parquet row 7", **changes})


@pytest.mark.parametrize(("width", "height"), [(65_536, 1), (1, 65_536)])
def test_a_side_that_no_photograph_has_is_refused(width, height):
    """Law: 65,535 pixels a side are taken; to resize 60 million to 8 would take 1.4 GB for a file of 175 kB."""
    with pytest.raises(DataError, match=f"{width}x{height} pixels; expected sides of at most 65535"):
        decode(encoded(np.zeros((height, width), np.uint8)), 8)
    assert decode(encoded(np.zeros((height, width), np.uint8)[:65_535, :65_535]), 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (99, "faces.parquet row 7: label 99: expected a class number from 0 to 2"),
        (3, "label 3: expected a class number from 0 to 2"),
        (-1, "label -1: expected a class number from 0 to 2; sets for competitions have -1 where labels are secret"),
        (None, "row 7: no label: the cell is null; leave such rows out"),
        ("dgo", "faces.parquet row 7: label 'dgo' is none of the 3 classes (did you mean 'dog'?)"),
        ("whale", "label 'whale' is none of the 3 classes (valid: cat, dog, eel)"),
    ],
)
def test_labels_outside_the_classes_are_refused(tmp_path, label, expected):
    """Law: the message names file, row, what was found and what was expected; skipping bad images does not help."""
    for skip_bad in (False, True):
        done = decode_slice(Rows(row(label)), 0, job(tmp_path, skip_bad=skip_bad))
        assert expected in done.error


def test_a_named_label_must_are_below_the_class_count_too(tmp_path):
    """Law: `classes: 2` refuses the third class by any name."""
    done = decode_slice(Rows(row("eel")), 0, job(tmp_path, num_classes=2))
    assert "faces.parquet row 7: label eel: expected a class number from 0 to 1" in done.error


def test_names_become_numbers_and_any_number_goes_where_no_count_is_known(tmp_path):
    """Law: a name's index is its label; without a class count only negative labels are refused."""
    done = decode_slice(Rows(row("eel"), row("cat", image_id="b")), 0, job(tmp_path))
    assert (done.error, done.max_label) == ("", 2)
    free = job(tmp_path, class_names=None, num_classes=None)
    assert decode_slice(Rows(row(99)), 0, free).max_label == 99
    assert "label -1: expected a class number from 0;" in decode_slice(Rows(row(-1)), 0, free).error


def test_skipping_records_what_was_skipped(tmp_path):
    """Law: with `on_bad_image: skip` nothing disappears silently."""
    rows = Rows(row(0), row(1, damaged("text"), image_id="bad", where="f row 1"), row(2, image_id="c"))
    done = decode_slice(rows, 0, job(tmp_path, skip_bad=True))
    assert (done.error, done.ids) == ("", ["a", "c"])
    assert [(skip["where"], skip["image_id"]) for skip in done.skipped] == [("f row 1", "bad")]
    assert "not an image that can be decoded" in done.skipped[0]["reason"]
    refused = decode_slice(rows, 0, job(tmp_path))
    assert refused.error.startswith("f row 1: not an image")
    assert "`data.on_bad_image: skip`" in refused.error


@pytest.mark.parametrize(("image_size", "rows"), [(8, 2048), (32, 2048), (224, 445), (1024, 21)])
def test_shards_are_bounded_in_bytes(tmp_path, image_size, rows):
    """Law: at most 2,048 images and 64 MiB of pixels per shard: 64 * 2^20 / (3 * 224^2) = 445.8."""
    assert job(tmp_path, image_size=image_size).shard_rows == rows
