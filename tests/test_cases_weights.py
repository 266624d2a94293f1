"""Weights as people bring them (section C of the cases): what is read, what is said, and what is refused by its kind.

An id names the row of the table of cases that a test holds.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import payload_bytes
from test_models import Tied
from test_models import pth as saved
from torch import nn
from torch.nn.utils import prune

from ray_unlearn import models
from ray_unlearn.errors import ModelError
from ray_unlearn.generation import generate
from ray_unlearn.generation.job import open_job
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import Study
from ray_unlearn.study.schema import Model

State = dict[str, Any]


def small(classes: int = 10, seed: int = 0) -> nn.Module:
    """Return the net of these tests."""
    return models.build(Model(arch="small_cnn", options={"width": 4}), classes, Seeds(study=seed))


NET = small(seed=5)
STATE: State = dict(NET.state_dict())


def under(prefix: str, state: State | None = None) -> State:
    """Return a state dict with a prefix before each name."""
    return {prefix + name: tensor for name, tensor in (state or STATE).items()}


def loaded(data: bytes, name: str, key: str | None = None, net: nn.Module | None = None) -> tuple[State, str]:
    """Load a file into a fresh net; return the net's state, and all notes."""
    net = net or small()
    found = models.load_weights(net, models.parse_weights(data, name), name, key, num_classes=10)
    return dict(net.state_dict()), "\n".join(found.notes)


def is_net(state: State) -> bool:
    """Return whether a state is NET's, bit for bit."""
    return state.keys() == STATE.keys() and all(torch.equal(tensor, STATE[name]) for name, tensor in state.items())


OTHER = dict(small(seed=6).state_dict())
INNER = {name.replace(".", "._orig_mod.", 1) if name.startswith("0.") else name: t for name, t in STATE.items()}
SPREAD = {("backbone." if name[0] in "0123456" else "head.deep.") + name: tensor for name, tensor in STATE.items()}

READ: dict[str, tuple[Any, str]] = {
    # what is saved, and what is said
    "plain": (STATE, ""),
    "state_dict": ({"state_dict": STATE, "epoch": 3, "best_acc": 0.7}, ""),
    "model with an optimiser": ({"model": STATE, "optimizer": torch.optim.Adam(NET.parameters()).state_dict()}, ""),
    "rmodel": ({"rmodel": STATE}, "read from its key 'rmodel'"),
    "an unusual key": ({"params": STATE}, "read from its key 'params'"),
    "a key of one's own": ({"my_best": {"weights": STATE}, "lr": 0.1}, "read from its key 'my_best.weights'"),
    "numbers beside tensors": (STATE | {"epoch": 3, "name": "x"}, ""),
    "DataParallel": (under("module."), "without the prefix 'module.' of the names"),
    "torch.compile": (under("_orig_mod."), "without the prefix '_orig_mod.'"),
    "DDP of torch.compile": (under("module._orig_mod."), "without the prefix 'module._orig_mod.'"),
    "torch.compile of DDP": (under("_orig_mod.module."), "without the prefix '_orig_mod.module.'"),
    "a compiled part": (INNER, "without '_orig_mod.' in the names"),
    "FSDP": (under("_fsdp_wrapped_module."), "without the prefix '_fsdp_wrapped_module.'"),
    "Lightning": (
        {"state_dict": under("model."), "pytorch-lightning_version": "2.6", "hyper_parameters": {"lr": 0.1}},
        "without the prefix 'model.'",
    ),
    "Lightning, deeper": ({"state_dict": under("model.net.")}, "without the prefix 'model.net.'"),
    "Lightning with a loss": (
        {"state_dict": under("net.") | {"loss.weight": torch.ones(10), "acc.total": torch.tensor(3)}},
        "2 of its tensors are left out: loss.weight, acc.total",
    ),
    "Lightning with a teacher": (
        {"state_dict": under("teacher.", OTHER) | under("student.")},
        "it also holds 'state_dict.teacher'; `key` chooses",
    ),
    "timm": ({"state_dict_ema": OTHER, "state_dict": STATE, "arch": "x"}, "it also holds 'state_dict_ema'; `key`"),
    "YOLO's order": ({"ema": OTHER, "model": under("module.")}, "without the prefix 'module.'"),
    "AveragedModel": ({"n_averaged": torch.tensor(3)} | under("module."), "1 of its tensors are left out: n_averaged"),
    "thop": (STATE | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}, "2 of its tensors are left out"),
    "MoCo": ({"state_dict": under("module.encoder_q.")}, "without the prefix 'module.encoder_q.'"),
    "parts under prefixes": (SPREAD, "without the prefixes 'backbone.', 'head.deep.' of the names"),
    "DeepSpeed": ({"module": STATE, "ds_version": "0.1", "lr_scheduler": None}, "read from its key 'module'"),
    "half": ({name: t.half() if t.is_floating_point() else t for name, t in STATE.items()}, "are float16, cast to"),
    "double": ({name: t.double() if t.is_floating_point() else t for name, t in STATE.items()}, "are float64, cast to"),
    "old, without counts": (
        {name: tensor for name, tensor in STATE.items() if "num_batches" not in name},
        "num_batches_tracked of 3 layers is not in it (PyTorch before 0.4.1); counted from 0",
    ),
    "a tuple": ((STATE, {"lr": 0.1}), "read from its key '0'"),
    "an ordered dictionary": (collections.OrderedDict(STATE), ""),
    "parameters": ({name: nn.Parameter(t) if t.is_floating_point() else t for name, t in STATE.items()}, ""),
}
FORMS: dict[str, Callable[[Any], bytes]] = {
    "original.pth": saved,
    "original.pth.tar": saved,
    "original.ckpt": saved,
    "pytorch_model.bin": saved,
    "old.pt": lambda value: saved(value, _use_new_zipfile_serialization=False),
    "misnamed.safetensors": saved,
}


