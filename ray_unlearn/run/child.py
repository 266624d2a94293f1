"""What a process of its own does for one run of a script: the study's data and nets, the call, and what is sent back.

    prepare({}, [])                              # in the fork server, once: imports
    open_job(arguments, [indices])               # in the fork server: maps the images, builds the net
    add_original(arguments, [weights])           # in the fork server, once for each original or shadow
    make(arguments, [result])                    # in a forked child: one run

What the server opened is the child's own copy: it may write on labels, indices and nets without any effect on another
run; images are mapped read-only. The child gets no part of the study that the script does not need: no storage, no
keys. It sends a report, the net's tensors, and the logits of a few images as the net gives them with all that the
script left on it.

Does not cover: the other side (`apart`), which trusts nothing of what is sent.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from ray_unlearn import models
from ray_unlearn.data.images import ImageSet, Pixels, RunData, Scaling
from ray_unlearn.data.shards import map_shard
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.script import script_method
from ray_unlearn.models import Template
from ray_unlearn.run import forked  # noqa: F401 - what forked workers need is imported here, once for all
from ray_unlearn.run.outcome import failed_as
from ray_unlearn.run.probe import LOGITS, clues, probe_images, probe_logits, tensors_of
from ray_unlearn.run.run_log import show_warnings_briefly
from ray_unlearn.run.settings import configure, count_gpus_by_cuda, count_gpus_without_cuda, warm_up
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.model import Model
from ray_unlearn.study.schema import Execution
from ray_unlearn.study.shuffle import Shuffle
from ray_unlearn.usercode.imports import let_spawned_import
from ray_unlearn.usercode.memory import keep_freed_memory
from ray_unlearn.usercode.wire import read_all, write_result

_MOST_BYTES = 2**40  # what this package itself sends


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """A study in the server."""

    execution: Execution
    device: str
    num_classes: int
    sets: Mapping[str, ImageSet]
    probe_BCHW: torch.Tensor
    """Images of the probe, scaled, on the CPU."""
    template: Template
    fresh: nn.Module
    """The template's net, with which one that a script left is compared."""
    originals: dict[str, nn.Module] = field(default_factory=dict)
    """Nets with the weights of originals: a forked child has copies of its own, and uses one."""


_opened: list[_Opened] = []
"""The study that the server has open: one, or none yet."""


def prepare(arguments: Mapping[str, Any], files: Sequence[int]) -> None:
    """Import what a run needs, with one thread: a child must find no pool of threads, and may use a GPU."""
    torch.set_num_threads(1)
    keep_freed_memory()
    count_gpus_without_cuda()
    warm_up()
    safetensors.torch.save({"first": torch.zeros(1)})  # imports what it needs


def open_job(arguments: Mapping[str, Any], files: Sequence[int]) -> None:
    """Map a study's images and build its net.

    Args:
        arguments: `shards` (paths), `shuffle`, `scaling`, `model`, `folder`, `num_classes`, `execution`, `device`.
        files: the index sets, int64, as safetensors.

    """
    pixels = Pixels(
        [map_shard(path) for path in arguments["shards"]],
        torch.device("cpu"),
        shuffle=Shuffle.model_validate(arguments["shuffle"]),
    )
    _ = pixels.ids, pixels.groups  # lists that every loader reads
    scaling = Scaling(*(tuple(channels) for channels in arguments["scaling"]))
    indices = safetensors.numpy.load(read_all(files[0], _MOST_BYTES))
    sets = {name: ImageSet(pixels, np.array(positions), scaling) for name, positions in indices.items()}
    spec = Model.model_validate(arguments["model"]).with_folder(arguments["folder"])
    models.identity(spec)  # imports a factory anew, whose file may have been edited
    template = Template(models.build(spec, arguments["num_classes"], Seeds(study=0), pixels.image_size))
    _opened[:] = [
        _Opened(
            execution=Execution.model_validate(arguments["execution"]),
            device=arguments["device"],
            num_classes=arguments["num_classes"],
            sets=sets,
            probe_BCHW=probe_images(sets),
            template=template,
            fresh=template.copy(),
        )
    ]


