"""The first methods, worked by hand; the registry; the competition's own form, run unchanged."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import TINY, merged
from nets import Linear
from samples import run_data, small_net
from torch.utils.data import DataLoader

from ray_unlearn.data.images import Scaling
from ray_unlearn.errors import MethodError, ModelError, StudyError
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.finetune import FinetuneOptions
from ray_unlearn.methods.resolve import method_of, resolve
from ray_unlearn.methods.script import CompetitionDataset
from ray_unlearn.methods.train import TrainOptions, train
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import parse_study
from ray_unlearn.study.plan import Ingredients, make_plan
from ray_unlearn.study.recipe import INHERITED, Recipe
from ray_unlearn.training.batches import sizes_of

RNG = Seeds(study=0, population="test")


def study(**population):
    """Return a study whose population `mine` is given."""
    return parse_study(merged(TINY, {"populations": {"mine": population}}), where="test")


# The registry


def test_every_method_is_complete():
    """Law: each is registered by its name, states what it does and where it is from, and all options have defaults."""
    assert set(METHODS) >= {"train", "weights", "finetune", "negative_gradient_plus"}
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary.endswith(".")
        assert method.source
        required = {key for key, field in method.options.model_fields.items() if field.is_required()}
        assert required <= {"on", "weights", "parts"}
        assert all(field.description for key, field in method.options.model_fields.items() if key in required)


def test_options_are_frozen():
    """Law: a method cannot change what its digest covers."""
    with pytest.raises(ValueError, match="frozen"):
        FinetuneOptions().lr = 1.0


def test_what_is_inherited_from_training():
    """Law: how batches are made and computed comes from `training`; rates, epochs and optimisers are the method's."""
    assert INHERITED == ("batch_size", "class_weights", "augment", "precision", "channels_last")
    tree = merged(
        TINY,
        {
            "training": {
                "epochs": 9,
                "optimizer": "adamw",
                "lr": 0.5,
                "weight_decay": 0.25,
                "schedule": "linear",
                "batch_size": 17,
                "class_weights": "inverse",
                "augment": {"flip": True},
                "precision": "bf16",
                "channels_last": False,
            },
            "populations": {
                "mine": {"method": "finetune"},
                "own": {"method": "finetune", "batch_size": 5, "precision": "fp32"},
                "ngp": {"method": "negative_gradient_plus"},
            },
        },
    )
    whole = parse_study(tree, where="test")
    mine, own = (resolve(whole, name).options for name in ("mine", "own"))
    assert (mine.batch_size, mine.class_weights, mine.augment.flip) == (17, "inverse", True)
    assert (mine.precision, mine.channels_last) == ("bf16", False)
    assert (mine.epochs, mine.optimizer, mine.lr, mine.weight_decay) == (1.0, "sgd", 1e-3, 5e-4)
    assert (own.batch_size, own.precision, own.class_weights) == (5, "fp32", "inverse")
    ngp = resolve(whole, "ngp").options
    assert (ngp.alpha, ngp.lr, ngp.epochs, ngp.batch_size) == (0.95, 0.01, 10.0, 17)
    original = resolve(whole, "original").options
    assert original.model_dump() == {**whole.training.model_dump(), "on": "train"}


@pytest.mark.parametrize(
    ("population", "expected"),
    [
        ({"method": "fintune"}, "populations.mine.method: no method 'fintune' (did you mean 'finetune'?); or path/to/"),
        ({"method": "finetune", "noise": 1}, "populations.mine.noise: unknown key (did you mean 'noise_std'?)"),
        ({"method": "finetune", "lr": -1}, "populations.mine.lr: input should be greater than 0; found -1"),
        ({"method": "finetune", "optimizer": "adm"}, "(did you mean 'adam'?) (method finetune)"),
        ({"method": "finetune", "augment": {"flop": 1}}, "populations.mine.augment.flop: unknown key (did you mean"),
        ({"method": "train"}, "populations.mine.on: missing; this key is required (method train)"),
        ({"method": "train", "on": "forget"}, "populations.mine.on: input should be 'train' or 'retain'; found"),
        ({"method": "negative_gradient_plus", "alpha": 1.5}, "populations.mine.alpha: input should be less than 1;"),
        ({"method": "negative_gradient_plus", "alfa": 0.5}, "unknown key (did you mean 'alpha'?)"),
    ],
)
def test_option_mistakes(population, expected):
    """Law: the message names population, key, what was expected and found, and the nearest valid name."""
    with pytest.raises(StudyError) as caught:
        resolve(study(**population), "mine")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_change_results_change_the_identity():
    """Law: every option counts; writing a default out changes nothing."""
    first = resolve(study(method="finetune"), "mine").identity
    assert resolve(study(method="finetune", noise_std=0.0, lr=1e-3), "mine").identity == first
    assert resolve(study(method="finetune", lr=2e-3), "mine").identity != first
    assert resolve(study(method="negative_gradient_plus"), "mine").identity["method"] != first["method"]


