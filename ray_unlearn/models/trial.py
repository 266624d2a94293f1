"""A net tried before any work: one evaluation and one training step on a few of the study's images, on the CPU.

    for line in try_net(model, images_BCHW, labels_B, num_classes=9, arch="nets:tiny", trains=True):
        print(line)                              # what a reader should know: parameters that get no gradient

Refused are nets whose runs would fail, or whose checkpoints would not give their outputs. The net itself is not
changed: a copy of it is tried.

Does not cover: what a user's script does with the net (`methods.script`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import ModelError, first_line
from ray_unlearn.models.calling import line_in
from ray_unlearn.models.logits import described, plain_logits, taken
from ray_unlearn.models.template import Template
from ray_unlearn.seeds import nothing_drawn

_SIZES = {"timm": "img_size", "hf": "image_size"}
"""Option by which a library's nets with a fixed size of images take another."""


def check_kind(model: object, arch: str) -> None:
    """Check that a factory made a net that can be trained, copied and saved.

    Raises:
        ModelError: it is no torch module, or of a kind that this package cannot train or save.

    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {arch}: expected a torch module; found {type(model).__name__}")
    for name, each in model.named_modules():
        if isinstance(each, torch.jit.ScriptModule):
            what = f"module {name!r} is a TorchScript module" if name else "a TorchScript module"
            raise ModelError(f"model {arch}: {what}, which methods cannot train; return the module before torch.jit")
    if quantised := [name for name, each in model.named_modules() if ".quantized" in type(each).__module__]:
        raise ModelError(
            f"model {arch}: module {quantised[0]!r} is quantised, which methods cannot train; return the net before it"
        )
    for name, tensor in model.named_parameters():
        _check_dtype(name, tensor, arch)
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"model {arch}: {name!r} is a {type(value).__name__} by get_extra_state, and a checkpoint holds "
                "tensors only; register it as a buffer, or leave get_extra_state away"
            )


def _check_dtype(name: str, tensor: torch.Tensor, arch: str) -> None:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_complex():
        raise ModelError(
            f"model {arch}: parameter {name!r} is {kind}, and only real ones can be trained and saved; keep real and "
            "imaginary part as two (torch.view_as_real)"
        )
    if tensor.device.type != "cpu":
        raise ModelError(
            f"model {arch}: parameter {name!r} is on the device {tensor.device}; return the net on the CPU, with "
            "values: every worker moves it to its own device"
        )
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise ModelError(
            f"model {arch}: parameter {name!r} has a gradient hook, which copies of the net would not have; change "
            "gradients by a hook of a module (register_full_backward_hook), or in the method"
        )
    if not tensor.is_floating_point():
        raise ModelError(
            f"model {arch}: parameter {name!r} is {kind}; whole numbers are buffers (self.register_buffer)"
        )
    if tensor.dtype is not torch.float32:
        raise ModelError(
            f"model {arch}: parameter {name!r} is {kind}; expected float32: return net.float(); "
            "`precision: bf16` trains in half precision, and `checkpoint_dtype` saves in it"
        )


def try_net(
    model: nn.Module,
    images_BCHW: torch.Tensor,
    labels_B: torch.Tensor,
    *,
    num_classes: int,
    arch: str,
    trains: bool,
    folder: str = "",
) -> list[str]:
    """Try a net on a few images; return lines about what it does that its user may not expect.

    Args:
        model: the net on the CPU; not changed.
        images_BCHW: two or more images as methods get them.
        labels_B: their classes.
        num_classes: the study's.
        arch: its name, for messages.
        trains: whether a method of this package trains it: then it has to take a step.
        folder: the study file's; lines of files in it are named.

    Raises:
        ModelError: the net fails, gives other than one logit per class, or cannot be copied.

    """
    check_kind(model, arch)
    net, size = copied(model, arch), f"{images_BCHW.shape[-2]}x{images_BCHW.shape[-1]} pixels"
    with nothing_drawn(torch.device("cpu")):
        logits = _evaluated(net, images_BCHW, arch, size, folder)
        if list(logits.shape) != [len(images_BCHW), num_classes]:
            expected, hint = [len(images_BCHW), num_classes], _other_head(net, images_BCHW, logits, num_classes)
            raise ModelError(
                f"model {arch}: expected {num_classes} logits per image, one per class: {expected} for "
                f"{len(images_BCHW)} images; found {list(logits.shape)}{hint}"
            )
        _check_one(net, images_BCHW, num_classes, arch)
        lines = list(_remarks(net, images_BCHW, logits)) if ":" in arch else []
        try:
            lines += _step(net, images_BCHW, labels_B)
        except (Exception, SystemExit) as error:  # a module may raise anything
            reason = first_line(error)
            failed = f"one training step on {len(images_BCHW)} images of {size} fails: {reason}{line_in(error, folder)}"
            if trains:
                raise ModelError(f"model {arch}: {failed}") from error
            lines.append(failed)
    return [f"model {arch}: {line}" for line in lines]


def copied(model: nn.Module, arch: str) -> nn.Module:
    """Return a copy, as every run gets one.

    Raises:
        ModelError: the net cannot be copied.

    """
    try:
        return Template(model).copy()
    except (Exception, SystemExit) as error:  # deepcopy calls the module's own code
        old = [
            name for name, each in model.named_modules() for hook in each._forward_pre_hooks.values() if _is_old(hook)
        ]
        pruned = [name for name, each in model.named_modules() if any(map(_prunes, each._forward_pre_hooks.values()))]
        why = (
            f"{pruned[0] or 'the net'!r} is pruned by torch.nn.utils.prune; prune.remove makes that permanent"
            if pruned
            else f"{old[0] or 'the net'!r} uses torch.nn.utils.weight_norm, whose modules cannot be copied; use "
            "torch.nn.utils.parametrizations.weight_norm (its tensors have other names)"
            if old
            else f"copy.deepcopy fails: {first_line(error)}"
        )
        raise ModelError(f"model {arch}: cannot be copied, and every run needs a copy: {why}") from error


def _is_old(hook: object) -> bool:
    return type(hook).__module__ in ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")


def _prunes(hook: object) -> bool:
    return type(hook).__module__ == "torch.nn.utils.prune"


@torch.no_grad()
def _evaluated(net: nn.Module, images_BCHW: torch.Tensor, arch: str, size: str, folder: str) -> torch.Tensor:
    try:
        logits = net.eval()(images_BCHW.clone())
    except (Exception, SystemExit) as error:  # a module may raise anything
        reason = f"{first_line(error)}{line_in(error, folder)}"
        if isinstance(error, ModelError):
            raise ModelError(f"model {arch}: {reason}") from error
        if "to have 1 channels" in reason:
            reason += "; the study's images have three: set model.grey: true"
        reason += _size_hint(error, net, images_BCHW)
        if option := _SIZES.get(arch.partition(":")[0]):
            reason += f"; a net for another size of images: model.options: {{{option}: {images_BCHW.shape[-1]}}}"
        raise ModelError(f"model {arch}: fails on images of {size}: {reason}") from error
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"model {arch}: its forward returns a {type(logits).__name__}; expected a tensor of logits")
    if not logits.is_floating_point():
        kind = str(logits.dtype).removeprefix("torch.")
        raise ModelError(f"model {arch}: its forward returns {kind}, as a class number is; expected a logit per class")
    return logits


def _size_hint(error: BaseException, net: nn.Module, images_BCHW: torch.Tensor) -> str:
    """Return the size of images that a first linear layer over whole images expects; empty where there is none."""
    found = re.search(r"shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", str(error))
    first = next((layer for layer in net.modules() if any(True for _ in layer.parameters(recurse=False))), None)
    if not found or not isinstance(first, nn.Linear) or int(found[1]) != images_BCHW[0].numel():
        return ""
    side = math.isqrt(int(found[2]) // 3)
    return (
        f"; its first layer takes images of {side}x{side}: data.image_size: {side}"
        if 3 * side**2 == int(found[2])
        else ""
    )


@torch.no_grad()
def _other_head(net: nn.Module, images_BCHW: torch.Tensor, logits: torch.Tensor, num_classes: int) -> str:
    """Return what to do about logits of another shape."""
    expected = [len(images_BCHW), num_classes]
    if plain_logits in net._forward_hooks.values():
        output = net.forward(images_BCHW.clone())
        parts = output if isinstance(output, tuple | list) else ()
        if any(isinstance(one, torch.Tensor) and list(one.shape) == expected for one in parts):
            return f"; its forward returns {described(output)}, of which {taken(output)}: return the logits first"
    if logits.dim() > 2 and [*logits.shape[:2]] == expected and logits.numel() == math.prod(expected):
        return "; flatten them in its forward: .flatten(1)"
    if logits.dim() != 2 or logits.shape[1] == num_classes:
        return ""
    if logits.shape[1] == 1:
        return "; a single logit (sigmoid) is no class score: return one per class"
    return (
        "; its head has to take its size from num_classes: def factory(num_classes): ..., or a value of model.options"
    )


@torch.no_grad()
def _check_one(net: nn.Module, images_BCHW: torch.Tensor, num_classes: int, arch: str) -> None:
    """Check the logits of one image, as the last batch of a set may be one.

    Raises:
        ModelError: they have another shape.

    """
    found = list(net(images_BCHW[:1].clone()).shape)
    if found != [1, num_classes]:
        raise ModelError(
            f"model {arch}: expected logits {[1, num_classes]} for one image; found {found}: a squeeze() takes the "
            "batch's dimension away, too; name the others, or use .flatten(1)"
        )


@torch.no_grad()
def _remarks(net: nn.Module, images_BCHW: torch.Tensor, logits: torch.Tensor) -> Iterator[str]:
    if plain_logits in net._forward_hooks.values():
        output = net.forward(images_BCHW.clone())
        if not _is_expected(output):
            yield f"returns {described(output)}; {taken(output)}"
    given_BCHW = images_BCHW.clone()
    net(given_BCHW)
    if not torch.equal(given_BCHW, images_BCHW):
        yield (
            "its forward changes the images that it gets in place (as x -= 1, or ReLU(inplace=True) at first), so a "
            "second net, or a second pass over the same batch, gets others: let it make new ones, x = x - 1"
        )
    if not torch.allclose(net(images_BCHW.clone()), logits, rtol=0, atol=0, equal_nan=True):
        yield "two evaluations of the same images differ: it draws at random in evaluation mode, so outputs have noise"
    elif not torch.allclose(net(images_BCHW[:1].clone()), logits[:1], rtol=1e-3, atol=1e-3, equal_nan=True):
        yield "the logits of an image depend on the other images of its batch, also in evaluation mode"
    if (logits >= 0).all() and (logits <= 1).all() and logits.any():  # a head that begins with zeros is none
        yield "its outputs are probabilities, from 0 to 1; methods and scores expect logits, as before a softmax"


def _is_expected(output: object) -> bool:
    """Return whether an output is a tensor, or one of Transformers' own, whose logits every caller takes."""
    return isinstance(output, torch.Tensor) or type(output).__module__.startswith("transformers.")


