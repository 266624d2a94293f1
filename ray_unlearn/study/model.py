"""The `model` block of a study file: the net that every run trains.

    Model(arch="resnet18", stem="cifar", pretrained="imagenet.pth", freeze=("layer1",))

Does not cover: building the net (`ray_unlearn.models`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Block


class Model(Block):
    """The architecture."""

    arch: str = Field(
        "resnet18",
        description="A torchvision name, `small_cnn`, `resnet9`, timm:NAME, hf:NAME (Transformers), or "
        "package.module:factory, also in the study's folder.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the architecture.")
    stem: Annotated[Literal["imagenet", "cifar"], Since("0.2", neutral="imagenet")] = Field(
        "imagenet",
        description="First layers of torchvision's ResNets. cifar: a 3x3 convolution of stride 1 and no pooling, for "
        "images of 32 pixels; imagenet: as torchvision has them.",
    )
    grey: Annotated[bool, Since("0.2", neutral=False)] = Field(
        False, description="Give the net one channel, the mean of the three: its first convolution then has one input."
    )
    pretrained: Annotated[bool | str, Since("0.2", neutral=False)] = Field(
        False,
        description="Start from pretrained weights with a new head: true for the library's (torchvision, timm, hf), or "
        "a weights file.",
    )
    freeze: Annotated[tuple[str, ...], Since("0.2", neutral=())] = Field(
        (),
        description="Modules or parameters that are not trained, by name; their batch normalisation keeps its "
        "statistics, and their dropout is off.",
    )
    trim_dead_taps: bool = Field(
        True, description="On the CPU, skip convolution taps that meet only padding; the same sums, equal to rounding."
    )
    _folder: str = PrivateAttr("")

    @property
    def folder(self) -> str:
        """Folder of the study file, searched for factories after the installed packages; no part of the study."""
        return self._folder

    def with_folder(self, folder: str) -> Model:
        """Return a copy with the folder of its study file."""
        found = self.model_copy()
        found._folder = folder
        return found
