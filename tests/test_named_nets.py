"""Nets by name, and what a study changes in them: stem, grey images, pretrained weights, frozen parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import TINY, merged
from torch import nn

from ray_unlearn import models
from ray_unlearn.errors import ModelError
from ray_unlearn.generation import generate
from ray_unlearn.models import architectures, pretrained
from ray_unlearn.models.template import Template
from ray_unlearn.run.artefacts import versions
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.agreement import disagreements
from ray_unlearn.study import parse_study
from ray_unlearn.study.model import Model

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
}
BY_NAME = [
    pytest.param("timm:test_resnet", {}, "timm", id="timm"),
    pytest.param("hf:vit", VIT, "transformers", id="hf"),
]


@pytest.fixture(autouse=True)
def _nothing_read():
    """Forget weights that other tests read."""
    pretrained._of_file.cache_clear()
    pretrained._of_library.cache_clear()
    architectures._heads.clear()


def built(seed: int = 0, classes: int = 5, size: int = 16, **spec: Any) -> nn.Module:
    """Return a net in evaluation mode."""
    return models.build(Model(**spec), classes, Seeds(study=seed), size).eval()


def images(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def saved(model: nn.Module, path: Path, but: str = "") -> str:
    """Save a net's weights, perhaps without some."""
    state = {name: t for name, t in model.state_dict().items() if not but or not name.startswith(but)}
    path.write_bytes(safetensors.torch.save(state))
    return str(path)


# Names.


@pytest.mark.parametrize(("arch", "options", "package"), BY_NAME)
def test_nets_of_libraries_are_made_by_name(arch: str, options: dict[str, Any], package: str):
    """Law: without a network; one logit per class; weights follow the seed; copies work; records name the library."""
    pytest.importorskip(package)
    one, same, other = (built(seed, arch=arch, options=options) for seed in (0, 0, 1))
    logits = one(images())
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 5)
    assert torch.equal(logits, same(images()))
    assert not torch.equal(logits, other(images()))
    assert torch.equal(Template(one).copy().eval()(images()), logits)
    about = {"num_classes": 5, "arch": arch, "trains": True}
    assert models.try_net(one, images(), torch.tensor([0, 1]), **about) == []  # what it returns is as expected
    spec = Model(arch=arch, options=options)
    assert models.package_of(spec) == package
    assert package in versions(package)
    assert package not in versions("")
    assert models.identity(spec) == {"arch": arch, "options": options, "trim_dead_taps": True}
    grey = built(arch=arch, options=options, grey=True)
    flat = images().mean(1, keepdim=True).expand(2, 3, 16, 16)
    assert torch.allclose(grey(images()), one(flat), atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "options", "package", "message"),
    [
        ("timm:test_resnett", {}, "timm", r"^model.arch: timm has no model 'test_resnett' \(did you mean 'test_res"),
        ("timm:hf-hub:a/b", {}, "timm", "timm has no model 'hf-hub:a/b'"),
        ("timm:test_resnet", {"checkpoint_path": "x.pth"}, "timm", "model.options.checkpoint_path: not an option of a"),
        ("hf:vitt", {}, "transformers", r"no image classifier of type 'vitt' \(did you mean 'vit'\?\)"),
        ("hf:vit", {"hiden_size": 8}, "transformers", r"model.options.hiden_size: not in .* \(did you mean 'hidden_s"),
        ("hf:vit", {"trust_remote_code": True}, "transformers", "model.options.trust_remote_code: not an option"),
    ],
)
def test_what_a_library_does_not_have_is_refused(arch: str, options: dict[str, Any], package: str, message: str):
    """Law: an unknown net, an unknown option and one that would fetch or run something are each one line."""
    pytest.importorskip(package)
    with pytest.raises(ModelError, match=message):
        built(arch=arch, options=options)


@pytest.mark.parametrize(("arch", "extra"), [("timm:resnet10t", "timm"), ("hf:vit", "hf")])
def test_a_missing_library_is_named(arch: str, extra: str, monkeypatch):
    """Law: one line that says what to install."""
    for package in ("timm", "transformers"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ModelError, match=rf"needs the package .*pip install 'ray-unlearn\[{extra}\]' on every node"):
        built(arch=arch)


def test_a_module_of_a_librarys_name_in_the_study_is_a_factory(tmp_path):
    """Law: `hf:make` of a file hf.py beside the study stays what it was."""
    (tmp_path / "hf.py").write_text(
        "from torch import nn\ndef make(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(768, num_classes))\n"
    )
    spec = Model(arch="hf:make").with_folder(str(tmp_path))
    assert models.build(spec, 4, Seeds(study=0), 16)(images()).shape == (2, 4)
    assert "source_sha256" in models.identity(spec)


