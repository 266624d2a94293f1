"""Training curves of a study's runs as one picture.

    save_curves(store, ["original", "finetune"], Path("curves.png"))

One line per run: training loss by epoch, and, where the study published stages, accuracy on each split.

Does not cover: scores (evaluation).
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.errors import StoreError
from ray_unlearn.store import Record, StudyStore

_SPLITS = ("retain", "forget", "validation", "test")


def save_curves(store: StudyStore, populations: list[str], file: Path) -> None:
    """Save a picture in the format of the file's ending.

    Raises:
        StoreError: no run recorded a training loss, or the file cannot be written.

    """
    runs = {name: _records(store, name) for name in populations}
    runs = {name: records for name, records in runs.items() if records}
    if not runs:
        raise StoreError(f"{store.uri}: no finished run has a training loss yet; nothing to plot")
    figure = Figure(figsize=(9, 2.8 * len(runs)), layout="constrained")
    for row, (name, records) in zip(figure.subplots(len(runs), 2, squeeze=False), runs.items(), strict=True):
        _losses(row[0], name, records)
        _accuracies(row[1], records)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: cannot be written: {error}") from error


def _records(store: StudyStore, population: str) -> list[Record]:
    return [record for record in store.made(population).values() if record.epoch_loss]


def _losses(axes: Axes, name: str, records: list[Record]) -> None:
    for record in records:
        axes.plot(range(1, len(record.epoch_loss) + 1), record.epoch_loss, marker=".", color="tab:blue", alpha=0.4)
    axes.set(title=f"{name} (N={len(records)})", xlabel="epoch", ylabel="training loss (nats)")


def _accuracies(axes: Axes, records: list[Record]) -> None:
    staged = [record for record in records if record.stages]
    for colour, split in enumerate(_SPLITS):
        key = f"{split}_accuracy"
        for number, record in enumerate(r for r in staged if key in r.stages[0]):
            epochs, values = [s["epoch"] for s in record.stages], [s[key] for s in record.stages]
            axes.plot(epochs, values, color=f"C{colour}", alpha=0.4, marker=".", label=None if number else split)
    if staged:
        axes.legend()
        axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "stages: {metrics: true}\nadds accuracy by epoch", ha="center", va="center")
