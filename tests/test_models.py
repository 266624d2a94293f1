"""Architectures by name; weights in and out, strictly, without pickle."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from ray_unlearn import models
from ray_unlearn.errors import ModelError
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Model

SMALL = Model(arch="small_cnn", options={"width": 4})


def small(classes: int = 3, seed: int = 0) -> nn.Module:
    """Return a small net with batch normalisation."""
    return models.build(SMALL, classes, Seeds(study=seed))


def pth(value: object, **options) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two state dicts are bitwise equal."""
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("arch", "options", "head"),
    [("small_cnn", {}, "14"), ("resnet18", {}, "fc"), ("mobilenet_v3_small", {"dropout": 0.1}, "classifier.3")],
)
def test_architectures_by_name(arch, options, head):
    """Law: a built-in or torchvision name gives a net whose head has the study's classes."""
    size = {"small_cnn": 8}.get(arch, 32)
    model = models.build(Model(arch=arch, options=options), 7, Seeds(study=0)).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert model.get_submodule(head).out_features == 7


def test_width_scales_the_small_net():
    """Law: about 24 thousand parameters at width 16, as its docstring states; counted by hand at width 4."""
    assert 23_000 < sum(p.numel() for p in models.small_cnn(10).parameters()) < 25_000
    # convolutions 3*4*9 + 4*8*9 + 8*16*9, scale and shift of 4 + 8 + 16 channels, head 16*3 + 3
    assert sum(p.numel() for p in small().parameters()) == 108 + 288 + 1152 + 2 * 28 + 51


def own_module(folder: Path, monkeypatch, source: str, name: str = "own_nets") -> str:
    """Write a module that the test can import under `name`."""
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(importlib.import_module("sys").modules, name, raising=False)
    importlib.invalidate_caches()
    return name


OWN = """
import torch
made = 0

def tiny(num_classes, depth=1):
    return torch.nn.Sequential(torch.nn.Flatten(), *[torch.nn.Linear(4, 4) for _ in range(depth - 1)],
                               torch.nn.Linear(4, num_classes))

def text(num_classes):
    return "not a net"

def broken(num_classes):
    raise KeyError("no such backbone")

number = 3
"""


def test_a_factory_of_ones_own(tmp_path, monkeypatch):
    """Law: package.module:factory gets num_classes and the options; its source is part of its identity."""
    name = own_module(tmp_path, monkeypatch, OWN)
    spec = Model(arch=f"{name}:tiny", options={"depth": 2})
    model = models.build(spec, 5, Seeds(study=0))
    assert [tuple(p.shape) for p in model.parameters()] == [(4, 4), (4,), (5, 4), (5,)]
    first = models.identity(spec)
    assert models.identity(spec) == first
    (tmp_path / "own_nets.py").write_text(OWN + "\n# changed\n")
    monkeypatch.delitem(sys.modules, name)  # as in another process
    assert models.identity(spec)["source_sha256"] != first["source_sha256"]
    assert set(models.identity(SMALL)) == {"arch", "options", "trim_dead_taps"}