def test_resnet9_has_the_layers_of_easydub():
    """Law: their names and shapes (`models.py`), 2,274,880 numbers for ten classes by hand; logits times 0.2."""
    net = built(arch="resnet9", classes=10, size=32)
    shapes = {name: list(tensor.shape) for name, tensor in net.state_dict().items() if tensor.dim() > 1}
    assert shapes == {
        "0.0.weight": [64, 3, 3, 3],
        "1.0.weight": [128, 64, 5, 5],
        "2.module.0.0.weight": [128, 128, 3, 3],
        "2.module.1.0.weight": [128, 128, 3, 3],
        "3.0.weight": [256, 128, 3, 3],
        "5.module.0.0.weight": [256, 256, 3, 3],
        "5.module.1.0.weight": [256, 256, 3, 3],
        "6.0.weight": [128, 256, 3, 3],
        "9.weight": [10, 128],
    }
    assert sum(p.numel() for p in net.parameters()) == 2_274_880
    before_head = net[:9](images(size=32))
    assert torch.allclose(net(images(size=32)), 0.2 * before_head @ net[9].weight.T)


# Stem and channels.


def test_the_cifar_stem_keeps_the_size_of_the_maps():
    """Law: 3x3, stride 1, no pooling, drawn from the run's seed; without it, the net is what it was."""
    net = built(arch="resnet18", stem="cifar", size=32)
    assert (net.conv1.kernel_size, net.conv1.stride) == ((3, 3), (1, 1))
    assert net.maxpool(net.conv1(images(size=32))).shape == (2, 64, 32, 32)
    assert abs(net.conv1.weight.std().item() / (2 / (64 * 9)) ** 0.5 - 1) < 0.1  # fan out, as torchvision draws it
    assert not torch.equal(net.conv1.weight, built(1, arch="resnet18", stem="cifar").conv1.weight)
    assert models.identity(Model(arch="resnet18", stem="cifar"))["stem"] == "cifar"
    with pytest.raises(ModelError, match="cifar is for torchvision's ResNets"):
        built(arch="small_cnn", stem="cifar")


def test_a_grey_net_gives_what_it_gave_for_equal_channels():
    """Law: one input channel, the sum of the weights; the mean of three unequal channels is taken."""
    colour, grey = built(arch="small_cnn"), built(arch="small_cnn", grey=True)
    flat = images()[:, :1].expand(2, 3, 16, 16)
    assert grey.state_dict()["0.weight"].shape == (16, 1, 3, 3)
    assert torch.allclose(grey(flat), colour(flat), atol=1e-5)
    assert torch.allclose(grey(images()), grey(images().mean(1, keepdim=True).expand(2, 3, 16, 16)), atol=1e-5)
    with pytest.raises(ModelError, match=r"^model.grey: .*found Conv2d of 16 channels|found none"):
        models.adapted.as_grey(nn.Sequential(nn.Conv2d(16, 4, 1)), "x")


# Pretrained weights.


@pytest.mark.parametrize("classes", [5, 7])
def test_a_file_gives_all_but_the_head(classes: int, tmp_path):
    """Law: whatever number of classes the file has, the head is new, drawn from the seed; the rest is the file's."""
    file = saved(built(9, classes=classes, arch="small_cnn"), tmp_path / "a.safetensors")
    one, other = (built(seed, arch="small_cnn", pretrained=file) for seed in (0, 1))
    theirs = safetensors.torch.load_file(file)
    for name, tensor in one.state_dict().items():
        if name.startswith("14."):
            assert not torch.equal(tensor, other.state_dict()[name])
            assert torch.equal(tensor, built(0, arch="small_cnn").state_dict()[name])
        else:
            assert torch.equal(tensor, theirs[name])


def test_a_file_may_lack_the_head_or_have_another(tmp_path):
    """Law: a backbone alone, and one with a projection under the head's name, are read; a missing layer is named."""
    whole = built(9, arch="small_cnn")
    bare = saved(whole, tmp_path / "a.safetensors", but="14.")
    whole[14] = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    projected = saved(whole, tmp_path / "b.safetensors")
    for file in (bare, projected):
        net = built(arch="small_cnn", pretrained=file)
        assert torch.equal(net[8].weight, whole[8].weight)
        assert net[14].out_features == 5
    torn = saved(whole, tmp_path / "c.safetensors", but="8.")
    with pytest.raises(ModelError, match=r"c\.safetensors: no tensor '8\.weight'"):
        built(arch="small_cnn", pretrained=torn)