@pytest.mark.parametrize("case", READ)
def test_c_weights_read(case: str):
    """Law: every usual wrapping and prefix gives the net bit for bit, and what was done is said."""
    value, said = READ[case]
    state, notes = loaded(saved(value), "original.pth")
    half = case in ("half",)
    assert half or is_net(state)
    assert not half or torch.equal(state["0.weight"], STATE["0.weight"].half().float())
    assert said in notes
    assert (notes == "") == (said == "")
    assert all(line.startswith("original.pth: ") for line in notes.splitlines())


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (value, _) in READ.items()
        if isinstance(value, dict) and isinstance(next(iter(value.values())), torch.Tensor)
    ],
)
def test_c_weights_read_from_safetensors_alike(case: str):
    """Law: prefixes are the same in safetensors as in a .pth."""
    value, said = READ[case]
    tensors = {name: t.detach().contiguous().clone() for name, t in value.items() if isinstance(t, torch.Tensor)}
    state, notes = loaded(safetensors.torch.save(tensors), "original.safetensors")
    assert case == "half" or is_net(state)
    assert said in notes


@pytest.mark.parametrize("name", FORMS)
def test_c_weights_under_any_name(name: str):
    """Law: the format is found in the bytes: .pth, .pth.tar, .ckpt, .bin, .pt, also of the oldest format."""
    state, _ = loaded(FORMS[name]({"state_dict": under("module.")}), name)
    assert is_net(state)
    state, _ = loaded(safetensors.torch.save(STATE), "really_safetensors.pth")
    assert is_net(state)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"state_dict_ema": STATE, "state_dict": OTHER}, "state_dict_ema"),
        ({"state_dict": under("teacher.") | under("student.", OTHER)}, "teacher"),
        ({"runs": {"a": OTHER, "b": STATE}}, "runs.b"),
        (under("module.ema.") | under("module.net.", OTHER), "module.ema"),
    ],
)
def test_c_weights_key(value: Any, key: str):
    """Law: `key` chooses a dictionary of the file, or the tensors below a part of their names."""
    state, _ = loaded(saved(value), "a.pth", key)
    assert is_net(state)
    with pytest.raises(ModelError, match=r"a\.pth: no key 'nosuch'"):
        loaded(saved(value), "a.pth", "nosuch")


def test_c_weights_that_hold_the_model_twice():
    """Law: where no rule chooses, the file is refused with both places."""
    with pytest.raises(ModelError, match=r"holds the model 2 times, under 'first', 'second'; name one by `key`"):
        loaded(saved({"first": STATE, "second": OTHER}), "a.pth")


