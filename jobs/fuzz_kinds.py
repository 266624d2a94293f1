"""What is fuzzed: each kind writes damaged files into a folder and names the commands that meet them.

    attack = KINDS["parquet"](Bench(root, template), rng)
    attack.commands                              # [["prepare", "<root>/a/b/study.yaml", "--backend", "inline"]]

Every command goes through the real command line, in this process.

Does not cover: what counts as a violation (`fuzz_judge`).
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from fuzz_bytes import bombs_of_images, bombs_of_weights, damaged, encoded, odd_json, safetensors_of
from fuzz_study import TREE, YAML_BOMBS, odd_study, odd_tree, odd_value, text_of
from safetensors.torch import save as safetensors_bytes

from ray_unlearn.models import small_cnn
from ray_unlearn.store import Record
from ray_unlearn.store.records import payload_of

FORMS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "PCX", "JPEG2000")
ESCAPES = (
    "../outside",
    "../../../outside",
    "a/../../outside",
    "..",
    "a-b/../../outside",
    "a\\..\\outside",
    "a\0b-c",
    "/{root}/outside",
)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where one case takes place: only the storage below `here` may change."""

    root: Path
    template: Path
    """A folder with the storage of `TREE`, generated and evaluated."""

    @property
    def here(self) -> Path:
        """The folder of the study file."""
        return self.root / "a" / "b"

    @property
    def store(self) -> Path:
        """The study's folder."""
        return self.here / "store" / "tiny"

    def write(self, name: str, data: bytes) -> Path:
        """Write an input."""
        file = self.here / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def study(self, **data: Any) -> str:
        """Write `TREE` with another `data` block; return the file."""
        return self.study_of({**TREE, "data": {"image_size": 8, "forget": {"fraction": 0.2}, **data}})

    def study_of(self, tree: Mapping[str, Any]) -> str:
        """Write a study; return the file."""
        return str(self.write("study.yaml", yaml.safe_dump(dict(tree), sort_keys=False).encode()))

    def made(self) -> str:
        """Bring the finished study here; return its file."""
        shutil.copytree(self.template / "store", self.here / "store", dirs_exist_ok=True)
        return self.study_of(TREE)


@dataclass(frozen=True, slots=True)
class Attack:
    """Commands that meet the damaged files, and what else they may write."""

    commands: list[list[str]]
    may_write: list[Path] = field(default_factory=list)


Kind = Callable[[Bench, Random], Attack]


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
    from fuzz_study import KEYS

    key = ".".join(rng.choice(KEYS)) if rng.random() < 0.8 else str(odd_value(rng))
    what = rng.random()
    value = text_of(rng, {"v": odd_value(rng)}).partition(":")[2].strip() if what < 0.6 else str(odd_value(rng))
    if what > 0.9:
        value = YAML_BOMBS[rng.choice(list(YAML_BOMBS))]
    text = f"{key}={value}".replace("\0", "\u2400")[:100_000]  # no argument can hold a null byte
    return Attack([["status", bench.study_of(TREE), "--set", text]])


def _images(rng: Random, count: int) -> list[bytes]:
    return [encoded("PNG", 8 + i % 3) for i in range(count)]


def _odd_column(rng: Random, count: int) -> pa.Array:
    """Return a column of a type that few expect."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: pa.array([None] * count),
        lambda: pa.array([float(i) for i in range(count)]),
        lambda: pa.array([2**64 - 1 - i for i in range(count)], pa.uint64()),
        lambda: pa.array([2**62 + i for i in range(count)], pa.int64()),
        lambda: pa.array([f"n{i % 2}" for i in range(count)]).dictionary_encode(),
        lambda: pa.array([[i] for i in range(count)]),
        lambda: pa.array([{"a": i} for i in range(count)]),
        lambda: pa.array([{"bytes": i} for i in range(count)]),
        lambda: pa.array([{"bytes": "text", "path": i} for i in range(count)]),
        lambda: pa.array([{"bytes": None, "path": rng.choice(ESCAPES)} for _ in range(count)]),
        lambda: pa.array([b"\xff\xfe" for i in range(count)], pa.binary()),
        lambda: pa.array(list(range(count)), pa.timestamp("ns")),
        lambda: pa.array(list(range(count)), pa.duration("s")),
        lambda: pa.array([i % 2 == 0 for i in range(count)]),
        lambda: pa.array([rng.choice((None, -1, 0, 1, 2**40)) for _ in range(count)], pa.int64()),
        lambda: pa.array([rng.choice((None, "", "a\0b", "x" * 10_000, "\u202e")) for _ in range(count)]),
        lambda: pa.array([str(i) for i in range(count)], pa.large_string()),
        lambda: pa.array([np.nan] * count),
    )
    made: pa.Array = rng.choice(makers)()
    return made


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
        columns[rng.choice(list(columns))] = _odd_column(rng, count)
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
        image = rng.choice((b"\0" * 300_000_000, encoded("PNG")))
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
    """Weights to import: damaged safetensors and .pth, odd tensors, headers that lie, archives that swell, pickles."""
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
        bombs = bombs_of_weights()
        bomb = rng.choice(list(bombs))
        name, data = bomb, bombs[bomb]
    bench.write(name, data)
    tree = {**TREE, "populations": {**TREE["populations"], "original": {"weights": name}}}
    return Attack([["open", bench.study_of(tree)]])


READERS = (
    ["status"],
    ["status", "--json"],
    ["verify"],
    ["verify", "--repair"],
    ["evaluate", "--jobs", "1"],
    ["report"],
    ["generate", "--backend", "inline"],
)


def _reading(bench: Bench, rng: Random, study: str) -> Attack:
    name, *more = rng.choice(READERS)
    if rng.random() < 0.15:
        return Attack(
            [["export", study, str(bench.here / "out.zip"), "--population", "finetune"]], [bench.here / "out.zip"]
        )
    if rng.random() < 0.1:
        return Attack([["status", study, "--plot", str(bench.here / "out.png")]], [bench.here / "out.png"])
    commands = [[name, study, *more]]
    return Attack(
        [*commands, ["evaluate", study, "--jobs", "1"], ["report", study]] if rng.random() < 0.2 else commands
    )


def record(bench: Bench, rng: Random) -> Attack:
    """Bring a finished study whose JSON files are damaged, odd, nested without end, or lead elsewhere."""
    study = bench.made()
    files = sorted(bench.here.glob("store/**/*.json"))
    for file in rng.sample(files, rng.choice((1, 1, 3))):
        what = rng.random()
        if what < 0.3:
            file.write_bytes(damaged(rng, file.read_bytes()))
        elif what < 0.4:
            file.write_bytes(
                rng.choice(
                    (
                        b"[" * 100_000,
                        b'{"a":' * 100_000,
                        b"[" * 2_000 + b"]" * 2_000,
                        b"9" * 5_000,
                        b"null",
                        b"[]",
                        b"NaN",
                    )
                )
            )
        else:
            content = odd_json(rng, json.loads(file.read_text()), odd_value)
            if file.name == "record.json" and isinstance(content, dict):
                content = _sealed(rng, content)
            if file.name == "manifest.json" and isinstance(content, dict) and rng.random() < 0.3:
                listed = content.get("shards")
                shards = [s for s in listed if isinstance(s, dict)] if isinstance(listed, list) else []
                content = {**content, "shards": [{**shard, "name": rng.choice(ESCAPES)} for shard in shards]}
            file.write_text(json.dumps(content, default=str), encoding="utf-8", errors="surrogatepass")
    return _reading(bench, rng, study)


def _sealed(rng: Random, content: dict[str, Any]) -> dict[str, Any]:
    """Return a stranger's record with a checksum that agrees; sometimes its files lead elsewhere."""
    held = content.get("payloads")
    if isinstance(held, dict) and rng.random() < 0.3:
        content = {**content, "payloads": {rng.choice(ESCAPES): value for value in held.values()}}
    try:
        return dict(json.loads(Record.model_validate(content).sealed().model_dump_json()))
    except ValueError:
        return content


