"""Kinds of fuzzing that damage what a study is made from: its file, overrides, sources, and weights to import.

    attack = parquet(Bench(root, template), rng)

Does not cover: finished studies (`fuzz_stores`).
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzz_bench import ESCAPES, Attack, Bench, odd_column
from fuzz_bytes import BOMBS_OF_WEIGHTS, bombs_of_images, damaged, encoded, odd_json, safetensors_of
from fuzz_study import KEYS, TREE, YAML_BOMBS, odd_study, odd_tree, odd_value, text_of
from safetensors.torch import save as safetensors_bytes

from ray_unlearn.models import small_cnn

FORMS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "PCX", "JPEG2000")


def _prepare(study: str, *more: str) -> Attack:
    return Attack([["prepare", study, "--backend", "inline", *more]])


def study(bench: Bench, rng: Random) -> Attack:
    """Study files: the schema's keys changed, damaged bytes, and YAML that bites."""
    file = str(bench.write("study.yaml", odd_study(rng)))
    command = rng.choice(
        (["status", file], ["status", file], ["export", file, str(bench.here / "out.zip"), "--population", "finetune"])
    )
    return Attack([command], [bench.here / "out.zip"])


def resolved(bench: Bench, rng: Random) -> Attack:
    """Studies whose methods, model and options are resolved as `generate` does; nothing is trained."""
    tree = odd_tree(rng)
    data = tree.get("data")
    if isinstance(data, dict):
        data["image_size"] = 8 if isinstance(data.get("image_size"), int) else data.get("image_size", 8)
    return Attack([["open", str(bench.write("study.yaml", text_of(rng, tree).encode("utf-8", "surrogatepass")))]])


def override(bench: Bench, rng: Random) -> Attack:
    """Override keys on the command line."""
    key = ".".join(rng.choice(KEYS)) if rng.random() < 0.8 else str(odd_value(rng))
    what = rng.random()
    value = text_of(rng, {"v": odd_value(rng)}).partition(":")[2].strip() if what < 0.6 else str(odd_value(rng))
    if what > 0.9:
        value = YAML_BOMBS[rng.choice(list(YAML_BOMBS))]
    text = f"{key}={value}".replace("\0", "\u2400")[:100_000]  # no argument can hold a null byte
    return Attack([["status", bench.study_of(TREE), "--set", text]])


def _images(rng: Random, count: int) -> list[bytes]:
    return [encoded("PNG", 8 + i % 3) for i in range(count)]


def parquet(bench: Bench, rng: Random) -> Attack:
    """Parquet sources: damaged bytes, columns of every type, paths that lead elsewhere, metadata, bombs."""
    count = 20
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": data, "path": None} for data in _images(rng, count)]),
        "label": pa.array([i % 2 for i in range(count)]),
        "id": pa.array([f"i{i}" for i in range(count)]),
        "person": pa.array([f"p{i // 2}" for i in range(count)]),
        "age": pa.array([float(i) for i in range(count)]),
    }
    what = rng.random()
    if what < 0.5:
        columns[rng.choice(list(columns))] = odd_column(rng, count)
    table = pa.table(columns)
    if rng.random() < 0.3:
        names = odd_json(rng, {"info": {"features": {"label": {"names": ["a", "b"]}}}}, odd_value)
        table = table.replace_schema_metadata({"huggingface": json.dumps(names, default=str)})
    file = bench.here / "train.parquet"
    pq.write_table(
        table, file, compression=rng.choice(("none", "snappy", "zstd", "gzip")), row_group_size=rng.choice((7, 100))
    )
    if 0.4 < what < 0.95:
        file.write_bytes(damaged(rng, file.read_bytes()))
    if what >= 0.95:
        image = rng.choice((b"\0" * 100_000_000, encoded("PNG")))
        rows = pa.array([image] * (1 if len(image) > 1000 else 200_000), pa.large_binary())
        labels = pa.array([i % 2 for i in range(len(rows))])
        pq.write_table(
            pa.table({"image": rows, "label": labels, "id": [str(i) for i in range(len(rows))]}),
            file,
            compression="zstd",
        )
    names = {key: key for key in rng.choice((("id",), ("id", "age"), ("group", "age"), ()))}
    names = {key: {"group": "person"}.get(key, key) for key in names}
    source = rng.choice(("train.parquet", "*.parquet", ["train.parquet", "train.parquet"], "."))
    more = {"on_bad_image": rng.choice(("refuse", "skip")), "columns": names}
    return _prepare(bench.study(train=source, **({"classes": 2} if rng.random() < 0.5 else {}), **more))