def _step(net: nn.Module, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> Iterator[str]:
    """Take a forward and a backward pass in training mode; yield lines about the gradients."""
    trained = {name: each for name, each in net.named_parameters() if each.requires_grad}
    if not trained:
        raise ModelError("it has no parameter that can be trained")
    if plain_logits in net._forward_hooks.values():
        output = net.train().forward(images_BCHW.clone())
        if not _is_expected(output):
            yield f"returns {described(output)} in training mode; {taken(output)}, and the rest is not trained"
    logits = net.train()(images_BCHW.clone())
    if not torch.isfinite(logits).all():
        raise ModelError("its logits are NaN or infinite before any training")
    if not logits.requires_grad:
        raise ModelError("no gradient reaches its logits: it detaches them, or computes them under torch.no_grad")
    F.cross_entropy(logits.float(), labels_B).backward()  # type: ignore[no-untyped-call]
    without = [name for name, each in trained.items() if each.grad is None]
    if len(without) == len(trained):
        bound = [repr(name or "the net") for name, each in net.named_modules() if "forward" in vars(each)]
        why = (
            f": forward is an attribute of {bound[0]}, bound to the net that it was made of, not to a copy"
            if bound
            else ""
        )
        raise ModelError(f"no parameter gets a gradient{why}")
    if without:
        count = f"{len(without)} of {len(trained)} parameters"
        yield f"{count} get no gradient, such as {without[0]!r}: no step changes them"


def fails_on_one(model: nn.Module, images_BCHW: torch.Tensor) -> bool:
    """Return whether a net that trains on several images fails on one: batch normalisation of 1x1 maps does."""
    net = Template(model).copy().train()
    try:
        with nothing_drawn(torch.device("cpu")), torch.no_grad():
            net(images_BCHW[:1].clone())
    except (Exception, SystemExit):  # a module may raise anything
        return True
    return False
