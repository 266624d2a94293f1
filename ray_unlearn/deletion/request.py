"""A deletion request -> the study that is made for it, as a file that can be repeated.

    file = write(Request(model="model.pth", arch="resnet18", data="photos", ids="delete.csv"), Path("out"))
    seconds = budget_s("1h30m")

The file is the form of `study/template.py`. A later request in the same folder may only ask for more runs.

Does not cover: making the study (`making`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ray_unlearn.errors import StoreError, StudyError, write_text
from ray_unlearn.store import StudyStore
from ray_unlearn.study.identity import diff
from ray_unlearn.study.loading import load_study
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.study.schema import Study
from ray_unlearn.study.template import DELETION, PLACEHOLDERS
from ray_unlearn.study.yaml12 import parse_yaml

STUDY_FILE = "study.yaml"
UNLEARNED, RETRAINED = "unlearned", "retrained"
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    model: str
    """File of the trained model: .pth (a state dict) or .safetensors."""
    arch: str
    data: str
    """Training images: a folder per class, or Parquet."""
    ids: str
    """File that lists the images to forget."""
    test: str | None = None
    """Images that the model was not trained on; else a tenth of `data` is held out."""
    method: str = PLACEHOLDERS["method"]
    image_size: int = 32
    normalize: str | Mapping[str, Any] = "standard"
    """Scale of the pixels: raw, unit, standard, or {mean: [R, G, B], std: [R, G, B]}, also as text."""
    expect_accuracy: float | None = None
    """Accuracy of the model on test images, 0..1, where it is known."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How the model was trained: keys of the study's `training`."""

    def text(self) -> str:
        """Return the study file; paths are absolute."""
        recipe = {key: value for key, value in Recipe().model_dump(mode="json").items() if key in _RECIPE}
        values = {
            "data": _path(self.data),
            "test": "0.1" if self.test is None else _path(self.test),
            "image_size": str(self.image_size),
            "normalize": _yaml(_parsed(self.normalize)),
            "ids": _path(self.ids),
            "arch": _yaml(self.arch),
            "training": _yaml(recipe | dict(self.training)),
            "weights": _path(self.model),
            "method": _path(self.method) if ".py:" in self.method else _yaml(self.method),
            "count": "1",
            "expect_accuracy": _yaml(self.expect_accuracy),
        }
        return DELETION.substitute(PLACEHOLDERS | values)


_RECIPE = ("epochs", "optimizer", "lr", "weight_decay", "schedule", "batch_size")
_FORM = re.compile(re.sub(r"\\\$\w+", lambda _: ".*", re.escape(DELETION.template)))
"""The lines that every request's file has."""


def _path(text: str) -> str:
    """Return a path as YAML, absolute unless it is a URI or an embedded source; a link keeps its own name."""
    if "://" in text or text in ("digits", "cifar10"):
        return _yaml(text)
    path = Path(text).expanduser()
    return _yaml(str(path.parent.resolve() / path.name))


def _parsed(value: str | Mapping[str, Any]) -> Any:
    """Return a mapping that is given as text, as the command line does; other text as it is."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(yaml.YAMLError):  # the study's own check has the words for it
            return parse_yaml(value)
    return value


def _yaml(value: Any) -> str:
    """Return a value as YAML on one line, which may stand between braces."""
    text = yaml.safe_dump([value], default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.strip()[1:-1]


def write(request: Request, out: Path) -> Path:
    """Write the study file of a request into a folder, unless the same request is there already; return the file.

    Another request is replaced where no model of it was made: it was refused, and this is the corrected one. A file
    with other lines than a request's is a person's own, and stays.

    Nothing is written where a value is refused, so that the corrected request can be made in the same folder.

    Raises:
        StudyError: the folder holds another request, or a value is refused.
        StoreError: the folder cannot be written.

    """
    file, beside = out / STUDY_FILE, out / f".{STUDY_FILE}.new"
    try:
        out.mkdir(parents=True, exist_ok=True)
        beside.write_text(request.text(), encoding="utf-8")
        asked = _content(load_study(beside))
        lines = diff(_content(load_study(file)), asked) if file.exists() else []
        if not file.exists() or (lines and _gives_way(file)):
            beside.replace(file)
            lines = []
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error.strerror or error}") from error
    except StudyError as error:  # its lines are of a file that goes again
        raise StudyError(re.sub(rf"{re.escape(str(beside))}(:\d+)?", "the request", str(error))) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    if lines:
        raise StudyError(f"{file}: another request is there ({'; '.join(lines[:3])}); choose another folder: -o FOLDER")
    return file


def _gives_way(file: Path) -> bool:
    """Return whether a study file is of a request of which no model was made."""
    study = load_study(file)
    store = StudyStore.of(study)
    begun = any(store.indexes(name) for name in study.populations)
    return not begun and _FORM.fullmatch(file.read_text(encoding="utf-8")) is not None


def _content(study: Study) -> dict[str, Any]:
    """Return what a request may not change: everything but the counts."""
    values = study.model_dump(mode="json")
    for population in values["populations"].values():
        population.pop("count", None)
    return values


def with_count(study: Study, count: int) -> Study:
    """Return the study with this many unlearned and retrained runs."""
    populations = {
        name: spec.model_copy(update={"count": count}) if name in (UNLEARNED, RETRAINED) else spec
        for name, spec in study.populations.items()
    }
    return study.model_copy(update={"populations": populations})


def write_count(file: Path, count: int) -> None:
    """Write the number of runs that were made into the study file, so that repeating it makes as many."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    counted = tuple(f"  {name}:" for name in (UNLEARNED, RETRAINED))
    new = [re.sub(r"\bcount: \d+", f"count: {count}", line) if line.startswith(counted) else line for line in lines]
    if new != lines:
        write_text(file, "".join(new))


def check_form(study: Study, where: str) -> None:
    """Check that a study is a deletion request: one imported original, `unlearned`, and `retrained`.

    Raises:
        StudyError: it is another study.

    """
    original = study.populations.get("original")
    wanted: Sequence[str] = ("original", UNLEARNED, RETRAINED)
    if original is None or not original.weights or any(name not in study.populations for name in wanted):
        raise StudyError(
            f"{where}: expected the populations original (with weights: FILE), {UNLEARNED} and {RETRAINED}; "
            f"found {', '.join(study.populations)}; `ray-unlearn init FILE --template deletion` writes the form"
        )
    if study.data.forget.sets > 1:
        raise StudyError(f"{where}: data.forget.sets: a request has one forget set; found {study.data.forget.sets}")


def budget_s(text: str) -> float:
    """Return a time such as `90s`, `30m` or `1h30m` in seconds.

    Raises:
        StudyError: it is no time.

    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise StudyError(f"--budget {text}: expected a time such as 90s, 30m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