def test_a_head_of_a_fixed_size_is_said_to_come_from_the_file(tmp_path):
    """Law: a factory without num_classes has no head that could be told apart: retrained models would have it, too."""
    (tmp_path / "fixed.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))\n"
    )
    net = Model(arch="fixed:make").with_folder(str(tmp_path))
    file = saved(models.build(net, 5, Seeds(study=9), 4), tmp_path / "a.safetensors")
    found = models.started_from(Model(arch="fixed:make", pretrained=file).with_folder(str(tmp_path)), 5, 4)
    assert found is not None
    assert [note for note in found.notes if "its head starts from the pretrained weights, too" in note]
    whole = saved(built(9, arch="small_cnn"), tmp_path / "b.safetensors")
    plain = models.started_from(Model(arch="small_cnn", pretrained=whole), 5, 16)
    assert plain is not None
    assert plain.notes == ()


def test_a_factory_that_changed_has_the_head_that_it_has_now(tmp_path):
    """Law: what is the head is found anew where the factory's file was edited between two calls of one process."""
    text = "from torch import nn\n\ndef make(num_classes):\n    return nn.Sequential({})\n"
    layers = "nn.Flatten(), nn.Linear(48, {0}), nn.Linear({0}, num_classes)"
    spec, starts = Model(arch="edited:make").with_folder(str(tmp_path)), []
    for width in ("5", "num_classes"):
        (tmp_path / "edited.py").write_text(text.format(layers.format(width)))
        models.identity(spec)  # as a study is opened
        if width == "5":
            file = saved(models.build(spec, 5, Seeds(study=9), 4), tmp_path / "a.safetensors")
        started = spec.model_copy(update={"pretrained": file})
        starts.append(models.build(started, 5, Seeds(study=0), 4).state_dict())
    held = safetensors.torch.load_file(file)
    assert [torch.equal(start["1.weight"], held["1.weight"]) for start in starts] == [True, False]
    assert not any(torch.equal(start["2.weight"], held["2.weight"]) for start in starts)


def test_the_content_of_a_file_is_its_identity(tmp_path):
    """Law: a copy elsewhere is the same model; another file another; a worker refuses one that changed."""
    net = built(9, arch="small_cnn")
    first, copy = saved(net, tmp_path / "a.safetensors"), saved(net, tmp_path / "b.safetensors")
    planned = models.identity(Model(arch="small_cnn", pretrained=first))
    assert planned == models.identity(Model(arch="small_cnn", pretrained=copy))
    assert str(tmp_path) not in json.dumps(planned)
    saved(built(8, arch="small_cnn"), tmp_path / "a.safetensors")
    pretrained._of_file.cache_clear()
    with pytest.raises(ModelError, match=r"a\.safetensors changed since the study was planned \(pretrained.sha256"):
        models.check_source(Model(arch="small_cnn", pretrained=first), planned)


def test_torchvisions_weights_are_read_from_its_cache(tmp_path, monkeypatch):
    """Law: `true` reads the library's default weights; offline and without them, one line."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    offline(monkeypatch)
    spec = Model(arch="resnet18", pretrained=True)
    with pytest.raises(
        ModelError, match=r"^model.pretrained: the weights of resnet18 are not in .*no network; run this"
    ):
        models.build(spec, 5, Seeds(study=0), 32)
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    theirs = built(9, 1000, 32, arch="resnet18").state_dict()
    torch.save(theirs, folder / "resnet18-f37072fd.pth")
    net = models.build(spec, 5, Seeds(study=0), 32)
    assert torch.equal(net.conv1.weight, theirs["conv1.weight"])
    assert net.fc.out_features == 5
    identity = models.identity(spec)["pretrained"]
    assert identity["weights"] == "ResNet18_Weights.IMAGENET1K_V1"
    assert len(identity["sha256"]) == 64
    started = models.started_from(spec, 5, 32)
    assert started.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"arch": "small_cnn", "pretrained": True}, "small_cnn has no pretrained weights"),
        ({"arch": "torch.nn:Linear", "pretrained": True}, "torch.nn:Linear is of none of them"),
        ({"arch": "resnet18", "stem": "cifar", "pretrained": True}, "of a net with the stem imagenet"),
        ({"arch": "resnet18", "pretrained": "missing.pth"}, r"missing\.pth: no such file"),
    ],
)
def test_pretrained_weights_that_cannot_be(spec: dict[str, Any], message: str):
    """Law: each is refused by its cause."""
    with pytest.raises(ModelError, match=message):
        pretrained.pretrained_of(Model(**spec)) or built(**spec)


def in_hubs_cache(root: Path, repository: str, files: dict[str, bytes]) -> None:
    """Write a repository as huggingface_hub's cache has it."""
    folder = root / f"models--{repository.replace('/', '--')}"
    inside = {f"snapshots/abc123/{name}": data for name, data in files.items()}
    for name, data in {"refs/main": b"abc123", **inside}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def offline(monkeypatch) -> None:
    def refuse(*args: object, **how: object) -> None:
        raise OSError("no network")

    for function in ("socket.create_connection", "torch.hub.urlopen"):
        monkeypatch.setattr(function, refuse)