# train


@pytest.mark.parametrize(("on", "expected"), [("train", set(range(26))), ("retain", set(range(20)))])
def test_train_sees_exactly_its_images(tmp_path, on, expected):
    """Law: originals see retain and forget images, retrained models no forget image, neither a held-out one."""
    model = Linear()
    train(model, run_data(tmp_path), TrainOptions(on=on, epochs=2, batch_size=7), RNG)
    assert set(model.seen) == expected


# weights


def weights_file(path: Path, seed: int) -> Path:
    """Write the weights of a small net as safetensors."""
    model = small_net(seed)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(safetensors.torch.save(dict(model.state_dict())))
    return path


def test_weights_are_identified_by_content(tmp_path):
    """Law: another name or folder is the same population; other bytes are another one; the files' order counts."""
    one, moved = weights_file(tmp_path / "one.safetensors", 0), weights_file(tmp_path / "b" / "moved.safetensors", 0)
    two = weights_file(tmp_path / "two.safetensors", 1)

    def identity(*paths: Path):
        return resolve(study(weights=[str(p) for p in paths]), "mine").identity

    assert identity(one) == identity(moved)
    assert len({str(identity(one)), str(identity(two)), str(identity(one, two)), str(identity(two, one))}) == 4
    assert str(tmp_path) not in str(identity(one, two))


def test_each_run_imports_its_own_file_and_refuses_a_changed_one(tmp_path):
    """Law: run i gets file i, bit for bit; bytes other than the planned ones are never loaded."""
    paths = [weights_file(tmp_path / f"{i}.safetensors", i) for i in range(2)]
    use = resolve(study(weights=[str(p) for p in paths]), "mine")
    data = run_data(tmp_path)
    for run, path in enumerate(paths):
        model = small_net(9)
        method_of(use).run(model, data, use.options, Seeds(study=0, run=run))
        expected = safetensors.torch.load_file(path)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    weights_file(paths[1], 5)
    with pytest.raises(ModelError, match=r"1\.safetensors: changed since the study was planned; run generate again"):
        method_of(use).run(model, data, use.options, Seeds(study=0, run=1))


def test_missing_weights_are_refused_by_the_plan(tmp_path):
    """Law: a file that is not there is found before any work."""
    with pytest.raises(ModelError, match=r"gone\.pth: no such file"):
        resolve(study(weights=f"{tmp_path}/gone.pth"), "mine")


# The competition's own form

SCRIPT = """
import random
import numpy as np
import torch
from torch.utils.data import DataLoader

SEEN = []

def unlearning(net, retain_loader, forget_loader, val_loader):
    SEEN.clear()
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for sample in DataLoader(retain_loader.dataset, batch_size=256, shuffle=True):
        SEEN.append(sample)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(sample["image"]), sample["age_group"]).backward()
        optimizer.step()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.01 * torch.randn_like(p) + 0.001 * random.random() + 0.001 * np.random.rand()
    net.eval()
"""