def csv(bench: Bench, rng: Random) -> Attack:
    """Damage the competition's CSV files and lists of ids: odd cells, damaged bytes, ids that lead elsewhere."""
    given = {"retain": range(10), "forget": range(10, 15), "validation": range(15, 20)}
    cells = [
        "",
        "nan",
        "-1",
        "1e300",
        "9" * 400,
        "inf",
        "x",
        '"',
        '"a\nb"',
        "\0",
        "=1+1",
        "a" * 100_000,
        "2.5",
        "True",
        "-9223372036854775809",
    ]
    odd = [*cells, *ESCAPES, *(f"{escape}-1" for escape in ESCAPES), "f-10"]
    for name, numbers in given.items():
        rows = [[f"f-{i}", str(i % 2), "30", f"p{i // 2}"] for i in numbers]
        for _ in range(rng.choice((0, 1, 1, 3))):
            rng.choice(rows)[rng.randrange(4)] = rng.choice(odd)
        header = ["image_id", "age_group", "age", "person_id"]
        if rng.random() < 0.1:
            header[rng.randrange(4)] = rng.choice(("image_id", "", "\ufeffimage_id", "age"))
        text = "\n".join(",".join(row) for row in [header, *rows]).replace("{root}", str(bench.root))
        data = text.encode("utf-8", "surrogatepass")
        bench.write(f"{name}.csv", damaged(rng, data) if rng.random() < 0.3 else data)
    for i in range(20):
        bench.write(f"images/f/{i}.png", encoded("PNG", 8))
    bench.write("../outside.png", encoded("PNG", 8))
    ids = "image_id\n" + "\n".join(rng.choice(["f-1", "f-2", "f-3", *odd]) for _ in range(3))
    bench.write("forget-ids.csv", damaged(rng, ids.encode()) if rng.random() < 0.5 else ids.encode())
    forget: dict[str, Any] = rng.choice(
        ({"given": True}, {"ids": "forget-ids.csv"}, {"group": "person_id", "count": 2})
    )
    return _prepare(bench.study(train=".", validation="given", forget=forget))


def image(bench: Bench, rng: Random) -> Attack:
    """Make a folder per class whose pictures are damaged, of odd formats, or bombs."""
    for i in range(16):
        form = rng.choice(FORMS)
        data = encoded(form, 8 + i % 5)
        suffix = rng.choice(("png", "jpg", "gif", "tif", form.lower()))
        bench.write(f"faces/{'ab'[i % 2]}/{i}.{suffix}", damaged(rng, data) if rng.random() < 0.7 else data)
    if rng.random() < 0.2:
        bombs = bombs_of_images()
        name = rng.choice(list(bombs))
        bench.write(f"faces/a/{name.replace('.eps', '.png')}", bombs[name])
    return _prepare(bench.study(train="faces", on_bad_image=rng.choice(("refuse", "skip", "skip"))))


def _odd_tensors(rng: Random) -> dict[str, Any]:
    """Return the state of `TREE`'s net with one tensor of an odd kind."""
    state: dict[str, Any] = dict(small_cnn(10, width=4).state_dict())
    name = rng.choice(list(state))
    tensor = state[name]
    makers: tuple[Callable[[], Any], ...] = (
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.float8_e4m3fn),
        tensor.bool,
        lambda: tensor.to("meta"),
        lambda: tensor.float().to_sparse() if tensor.dim() else tensor,
        lambda: torch.full_like(tensor.float(), np.nan),
        lambda: torch.zeros(1).expand(2**20, 2**20),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: tensor[None],
        lambda: [tensor],
        lambda: "text",
    )
    state[name] = rng.choice(makers)()
    if rng.random() < 0.2:
        state[rng.choice(("", "x" * 10_000, "../../x", "a\nb"))] = torch.zeros(1)
    if rng.random() < 0.2:
        return {rng.choice(("state_dict", "model", "net")): state}
    return state


def weights(bench: Bench, rng: Random) -> Attack:
    """Weights to import: damaged safetensors and .pth, odd tensors, false headers, archives that swell, pickles."""
    state = small_cnn(10, width=4).state_dict()
    what, name = rng.random(), "w.safetensors"
    data = safetensors_bytes(state)
    if what < 0.3:
        data = damaged(rng, data)
    elif what < 0.55:
        length = int.from_bytes(data[:8], "little")
        data = safetensors_of(odd_json(rng, json.loads(data[8 : 8 + length]), odd_value), data[8 + length :])
    else:
        name = "w.pth"
        sink = bench.here / "made.pth"
        torch.save(_odd_tensors(rng) if what < 0.8 else state, sink, _use_new_zipfile_serialization=rng.random() < 0.8)
        data = sink.read_bytes()
        if what >= 0.8:
            data = damaged(rng, data)
    if rng.random() < 0.1:
        name = rng.choice(list(BOMBS_OF_WEIGHTS))
        data = BOMBS_OF_WEIGHTS[name]()
    bench.write(name, data)
    tree = {**TREE, "populations": {**TREE["populations"], "original": {"weights": name}}}
    return Attack([["open", bench.study_of(tree)]])
