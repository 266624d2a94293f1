"""Kinds of fuzzing that damage a finished study, and command lines that no one should type.

    attack = record(Bench(root, template), rng)

Does not cover: what a study is made from (`fuzz_sources`).
"""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from fuzz_bench import ESCAPES, Attack, Bench, odd_column
from fuzz_bytes import damaged, odd_json
from fuzz_study import odd_value

from ray_unlearn.store import Record
from ray_unlearn.store.arrow import ipc_bytes
from ray_unlearn.store.records import payload_of

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
        actual = payload_of(file.read_bytes())
        found["shards"] = [{**s, **actual.model_dump()} if s["name"] == file.name else s for s in found["shards"]]
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
        table = table.set_column(table.column_names.index(name), name, odd_column(rng, count))
    return ipc_bytes(table)


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
