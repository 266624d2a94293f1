"""Files as other programs write them, for tests of `import` and `export`: written as each source's writer does.

KLOM: RoyRin/data-unlearning-bench (`run.py`, `paths.py`); EasyDUB: easydub/EasyDUB-code (`data.py`, `train_models.py`);
datamodels: MadryLab/datamodels (`initialize_store.py`, `worker.py`); LiRA: tensorflow/privacy (`train.py`,
`inference.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

TRAIN, TEST, CLASSES = 40, 20, 3
FORGET = np.array([7, 3, 31, 22, 9, 15])
"""Positions of the forget images, in an order of their own, as the benchmarks' lists have them."""
LABELS = np.arange(TRAIN + TEST) % CLASSES


def draw_logits(runs: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Return float32 logits [runs, 60, 3]; the label's is larger, of forget images by `shift` more."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(runs, TRAIN + TEST, CLASSES))
    logits[:, np.arange(TRAIN + TEST), LABELS] += 1.5
    logits[:, FORGET, LABELS[FORGET]] += shift
    return logits.astype(np.float32)


def margins_of(logits: np.ndarray) -> np.ndarray:
    """Return the label's logit minus the logarithm of the summed exponentials of the others, as get_margin does."""
    found = torch.from_numpy(logits.copy())
    rows, labels = torch.arange(len(LABELS)), torch.from_numpy(LABELS)
    correct = found[:, rows, labels].clone()
    found[:, rows, labels] = -torch.inf
    return (correct - found.logsumexp(dim=-1)).numpy()


def write_klom_oracle(folder: Path, margins: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    torch.save(torch.from_numpy(margins[:, :TRAIN].copy()), folder / "train_margins_all.pt")
    torch.save(torch.from_numpy(margins[:, TRAIN:].copy()), folder / "val_margins_all.pt")
    return folder


def write_klom_unlearned(file: Path, by_epoch: dict[int, np.ndarray]) -> Path:
    torch.save({epoch: torch.from_numpy(margins) for epoch, margins in by_epoch.items()}, file)
    return file


def write_easydub(root: Path, oracle: np.ndarray, pretrained: np.ndarray, forget_set: int = 2) -> Path:
    """Write margins of models one by one: the oracles' retain margins leave the forget images out."""
    retain = np.setdiff1d(np.arange(TRAIN), FORGET)
    sets = root / "forget_sets" / "cifar10"
    sets.mkdir(parents=True)
    np.save(sets / f"forget_set_{forget_set}.npy", FORGET)
    base = root / "margins" / "cifar10"
    parts = {"retain": retain, "forget": FORGET, "val": np.arange(TRAIN, TRAIN + TEST)}
    for phase, columns in parts.items():
        for index, row in enumerate(oracle):
            _save(
                base / "oracle" / f"forget_{forget_set}" / phase / "resnet9" / f"id_{index}_epoch_23.npy", row[columns]
            )
    parts["retain"] = np.arange(TRAIN)
    for phase, columns in parts.items():
        folder = base / "pretrain" / (f"forget_{forget_set}" if phase == "forget" else phase) / "resnet9"
        for index, row in enumerate(pretrained):
            _save(folder / f"id_{index}_epoch_23.npy", row[columns])
    return root


def write_easydub_own(file: Path, margins: np.ndarray) -> Path:
    """Write one's own models' margins as train_models.py does: [epochs, models, images] by split."""
    retain = np.setdiff1d(np.arange(TRAIN), FORGET)
    parts = {"retain": retain, "forget": FORGET, "val": np.arange(TRAIN, TRAIN + TEST)}
    np.savez(file, **{f"margins_{name}": margins[None][:, :, columns] for name, columns in parts.items()})
    return file


def write_datamodels(folder: Path, margins: np.ndarray, masks: np.ndarray, completed: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for name, values in {"margins": margins.astype(np.float16), "masks": masks, "_completed": completed}.items():
        mapped = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=values.dtype, shape=values.shape)
        mapped[:] = values
        mapped.flush()
    return folder


def write_lira(folder: Path, logits: np.ndarray, keep: np.ndarray) -> Path:
    """Write training images' logits [1, augmentations, classes]: the image, then its mirror image."""
    folder.mkdir(parents=True)
    np.save(folder / "y_train.npy", LABELS[:TRAIN])
    for index, (own, mask) in enumerate(zip(logits, keep, strict=True)):
        model = folder / f"experiment-{index}_{len(logits)}"
        (model / "logits").mkdir(parents=True)
        np.save(model / "keep.npy", mask)
        np.save(model / "logits" / f"{10:010d}", np.zeros((TRAIN, 1, 2, CLASSES), np.float32))
        stats = np.stack([own[:TRAIN], own[:TRAIN][::-1]], axis=1)
        np.save(model / "logits" / f"{20:010d}", stats[:, None, :, :])
    return folder


def _save(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, values)
