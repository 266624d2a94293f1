"""The competition's own form: a script's function `unlearning(net, retain_loader, forget_loader, val_loader)`.

    populations:
      mine: {method: my_method.py:unlearning, count: 8}

The function gets real `DataLoader`s whose batches are the competition's dicts: `image` (float32 [B, 3, H, W], scaled
as the study normalises; `pixels: raw` gives 0..255), `image_id`, `age_group` (the label), `age`, `person_id`. The
global generators of Python, NumPy and torch are seeded from the run before the call and restored after it. What
identifies the population is the script's text and that of every module of its folder that it imports, not their path;
for a script of an installed distribution, the distribution's name and version, too.

Does not cover: generators that a script makes from the operating system's entropy, nor training losses per epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import linecache
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from ray_unlearn.data.images import ImageSet, RunData, Scaling
from ray_unlearn.data.order import draw_order
from ray_unlearn.errors import MethodError, did_you_mean
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.beside import modules_beside
from ray_unlearn.study.identity import difference
from ray_unlearn.study.installed import distribution_of
from ray_unlearn.study.recipe import Block, Int

_PREFIX = "ray_unlearn_script_"


class ScriptOptions(Block):
    """What the loaders give; the rest is the script's own business."""

    batch_size: Int = Field(64, ge=1, description="Of the loaders that the function gets (official: 64).")
    pixels: Literal["study", "raw"] = Field("study", description="raw: 0..255 un-normalised, whatever the study says.")


class CompetitionDataset(Dataset[dict[str, Any]]):
    """A study's images as the competition's map-style data set."""

    def __init__(self, images: ImageSet, scaling: Scaling) -> None:
        self._images, self._scaling = images, scaling

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one example; `age` is NaN and `person_id` empty where the source does not know them."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return a batch's examples at once: one gather and one scaling (torch's loaders ask for this first)."""
        pixels, indices = self._images.pixels, self._images.indices[list(positions)]
        images = self._scaling.apply(torch.from_numpy(pixels.gather(indices))).contiguous()
        return [
            {
                "image": image,
                "image_id": pixels.ids[index],
                "age_group": int(pixels.labels_N[index]),
                "age": float(pixels.ages_N[index]),
                "person_id": pixels.groups[index],
            }
            for image, index in zip(images, indices, strict=True)
        ]


class _InBlocks(Sampler[int]):
    """The study's order, drawn anew for every pass."""

    def __init__(self, images: ImageSet, generator: torch.Generator) -> None:
        self._images, self._generator = images, generator

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[int]:
        """Yield positions."""
        yield from draw_order(len(self._images), self._images.pixels.shuffle, self._generator).tolist()


def is_script(method: str) -> bool:
    """Return whether a method's name means a function in a script."""
    return ".py:" in method


def read_script(method: str) -> str:
    """Return the script's source text.

    Raises:
        MethodError: it cannot be read.

    """
    path = method.rpartition(":")[0]
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MethodError(
            f"method {method}: {path} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error


@contextlib.contextmanager
def imports_beside(method: str) -> Iterator[None]:
    """Let the script import what lies beside it, in its functions too; forget those modules after, for the next one."""
    folder = Path(method.rpartition(":")[0]).parent
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and _is_beside(Path(origin), folder) and not name.startswith(_PREFIX):
                del sys.modules[name]


def _is_beside(origin: Path, folder: Path) -> bool:
    """Return whether a module is the script's own; an environment may lie in the same folder, and stays imported."""
    return folder in origin.parents and Path(sys.prefix) not in origin.parents and "site-packages" not in origin.parts


def load_function(method: str, source: str) -> Callable[..., Any]:
    """Execute a script's text as a module and return its function.

    Raises:
        MethodError: the text does not run, or defines no such function.

    """
    path, _, name = method.rpartition(":")
    module = ModuleType(f"{_PREFIX}{hashlib.sha256(source.encode()).hexdigest()[:12]}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # what the script defines can be pickled to a DataLoader's workers
    linecache.cache[path] = (
        len(source),
        None,
        source.splitlines(keepends=True),
        path,
    )  # tracebacks show its lines
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 - running the user's own method is the point
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}{line_in_script(error)}"
        raise MethodError(f"method {method}: the script fails on import: {said}") from error
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise MethodError(f"method {method}: no function {name!r} in {path}{did_you_mean(name, names)}")
    return function  # type: ignore[no-any-return]


def line_in_script(error: BaseException) -> str:
    """Return ` (script.py:12)`: the innermost line of a script that an error came through; else nothing."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(_PREFIX):
            found = f" ({Path(frame.f_code.co_filename).name}:{line})"
    return found


def script_identity(method: str, source: str) -> dict[str, Any]:
    """Return what identifies a script: text, function, the modules of its folder that it imports, its distribution.

    Raises:
        MethodError: a module is not Python, or cannot be read.

    """
    path, _, function = method.rpartition(":")
    script = Path(path)
    found: dict[str, Any] = {"script_sha256": hashlib.sha256(source.encode()).hexdigest(), "function": function}
    if modules := modules_beside(script, source):
        found["modules"] = {
            module.relative_to(script.parent).as_posix(): hashlib.sha256(module.read_bytes()).hexdigest()
            for module in modules
        }
    if distribution := distribution_of(script):
        found["distribution"] = distribution
    return found


def refuse_other_modules(method: str, source: str, planned: Mapping[str, Any]) -> None:
    """Refuse to run where the modules that a script imports are not those that the study was planned with.

    Raises:
        MethodError: one of them was edited meanwhile, or is another one on this machine.

    """
    if planned and (lines := difference(dict(planned), script_identity(method, source))):
        raise MethodError(
            f"method {method}: what it imports is not what the study was planned with ({'; '.join(lines)}) on "
            f"{socket.gethostname()}; restore it, or generate again: the population is then another one"
        )


def script_method(method: str, source: str, planned: Mapping[str, Any]) -> Method:
    """Return the script's function as a method.

    Args:
        method: path/to/script.py:function.
        source: the script's text.
        planned: the script's identity in the plan, which a run compares with what it finds; empty to compare nothing.

    """
    sha256 = hashlib.sha256(source.encode()).hexdigest()

    def run(model: nn.Module, data: RunData, options: ScriptOptions, rng: Seeds) -> None:
        refuse_other_modules(method, source, planned)
        with rng.global_state("script"), imports_beside(method):
            function = load_function(method, source)
            function(model, *_loaders(data, options, rng))

    return Method(
        name=method,
        run=run,
        options=ScriptOptions,
        starts_from="original",
        summary="A function of the competition's form, in a script.",
        source=f"sha256 {sha256}",
        cost="the script's own",
        inherits=(),
    )


def _loaders(data: RunData, options: ScriptOptions, rng: Seeds) -> list[DataLoader[dict[str, Any]]]:
    """Return the retain, forget and validation loaders; an absent validation set is an empty loader."""
    loaders = []
    for name, images in (("retain", data.retain), ("forget", data.forget), ("validation", data.validation)):
        images = images or ImageSet(data.retain.pixels, data.retain.indices[:0], data.retain.scaling)  # noqa: PLW2901
        scaling = Scaling.of("raw") if options.pixels == "raw" else images.scaling
        dataset = CompetitionDataset(images, scaling)
        generator = rng.torch(f"{name}-loader")
        order = _InBlocks(images, generator) if images.pixels.shuffle.window else None
        shuffle = len(dataset) > 0 and order is None
        loaders.append(DataLoader(dataset, options.batch_size, shuffle=shuffle, sampler=order, generator=generator))
    return loaders
