"""The challenge's notebook as a loop, and two ways to run it in parallel: what tests/bench/benchmark.py compares with.

    took = notebook_side(setting)    # {"steady_s": 12.3, "accuracy": {...}, ...} of the side that the setting names
    made = loop_side(setting)        # (a) one checkpoint after another in this process
    made = pool_side(setting)        # (b) the same function in a multiprocessing pool
    made = tune_side(setting)        # (c) the same function as Ray Tune trials, one per seed
    made.steady_s                    # from the first checkpoint's begin to the last one's end

Written from a description of the notebook, no line of it copied: the whole set in RAM as uint8 tensors, an item made
float32 and scaled in `__getitem__`, DataLoader(shuffle=True, num_workers=0), for each checkpoint
`load_state_dict(original)`, epochs of SGD (momentum 0.9, weight decay 5e-4, torch's defaults otherwise), `torch.save`.
Two things are added, because ray_unlearn does them, too: logits of the forget and test images are saved, in fp32; and
every checkpoint has a random stream of its own. Pixels are scaled as the study's `standard` does.

Does not cover: ray_unlearn's own side, nor what the figures mean (`benchmark`).
"""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.data import DataLoader, Dataset

from ray_unlearn import models
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.model import Model
from ray_unlearn.training.precision import allow_tensor_float_32

Span = tuple[float, float]
"""When a checkpoint was begun and when its last file was written: seconds of the machine's monotonic clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What one side makes in one repeat; plain values, so that it travels as JSON."""

    side: str
    folder: str
    """train.parquet, test.parquet, forget.csv and original.pth, which every side reads."""
    out: str
    """Empty folder for what the side writes."""
    arch: str
    image_size: int
    classes: int
    checkpoints: int
    epochs: int
    batch_size: int
    lr: float
    precision: str
    device: str
    workers: int
    threads: int
    """Cores of the machine; the thread count of `ray_unlearn` where it runs inline."""
    backend: Literal["auto", "ray", "inline"]
    overrides: list[str]
    """Of ray_unlearn's study, KEY.KEY=VALUE."""


@dataclass(frozen=True, slots=True)
class Made:
    """When a side made its checkpoints."""

    begin: float
    """When the steady part begins."""
    spans: list[Span]

    @property
    def steady_s(self) -> float:
        """Seconds until the last file of the last checkpoint was written."""
        return max(end for _, end in self.spans) - self.begin


class UnlearningDataset(Dataset[tuple[torch.Tensor, int]]):
    """Decoded images in memory; each is converted when it is asked for."""

    def __init__(self, images_NCHW: torch.Tensor, labels: list[int]) -> None:
        self.images, self.labels = images_NCHW, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        """Return float32 [3, H, W] and the class."""
        return (self.images[item].float() - 127.5) / 63.75, self.labels[item]


Sets = Mapping[str, UnlearningDataset]
"""retain, forget and test."""


def read_rows(setting: Setting) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of retain, forget and test, images still encoded."""
    folder = Path(setting.folder)
    with (folder / "forget.csv").open(newline="") as lines:
        forget = {row["image_id"] for row in csv.DictReader(lines)}
    train = pq.read_table(folder / "train.parquet").to_pylist()
    return {
        "retain": [row for row in train if row["image_id"] not in forget],
        "forget": [row for row in train if row["image_id"] in forget],
        "test": pq.read_table(folder / "test.parquet").to_pylist(),
    }


def read_sets(setting: Setting) -> Sets:
    """Decode every image into memory."""
    return {name: _decoded(rows, setting.image_size) for name, rows in read_rows(setting).items()}


def _decoded(rows: list[dict[str, Any]], size: int) -> UnlearningDataset:
    images = []
    for row in rows:
        picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        images.append(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return UnlearningDataset(stacked, [row["label"] for row in rows])


class Notebook:
    """One net, its loaders, and the loop's body."""

    def __init__(self, setting: Setting, sets: Sets) -> None:
        self.setting, self.out = setting, Path(setting.out)
        self.device = torch.device(setting.device)
        allow_tensor_float_32(setting.precision == "tf32")  # sides are compared at the same precision
        self.original = torch.load(Path(setting.folder) / "original.pth", map_location="cpu", weights_only=True)
        stock = Model(arch=setting.arch, trim_dead_taps=False)
        self.net = models.build(stock, setting.classes, Seeds(study=0)).to(self.device)
        self.retain = DataLoader(sets["retain"], batch_size=setting.batch_size, shuffle=True, num_workers=0)
        self.judged = {
            name: DataLoader(sets[name], batch_size=setting.batch_size, num_workers=0) for name in ("forget", "test")
        }
        torch.optim.SGD(self.net.parameters(), lr=0.0).step()  # a process's first step imports for seconds

    def checkpoint(self, index: int) -> Span:
        """Make checkpoint `index` and its logits; return when."""
        begin = time.monotonic()
        with Seeds(study=0, population="notebook", run=index).global_state("shuffle"):
            self.net.load_state_dict(self.original)
            self.unlearn()
        torch.save(self.net.state_dict(), self.out / f"unlearned_checkpoint_{index}.pth")
        for name, loader in self.judged.items():
            np.save(self.out / f"{name}_{index}.npy", self.logits(loader))
        return begin, time.monotonic()

    def unlearn(self) -> None:
        """Fine-tune on the retain set, the notebook's starter method."""
        optimizer = torch.optim.SGD(self.net.parameters(), lr=self.setting.lr, momentum=0.9, weight_decay=5e-4)
        self.net.train()
        for _ in range(self.setting.epochs):
            for images, labels in self.retain:
                optimizer.zero_grad()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.setting.precision == "bf16"):
                    loss = F.cross_entropy(self.net(images.to(self.device)), labels.to(self.device))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    @torch.no_grad()
    def logits(self, loader: DataLoader[tuple[torch.Tensor, int]]) -> np.ndarray:
        """Return float32 [N, C]."""
        self.net.eval()
        return torch.cat([self.net(images.to(self.device)).float().cpu() for images, _ in loader]).numpy()


