"""Make a small store with the ray_unlearn that is on the path, as one zip: `python make.py format-2.zip`.

`format-1.zip` was made in a checkout of commit 9ae5280 (version 0.1.0), the others by the first version of each format:

    PYTHONPATH=CHECKOUT python tests/stores/make.py tests/stores/format-1.zip

It holds what a user has: study files, images, scripts, a store with runs, a failure, splits, events, scores, compacted
records and decoded images. It is made once for each format of `store.formats`, and never again.
"""

from __future__ import annotations

import io
import socket
import sys
import tempfile
import zipfile
from pathlib import Path

socket.gethostname = lambda: "host"

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from PIL import Image  # noqa: E402

import ray_unlearn  # noqa: E402
from ray_unlearn.evaluation.evaluate import evaluate  # noqa: E402
from ray_unlearn.generation import generate  # noqa: E402
from ray_unlearn.store import StudyStore, open_storage, study_store  # noqa: E402
from ray_unlearn.study import load_study  # noqa: E402

study_store._WORTH_COMPACTING = 0
_CHECKOUT = str(Path(ray_unlearn.__file__).parents[1]).encode()
"""Where this is run, which tracebacks name: it stays out of the zip."""

_HEAD = """\
name: kept
storage: ./store
data: {train: images.parquet, test: 0.2, image_size: 8, forget: {fraction: 0.15}}
model: {arch: small_cnn, options: {width: 2}}
training: {epochs: 1, optimizer: adam, lr: 1.0e-2, batch_size: 16}
outputs: {splits: [forget, test]}
stages: {metrics: true}
execution: {device: cpu, max_attempts: 1}
"""
STUDY = (
    _HEAD
    + """\
evaluation: {reference: retrained, resamples: 10}
populations:
  original: {method: train, on: train, count: 1}
  retrained: {method: train, on: retain, count: 3}
  finetune: {method: finetune, count: 2, epochs: 1}
  mine: {method: mine.py:unlearning, count: 1}
"""
)
HELPED = _HEAD + "populations:\n  original: {method: train, on: train}\n  helped: {method: helped.py:unlearning}\n"
FAILS = _HEAD + "populations:\n  original: {method: train, on: train}\n  fails: {method: fails.py:unlearning}\n"
SCRIPT = """\
import torch

RATE = 0.01


def unlearning(net, retain_loader, forget_loader, val_loader):
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for batch in retain_loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(batch["image"]), batch["age_group"]).backward()
        optimizer.step()
"""
FILES = {
    "study.yaml": STUDY,
    "helped.yaml": HELPED,
    "fails.yaml": FAILS,
    "mine.py": SCRIPT,
    "helped.py": SCRIPT.replace("RATE = 0.01", "from helper import RATE"),
    "helper.py": "RATE = 0.02\n",
    "fails.py": "def unlearning(net, *loaders):\n    raise ValueError('on purpose')\n",
}


LEFT_OUT = ("metrics.parquet", "scores.parquet")


def picture(index: int) -> bytes:
    """Return a PNG of 8x8 pixels of one colour and a stripe."""
    pixels = np.full((8, 8, 3), 20 * (index % 3) + 60, np.uint8)
    pixels[index % 8] = index * 4
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path) -> None:
    """Make the study in a folder."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    images = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(48)]
    table = pa.table({"image": images, "label": [i % 3 for i in range(48)]})
    pq.write_table(table, folder / "images.parquet")
    for name in ("helped", "fails", "study"):
        study = load_study(folder / f"{name}.yaml")
        generate(study, backend="inline")
    evaluate(study, StudyStore(open_storage(study.storage), study.name))


def main(target: Path) -> None:
    """Write the zip; tables that no version reads again are left out."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and path.name not in LEFT_OUT and path.suffix != ".pyc":
                    data = path.read_bytes().replace(_CHECKOUT, b"/checkout")
                    archive.writestr(path.relative_to(folder).as_posix(), data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