class Wrapping(nn.Module):
    """A net of one's own around the file's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images)  # type: ignore[no-any-return]


def test_c_weights_of_a_net_that_the_model_wraps():
    """Law: the prefix of the model's own names is added."""
    state, notes = loaded(saved(STATE), "a.pth", net=Wrapping())
    assert is_net({name.removeprefix("inner."): tensor for name, tensor in state.items()})
    assert "with the prefix 'inner.' before the names" in notes


def test_c_weights_tied_tensors_that_safetensors_leaves_out(tmp_path: Path):
    """Law: safetensors' save_model writes one of two names; the other is filled in, whichever it is."""
    net = Tied()
    safetensors.torch.save_model(net, str(tmp_path / "tied.safetensors"))
    data = (tmp_path / "tied.safetensors").read_bytes()
    assert len(safetensors.torch.load(data)) == 1
    for found in (data, safetensors.torch.save({"decode.weight": net.decode.weight.detach()})):
        other = Tied()
        _, notes = loaded(found, "tied.safetensors", net=other)
        assert torch.equal(other.encode.weight, net.encode.weight)
        assert torch.equal(other.decode.weight, net.encode.weight)
        assert "is tied to" in notes


def test_c_weights_of_the_old_weight_norm():
    """Law: its tensors are those of the new one under other names."""
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    state = {"0.weight_g": torch.full((2, 1), 2.0), "0.weight_v": torch.ones(2, 3), "0.bias": torch.ones(2)}
    _, notes = loaded(saved(state), "a.pth", net=new)
    torch.testing.assert_close(new[0].weight, torch.full((2, 3), 2 / 3**0.5))
    assert "newer names" in notes


# Shards


def shards(folder: Path, index: str, kind: Callable[[Any], bytes], suffix: str) -> Path:
    """Write a net as two shards and their list; return the list's path."""
    names, files = list(STATE), {}
    for number, part in enumerate((names[:7], names[7:]), 1):
        file = f"model-{number:05d}-of-00002.{suffix}"
        (folder / file).write_bytes(kind({name: STATE[name] for name in part}))
        files |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    return folder / index


@pytest.mark.parametrize(
    ("index", "kind", "suffix"),
    [
        ("model.safetensors.index.json", safetensors.torch.save, "safetensors"),
        ("pytorch_model.bin.index.json", saved, "bin"),
    ],
)
def test_c_weights_shards(index: str, kind: Callable[[Any], bytes], suffix: str, tmp_path: Path):
    """Law: a list of shards is read as one file, and its digest changes with the content of any shard."""
    file = models.open_weights(str(shards(tmp_path, index, kind, suffix)))
    net = small()
    models.load_weights(net, file.tree(), "x")
    assert is_net(dict(net.state_dict()))
    one = tmp_path / f"model-00001-of-00002.{suffix}"
    with pytest.raises(ModelError, match=r"shard 1 of 2: name the list of shards, the file that ends in \.index\.json"):
        models.load_weights(small(), models.open_weights(str(one)).tree(), str(one))
    digests = [file.sha256]
    for number, names in ((1, list(STATE)[:7]), (2, list(STATE)[7:])):
        changed = kind({name: STATE[name] + 1 for name in names})
        (tmp_path / f"model-{number:05d}-of-00002.{suffix}").write_bytes(changed)
        digests.append(models.open_weights(str(tmp_path / index)).sha256)
    assert len({*digests}) == 3
    (tmp_path / index).write_text('{"weight_map": {"a": "../secret.bin"}}')
    with pytest.raises(ModelError, match=r"expected shards beside the list; found '\.\./secret\.bin'"):
        models.open_weights(str(tmp_path / index))


# Normalising wrappers