def test_weights_of_the_hub_are_read_from_its_cache(tmp_path, monkeypatch):
    """Law: configuration and weights of a repository, from the cache alone; without them, one line at once."""
    hub, transformers = pytest.importorskip("huggingface_hub"), pytest.importorskip("transformers")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    offline(monkeypatch)
    spec = Model(arch="hf:me/vit", pretrained=True)
    with pytest.raises(ModelError, match=r"^model.arch: the files of hf:me/vit are not .*no network; run this once"):
        models.build(spec, 5, Seeds(study=0), 16)
    theirs = built(9, 7, arch="hf:vit", options=VIT)
    config = transformers.AutoConfig.for_model("vit", **VIT, num_labels=7)
    files = {"config.json": config.to_json_string().encode()}
    files["model.safetensors"] = safetensors.torch.save(theirs.state_dict())
    in_hubs_cache(tmp_path, "me/vit", files)
    net = models.build(spec, 5, Seeds(study=0), 16)
    name = "vit.embeddings.patch_embeddings.projection.weight"
    assert torch.equal(net.state_dict()[name], theirs.state_dict()[name])
    assert net.classifier.out_features == 5
    identity = models.identity(spec)
    assert identity["pretrained"]["weights"] == "hf me/vit@abc123"
    assert len(identity["config_sha256"]) == 64


def test_weights_of_timm_are_read_from_the_hubs_cache(tmp_path, monkeypatch):
    """Law: the same for timm."""
    hub, _ = pytest.importorskip("huggingface_hub"), pytest.importorskip("timm")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    offline(monkeypatch)
    spec = Model(arch="timm:test_resnet", pretrained=True)
    with pytest.raises(ModelError, match=r"^model.pretrained: the weights of timm:test_resnet are not .*no network"):
        models.build(spec, 5, Seeds(study=0), 16)
    theirs = built(9, 1000, arch="timm:test_resnet")
    in_hubs_cache(
        tmp_path, "timm/test_resnet.r160_in1k", {"model.safetensors": safetensors.torch.save(theirs.state_dict())}
    )
    net = models.build(spec, 5, Seeds(study=0), 16)
    name = next(iter(theirs.state_dict()))
    assert torch.equal(net.state_dict()[name], theirs.state_dict()[name])
    assert models.identity(spec)["pretrained"]["weights"] == "timm test_resnet.r160_in1k"


# Frozen parts, and a study of all of it.


def test_frozen_parts_do_not_move(tmp_path):
    """Law: neither parameters nor statistics of frozen modules change in training; all others do; names are checked."""
    net = built(arch="small_cnn", freeze=("0", "1", "4.weight"))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    nn.functional.cross_entropy(net(images(4)), torch.arange(4)).backward()
    optimizer.step()
    moved = {
        name.partition(".")[0] for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert moved == {"5", "8", "9", "14"}
    with pytest.raises(
        ModelError, match=r"no module or parameter 'layer5' \(did you mean 'layer4'\?\); its modules are conv1"
    ):
        built(arch="resnet18", freeze=("layer5",))


def test_a_study_with_pretrained_frozen_grey_nets_is_made(tmp_path):
    """Law: every run has the file's frozen layer, however it was made; the file's path is no difference."""
    file = saved(built(9, 10, 8, arch="small_cnn", options={"width": 4}), tmp_path / "a.safetensors")
    model = {"pretrained": file, "freeze": ["4", "5"], "grey": True}
    study = parse_study(merged(TINY, {"storage": str(tmp_path), "model": model}), where="x")
    summary = generate(study, backend="inline")
    assert summary.exit_code == 0
    theirs, store = safetensors.torch.load_file(file), StudyStore(open_storage(str(tmp_path)), "tiny")
    runs = sorted(tmp_path.glob("tiny/*/*/model.safetensors"))
    states = [safetensors.torch.load_file(run) for run in runs]
    assert len(states) == 4
    for state in states:
        for name in ("4.weight", "5.running_mean", "5.weight"):
            assert torch.equal(state[name], theirs[name])
        assert state["0.weight"].shape == (4, 1, 3, 3)
    assert len({state["14.weight"].numpy().tobytes() for state in states}) == len(states)
    moved = saved(built(9, 10, 8, arch="small_cnn", options={"width": 4}), tmp_path / "b.safetensors")
    again = parse_study(merged(TINY, {"storage": str(tmp_path), "model": {**model, "pretrained": moved}}), where="x")
    assert disagreements(again, store) == []
    assert generate(again, backend="inline").made == 0