@pytest.mark.parametrize(
    ("arch", "options", "expected"),
    [
        ("resnet81", {}, "model.arch: 'resnet81' is neither built in nor torchvision's (did you mean 'resnet18'?)"),
        ("small_cn", {}, "(did you mean 'small_cnn'?)"),
        ("fasterrcnn_resnet50_fpn", {}, "is neither built in nor torchvision's"),
        ("small_cnn", {"widht": 4}, "model small_cnn: does not take options {'widht': 4}: "),
        ("small_cnn", {"width": -4}, "model small_cnn: the factory fails with options {'width': -4}: RuntimeError: "),
        ("resnet18", {"weights": "DEFAULT"}, "model resnet18: does not take options {'weights': 'DEFAULT'}: "),
        ("no_such_package:f", {}, "model.arch: 'no_such_package:f' cannot be imported (No module named"),
        ("torch.nn:NoSuchNet", {}, "cannot be imported (module 'torch.nn' has no attribute 'NoSuchNet')"),
        (":f", {}, "model.arch: ':f' cannot be imported"),
        ("own_nets:text", {}, "model own_nets:text: expected a torch module; found str"),
        ("own_nets:broken", {}, "model own_nets:broken: the factory fails: KeyError: 'no such backbone'"),
        ("own_nets:number", {}, "model.arch: 'own_nets:number' is not callable"),
        ("own_typo:f", {}, "model.arch: 'own_typo:f' cannot be imported (invalid syntax"),
        ("own_crash:f", {}, "model.arch: 'own_crash:f' cannot be imported (division by zero)"),
    ],
)
def test_what_cannot_be_built_is_refused(tmp_path, monkeypatch, arch, options, expected):
    """Law: no matter what an architecture raises, the user reads one line that names it."""
    own_module(tmp_path, monkeypatch, OWN)
    own_module(tmp_path, monkeypatch, "def f(:", "own_typo")
    own_module(tmp_path, monkeypatch, "1 / 0", "own_crash")
    with pytest.raises(ModelError) as caught:
        models.build(Model(arch=arch, options=options), 3, Seeds(study=0))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


GADGETS = """
import os
import subprocess
import torch
from torch.hub import load as hub, load_state_dict_from_url
from os import system as call

def downloads(num_classes):
    return load_state_dict_from_url("http://127.0.0.1:9/x.pth", model_dir=os.devnull + "x")
"""


@pytest.mark.parametrize(
    ("arch", "options", "expected"),
    [
        ("torch.hub:load", {"repo_or_dir": "a/b", "model": "c"}, "is of torch.hub, whose functions may fetch or run"),
        ("torch:load", {"f": "x.pth"}, "is of torch, whose functions may fetch or run what model.options name"),
        ("subprocess:run", {"args": ["touch", "pwned"]}, "is of subprocess, whose functions may fetch or run"),
        ("os:system", {"command": "touch pwned"}, "is of os, whose functions"),
        ("builtins:eval", {}, "is of builtins, whose functions"),
        ("gadgets:hub", {"repo_or_dir": "a/b", "model": "c"}, "'gadgets:hub' is of torch.hub, whose functions"),
        ("gadgets:call", {"command": "touch pwned"}, "whose functions may fetch or run"),
        ("gadgets:downloads", {}, "model gadgets:downloads: opens a connection (socket."),
        ("online:f", {}, "cannot be imported (model.arch: 'online:f' opens a connection (socket.getaddrinfo)"),
        ("torchvision.models:vgg11", {"weights": "DEFAULT"}, "model torchvision.models:vgg11: opens a connection"),
    ],
)
def test_no_factory_fetches_or_runs_what_a_study_states(tmp_path, monkeypatch, arch, options, expected):
    """Law: a factory is of a package of architectures, or a module in the study's folder, and needs no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    own_module(tmp_path, monkeypatch, GADGETS, "gadgets")
    own_module(tmp_path, monkeypatch, "import socket\nsocket.getaddrinfo('localhost', 80)\n", "online")
    with pytest.raises(ModelError) as caught:
        models.build(Model(arch=arch, options=options), 1000, Seeds(study=0))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_only_the_factorys_thread_is_offline():
    """Law: connections of other threads, and of this one afterwards, are no one's business."""
    import socket
    import threading

    from ray_unlearn.usercode.offline import offline

    found = []
    with offline("here:"):
        thread = threading.Thread(target=lambda: found.append(socket.gethostbyname("127.0.0.1")))
        thread.start()
        thread.join()
        with pytest.raises(ModelError, match=r"^here: opens a connection \(socket.gethostbyname\)"):
            socket.gethostbyname("127.0.0.1")
    assert found == [socket.gethostbyname("127.0.0.1")]