@pytest.mark.parametrize(
    "state",
    [
        under("model.") | {"normalize.mean": torch.tensor([[[0.5]], [[0.4]], [[0.3]]]), "normalize.std": torch.ones(3)},
        under("1.") | {"0.mean": torch.tensor([0.5, 0.4, 0.3]), "0.std": torch.ones(1, 3, 1, 1)},
        STATE | {"mean": torch.tensor([127.5, 102.0, 76.5]), "std": torch.full((3,), 255.0)},
        under("net.") | {"pixel_mean": torch.tensor([0.5, 0.4, 0.3]), "pixel_std": torch.ones(1)},
    ],
)
def test_c_weights_of_a_normalising_wrapper(state: State, tiny: Callable[..., Study], tmp_path: Path):
    """Law: a net that scaled its images itself is refused with the study's key for it, and taken with it."""
    (tmp_path / "w.pth").write_bytes(saved(state))
    original = {"weights": str(tmp_path / "w.pth"), "method": None, "on": None}
    with pytest.raises(ModelError) as caught:
        open_job(tiny(populations={"original": original}))
    assert "data.normalize: {mean: [0.5, 0.4, 0.3], std: [1.0, 1.0, 1.0]}" in str(caught.value)
    normalize = {"mean": [0.5, 0.4, 0.3], "std": [1.0, 1.0, 1.0]}
    job = open_job(tiny(populations={"original": original}, data={"normalize": normalize}))
    assert any("data.normalize does the same" in line for line in job.remarks)


@pytest.mark.parametrize("wrapped", [{"rmodel": STATE}, {"a": {"model": STATE}}])
def test_c_weights_that_name_scales_beside_them(wrapped: State, tiny: Callable[..., Study], tmp_path: Path):
    """Law: mean and std beside a state dict are offered where the study scales otherwise, and are no refusal."""
    scales = {"mean": torch.tensor([127.5, 102.0, 76.5]), "std": [255.0, 255.0, 255.0]}
    (tmp_path / "w.pth").write_bytes(saved(wrapped | scales))
    original = {"original": {"weights": str(tmp_path / "w.pth"), "method": None, "on": None}}
    (said,) = [line for line in open_job(tiny(populations=original)).remarks if "beside the weights" in line]
    assert said.endswith("set data.normalize: {mean: [0.5, 0.4, 0.3], std: [1.0, 1.0, 1.0]}")
    same = {"normalize": {"mean": [0.5, 0.4, 0.3], "std": [1.0, 1.0, 1.0]}}
    assert not any("beside" in line for line in open_job(tiny(populations=original, data=same)).remarks)


# What is refused, by its kind


def archive(**files: bytes) -> bytes:
    """Return a zip archive."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as target:
        for name, data in files.items():
            target.writestr(name.replace("__", "/").replace("_DOT_", "."), data)
    return sink.getvalue()


def tar() -> bytes:
    """Return an archive by tar with weights in it."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as target:
        target.addfile(tarfile.TarInfo("w.pth"), io.BytesIO())
    return sink.getvalue()


def scripted() -> bytes:
    """Return TorchScript."""
    sink = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU())), sink)
    return sink.getvalue()


def npz() -> bytes:
    """Return NumPy arrays in an archive."""
    sink = io.BytesIO()
    np.savez(sink, **{name: tensor.numpy() for name, tensor in STATE.items()})
    return sink.getvalue()


class Args:
    """A class of one's own."""

    lr = 0.1


