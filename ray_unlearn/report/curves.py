"""Training curves of a study's runs as one picture.

    check_picture(Path("curves.png"))            # .png, .svg or .pdf
    left_out = save_curves(store, ["original", "finetune", "mine"], Path("curves.png"))      # {"mine": "its runs ..."}

One line per run: training loss by epoch, and, if the study published stages, accuracy on each split. Lines of later
splits are thinner and have other dashes, so that the lines below them remain visible.

Does not cover: scores (evaluation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ray_unlearn.errors import StoreError
from ray_unlearn.store import Record, StudyStore

ENDINGS = (".png", ".svg", ".pdf")
_LINES = {"retain": (4.2, "-"), "forget": (2.8, (0, (5, 1))), "validation": (1.8, (0, (1, 1))), "test": (1.0, "-")}
"""Split -> width in points and dashes, from the lowest to the uppermost line."""


def check_picture(file: Path) -> None:
    """Check that a file's name has a picture's ending.

    Raises:
        StoreError: the ending is none of `ENDINGS`.

    """
    if file.suffix.lower() not in ENDINGS:
        raise StoreError(f"{file}: expected a name that ends in .png, .svg or .pdf; found {file.suffix or 'no ending'}")


def save_curves(store: StudyStore, populations: list[str], file: Path) -> dict[str, str]:
    """Save a picture in the format of the file's ending; return the populations that it lacks -> the reason.

    Raises:
        StoreError: another ending than `ENDINGS`, no run recorded a training loss, or the file cannot be written.

    """
    check_picture(file)
    made = {name: list(store.made(name).values()) for name in populations}
    drawn = {name: [record for record in records if record.epoch_loss] for name, records in made.items()}
    runs = {name: records for name, records in drawn.items() if records}
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
    why = {name: "its runs recorded no loss by epoch" if made[name] else "no run is made yet" for name in populations}
    return {name: reason for name, reason in why.items() if name not in runs}


def _losses(axes: Axes, name: str, records: list[Record]) -> None:
    for record in records:
        axes.plot(range(1, len(record.epoch_loss) + 1), record.epoch_loss, marker=".", color="tab:blue", alpha=0.4)
    axes.set(title=f"{name} (N={len(records)})", ylabel="training loss (nats)")
    _by_epoch(axes)


def _by_epoch(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _accuracies(axes: Axes, records: list[Record]) -> None:
    staged = [record for record in records if record.stages]
    for colour, (split, (width, dashes)) in enumerate(_LINES.items()):
        style: dict[str, Any] = {
            "color": f"C{colour}",
            "linewidth": width,
            "linestyle": dashes,
            "markersize": 2 * width + 1,
        }
        key = f"{split}_accuracy"
        for number, record in enumerate(r for r in staged if key in r.stages[0]):
            epochs, values = [s["epoch"] for s in record.stages], [s[key] for s in record.stages]
            axes.plot(epochs, values, alpha=0.5, marker=".", label=None if number else split, **style)
    if staged:
        axes.legend(handlelength=3)
        axes.set(ylabel="accuracy", ylim=(0, 1.04))
        _by_epoch(axes)
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "stages: {metrics: true}\nadds accuracy by epoch", ha="center", va="center")