def test_the_seeds_decide_the_initial_weights():
    """Law: the same seeds give bitwise the same weights, another run others; the global generator is left alone."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again = small(), small()
    other = models.build(SMALL, 3, Seeds(study=0, run=1))
    assert torch.equal(torch.rand(3), expected)
    assert same(first.state_dict(), again.state_dict())
    assert not same(first.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("cut", [0, 1, 7, 100, -1])
def test_damaged_weights_are_one_line(name, cut):
    """Law: truncated anywhere, a weights file is refused with its name."""
    state = dict(small().state_dict())
    data = (pth(state) if name == "a.pth" else safetensors.torch.save(state))[:cut]
    with pytest.raises(ModelError, match=f"{name}: not weights that can be read safely") as caught:
        models.parse_weights(data, name)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_flipped_bytes_never_escape_as_another_error():
    """Law: no matter what torch's reader stumbles over (IndexError, struct.error, ...), the user reads a ModelError."""
    generator = torch.Generator().manual_seed(0)
    original = pth({"weight": torch.ones(3)}, _use_new_zipfile_serialization=False)
    refused = 0
    for _ in range(200):
        data = bytearray(original)
        for where in torch.randint(len(data), (4,), generator=generator).tolist():
            data[where] = int(torch.randint(256, (1,), generator=generator))
        try:
            models.parse_weights(bytes(data), "a.pth")
        except ModelError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("value", [[torch.ones(1)], {"weight": 3}, {}, torch.ones(2)])
def test_a_pth_without_a_state_dict(value):
    """Law: tensors outside a dictionary, or a dictionary of other things, are no weights."""
    with pytest.raises(ModelError, match=r"a\.pth: expected a dictionary of tensors; found"):
        models.load_weights(small(), models.parse_weights(pth(value), "a.pth"), "a.pth")


def test_unreadable_files(tmp_path):
    """Law: a missing file is refused with its path."""
    with pytest.raises(ModelError, match=r"gone\.pth: no such file; expected weights, \.safetensors or \.pth"):
        models.read_file(str(tmp_path / "gone.pth"))
    (tmp_path / "a.pth").write_bytes(b"x")
    assert models.read_file(f"file://{tmp_path}/a.pth") == b"x"


@pytest.mark.parametrize(("dtype", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_checkpoints_keep_buffers_and_load_strictly(dtype, kind):
    """Law: parameters take the asked type, running statistics stay fp32, counts int64; loading is strict."""
    model = small(seed=1)
    model.train()
    model(torch.rand(8, 3, 8, 8))  # moves the running statistics away from 0 and 1
    stored = safetensors.torch.load(models.checkpoint_bytes(model, dtype))
    parameters = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        assert stored[name].dtype == (kind if name in parameters else tensor.dtype)
        assert torch.equal(stored[name], tensor.to(stored[name].dtype))
    assert {str(stored[name].dtype) for name in stored if "num_batches" in name} == {"torch.int64"}
    fresh = small(seed=2)
    fresh.load_state_dict(stored, strict=True)
    loaded = small(seed=3)
    models.load_weights(loaded, models.parse_weights(models.checkpoint_bytes(model, dtype), "a.safetensors"), "a")
    assert same(fresh.state_dict(), loaded.state_dict())
    if dtype == "fp32":
        assert same(loaded.state_dict(), model.state_dict())


def test_a_checkpoint_is_a_function_of_the_weights():
    """Law: memory format and position in memory leave no trace in the bytes."""
    model = small()
    data = models.checkpoint_bytes(model, "fp32")
    assert models.checkpoint_bytes(small().to(memory_format=torch.channels_last), "fp32") == data


class Tied(nn.Module):
    """Two names for one parameter, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_tied_weights_are_stored_under_both_names_alike(dtype):
    """Law: both names are in the file, of one type and value, so that strict loading ties them again."""
    model = Tied()
    stored = safetensors.torch.load(models.checkpoint_bytes(model, dtype))
    assert set(stored) == {"encode.weight", "decode.weight"}
    assert stored["encode.weight"].dtype == stored["decode.weight"].dtype == models.DTYPES[dtype]
    assert torch.equal(stored["encode.weight"], stored["decode.weight"])
    again = Tied()
    models.load_weights(again, stored, "tied")
    assert again.decode.weight is again.encode.weight
    assert torch.equal(again.encode.weight, model.encode.weight.to(models.DTYPES[dtype]).float())
