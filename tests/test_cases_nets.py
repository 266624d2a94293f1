"""Nets as people bring them (case A12, and the rows of B and C about nets): what works, and what is said before work.

An id names the row of the table of cases that a test holds.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import payload_bytes
from torch import nn

from ray_unlearn import models
from ray_unlearn.data.study_data import StudyData
from ray_unlearn.errors import MethodError, ModelError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.generation.checks import Checks
from ray_unlearn.generation.forecast import look_ahead
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.models.logits import logits_of
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.arrow import read_table
from ray_unlearn.study import Study, load_study
from ray_unlearn.study.schema import Model
from ray_unlearn.usercode.imports import script_function

NETS = """
import collections
import dataclasses
import torch
import torchvision
from torch import nn

made = []

def plain(num_classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))

Pair = collections.namedtuple("Pair", "logits features")

@dataclasses.dataclass
class Answer:
    loss: object
    logits: torch.Tensor

class Wrapped(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net, self.aux = plain(num_classes), plain(num_classes)

class TupleInTraining(Wrapped):
    def forward(self, x):
        return (self.net(x), self.aux(x)) if self.training else self.net(x)

class NamedInTraining(Wrapped):
    def forward(self, x):
        return Pair(self.net(x), self.aux(x)) if self.training else self.net(x)

class AlwaysTuple(Wrapped):
    def forward(self, x):
        return self.net(x), x.mean((2, 3))

class AlwaysList(Wrapped):
    def forward(self, x):
        return [self.net(x)]

class Object(Wrapped):
    def forward(self, x):
        return Answer(None, self.net(x))

class Dict(Wrapped):
    def forward(self, x):
        return {"loss": None, "logits": self.net(x)}

class OrderedOutput(Wrapped):
    def forward(self, x):
        return collections.OrderedDict(features=x, logits=self.net(x))

class OtherDict(Wrapped):
    def forward(self, x):
        return {"out": self.net(x), "aux": self.aux(x)}

class FeaturesFirst(Wrapped):
    def forward(self, x):
        return x.mean((2, 3)), self.net(x)

class Text(Wrapped):
    def forward(self, x):
        return "logits"

class Lazy(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.LazyConv2d(4, 3, 2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.LazyLinear(num_classes))

class Unreached(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.extra = nn.LazyLinear(3)
    def forward(self, x):
        return self.net(x)

class ExtraState(Wrapped):
    def get_extra_state(self):
        return {"version": 1}
    def set_extra_state(self, state):
        pass
    def forward(self, x):
        return self.net(x)

class Uncopied(Wrapped):
    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")
    def __reduce_ex__(self, protocol):
        raise TypeError("no pickles")
    def forward(self, x):
        return self.net(x)

class FailsInTraining(Wrapped):
    def forward(self, x):
        if self.training:
            raise ValueError("needs labels")
        return self.net(x)

class Exits(Wrapped):
    def forward(self, x):
        raise SystemExit(0)

class LazyExits(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.last = nn.LazyLinear(num_classes)

    def forward(self, x):
        raise SystemExit("no GPU")

class ExitsInTraining(Wrapped):
    def forward(self, x):
        if self.training:
            raise SystemExit(0)
        return self.net(x)

class RandomAtEvaluation(Wrapped):
    def forward(self, x):
        return nn.functional.dropout(self.net(x), 0.5, True)

class Detached(Wrapped):
    def forward(self, x):
        return self.net(x).detach()

def scripted(num_classes):
    return torch.jit.script(plain(num_classes))

def traced(num_classes):
    return torch.jit.trace(plain(num_classes), torch.zeros(1, 3, 8, 8))

def scripted_inside(num_classes):
    return nn.Sequential(nn.Identity(), torch.jit.script(plain(num_classes)))

def bound(num_classes):
    net = plain(num_classes)
    forward = net.forward
    net.forward = lambda x: forward(x)
    return net

def pruned(num_classes):
    import torch.nn.utils.prune
    net = plain(num_classes)
    torch.nn.utils.prune.l1_unstructured(net[0], "weight", 0.5)
    return net

def hooked(num_classes):
    net = plain(num_classes)
    net[0].weight.register_hook(lambda gradient: 0.1 * gradient)
    return net

def hooked_after(num_classes):
    net = plain(num_classes)
    net[0].weight.register_post_accumulate_grad_hook(lambda parameter: None)
    return net

def whole(num_classes):
    net = plain(num_classes)
    net.register_parameter("k", nn.Parameter(torch.tensor([3]), requires_grad=False))
    return net

def infinite(num_classes):
    net = plain(num_classes)
    net.register_buffer("best", torch.tensor(float("inf")))
    return net

def own_generator(num_classes):
    import numpy
    net = plain(num_classes)
    values = numpy.random.default_rng().normal(size=(num_classes, 4))
    net[4].weight.data = torch.from_numpy(values).float()
    return net

class SeedsItself(Wrapped):
    def forward(self, x):
        torch.manual_seed(0)
        return self.net(x)

class OwnGenerator(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.noise = torch.Generator().manual_seed(1)
    def forward(self, x):
        return self.net(x + 0.01 * torch.randn(x.shape, generator=self.noise) if self.training else x)

def sets_much(num_classes):
    net = plain(num_classes)
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    return net

class Numbers(Wrapped):
    def forward(self, x):
        return self.net(x).argmax(1)

class Sigmoid(Wrapped):
    def forward(self, x):
        return self.net(x).sigmoid()

def quantised(num_classes):
    return torch.ao.nn.quantized.dynamic.Linear(3, num_classes)

def without_values(num_classes):
    with torch.device("meta"):
        return plain(num_classes)

def not_a_number(num_classes):
    net = plain(num_classes)
    nn.init.constant_(net[0].weight, float("nan"))
    return net

class NestedTuple(Wrapped):
    def forward(self, x):
        return (self.net(x), x), x

class DeepSupervision(Wrapped):
    def forward(self, x):
        return [self.aux(x), self.net(x)]

class FeaturesAndLogits(Wrapped):
    def forward(self, x):
        features = self.net[:4](x)
        return features, self.net[4](features)

class FourDimensions(Wrapped):
    def forward(self, x):
        return self.net(x)[:, :, None, None]

class Squeezes(Wrapped):
    def forward(self, x):
        return self.net(x).squeeze()

class InPlace(Wrapped):
    def forward(self, x):
        x += 0.0001
        return self.net(x)

class StartsAtZero(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        nn.init.zeros_(self.net[4].weight)
        nn.init.zeros_(self.net[4].bias)
    def forward(self, x):
        return self.net(x)

def flat(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))

def flat_of_32(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))

class HeadFirst(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc, self.conv, self.gate = nn.Linear(4, num_classes), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.fc(x * self.gate(x))

class MeansOfBatches(Wrapped):
    def forward(self, x):
        logits = self.net(x)
        return logits - logits.mean(0, keepdim=True)

class Centre(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.centre = torch.zeros(num_classes)
    def forward(self, x):
        logits = self.net(x)
        if self.training:
            self.centre = 0.99 * self.centre + 0.01 * logits.detach().mean(0)
        return logits - self.centre

class Unsaved(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("mean", torch.zeros(3), persistent=False)
    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return self.net(x - self.mean[:, None, None])

class Steps(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.steps = 0
    def forward(self, x):
        self.steps += self.training
        return self.net(x) * (1 + self.steps / 100)

class Projection(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.projection = torch.randn(num_classes, num_classes)
    def forward(self, x):
        return self.net(x) @ self.projection

class ListOfLayers(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.stem = [nn.Conv2d(3, 3, 3), nn.ReLU()]
    def forward(self, x):
        for layer in self.stem:
            x = layer(x)
        return self.net(x)

class HooksItself(Wrapped):
    def forward(self, x):
        if self.training and not self.net[0]._forward_hooks:
            self.net[0].register_forward_hook(lambda module, inputs, output: output * 2)
        return self.net(x)

class PlainScale(Wrapped):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.scale = torch.ones(1, requires_grad=True)
        self.layers = list(self.net)
    def forward(self, x):
        return self.net(x) * self.scale

def renames(num_classes):
    net = plain(num_classes)
    net._register_state_dict_hook(lambda module, state, *_: {"net." + name: one for name, one in state.items()})
    return net

class Softmax(Wrapped):
    def forward(self, x):
        return self.net(x).softmax(1)

def half(num_classes):
    return plain(num_classes).half()

def bfloat(num_classes):
    return plain(num_classes).to(torch.bfloat16)

def double(num_classes):
    return plain(num_classes).double()

def complex_one(num_classes):
    net = plain(num_classes)
    net.register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    return net

def old_weight_norm(num_classes):
    net = plain(num_classes)
    nn.utils.weight_norm(net[0])
    return net

def grey(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))

def ResNet10():
    return plain(10)

def ResNet7():
    return plain(7)

def n_classes(n_classes=5):
    return plain(n_classes)

def keywords(**options):
    return plain(options["num_classes"], options.get("width", 4))

def one_logit(num_classes):
    return plain(1)

def pretrained(num_classes):
    return torchvision.models.resnet18(weights="IMAGENET1K_V1")

def pretrained_guarded(num_classes):
    try:
        return torchvision.models.resnet18(weights="IMAGENET1K_V1")
    except Exception as error:
        raise RuntimeError("could not load") from error

def no_package(num_classes):
    import timm_of_a_test
    return timm_of_a_test.create_model("resnet18")

def frozen(num_classes):
    net = plain(num_classes)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net

def no_parameters(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ZeroPad1d((0, num_classes - 3)))

def seeded(num_classes):
    torch.manual_seed(0)
    return plain(num_classes)

ONE = {}

def always_the_same(num_classes):
    return ONE.setdefault(num_classes, plain(num_classes))

def pixelwise(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, num_classes))
"""


@pytest.fixture
def study(tmp_path: Path, tiny: Callable[..., Study]) -> Callable[..., Study]:
    """Return a function: factory of NETS, changes -> a study in whose folder they are."""
    (tmp_path / "nets_of_cases.py").write_text(NETS)

    def make(factory: str, **changes: Any) -> Study:
        made = tiny(model={"arch": f"nets_of_cases:{factory}", "options": None}, **changes)
        return made.model_copy(update={"model": made.model.with_folder(str(tmp_path))})

    return make


def tried(study: Study) -> tuple[str, ...]:
    """Return what is said of a study's net before any run."""
    return open_job(study).remarks


# Nets that return more than logits


@pytest.mark.parametrize(
    "factory",
    [
        "TupleInTraining",
        "NamedInTraining",
        "AlwaysTuple",
        "AlwaysList",
        "NestedTuple",
        "Object",
        "Dict",
        "OrderedOutput",
    ],
)
def test_c_nets_that_return_more_than_logits(factory: str, study):
    """Law: every caller of such a net gets plain logits in both modes, and what is taken is said."""
    made = study(factory)
    assert any("taken" in line for line in tried(made))
    net = models.build(made.model, 10, Seeds(study=0), 8)
    for mode in (True, False):
        assert net.train(mode)(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("factory", ["TupleInTraining", "Dict"])
def test_c_nets_that_return_more_than_logits_are_made(factory: str, study, tmp_path: Path):
    """Law: such a net is trained, unlearned and published, and its tensors keep their names."""
    assert generate(study(factory), backend="inline").exit_code == 0
    first = next(path for path in payload_bytes(tmp_path / "store") if path.endswith(".safetensors"))
    names = models.parse_weights((tmp_path / "store" / first).read_bytes(), first)
    assert {name.partition(".")[0] for name in names} == {"net", "aux"}


def test_c_nets_auxiliary_heads_are_said_to_be_untrained(study):
    """Law: parameters that no gradient reaches are counted and one is named."""
    lines = tried(study("NamedInTraining"))
    assert any("4 of 8 parameters get no gradient, such as 'aux.0.weight'" in line for line in lines)


@pytest.mark.parametrize(("arch", "size"), [("googlenet", 32), ("inception_v3", 299)])
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_c_nets_torchvisions_auxiliary_heads(arch: str, size: int):
    """Law: in training mode, torchvision's named tuples become their logits."""
    net = models.build(Model(arch=arch, options={"init_weights": False}), 3, Seeds(study=0))
    found = net.train()(torch.zeros(2, 3, size, size))
    assert tuple(found.shape) == (2, 3)
    plain = models.build(Model(arch="resnet18"), 3, Seeds(study=0))
    assert not plain._forward_hooks


def test_c_nets_that_return_logits_are_left_alone(study):
    """Law: a net that returns tensors gets no hook, so that quick ways of training stay open to it."""
    made = study("plain")
    net = models.build(made.model, 3, Seeds(study=0), 8)
    assert not net._forward_hooks
    assert tried(made) == ()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"out": torch.ones(1), "aux": 1}, "a dict with the keys out, aux"),
        (("text", torch.ones(1)), "a tuple of str, Tensor"),
        ((), "a tuple of nothing"),
        (collections.OrderedDict(), "a OrderedDict with the keys (none)"),
        (None, "a NoneType"),
    ],
)
def test_c_nets_outputs_without_logits(output: Any, said: str):
    """Law: what a net returns instead is described by its keys or types."""
    with pytest.raises(ModelError, match="its forward returns") as caught:
        logits_of(output)
    assert said in str(caught.value)


# Lazy modules


def test_c_nets_lazy_modules_are_drawn_from_the_runs_seed(study):
    """Law: lazy modules get their shapes and values where the net is built: the same run repeats, another differs."""
    spec = study("Lazy").model
    first, again = (models.build(spec, 10, Seeds(study=0), 8).state_dict() for _ in range(2))
    other = models.build(spec, 10, Seeds(study=0, run=1), 8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert models.build(spec, 10, Seeds(study=0), 8).training
    with pytest.raises(ModelError, match="lazy modules need the size of the images"):
        models.build(spec, 10, Seeds(study=0))


def test_c_nets_lazy_modules_make_originals(study):
    """Law: a study of a lazy net is made to its end."""
    assert generate(study("Lazy"), backend="inline").exit_code == 0


# What is refused, by its true cause, before any run

REFUSED = {
    "a12 scripted": ("scripted", "a TorchScript module, which methods cannot train"),
    "a12 traced": ("traced", "a TorchScript module, which methods cannot train"),
    "a12 scripted inside": ("scripted_inside", "module '1' is a TorchScript module, which methods cannot train"),
    "pruned": (
        "pruned",
        "cannot be copied, and every run needs a copy: '0' is pruned by torch.nn.utils.prune; prune.rem",
    ),
    "gradient hook": ("hooked", "parameter '0.weight' has a gradient hook, which copies of the net would not have"),
    "later hook": ("hooked_after", "parameter '0.weight' has a gradient hook"),
    "whole parameter": ("whole", "parameter 'k' is int64; whole numbers are buffers"),
    "infinite buffer": ("infinite", "'best' holds NaN or infinity, which no run may publish"),
    "class numbers": ("Numbers", "its forward returns int64, as a class number is; expected a logit per class"),
    "bound forward": ("bound", "no parameter gets a gradient: forward is an attribute of 'the net', bound to the net"),
    "a12 complex": ("complex_one", "parameter 'phase' is complex64, and only real ones"),
    "half": ("half", "parameter '0.weight' is float16; expected float32: return net.float()"),
    "bfloat16": ("bfloat", "parameter '0.weight' is bfloat16"),
    "double": ("double", "parameter '0.weight' is float64"),
    "old weight_norm": (
        "old_weight_norm",
        "cannot be copied, and every run needs a copy: '0' uses torch.nn.utils.weight",
    ),
    "no copies": ("Uncopied", "copy.deepcopy fails: no copies"),
    "get_extra_state": ("ExtraState", "'_extra_state' is a dict by get_extra_state"),
    "other keys": ("OtherDict", "its forward returns a dict with the keys out, aux; expected a tensor of logits"),
    "features first": (
        "FeaturesFirst",
        "expected 10 logits per image, one per class: [2, 10] for 2 images; found [2, 3]",
    ),
    "text": ("Text", "its forward returns a str"),
    "lazy and unreached": ("Unreached", "the lazy parameter 'extra.weight' is not reached by a forward pass"),
    "grey": ("grey", "no shape from images of 8x8 pixels: Given groups=1"),
    "one logit": ("one_logit", "found [2, 1]; a single logit (sigmoid) is no class score"),
    "another head": (
        "ResNet7",
        "found [2, 7]; its head has to take its size from num_classes: def factory(num_classes)",
    ),
    "training fails": (
        "FailsInTraining",
        "training step on 2 images of 8x8 pixels fails: needs labels (nets_of_cases.py:",
    ),
    "exits": ("Exits", "fails on images of 8x8 pixels: it calls sys.exit(0)"),
    "lazy, exits": ("LazyExits", "no shape from images of 8x8 pixels: it calls sys.exit('no GPU')"),
    "exits in training": ("ExitsInTraining", "training step on 2 images of 8x8 pixels fails: it calls sys.exit"),
    "detached": (
        "Detached",
        "training step on 2 images of 8x8 pixels fails: no gradient reaches its logits: it detaches",
    ),
    "quantised": ("quantised", "is quantised, which methods cannot train; return the net before it"),
    "without values": ("without_values", "parameter '0.weight' is on the device meta; return the net on the CPU"),
    "NaN": ("not_a_number", "fails: its logits are NaN or infinite before any training"),
    "all frozen": ("frozen", "fails: it has no parameter that can be trained"),
    "no parameters": ("no_parameters", "fails: it has no parameter that can be trained"),
    "pretrained": ("pretrained", "opens a connection (socket.getaddrinfo); expected a factory that needs no network"),
    "pretrained, guarded": (
        "pretrained_guarded",
        "opens a connection (socket.getaddrinfo); expected a factory that needs",
    ),
    "one net": ("always_the_same", "the factory returns the same net every time; expected a new one at each call"),
    "logits last": (
        "FeaturesAndLogits",
        "found [2, 4]; its forward returns a tuple of Tensor, Tensor, of which the first is taken as its logits: "
        "return the logits first",
    ),
    "four dimensions": ("FourDimensions", "found [2, 10, 1, 1]; flatten them in its forward"),
    "squeezed": ("Squeezes", "expected logits [1, 10] for one image; found [10]: a squeeze() takes"),
    "a plain average": ("Centre", "it keeps 'centre' outside its state dict, which is all that a checkpoint holds"),
    "an unsaved buffer": ("Unsaved", "it keeps 'mean' outside its state dict"),
    "a counter": ("Steps", "it keeps 'steps' outside its state dict"),
    "a plain projection": ("Projection", "it keeps 'projection' outside its state dict"),
    "a list of layers": ("ListOfLayers", "it keeps 'stem' outside its state dict"),
    "a hook of its own": ("HooksItself", "it keeps something outside its state dict"),
    "other names": ("renames", "its state dict does not load into another net of it: Error(s) in loading"),
    "another size of images": (
        "flat_of_32",
        "(2x192 and 3072x10); its first layer takes images of 32x32: data.image_size: 32",
    ),
    "no package": ("no_package", "ModuleNotFoundError: No module named 'timm_of_a_test' (nets_of_cases.py:"),
}


@pytest.mark.parametrize(
    ("factory", "method", "expected"),
    [
        ("HeadFirst", {"method": "sun"}, "'gate' has 4 outputs; expected 10, one per class; 'fc' does: create it last"),
        ("HeadFirst", {"method": "exact_unlearning_k"}, "'gate' has 4 outputs; expected 10"),
        ("HeadFirst", {"method": "forget"}, "'gate' has 4 outputs; expected 10"),
        ("HeadFirst", {"method": "mix", "parts": [{"method": "amnesiacs", "share": 1}]}, "'gate' has 4 outputs"),
        ("flat", {"method": "kookmin"}, "the method changes 2-d convolutions, and the model has none"),
        ("plain", {"method": "catastrophic_forgetting_k", "k": 9}, "k is 9, but the model has 1 stages before"),
    ],
)
def test_c_nets_that_lack_what_a_method_changes(factory: str, method: dict[str, Any], expected: str, study):
    """Law: found before any run, with the population's name; a mix is asked for each of its methods."""
    with pytest.raises(MethodError) as caught:
        tried(study(factory, populations={"finetune": None, "mine": {"count": 1, **method}}))
    assert str(caught.value).startswith("populations.mine: ")
    assert expected in str(caught.value)


def test_c_nets_a_population_that_is_made_stops_no_other(study, tmp_path: Path):
    """Law: runs of a version that did not look for it stay, and the study goes on; a further one is refused."""
    made = study("HeadFirst", populations={"finetune": None, "mine": {"method": "sun", "count": 1}})
    (tmp_path / "store" / "tiny" / "mine" / "00000").mkdir(parents=True)
    assert not any("mine" in line for line in tried(made))
    with pytest.raises(MethodError, match=r"^populations\.mine: "):
        tried(study("HeadFirst", populations={"finetune": None, "mine": {"method": "sun", "count": 2}}))


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("case", REFUSED)
def test_c_nets_refused_before_any_run(case: str, study, monkeypatch, tmp_path: Path):
    """Law: a net whose runs would fail, or lie, is refused in one line that names the cause; nothing is made."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    factory, said = REFUSED[case]
    with pytest.raises(ModelError) as caught:
        tried(study(factory))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"model nets_of_cases:{factory}: ")


@pytest.mark.parametrize("factory", ["FailsInTraining", "ExitsInTraining"])
def test_c_nets_that_only_scripts_train(factory: str, study, tmp_path: Path):
    """Law: where no method of the package trains the net, a training step that fails is said, not refused."""
    made = study(factory)
    weights = models.checkpoint_bytes(models.build(made.model, 10, Seeds(study=0), 8), "fp32")
    (tmp_path / "w.safetensors").write_bytes(weights)
    (tmp_path / "mine.py").write_text("def unlearning(net, retain, forget, validation):\n    pass\n")
    populations = {
        "original": {"weights": str(tmp_path / "w.safetensors"), "method": None, "on": None},
        "finetune": {"method": f"{tmp_path}/mine.py:unlearning", "noise_std": None},
    }
    made = study(factory, populations=populations)
    assert any("training step on 2 images" in line for line in tried(made))
    checks = Checks(made)
    checks.before_torch()
    checks.with_torch()
    assert look_ahead(checks, workers=1).seconds is None, "a step of such a net cannot be measured"


def test_c_nets_that_draw_at_evaluation(study):
    """Law: outputs with noise of their own are said to have it."""
    assert any("draws at random in evaluation mode" in line for line in tried(study("RandomAtEvaluation")))


def test_c_nets_that_return_probabilities(study):
    """Law: a softmax at the end is said: the loss would take another; a head that starts at zero is none."""
    assert not any("probabilities" in line for line in tried(study("StartsAtZero")))
    assert any("its outputs are probabilities" in line for line in tried(study("Softmax")))
    assert not any("differ" in line for line in tried(study("AlwaysTuple")))


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("DeepSupervision", "returns a list of Tensor, Tensor; the first is taken as its logits"),
        ("MeansOfBatches", "the logits of an image depend on the other images of its batch"),
        ("InPlace", "its forward changes the images that it gets in place"),
        ("Sigmoid", "its outputs are probabilities, from 0 to 1"),
        ("SeedsItself", "its forward sets torch's seed, so noise that methods draw repeats"),
        ("OwnGenerator", "'noise' is a generator of its own: every run draws the same numbers from it"),
        ("own_generator", "gives other weights with the same seed, so no run from scratch can be repeated"),
        ("PlainScale", "'scale' is a tensor that is no nn.Parameter: no step changes it"),
    ],
)
def test_c_nets_that_are_used_and_said(factory: str, said: str, study):
    """Law: what is taken of a net, and what nothing trains or that depends on the batch, is said once."""
    lines = tried(study(factory))
    assert sum(said in line for line in lines) == 1
    assert not any("'layers'" in line for line in lines)
    assert not any(said in line for line in tried(study("NestedTuple")))


def test_c_nets_whose_factories_change_torchs_settings(study):
    """Law: threads, default dtype and gradients are after the factory what they were: a run's bits depend on them."""
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    models.build(study("sets_much").model, 10, Seeds(study=0), 8)
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before


def test_c_nets_that_all_start_alike(study, tmp_path: Path):
    """Law: a factory that sets torch's seed itself takes away a part of the spread of retraining, which is said."""
    assert any("gives the same weights with every seed" in line for line in tried(study("seeded")))
    weights = models.checkpoint_bytes(models.build(study("seeded").model, 10, Seeds(study=0), 8), "fp32")
    (tmp_path / "w.safetensors").write_bytes(weights)
    original = {"weights": str(tmp_path / "w.safetensors"), "method": None, "on": None}
    assert not any("same weights" in line for line in tried(study("seeded", populations={"original": original})))


# How factories are called


@pytest.mark.parametrize(
    ("factory", "options", "classes"),
    [("ResNet10", {}, 10), ("n_classes", {}, 4), ("keywords", {"width": 3}, 4), ("n_classes", {"n_classes": 6}, 6)],
)
def test_c_nets_factories_without_num_classes(factory: str, options: dict[str, Any], classes: int, study):
    """Law: a factory gets the number of classes under the name that it has, or is called without."""
    spec = study(factory).model.model_copy(update={"options": options})
    net = models.build(spec, 10 if factory == "ResNet10" else 4, Seeds(study=0), 8)
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, classes)


@pytest.mark.parametrize(
    ("factory", "options", "said"),
    [
        (
            "ResNet10",
            {"depth": 3},
            "does not take options {'depth': 3}: got an unexpected keyword argument 'depth'; a ",
        ),
        (
            "plain",
            {"widht": 3},
            "factory is called as plain(num_classes=..., widht=...), with model.options as keywords",
        ),
        ("plain", {"widht": 3}, "and takes (num_classes, width=4)"),
    ],
)
def test_c_nets_how_factories_are_called(factory: str, options: dict[str, Any], said: str, study):
    """Law: a factory that cannot be called like this is refused with the call and its signature."""
    spec = study(factory).model.model_copy(update={"options": options})
    with pytest.raises(ModelError) as caught:
        models.build(spec, 10, Seeds(study=0), 8)
    assert said in str(caught.value)


# A batch of one image under batch normalisation


def lone(data: StudyData) -> list[str]:
    """Return the warnings about batches, or sets, of one image that the net cannot take."""
    return [line for line in data.warnings if "one image" in line and "cannot take" in line]


def test_c_nets_a_last_batch_of_one(study, tmp_path: Path):
    """Law: a script's loader that ends in one image is warned of if the net cannot be trained on one, and only then.

    It is a warning of the data, which the splits file keeps for the report.
    """
    (tmp_path / "mine.py").write_text("def unlearning(net, retain, forget, validation):\n    pass\n")
    script = {"method": f"{tmp_path}/mine.py:unlearning", "noise_std": None, "batch_size": 80}
    data = open_job(study("pixelwise", populations={"finetune": script})).data
    kept = [json.loads(read_table(arrow).schema.metadata[b"warnings"]) for arrow in data.arrows.values()]
    assert kept == [list(data.warnings)]
    assert lone(data) == [
        "populations.finetune: the last batch of the retain loader has one image (81 images, batch_size 80), and the "
        "net cannot take a training step on one (batch normalisation needs two values per channel); another batch_size "
        "avoids it"
    ]
    assert lone(open_job(study("plain", populations={"finetune": script})).data) == []
    assert lone(open_job(study("pixelwise", populations={"finetune": script | {"batch_size": 60}})).data) == []


def test_c_nets_a_forget_set_of_one(study):
    """Law: a set of one image is warned of for methods, whose only batch it would be."""
    data = open_job(study("pixelwise", data={"forget": {"fraction": None, "ids": ["digits-0001"]}})).data
    assert any("the forget set has one image" in line for line in lone(data))


# Notebooks


@pytest.mark.parametrize("line", ["%matplotlib inline", "!pip install timm", "net?", "?net"])
def test_c_scripts_and_nets_of_notebooks(line: str, tmp_path: Path, tiny: Callable[..., Study]):
    """Law: a line of a notebook's own language is explained, in scripts and in modules of nets."""
    (tmp_path / "nb.py").write_text(f"import torch\n{line}\n\ndef unlearning(net, *loaders):\n    pass\n")
    with (
        pytest.raises(Exception, match="is a notebook's magic, which Python does not know: remove the line"),
        script_function(f"{tmp_path}/nb.py:unlearning", (tmp_path / "nb.py").read_text()),
    ):
        pass
    (tmp_path / "study.yaml").write_text(
        "name: a\ndata: {train: digits, forget: {fraction: 0.1}}\nmodel: {arch: 'nb:unlearning'}\n"
        "populations: {original: {method: train, on: train}}\n"
    )
    with pytest.raises(ModelError, match="is a notebook's magic"):
        models.identity(load_study(tmp_path / "study.yaml").model)


def test_c_scripts_get_ipython(tmp_path: Path, tiny: Callable[..., Study]):
    """Law: so is the object that notebooks have."""
    (tmp_path / "nb.py").write_text("get_ipython().run_line_magic('matplotlib', 'inline')\n")
    made = tiny(populations={"finetune": {"method": f"{tmp_path}/nb.py:unlearning", "noise_std": None}})
    with pytest.raises(Exception, match="get_ipython exists in notebooks only"):
        resolve(made, "finetune")


def test_lone_nets_are_not_changed_by_a_trial():
    """Law: a trial leaves weights, statistics, mode and torch's generator as they were."""
    net = models.small_cnn(3, width=4).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images, state = torch.rand(4, 3, 8, 8), torch.get_rng_state()
    assert models.try_net(net, images, torch.arange(4) % 3, num_classes=3, arch="x", trains=True) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(net[0], nn.Conv2d)
    assert net[0].weight.grad is None