RESAVE = "only code could read it: where you trust the file, save the weights alone by python -c"
KINDS: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "argparse": (
        lambda: saved({"model": STATE, "args": argparse.Namespace(lr=0.1)}),
        ("argparse.Namespace under 'args'", RESAVE, "torch.save(found['model'], 'w-weights.pth')"),
    ),
    "argparse, oldest format": (
        lambda: saved({"model": STATE, "args": argparse.Namespace()}, _use_new_zipfile_serialization=False),
        ("argparse.Namespace under 'args'", "found['model']"),
    ),
    "NumPy scalar": (
        lambda: saved({"state_dict": STATE, "best_acc": np.float64(76.1)}),
        ("multiarray.scalar under 'best_acc'", "torch.save(found['state_dict'], 'w-weights.pth')"),
    ),
    "path": (lambda: saved({"net": STATE, "out": PurePosixPath("a")}), ("PurePosixPath under 'out'", "found['net']")),
    "own class": (lambda: saved({"net": STATE, "config": Args()}), ("Args under 'config'", "found['net']")),
    "whole module": (
        lambda: saved(NET),
        ("a whole module of class", "torch.save(found.state_dict(), 'w-weights.pth')"),
    ),
    "whole module in a dictionary": (
        lambda: saved({"model": NET, "epoch": 3}),
        ("under 'model'", "found['model'].state_dict()"),
    ),
    "an attack": (lambda: saved({"model": STATE, "x": Attack()}), ("reading it would run posix.mkdir", "attack")),
    "an attack, oldest format": (
        lambda: saved({"model": STATE, "x": Attack()}, _use_new_zipfile_serialization=False),
        ("reading it would run posix.mkdir", "attack"),
    ),
    "plain pickle": (
        lambda: pickle.dumps(STATE),
        ("a plain pickle, which torch.save did not write", "pickle.loads(pathlib.Path("),
    ),
    "plain pickle, an attack": (lambda: pickle.dumps(Attack()), ("reading it would run posix.mkdir",)),
    "NumPy arrays": (
        lambda: saved({name: tensor.numpy() for name, tensor in STATE.items()}),
        ("multiarray._reconstruct under '0.weight'", "{name: torch.as_tensor(value) for name, value in found.items()}"),
    ),
    "Git LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ("Git LFS", "git lfs pull")),
    "HTML": (lambda: b"\n<!DOCTYPE html><html></html>", ("a web page or an error in HTML or XML", "download it again")),
    "XML": (lambda: b"<?xml version='1.0'?><Error>", ("a web page or an error in HTML or XML",)),
    "JSON": (lambda: b'{"error": "Entry not found"}', ('JSON, beginning with \'{"error"',)),
    "text": (lambda: b"Invalid username or password.", ("text, beginning with 'Invalid username",)),
    "TorchScript": (scripted, ("TorchScript, a program with its weights", "torch.jit.load(FILE).state_dict()")),
    "a zip of weights": (lambda: archive(a_DOT_pth=saved(STATE)), ("torch.save did not write; it holds a.pth",)),
    "npz": (npz, (".npz, NumPy arrays (0.weight.npy",)),
    "gzip": (lambda: gzip.compress(saved(STATE)), ("an archive by gzip: unpack it",)),
    "tar": (tar, ("an archive by tar: unpack it",)),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), ("HDF5, as Keras writes",)),
    "cut off": (lambda: saved(STATE)[:3000], ("a zip archive, as torch.save writes, but cut off",)),
    "cut off safetensors": (lambda: safetensors.torch.save(STATE)[:500], ("safetensors, but cut off",)),
    "empty": (lambda: b"", ("the file is empty",)),
    "binary": (
        lambda: bytes(range(256)) * 4,
        ("neither safetensors nor what torch.save writes; it begins with the byt",),
    ),
    "ONNX": (lambda: b"\x08\x07\x12\x07pytorch" + bytes(99), ("ONNX, a program with its weights",)),
}


class Attack:
    """An object whose unpickling makes a folder."""

    def __reduce__(self):
        import os

        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("case", KINDS)
