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

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from ray_unlearn.data.images import ImageSet, RunData, Scaling
from ray_unlearn.data.order import draw_order
from ray_unlearn.methods.explained import explained
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.returned import tensors_of, use_returned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Block, Int
from ray_unlearn.usercode.imports import script_function
from ray_unlearn.usercode.sources import check_script


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


_NO_EFFECT = ("transform", "transforms", "target_transform", "targets", "labels", "data", "imgs", "samples", "indices")


class CompetitionDataset(Dataset[Any]):
    """A study's images as a map-style data set: the competition's dicts, or pairs of image and label."""

    def __init__(self, images: ImageSet, scaling: Scaling, *, pairs: bool = False) -> None:
        self._images, self._scaling, self._pairs = images, scaling, pairs

    def __getattr__(self, name: str) -> Any:
        """Say what an item is, where a script expects torchvision's or a subset's attributes."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(f"the data set of a loader has no {name!r}; {self._item()}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse the attributes of torchvision's data sets, which would have no effect here."""
        if name in _NO_EFFECT:
            raise AttributeError(f"{name!r} of a loader's data set would have no effect; {self._item()}")
        super().__setattr__(name, value)

    def _item(self) -> str:
        what = "[image, label]" if self._pairs else "a dict with image, image_id, age_group, age, person_id"
        return f"its items are {what}: wrap it in a data set of your own, or change the batches in the loop"

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
        before = tensors_of(model)
        # A seed that the script sets on import does not decide: the generators are seeded after it, too.
        with rng.global_state("script-import"), script_function(method, source) as function, rng.global_state("script"):
            with explained(method, options.batches):
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