def arrow(bench: Bench, rng: Random) -> Attack:
    """Bring a finished study whose outputs, splits, shards or checkpoints are damaged, with records that agree."""
    study = bench.made()
    files = sorted(p for p in bench.here.glob("store/**/*") if p.suffix in (".arrow", ".safetensors", ".parquet"))
    file = rng.choice(files)
    file.write_bytes(
        _odd_arrow(rng, file)
        if file.name == "outputs.arrow" and rng.random() < 0.5
        else damaged(rng, file.read_bytes())
    )
    if (beside := file.parent / "record.json").exists():
        found = json.loads(beside.read_text())
        found["payloads"][file.name] = payload_of(file.read_bytes()).model_dump()
        beside.write_text(json.dumps(_sealed(rng, found)))
    if (beside := file.parent / "manifest.json").exists():
        found = json.loads(beside.read_text())
        told = payload_of(file.read_bytes())
        found["shards"] = [{**s, **told.model_dump()} if s["name"] == file.name else s for s in found["shards"]]
        beside.write_text(json.dumps(found))
    if rng.random() < 0.5:
        shutil.rmtree(bench.store / "finetune/00001")
    return _reading(bench, rng, study)


def _odd_arrow(rng: Random, file: Path) -> bytes:
    """Return outputs with one column of another type, size or content."""
    table = pa.ipc.open_file(pa.BufferReader(file.read_bytes())).read_all()
    name, count = rng.choice(table.column_names), len(table)
    what = rng.random()
    if what < 0.2:
        table = table.drop_columns([name])
    elif what < 0.4:
        table = table.slice(0, rng.choice((0, 1, count // 2)))
    else:
        table = table.set_column(table.column_names.index(name), name, _odd_column(rng, count))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def arguments(bench: Bench, rng: Random) -> Attack:
    """Command lines that no one should type."""
    study = bench.made()
    odd = [str(odd_value(rng)).replace("\0", "")[:5_000].encode("utf-8", "replace").decode() for _ in range(3)]
    here = str(bench.here / "out" / rng.choice(("x.zip", "", "../x.zip")))
    command = rng.choice(
        (
            ["export", study, here, "--population", odd[0]],
            ["export", study, str(bench.here), "--population", "finetune"],
            ["status", odd[0] or "x"],
            ["methods", odd[0]],
            ["report", study, "--output", str(bench.here)],
            ["evaluate", study, "--jobs", "1", "--populations", odd[0]],
            ["generate", study, "--backend", "inline", "--only", odd[0]],
            ["init", str(bench.here / "study.yaml")],
            ["init", str(bench.here / "x" / ("y" * 300))],
            ["status", study, "--plot", str(bench.here / "none" / "x.png")],
            ["verify", study, "--set", f"storage={bench.here}/{'s' * 300}"],
            [odd[0], odd[1]],
        )
    )
    return Attack([command])


KINDS: dict[str, Kind] = {
    kind.__name__: kind for kind in (study, resolved, override, parquet, csv, image, weights, record, arrow, arguments)
}


def make_template(folder: Path) -> Path:
    """Generate and evaluate `TREE` below a folder; return the folder."""
    from ray_unlearn.cli import main

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(TREE, sort_keys=False))
    study = os.fspath(folder / "study.yaml")
    for command in (["generate", study, "--backend", "inline"], ["evaluate", study, "--jobs", "1"], ["report", study]):
        if main(command):
            raise RuntimeError(f"{command} failed; there is nothing to damage")
    return folder