def script(folder: Path, source: str = SCRIPT, name: str = "mine.py", function: str = "unlearning") -> str:
    """Write a script and return the method's name."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(source)
    return f"{folder / name}:{function}"


def run_script(method: str, data, run: int = 0, **options):
    """Resolve and run a script on a fresh model; return the model."""
    use = resolve(study(method=method, **options), "mine")
    model = Linear()
    method_of(use).run(model, data, use.options, Seeds(study=0, population="mine", run=run))
    return model


def test_a_competition_script_runs_unchanged(tmp_path):
    """Law: its own DataLoader(retain_loader.dataset, batch_size=256) sees every retain image and nothing else."""
    model = run_script(script(tmp_path), run_data(tmp_path, retain=20))
    assert sorted(model.seen) == list(range(20))


def test_runs_differ_and_one_run_repeats(tmp_path):
    """Law: Python's, NumPy's and torch's global generators are seeded per run; the state around is left alone."""
    method, data = script(tmp_path), run_data(tmp_path)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first, again, other = (run_script(method, data, run).layer.weight for run in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize(
    "draw",
    ["torch.randn(1).item()", "random.random()", "np.random.rand()", "next(iter(retain_loader))['age'][0].item()"],
)
def test_every_global_source_of_chance_is_seeded(tmp_path, draw):
    """Law: no matter what generator a script uses alone, run 0 repeats and run 1 differs; loaders shuffle by
    run, too.
    """
    source = f"""
import random
import numpy as np
import torch
def unlearning(net, retain_loader, forget_loader, val_loader):
    with torch.no_grad():
        net.layer.bias += {draw}
"""
    method, data = script(tmp_path, source), run_data(tmp_path)
    first, again, other = (run_script(method, data, run).layer.bias for run in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_script_that_draws_on_import_repeats_too(tmp_path):
    """Law: the module is executed anew for every run, under the run's seed."""
    source = "import torch\nNOISE = torch.randn(3)\ndef unlearning(net, *loaders):\n    net.layer.bias.data += NOISE\n"
    method, data = script(tmp_path, source), run_data(tmp_path)
    first, again, other = (run_script(method, data, run).layer.bias for run in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


COLLECT = """
def unlearning(net, retain_loader, forget_loader, val_loader):
    net.loaders = (retain_loader, forget_loader, val_loader)
"""


@pytest.mark.parametrize(("pixels", "low", "high"), [("raw", 0.0, 255.0), ("study", -2.0, 2.0)])
def test_loaders_give_the_competitions_dicts(tmp_path, pixels, low, high):
    """Law: keys, types, shapes and ranges are the competition's; `pixels: raw` is 0..255, else as the study scales."""
    data = run_data(tmp_path, normalize="standard")
    loaders = run_script(script(tmp_path, COLLECT), data, pixels=pixels, batch_size=7).loaders
    assert all(isinstance(loader, DataLoader) for loader in loaders)
    assert [len(loader.dataset) for loader in loaders] == [20, 6, 4]
    batch = next(iter(loaders[0]))
    assert list(batch) == ["image", "image_id", "age_group", "age", "person_id"]
    assert (batch["image"].dtype, tuple(batch["image"].shape)) == (torch.float32, (7, 3, 8, 8))
    assert batch["image"].is_contiguous()
    assert low <= float(batch["image"].min()) < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < float(batch["image"].max()) <= high
    assert {batch[key].dtype for key in ("age_group", "age", "person_id")} == {torch.int64}
    for row, image_id in enumerate(batch["image_id"]):
        index = int(image_id.removeprefix("image-"))
        assert int(batch["age_group"][row]) == index % 3
        assert int(batch["age"][row]) == 20 + index
        assert batch["person_id"][row] == sorted({f"p{i // 2}" for i in range(34)}).index(f"p{index // 2}")
        raw = torch.from_numpy(data.retain.pixels.gather(np.array([index])))
        expected = Scaling.of("raw" if pixels == "raw" else "standard").apply(raw)[0]
        assert torch.equal(batch["image"][row], expected)
    everything = [sorted(i for batch in loader for i in batch["image_id"]) for loader in loaders]
    bounds = [(0, 20), (20, 26), (26, 30)]
    assert everything == [[f"image-{i:03d}" for i in range(*bound)] for bound in bounds]


def test_the_datasets_are_map_style(tmp_path):
    """Law: indexing works like a list's: iteration ends, and a DataLoader with workers is possible (it pickles)."""
    data = run_data(tmp_path)
    dataset = CompetitionDataset(data.forget, Scaling.of("raw"))
    assert [example["image_id"] for example in dataset] == [f"image-{i:03d}" for i in range(20, 26)]
    assert dataset[-1]["image_id"] == "image-025"
    assert isinstance(dataset[0]["age_group"], int)


def test_a_study_without_validation_gives_an_empty_loader(tmp_path):
    """Law: the fourth argument is always a loader."""
    loaders = run_script(script(tmp_path, COLLECT), run_data(tmp_path, validation=0)).loaders
    assert list(loaders[2]) == []


def test_the_text_is_the_identity(tmp_path):
    """Law: moving or renaming a script changes nothing; changing a character, the function or an option does."""
    two = SCRIPT + "\ndef other(net, retain_loader, forget_loader, val_loader):\n    pass\n"
    methods = {
        "here": script(tmp_path / "a", two),
        "moved": script(tmp_path / "b", two, "renamed.py"),
        "changed": script(tmp_path / "c", two + "# !\n"),
        "function": script(tmp_path / "a", two, function="other"),
    }
    identities = {name: resolve(study(method=method), "mine").identity for name, method in methods.items()}
    assert identities["here"] == identities["moved"]
    assert len({str(identity) for identity in identities.values()}) == 3
    assert resolve(study(method=methods["here"], batch_size=5), "mine").identity != identities["here"]
    assert str(tmp_path) not in str(identities["here"])
    expected = hashlib.sha256(two.encode()).hexdigest()
    assert identities["here"]["method"] == {"script_sha256": expected, "function": "unlearning"}


def test_what_runs_is_what_was_hashed(tmp_path):
    """Law: a script edited after the plan does not change the runs of that plan."""
    method, data = script(tmp_path, COLLECT), run_data(tmp_path)
    use = resolve(study(method=method), "mine")
    script(tmp_path, "raise RuntimeError('edited')")
    model = Linear()
    method_of(use).run(model, data, use.options, RNG)
    assert len(model.loaders) == 3


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def unlearnign(net, *loaders): pass", "no function 'unlearning' in {path} (did you mean 'unlearnign'?)"),
        ("unlearning = 3", "no function 'unlearning' in {path}"),
        ("", "no function 'unlearning' in {path}"),
        ("def unlearning(:", "the script fails on import: SyntaxError: invalid syntax"),
        (
            "import no_such_package",
            "the script fails on import: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("1 / 0", "the script fails on import: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)", "the script fails on import: SystemExit: 0"),
        (None, "{path} cannot be read (No such file or directory)"),
        ("def unlearning(net, *loaders):\n    yield", "expected a plain function; found a generator or async function"),
        ("async def unlearning(net, *loaders): pass", "expected a plain function; found a generator or async function"),
        (
            "def unlearning(net, retain, forget, val, device): pass",
            "found (net, retain, forget, val, device) (missing a required argument: 'device')",
        ),
        ("def unlearning(net, retain, forget): pass", "(too many positional arguments)"),
        (
            "def unlearning(net, forget_loader, retain_loader, val_loader): pass",
            "whose forget_loader would get the retain_loader",
        ),
    ],
)
def test_scripts_that_cannot_run_are_refused_by_the_plan(tmp_path, source, expected):
    """Law: before any work, in one line that names the script; a script that exits does not end the command."""
    path = tmp_path / "mine.py"
    if source is not None:
        path.write_text(source)
    before = list(sys.path)
    with pytest.raises(MethodError) as caught:
        resolve(study(method=f"{path}:unlearning"), "mine")
    assert str(caught.value).startswith(f"method {path}:unlearning: ")
    assert expected.format(path=path) in str(caught.value)
    assert sys.path == before


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [("raise RuntimeError('lost')", RuntimeError, "lost"), ("import sys; sys.exit(3)", SystemExit, "3")],
)
def test_a_script_that_fails_restores_the_global_state(tmp_path, body, kind, text):
    """Law: the failure reaches the worker as it is, and the next run finds the generators untouched."""
    method = script(tmp_path, f"def unlearning(net, *loaders):\n    {body}\n")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(kind, match=text):
        run_script(method, run_data(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ("other = copy.deepcopy(net); change(other); change(net); change(net); return other", "returned another net"),
        ("change(net); return {name: value - 1 for name, value in net.state_dict().items()}", "returned a state dict"),
        ("return copy.deepcopy(net).layer", "it returned another net that the study's net cannot hold: .*layer.weight"),
        ("return (loss for loss in [1.0])", "it returned a generator"),
        ("other = copy.deepcopy(net); change(other); return other", ""),
        ("other = copy.deepcopy(net); change(other); return other.state_dict()", ""),
        ("other = copy.deepcopy(net); change(other); return nn.DataParallel(other)", ""),
        ("change(net); return net", ""),
        ("change(net); return copy.deepcopy(net)", ""),
        ("change(net); return net.state_dict()", ""),
        (
            "return {name: value.numpy() for name, value in net.state_dict().items()}",
            "of ndarray, which holds no weigh",
        ),
        ("return [one.detach() + 1 for one in net.parameters()]", "a list of Tensor, which holds no weights of it"),
        ("return lambda: change(net)", "it left the net that it got as it was, and returned a function"),
        ("return nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), nn.ReLU()", "returned another net that the study's"),
        ("one, two = copy.deepcopy(net), copy.deepcopy(net); change(one); return one, two", ""),
        ("one, two = copy.deepcopy(net), nn.Linear(2, 2); change(one); return one, two", "returned 2 nets"),
        (
            "return dict(nn.Linear(2, 2).named_parameters())",
            "returned a dict of Parameter, which holds no weights of it",
        ),
        ("return net.layer(torch.zeros(2, 192))", "returned a Tensor, which holds no weights of it"),
        ("other = copy.deepcopy(net); change(other); return other, {'loss': [0.5]}", ""),
        ("other = copy.deepcopy(net); change(other); return {'model': other, 'accuracy': 0.5}", ""),
        ("other = copy.deepcopy(net); change(other); return {'state_dict': other.state_dict(), 'epoch': 3}", ""),
        ("other = copy.deepcopy(net); change(net); return net, other", ""),
        ("change(net); return {'loss': torch.tensor(0.5)}", ""),
        ("change(net); return torch.zeros(4), nn.CrossEntropyLoss()", ""),
        ("change(net); return {'loss': 0.5}", ""),
        ("change(net); return [0.5, 0.25]", ""),
    ],
)
def test_what_a_script_returns_is_no_silent_loss(tmp_path, body, refused):
    """Law: a net or state dict that is returned is the result, unless the net was changed, too, to something else."""
    changes = "import copy\nimport torch\nfrom torch import nn\n"
    changes += "def change(net):\n    with torch.no_grad():\n        net.layer.bias += 1\n"
    method = script(tmp_path, f"{changes}def unlearning(net, *loaders):\n    {body}\n")
    if refused:
        with pytest.raises(MethodError, match=refused):
            run_script(method, run_data(tmp_path))
    else:
        assert not torch.equal(run_script(method, run_data(tmp_path)).layer.bias, Linear().layer.bias)