def test_c_weights_refused_by_kind(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: a file that is no state dict is refused in one line: what it is, and what to do next; nothing in it runs."""
    monkeypatch.chdir(tmp_path)
    make, said = KINDS[case]
    with pytest.raises(ModelError) as caught:
        loaded(make(), "w.pth")
    text = str(caught.value)
    assert all(part in text for part in said), text
    assert "\n" not in text
    assert "\x1b" not in text
    assert text.endswith(")")
    assert list(tmp_path.iterdir()) == []


def test_c_weights_the_lines_that_save_anew_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: the command of the message makes a file that is read."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "w.pth": {"model": STATE, "args": argparse.Namespace(lr=0.1)},
        "v.pth.tar": {"state_dict": STATE, "best": np.float64(1)},
        "u.pth": NET,
        "t.pth": {name: tensor.numpy() for name, tensor in STATE.items()},
        "s.pkl": STATE,
    }.items():
        Path(name).write_bytes(pickle.dumps(value) if name == "s.pkl" else saved(value))
        with pytest.raises(ModelError) as caught:
            models.open_weights(name).tree()
        code = str(caught.value).partition('python -c "')[2].partition('" and name')[0]
        exec(code, {})  # noqa: S102 - the message's own line
        new = str(caught.value).rpartition(" and name ")[2].rstrip(")")
        net = small()
        models.load_weights(net, models.open_weights(new).tree(), new)
        assert is_net(dict(net.state_dict()))


def pruned() -> State:
    """Return the state of a pruned net."""
    net = small()
    prune.l1_unstructured(net[0], "weight", 0.5)
    return dict(net.state_dict())


SPECIAL: dict[str, tuple[Callable[[], State], str]] = {
    "parameters alone": (
        lambda: dict(small().named_parameters()),
        "parameters alone, without the running statistics of batch normalisation, which the model's outputs depend",
    ),
    "another name": (
        lambda: {name.replace("14.", "head."): value for name, value in STATE.items()},
        "no tensor '14.weight', which the model has (did you mean 'head.weight'?)",
    ),
    "pruned": (
        pruned,
        "a pruned net, as torch.nn.utils.prune keeps them (0.weight_orig, 0.weight_mask): call prune.rem",
    ),
    "quantised": (
        lambda: (
            STATE
            | {"0.weight": torch.quantize_per_tensor(STATE["0.weight"], 0.1, 0, torch.qint8), "x": STATE["0.weight"]}
        ),
        "weights of a quantised net (",
    ),
    "packed": (
        lambda: {"fc.scale": torch.ones(1), "fc.zero_point": torch.ones(1)},
        "weights of a quantised net (fc.scale",
    ),
    "whole numbers": (
        lambda: {name: (100 * t).to(torch.int8) for name, t in STATE.items()},
        "tensor '0.weight': expected fractions; found int8, as in a net that was quantised",
    ),
    "NaN": (lambda: STATE | {"1.bias": torch.full((4,), torch.nan)}, "tensor '1.bias' holds NaN or infinity"),
    "NaN statistics": (
        lambda: STATE | {"1.running_mean": torch.full((4,), torch.nan)},
        "'1.running_mean' holds NaN or",
    ),
    "whole statistics": (
        lambda: STATE | {"1.running_var": torch.ones(4, dtype=torch.int8)},
        "tensor '1.running_var': expected fractions; found int8",
    ),
    "too large": (
        lambda: STATE | {"1.bias": torch.full((4,), 1e300, dtype=torch.double)},
        "tensor '1.bias' holds NaN or inf",
    ),
    "adapters": (lambda: {"a.lora_A.weight": torch.ones(1)}, "weights of adapters alone (a.lora_A.weight)"),
    "another net": (lambda: {"conv.weight": torch.ones(1)}, "no tensor '0.weight', which the model has"),
    "some missing": (
        lambda: {name: t for name, t in under("module.").items() if "1.bias" not in name},
        "no tensor '1.bias', which the model has",
    ),
    "one more": (lambda: STATE | {"15.weight": torch.ones(1)}, "tensor '15.weight' is not in the model (1 such)"),
    "a wider net": (
        lambda: dict(models.small_cnn(10, width=8).state_dict()),
        "tensor '0.weight': the model expects [4, 3, 3, 3]; the file has [8, 3, 3, 3] (",
    ),
    "nothing but numbers": (lambda: {"epoch": 3, "acc": {"a": 1.0}}, "found a dictionary with epoch (int), acc (dict)"),
    "nothing": (dict, "expected a dictionary of tensors; found an empty dictionary"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("case", SPECIAL)
def test_c_weights_of_another_net(case: str):
    """Law: a state dict that does not fit is refused with a tensor's name, and by its kind where it has one.

    The net keeps its weights.
    """
    make, said = SPECIAL[case]
    net = small()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        models.load_weights(net, make(), "w.pth", num_classes=10)
    assert said in str(caught.value), str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_c_weights_of_a_net_that_scaled_pixels_up_to_255():
    """Law: a mean of 0 does not hide that the standard deviation is of pixels in 0..255."""
    state = under("net.") | {"mean": torch.zeros(3), "std": torch.full((3,), 255.0)}
    assert models.load_weights(small(), state, "w.pth").normalisation == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
def test_c_weights_a_head_of_another_size(prefix: str):
    """Law: a head of another size names the tensor and both numbers of classes, under any prefix."""
    with pytest.raises(ModelError) as caught:
        loaded(saved(under(prefix, dict(small(7).state_dict()))), "w.pth")
    assert str(caught.value).startswith(
        "w.pth: tensor '14.weight': the model expects [10, 16]; the file has [7, 16] (2 te"
    )
    assert "the file's net has 7 classes, and the study 10; import weights of a net with 10 classes" in str(
        caught.value
    )


def test_c_weights_by_command(tiny: Callable[..., Study], tmp_path: Path):
    """Law: an imported original is the file's net bit for bit, whatever wrapped it, and its name is no identity."""
    digests = []
    for name in ("a.ckpt", "b.pth"):
        (tmp_path / name).write_bytes(saved({"state_dict": under("module._orig_mod.")}))
        original = {"weights": str(tmp_path / name), "method": None, "on": None}
        made = tiny(populations={"original": original}, storage=str(tmp_path / name[0]))
        assert generate(made, backend="inline").exit_code == 0
        digests.append(open_job(made).plan.populations["original"].digest)
        bytes_of = {path: data for path, data in payload_bytes(tmp_path / name[0]).items() if "original" in path}
        checkpoint = next(data for path, data in bytes_of.items() if path.endswith(".safetensors"))
        assert is_net(safetensors.torch.load(checkpoint))
    assert digests[0] == digests[1]


def test_b_weights_on_a_file_system_that_fails(monkeypatch: pytest.MonkeyPatch):
    """Law: any error of a file system in Python (hf:// without a network) is one line, and no URL is downloaded."""
    from ray_unlearn.models import weights

    class Failing:
        """A file system whose client raises an error of its own."""

        def get_file_info(self, path: str) -> Any:
            raise RuntimeError("[Errno -2] Name or service not known\nand more")

    monkeypatch.setattr(weights, "open_filesystem", lambda uri: (Failing(), "x"))
    with pytest.raises(
        ModelError, match=r"hf://org/x/m\.pth: cannot be read \(.* Name or service not known\)"
    ) as caught:
        models.open_weights("hf://org/x/m.pth")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"https://x\.org/m\.pth: weights are not downloaded; download the file"):
        models.open_weights("https://x.org/m.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"1.running_var": torch.tensor([0.5, -1.0, 1.0, 1.0])},
            "'1.running_var' has values below 0, which no variance",
        ),
        ({"14.weight": torch.eye(10, 16).to_sparse()}, "sparse_coo, on cpu; tensor.to_dense() makes it one"),
    ],
)
def test_c_weights_that_no_training_leaves(change: State, said: str):
    """Law: a variance below 0 would be outputs of NaN, blamed on the rate; a sparse tensor has its remedy."""
    with pytest.raises(ModelError) as caught:
        loaded(saved({**small().state_dict(), **change}), "a.pth", net=small())
    assert said in str(caught.value)