def add_original(arguments: Mapping[str, Any], files: Sequence[int]) -> None:
    """Keep the weights of a run that others start from, `name`, from safetensors; forget those of `forgotten`."""
    opened = _opened[0]
    for name in arguments["forgotten"]:
        del opened.originals[name]
    net = opened.template.copy()
    net.load_state_dict(safetensors.torch.load(read_all(files[0], _MOST_BYTES)))
    opened.originals[arguments["name"]] = net


def make(arguments: Mapping[str, Any], files: Sequence[int]) -> None:
    """Execute a script on a copy of its original, and write what came of it into a file.

    Args:
        arguments: `method`, `source`, `planned`, `options`, `seeds`, `original`.
        files: the file for the result, and one with the index sets, where the run has others than the study.

    """
    process = os.getpid()
    try:
        net = _made(arguments, _sets_in(files[1], _opened[0]) if len(files) > 1 else _opened[0].sets)
        report, tensors = _report(net, _opened[0])
    except BaseException as error:  # KeyboardInterrupt and GeneratorExit of the script's are failures of the run, too
        report, tensors = {"failure": failed_as(error)}, b""
    if os.getpid() != process:  # a fork of the script's that came back: there is one result
        os._exit(1)
    write_result(files[0], report, tensors)


def _sets_in(file: int, opened: _Opened) -> dict[str, ImageSet]:
    """Return the sets of a run that is limited to a part of the images."""
    train = opened.sets["train"]
    found = {"validation": ImageSet(train.pixels, train.indices[:0], train.scaling)}
    for name, positions in safetensors.numpy.load(read_all(file, _MOST_BYTES)).items():
        found[name] = ImageSet(train.pixels, np.array(positions), train.scaling)
    return found


def _made(arguments: Mapping[str, Any], sets: Mapping[str, ImageSet]) -> nn.Module:
    opened, device = _opened[0], torch.device(_opened[0].device)
    show_warnings_briefly()
    count_gpus_by_cuda()
    configure(device, opened.execution)
    let_spawned_import(arguments["method"], arguments["source"], Path(tempfile.gettempdir()).with_name("modules"))
    method = script_method(arguments["method"], arguments["source"], arguments["planned"])
    net = opened.originals[arguments["original"]].to(device)
    rng = Seeds(**arguments["seeds"])
    with rng.global_state("method"):
        method.run(net, _data(opened, sets, device), method.options.model_validate(arguments["options"]), rng)
    return net


def _data(opened: _Opened, sets: Mapping[str, ImageSet], device: torch.device) -> RunData:
    return RunData(
        train=sets["train"],
        retain=sets["retain"],
        forget=sets["forget"],
        validation=sets["validation"] if len(sets["validation"]) else None,
        num_classes=opened.num_classes,
        device=device,
    )


def _report(net: nn.Module, opened: _Opened) -> tuple[dict[str, Any], bytes]:
    """Return what is sent of a net that a script has left.

    Raises:
        MethodError: its state is not made of tensors that a file can hold.

    """
    state = tensors_of(net)
    report: dict[str, Any] = {"clues": [], "probe": ""}
    with contextlib.suppress(Exception):  # clues are an extra: the net may be of any kind now
        report["clues"] = clues(net, opened.fresh)
    configure(torch.device(opened.device), opened.execution)
    try:
        logits = {LOGITS: probe_logits(net, opened.probe_BCHW, torch.device(opened.device))}
    except Exception as error:
        report["probe"], logits = f"{type(error).__name__}: {error}", {}
    try:
        return report, safetensors.torch.save({**state, **logits})
    except (ValueError, RuntimeError, KeyError) as error:
        raise MethodError(f"the script left tensors that no checkpoint can hold: {error}") from error
