"""Peak memory of scoring shadows against their number: made-up outputs on disk, each size in a process of its own.

    uv run python tests/bench/shadow_memory.py --shadows 64,512 --images 20000

Prints one line per size: the peak resident set of reading and fitting all shadows, attacking the last pair, and
memorisation, its wall time, and the size of the outputs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ray_unlearn.evaluation.scores import Cost, PopulationScores, Summary
from ray_unlearn.evaluation.shadow_scores import score_shadows
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.arrow import ipc_bytes
from ray_unlearn.store.membership import fingerprint, half_of_train
from ray_unlearn.store.outputs import SplitLogits, encode_outputs
from ray_unlearn.store.records import payload_of
from ray_unlearn.store.splits import ImageNames
from ray_unlearn.study import Run

CLASSES = 10
NAME = "shadows"


def sizes_of(images: int) -> dict[str, int]:
    """Return images by split: nine tenths retain, a tenth forget, and as many test images as forget images."""
    return {"retain": images - images // 10, "forget": images // 10, "test": images // 10}


def publish(store: StudyStore, index: int, sizes: dict[str, int]) -> None:
    """Publish one made-up shadow: logits of images that it was trained on are higher by one."""
    rng = np.random.default_rng(index)
    half = half_of_train(0, NAME, index, sizes)
    splits = {}
    for split, size in sizes.items():
        labels_N, logits_NC = np.arange(size) % CLASSES, rng.normal(size=(size, CLASSES)).astype(np.float32)
        logits_NC[np.arange(size), labels_N] += 2 + half.get(split, np.zeros(size, bool))
        splits[split] = SplitLogits(np.arange(size), labels_N, logits_NC)
    payloads = {"outputs.arrow": encode_outputs(splits)}
    record = Record(
        population=NAME,
        index=index,
        original=0,
        digest="made up",
        method="train",
        options={"on": {"half_of": "train", "balanced": True}},
        seeds={"study": 0, "original": 0, "run": index},
        original_sha256="",
        membership=fingerprint(half),
        payloads={name: payload_of(data) for name, data in payloads.items()},
        metrics={},
        epoch_loss=[],
        stages=[],
        seconds={"train": 1.0},
        started_at="",
        device="cpu",
        threads=1,
        host="",
        versions={},
        attempt=1,
        checksum="",
    )
    store.publish(Run(population=NAME, index=index), payloads, record)


def make_store(folder: Path, shadows: int, sizes: dict[str, int]) -> None:
    """Write a store of made-up shadows, and its splits file."""
    import pyarrow as pa

    store = StudyStore(open_storage(str(folder)), "made-up")
    content = {"digest": "made up", "identity": {"data": {"splits": "0" * 64}}}
    store.storage.publish_file(store.layout.population_json(NAME), json.dumps(content).encode())
    table = pa.table(
        {"split": pa.array([name for name, size in sizes.items() for _ in range(size)]).dictionary_encode()}
    )
    store.storage.publish_file(store.layout.splits("0" * 64), ipc_bytes(table))
    for index in range(shadows):
        publish(store, index, sizes)


def score(folder: Path, sizes: dict[str, int]) -> None:
    """Score the store; print the peak resident set before and after."""
    store = StudyStore(open_storage(str(folder)), "made-up")
    records = store.made(NAME)
    names = ImageNames(
        {split: [f"{split}-{n}" for n in range(size)] for split, size in sizes.items()},
        {split: [""] * size for split, size in sizes.items()},
        (),
    )
    nothing = Summary(mean=0.0, sd=None, low=None, high=None, n=1)
    described = PopulationScores(
        population=NAME,
        role="shadow",
        method="train",
        options={},
        runs=len(records),
        originals=0,
        slices=(),
        cost=Cost(seconds=nothing, relative=None, efficient=None),
    )
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    scored = score_shadows(described, store, NAME, records, names, "0" * 64, lambda: np.random.default_rng(0))
    after, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic() - start
    outputs = sum(payload.size_bytes for record in records.values() for payload in record.payloads.values())
    auc = scored.attacks["lira_online"].auc
    print(
        f"{len(records)} shadows, {sum(sizes.values()):,} images, outputs {outputs / 1e6:,.0f} MB: peak memory "
        f"{after / 1024:,.0f} MiB ({before / 1024:,.0f} before), {seconds:.1f} s, LiRA online AUC {auc:.3f}"
    )


def main() -> None:
    """Make and score a store of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shadows", default="64,512")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--score", type=Path, help="Score this store, in this process.")
    given = parser.parse_args()
    sizes = sizes_of(given.images)
    if given.score:
        score(given.score, sizes)
        return
    for shadows in map(int, given.shadows.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            make_store(Path(folder), shadows, sizes)
            subprocess.run([sys.executable, __file__, "--images", str(given.images), "--score", folder], check=True)


if __name__ == "__main__":
    main()