def test_c_weights_at_chance_are_said_to_be(tiny: Callable[..., Study], tmp_path: Path):
    """Law: a file that fits by its shapes and knows nothing of the images is named before any run, no trained one; so
    is one whose net has two classes in each other's place."""
    generate(tiny(populations={"finetune": None}, training={"epochs": 20}), backend="inline")
    (trained,) = (tmp_path / "store").rglob("model.safetensors")
    (tmp_path / "random.pth").write_bytes(saved(small().state_dict()))
    state, order = safetensors.torch.load(trained.read_bytes()), [*range(6), 9, 7, 8, 6]
    head = {name: state[name][order] for name in ("14.weight", "14.bias")}
    (tmp_path / "swapped.pth").write_bytes(saved(state | head))
    lines = [
        line
        for file in (trained, tmp_path / "random.pth", tmp_path / "swapped.pth")
        for line in open_job(
            tiny(populations={"original": {"weights": str(file), "method": None, "on": None}}, name="other")
        ).remarks
        if "the order of the classes" in line
    ]
    assert len(lines) == 2
    assert (
        "swapped.pth: its net takes most training images of some classes for those of another (6 for 9, 9 for 6)"
        in lines[1]
    )
    assert "random.pth: its net is right on " in lines[0]
    assert " of 64 training images, and " in lines[0]
