"""Damage to files: bytes flipped, cut, repeated; false headers; bombs that unpack to far more than they are.

    data = damaged(rng, png_bytes)               # rng: anything with random.Random's methods
    files = bombs_of_images()                    # {"30000x30000.png": about 1 MB that would decode to 2.7 GB}

Shared by tests/stress/fuzz.py and tests/test_fuzz.py. Needs: nothing but this environment.

Does not cover: which file is damaged for which command (`fuzz_kinds`), nor study files (`fuzz_study`).
"""

import functools
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from random import Random

import numpy as np
from PIL import Image

PICKLE = b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."
"""Would leave a file `pwned` in the current folder if anybody unpickled it."""


def _flip(rng: Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _cut(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] if rng.random() < 0.7 else data[start:]


def _overwrite(rng: Random, data: bytes) -> bytes:
    """Put an extreme number where a size or an offset may be: more often near the ends, where headers are."""
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1))
    number = value.to_bytes(width, rng.choice(("little", "big")))
    place = rng.choice((rng.randrange(len(data)), rng.randrange(min(64, len(data))), len(data) - 1 - rng.randrange(8)))
    place = max(0, place)
    return data[:place] + number + data[place + width :]


def _repeat(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 16, 256, 4096)))
    return data[:end] + data[start:end] * rng.choice((1, 2, 100)) + data[end:]


def _remove(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 4, 64)) :]


def _noise(rng: Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((1, 16, 256))
    return data[:start] + rng.randbytes(length) + data[start + length :]


def _replaced(rng: Random, data: bytes) -> bytes:
    return rng.choice((b"", b"\x00", b"PAR1", b"\xff" * 100, PICKLE, data * 2, b"\n" * 10_000, data[::-1]))


_DAMAGES: tuple[Callable[[Random, bytes], bytes], ...] = (_flip, _cut, _overwrite, _repeat, _remove, _noise, _replaced)


def damaged(rng: Random, data: bytes) -> bytes:
    """Return the bytes with one to three kinds of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if data:
            data = rng.choice(_DAMAGES)(rng, data)
    return data


def encoded(form: str, size: int = 12, mode: str = "RGB") -> bytes:
    """Return a small picture in a format that Pillow writes."""
    pixels = np.arange(size * size * 3, dtype=np.uint8).reshape(size, size, 3)
    sink = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(sink, form)
    return sink.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, scanlines: int | None = None, extra: bytes = b"") -> bytes:
    """Return a black RGB picture as PNG, its pixels never in memory; with fewer `scanlines` than it claims, it is
    false.
    """
    packer, parts = zlib.compressobj(1), []
    line = b"\0" * (3 * width + 1)
    for _ in range(height if scanlines is None else scanlines):
        parts.append(packer.compress(line))
    parts.append(packer.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", b"".join(parts)) + _chunk(b"IEND", b"")
    )


@functools.cache
def bombs_of_images() -> dict[str, bytes]:
    """Return pictures that are small files and large in memory, and some that only claim to be."""
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 200_000_000, 1))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(pwned) (w) file closefile\nshowpage\n%%EOF\n"
    return {
        "30000x30000.png": png_of(30_000, 30_000, scanlines=3_000),
        "12000x12000.png": png_of(12_000, 12_000),
        "9000x9000.png": png_of(9_000, 9_000),
        "claims-2-to-the-31.png": png_of(8, 8).replace(
            struct.pack(">II", 8, 8), struct.pack(">II", 2**31 - 1, 2**31 - 1)
        ),
        "text.png": png_of(8, 8, extra=text),
        "wide.png": png_of(60_000_000, 1),
        "program.eps": postscript,
    }


def safetensors_of(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file whose header is what is given, its length field too."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@functools.cache
def _zeros() -> tuple[int, int, bytes]:
    """Return size, CRC and deflated form of 1.5 GiB of zeros: one block of 1 MiB, repeated."""
    block, count, packer = b"\0" * 2**20, 1536, zlib.compressobj(1, zlib.DEFLATED, -15)
    packed, crc = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH), 0
    for _ in range(count):
        crc = zlib.crc32(block, crc)
    return count * len(block), crc, packed * count + packer.flush()


def _archive(members: Mapping[str, bytes], swollen: str) -> bytes:
    """Return a zip archive one of whose members is 1.5 GiB of zeros in 7 MB."""
    sink, large = io.BytesIO(), zipfile.ZipInfo(swollen)
    large.file_size, large.CRC, packed = _zeros()
    large.compress_type, large.compress_size = zipfile.ZIP_DEFLATED, len(packed)
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        large.header_offset = sink.tell()
        sink.write(large.FileHeader() + packed)
        archive.filelist.append(large)  # which `writestr` would do, and compress for seconds
        archive.start_dir = sink.tell()
    return sink.getvalue()


_HUGE = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
_OVERFLOW = {"w": {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 8]}}
BOMBS_OF_WEIGHTS: dict[str, Callable[[], bytes]] = {
    "header-of-2-to-the-60.safetensors": lambda: safetensors_of({}, length=2**60),
    "header-of-minus-1.safetensors": lambda: safetensors_of({}, length=2**64 - 1),
    "tensor-of-4-TB.safetensors": lambda: safetensors_of(_HUGE),
    "shape-overflows.safetensors": lambda: safetensors_of(_OVERFLOW, b"\0" * 8),
    "deep.safetensors": lambda: safetensors_of(b"[" * 100_000 + b"]" * 100_000),
    "storage-bomb.pth": lambda: _archive({"archive/data.pkl": PICKLE, "archive/version": b"3"}, "archive/data/0"),
    "pickle-bomb.pth": lambda: _archive({"archive/version": b"3"}, "archive/data.pkl"),
    "pickle.pth": lambda: PICKLE,
}
"""Weights files with false headers, and archives that unpack to far more than they are; each is made when called."""


def odd_json(rng: Random, value: object, odd: Callable[[Random], object]) -> object:
    """Return a JSON value with one leaf or branch replaced by something odd, removed, or given another name."""
    if isinstance(value, Mapping) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        what = rng.random()
        if what < 0.12:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.2:
            return {(f"{k}x" if k == key else k): v for k, v in value.items()}
        return {**value, key: odd_json(rng, value[key], odd)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], odd_json(rng, value[place], odd), *value[place + 1 :]]
    return odd(rng)