@pytest.mark.parametrize(
    "form",
    [
        "net, retain_loader, forget_loader, val_loader",
        "net, *loaders",
        "m, r, f, v, lr=0.1",
        "m, retain_not_forget, f, v",
    ],
)
def test_forms_of_the_competition_are_taken(tmp_path, form):
    """Law: names are the author's own, further parameters may have defaults."""
    assert resolve(study(method=script(tmp_path, f"def unlearning({form}): pass\n")), "mine").starts_from == "original"


def test_a_failing_script_is_a_failed_run_not_the_end(tiny, tmp_path):
    """Law: sys.exit and an exception inside fail their run alone: recorded with the script's line, the rest is made."""
    from ray_unlearn.generation import generate

    exits = script(tmp_path, "import sys\ndef unlearning(net, *loaders):\n    sys.exit(0)\n", "exits.py")
    wrong = script(tmp_path, "def unlearning(net, *loaders):\n    raise KeyError('lost')  # here\n", "wrong.py")
    populations = {"exits": {"method": exits}, "wrong": {"method": wrong}, "fine": {"method": script(tmp_path)}}
    summary = generate(tiny(populations={"finetune": None, **populations}), backend="inline")
    assert (summary.made, {run.population for run in summary.failed}, summary.exit_code) == (2, {"exits", "wrong"}, 3)
    recorded = "".join(path.read_text() for path in (tmp_path / "store").rglob("*.json") if "failed" in str(path))
    assert "SystemExit" in recorded
    assert "KeyError" in recorded
    assert "# here" in recorded


def test_scripts_of_one_study_are_populations_of_their_own(tmp_path):
    """Law: two functions of one file are planned side by side, and neither starts from the other."""
    two = SCRIPT + "\ndef other(net, retain_loader, forget_loader, val_loader):\n    pass\n"
    method = script(tmp_path, two)
    tree = {"populations": {"a": {"method": method}, "b": {"method": method.replace(":unlearning", ":other")}}}
    whole = parse_study(merged(TINY, tree), where="test")
    uses = {name: resolve(whole, name) for name in whole.populations}
    plan = make_plan(whole, Ingredients(data={}, model={}, methods=uses))
    assert plan.populations["a"].digest != plan.populations["b"].digest


def test_recipes_default_to_the_competitions():
    """Law: training from scratch is the official recipe: 30 epochs, Adam 1e-4, weight decay 5e-3, cosine, batch 64."""
    known = Recipe()
    assert (known.epochs, known.optimizer, known.lr, known.weight_decay) == (30, "adam", 1e-4, 5e-3)
    assert (known.schedule, known.schedule_per, known.batch_size) == ("cosine", "epoch", 64)
    assert sizes_of(64, known.batch_size) == [64]