def loop_side(setting: Setting) -> Made:
    """Make (side a) one checkpoint after another, with torch's own thread count."""
    notebook = Notebook(setting, read_sets(setting))
    return _from_first([notebook.checkpoint(index) for index in range(setting.checkpoints)])


def _from_first(spans: list[Span]) -> Made:
    return Made(min(begin for begin, _ in spans), spans)


_given: list[tuple[Setting, Sets]] = []
_opened: list[Notebook] = []
"""Both of a process of the pool."""


def _give(setting: Setting, sets: Sets) -> None:
    torch.set_num_threads(1)
    _given.append((setting, sets))


def _checkpoint(index: int) -> Span:
    if not _opened:  # not in the initialiser: where that fails, a pool starts the next process, for ever
        _opened.append(Notebook(*_given[0]))
    return _opened[0].checkpoint(index)


def pool_side(setting: Setting) -> Made:
    """Share the checkpoints out (side b) to processes of one thread each; each gets the images once, when it starts."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(setting.workers, _give, (setting, read_sets(setting))) as pool:
        return _from_first(pool.map(_checkpoint, range(setting.checkpoints), chunksize=1))


def tune_side(setting: Setting) -> Made:
    """Make one trial per seed (side c), images through Ray's object store.

    The steady part begins when Tune first looks for something to schedule, because starting a trial's process is part
    of what each of these checkpoints costs.
    """
    import ray
    from ray import tune

    def trial(config: dict[str, Any], sets: Sets) -> dict[str, Any]:
        return {"span": Notebook(setting, sets).checkpoint(config["index"])}

    steps: list[float] = []

    class Clock(tune.Callback):
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            steps.append(time.monotonic())

    ray.init(
        address="local",
        num_cpus=setting.workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    resources = {"CPU": 1.0} | ({"GPU": 1 / setting.workers} if setting.device == "cuda" else {})
    grid = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, sets=read_sets(setting)), resources),
        param_space={"index": tune.grid_search(list(range(setting.checkpoints)))},
        run_config=tune.RunConfig(
            storage_path=f"{setting.out}/trials",
            verbose=0,
            callbacks=[Clock()],
            failure_config=tune.FailureConfig(fail_fast=True),
        ),
    ).fit()
    ray.shutdown()
    if grid.errors:
        raise RuntimeError(f"a trial failed: {str(grid.errors[0]).strip().splitlines()[-1]}")
    reported = (grid[i].metrics or {} for i in range(len(grid)))
    return Made(steps[0], [metrics["span"] for metrics in reported])


SIDES: Mapping[str, Callable[[Setting], Made]] = {"a": loop_side, "b": pool_side, "c": tune_side}


def notebook_side(setting: Setting) -> dict[str, Any]:
    """Make the checkpoints as side a, b or c does and return the side's figures."""
    made = SIDES[setting.side](setting)
    out = Path(setting.out)
    return {
        "checkpoints": len(list(out.glob("unlearned_checkpoint_*.pth"))),
        "steady_s": made.steady_s,
        "steady_from": "spans",
        "spans_s": [[begin - made.begin, end - made.begin] for begin, end in made.spans],
        "run_s": [end - begin for begin, end in made.spans],
        "threads": torch.get_num_threads() if setting.side == "a" else 1,
        "accuracy": {name: _accuracies(setting, name) for name in ("forget", "test")},
    }


def _accuracies(setting: Setting, name: str) -> list[float]:
    labels_N = np.array([row["label"] for row in read_rows(setting)[name]])
    logits = [np.load(Path(setting.out) / f"{name}_{index}.npy") for index in range(setting.checkpoints)]
    return [float((logits_NC.argmax(1) == labels_N).mean()) for logits_NC in logits]
