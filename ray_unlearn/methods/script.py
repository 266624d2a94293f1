"""The competition's own form: a script's function `unlearning(net, retain_loader, forget_loader, val_loader)`.

    populations:
      mine: {method: my_method.py:unlearning, count: 8}

The function gets real `DataLoader`s whose batches are the competition's dicts: `image` (float32 [B, 3, H, W], scaled
as the study normalises; `pixels: raw` gives 0..255), `image_id` (a list of strings), and int64 [B] `age_group` (the
label), `age` and `person_id` (`Pixels.ages` and `Pixels.persons_N` say what they hold for other sources).
`batches: tuple` gives [image, label] instead, as torchvision's data sets do, and `shuffle: false` the images in the
study's order, the same in every pass, for scripts that pair two passes.

What a script may rely on. Every run calls the function in a process of its own, which imports the script anew and then
seeds the global generators of Python, NumPy and torch from the run: a seed on import does not decide, a seed in the
function makes all runs equal, which is said at the second one. The working folder is empty and goes afterwards, with
all temporary files; files beside the script are found by `Path(__file__).parent`. Images are read-only; labels and
indices are copies. Loader workers, threads and programs are allowed, and end with the run. All output is the run's log.
`execution.run_timeout_s` and `execution.script_memory_gib` are its limits. The result is the net that the function got,
or the net or state dict that it returns instead; it must have the same tensors, in float32. What a run publishes is
what its checkpoint gives in a fresh net: a hook, another eps or a replaced module that changes outputs fails the run.

What identifies the population is the script's text and that of every module of its folder that it imports, not their
path; for a script of an installed distribution, the distribution's name and version, too.

Further arguments of the function that have defaults are options of the population (`keywords`).

Does not cover: how the script is found, imported and hashed (`usercode`), its process (`run.apart`); generators that a
script makes from the operating system's entropy; training losses per epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from ray_unlearn.data.images import ImageSet, RunData, Scaling
from ray_unlearn.data.order import draw_order
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.returned import use_returned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Block, Int
from ray_unlearn.usercode.imports import line_in_script, script_function
from ray_unlearn.usercode.sources import check_script

_FORM = ("net", "retain_loader", "forget_loader", "val_loader")


class ScriptOptions(Block):
    """Options of the loaders; the script decides all else."""

    batch_size: Int = Field(
        64, ge=1, description="Images per batch of the loaders that the function gets (official: 64)."
    )
    pixels: Literal["study", "raw"] = Field("study", description="raw: 0..255 un-normalised, for every study.")
    batches: Annotated[Literal["challenge", "tuple"], Since("0.2", neutral="challenge")] = Field(
        "challenge",
        description="challenge: dicts with image, image_id, age_group, age, person_id; tuple: (image, label), as "
        "torchvision's data sets and the starting kit for CIFAR-10.",
    )
    shuffle: Annotated[bool, Since("0.2", neutral=True)] = Field(
        True, description="false: the loaders give the images in the same order in every pass."
    )
    arguments: Annotated[dict[str, Any], Since("0.2", neutral={})] = Field(
        default_factory=dict,
        description="Keyword arguments of the function; in a study file they stand beside the other options.",
    )


class CompetitionDataset(Dataset[Any]):
    """A study's images as a map-style data set: the competition's dicts, or pairs of image and label."""

    def __init__(self, images: ImageSet, scaling: Scaling, *, pairs: bool = False) -> None:
        self._images, self._scaling, self._pairs = images, scaling, pairs

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> Any:
        """Return one example."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Return a batch's examples at once: one gather and one scaling (torch's loaders ask for this first)."""
        pixels, indices = self._images.pixels, self._images.indices[list(positions)]
        images = self._scaling.apply(torch.from_numpy(pixels.gather(indices))).contiguous()
        if self._pairs:
            return [(image, int(label)) for image, label in zip(images, pixels.labels_N[indices], strict=True)]
        return [
            {
                "image": image,
                "image_id": pixels.ids[index],
                "age_group": int(pixels.labels_N[index]),
                "age": pixels.ages[index].item(),
                "person_id": int(pixels.persons_N[index]),
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


def script_method(method: str, source: str, planned: Mapping[str, Any]) -> Method:
    """Return the script's function as a method.

    Args:
        method: path/to/script.py:function.
        source: the script's text.
        planned: the script's identity in the plan, which a run compares with what it finds; empty to compare nothing.

    """
    sha256 = hashlib.sha256(source.encode()).hexdigest()

    def run(model: nn.Module, data: RunData, options: ScriptOptions, rng: Seeds) -> None:
        check_script(method, source, planned)
        before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        # A seed that the script sets on import does not decide: the generators are seeded after it, too.
        with rng.global_state("script-import"), script_function(method, source) as function, rng.global_state("script"):
            with _batches_explained(method, options):
                returned = function(model, *_loaders(data, options, rng), **options.arguments)
            use_returned(method, returned, model, before)

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


def check_form(method: str, function: Callable[..., Any]) -> None:
    """Check that a function can be called as the competition calls it, and takes the loaders in its order.

    Raises:
        MethodError: it takes another number of arguments, names them in another order, or is a generator or async.

    """
    if (
        inspect.isgeneratorfunction(function)
        or inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise MethodError(f"method {method}: expected a plain function; found a generator or async function")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some callables of C have none
        return
    try:
        bound = signature.bind(*_FORM).arguments
    except TypeError as error:
        raise MethodError(
            f"method {method}: expected a function that takes ({', '.join(_FORM)}); found {signature} ({error})"
        ) from error
    for name, value in bound.items():
        own, other = {"retain_loader": ("retain", "forget"), "forget_loader": ("forget", "retain")}.get(value, ("", ""))
        if other in name.lower() and own not in name.lower():
            raise MethodError(
                f"method {method}: the loaders come in the order ({', '.join(_FORM)}); found {signature}, whose {name} "
                f"would get the {value}; change the order of its parameters"
            )


_OTHER_BATCHES = {
    "challenge": (
        r"(too many values|not enough values) to unpack|^0$|'dict' object has no attribute|not dict\b|found dict\b|"
        r"'str' object has no attribute|\(dict\b|, dict\b",
        "its batches are dicts with the keys image, image_id, age_group, age, person_id; if it expects (image, label), "
        "give the population `batches: tuple`",
    ),
    "tuple": (
        r"(list|tuple) indices must be integers",
        "`batches: tuple` gives [image, label]; if it expects dicts, leave the option away",
    ),
}
"""Form of the batches -> errors of functions that expect the other form, and what to do."""


@contextlib.contextmanager
def _batches_explained(method: str, options: ScriptOptions) -> Iterator[None]:
    """Say which batches a function got, where its error is one of a function that expects the other form.

    Raises:
        MethodError: the function raised such an error.

    """
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        pattern, hint = _OTHER_BATCHES[options.batches]
        if not (line := line_in_script(error)) or not re.search(pattern, str(error)):
            raise
        raise MethodError(f"method {method}: {type(error).__name__}: {error}{line}; {hint}") from error


def _loaders(data: RunData, options: ScriptOptions, rng: Seeds) -> list[DataLoader[Any]]:
    """Return the retain, forget and validation loaders; an absent validation set is an empty loader."""
    loaders = []
    for name, images in (("retain", data.retain), ("forget", data.forget), ("validation", data.validation)):
        images = images or ImageSet(data.retain.pixels, data.retain.indices[:0], data.retain.scaling)  # noqa: PLW2901
        scaling = Scaling.of("raw") if options.pixels == "raw" else images.scaling
        dataset = CompetitionDataset(images, scaling, pairs=options.batches == "tuple")
        generator = rng.torch(f"{name}-loader")
        order = _InBlocks(images, generator) if options.shuffle and images.pixels.shuffle.window else None
        shuffle = options.shuffle and len(dataset) > 0 and order is None
        loaders.append(DataLoader(dataset, options.batch_size, shuffle=shuffle, sampler=order, generator=generator))
    return loaders
