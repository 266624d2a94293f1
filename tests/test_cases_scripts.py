"""Scripts as people bring them (cases A1, A9 to A11, and the rows of C about scripts): what they get, and what is said.

An id names the row of the table of cases that a test holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, merged
from samples import picture, run_data
from torch import nn

from ray_unlearn.data.images import Pixels, RunData
from ray_unlearn.data.shards import Example, encode_shard, map_shard
from ray_unlearn.errors import MethodError, StudyError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.methods.form import check_form
from ray_unlearn.methods.resolve import method_of, resolve
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import Study, parse_study
from ray_unlearn.usercode.imports import read_script, script_function
from ray_unlearn.usercode.sources import module_texts, script_identity

HEAD = "import torch\nimport torch.nn.functional as F\ndef unlearning(net, retain, forget, validation):\n    "
BY_NAME = "for s in retain:\n        net.zero_grad(); F.cross_entropy(net(s['image']), s['age_group']).backward()\n"
BY_PLACE = "for inputs, targets in retain:\n        net.zero_grad(); F.cross_entropy(net(inputs), targets).backward()\n"


class Net(nn.Module):
    """Averages the pixels, and keeps what a script leaves on it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.kept: list[Any] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.mean((2, 3)))  # type: ignore[no-any-return]


def run(folder: Path, body: str, data: RunData, **options: Any) -> Net:
    """Run a script with this body on a fresh net."""
    (folder / "mine.py").write_text(HEAD + body + "\n")
    tree = merged(TINY, {"populations": {"mine": {"method": f"{folder}/mine.py:unlearning", **options}}})
    use = resolve(parse_study(tree, where="a test"), "mine")
    net = Net()
    method_of(use).run(net, data, use.options, Seeds(study=0, population="mine"))
    return net


def pixels_of(folder: Path, ages: list[float], groups: list[str]) -> Pixels:
    """Map images of such ages and groups."""
    rows = enumerate(zip(ages, groups, strict=True))
    examples = [Example(picture(i), 0, str(i), group, age, "") for i, (age, group) in rows]
    (folder / "a.arrow").write_bytes(encode_shard(examples))
    return Pixels([map_shard(str(folder / "a.arrow"))], torch.device("cpu"))


# A9: the challenge's types


def test_a9_batches_have_the_challenges_types(tmp_path: Path):
    """Law: age and person_id are int64 tensors: the challenge's one_hot and == on them work."""
    body = "s = next(iter(retain)); net.kept = [F.one_hot(s['age'], 100).shape, s['person_id'] == 3, s['image_id']]"
    shape, equal, ids = run(tmp_path, body, run_data(tmp_path), batch_size=7).kept
    assert (tuple(shape), equal.dtype, len(ids)) == ((7, 100), torch.bool, 7)


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ([31.0, 4.0], np.array([31, 4])),
        ([31.0, float("nan")], np.array([31, -1])),
        ([float("nan"), float("nan")], np.array([0, 0])),
        ([31.5, float("nan")], np.array([31.5, np.nan])),
    ],
)
def test_a9_ages(ages: list[float], expected: np.ndarray, tmp_path: Path):
    """Law: whole years are int64, an unknown age -1; only fractions, which int64 would cut off, stay floats."""
    found = pixels_of(tmp_path, ages, ["", ""]).ages
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["7", "31", "7"], [7, 31, 7]),
        (["b", "a", ""], [1, 0, -1]),
        (["07", "7", ""], [0, 1, -1]),
        (["9" * 30, "1", "1"], [1, 0, 0]),
        (["", "", ""], [0, 0, 0]),
    ],
)
def test_a9_persons(groups: list[str], expected: list[int], tmp_path: Path):
    """Law: person_id is the group's number where all have one; else two groups are never one number."""
    found = pixels_of(tmp_path, [1.0] * 3, groups).persons_N
    assert (found.dtype, found.tolist()) == (np.int64, expected)


# A11: the order of a loader


def test_a11_loaders_in_order(tmp_path: Path):
    """Law: with `shuffle: false` two passes pair, also where the study reads in blocks; by default they differ."""
    body = "net.kept = [[i for s in loader for i in s['image_id']] for loader in (retain, retain, forget)]"
    first, second, forget = run(tmp_path, body, run_data(tmp_path), shuffle=False, batch_size=7).kept
    assert first == second == [f"image-{i:03d}" for i in range(20)]
    assert forget == [f"image-{i:03d}" for i in range(20, 26)]
    first, second, _ = run(tmp_path, body, run_data(tmp_path), batch_size=7).kept
    assert first != second
    assert sorted(first) == sorted(second)


# C: (image, label) batches


def test_c_scripts_batches_of_pairs(tmp_path: Path):
    """Law: `batches: tuple` gives the same images as [float32 images, int64 labels], as torchvision's sets do."""
    body = "net.kept = [b for b in retain]"
    data = run_data(tmp_path)
    pairs = run(tmp_path, body, data, batches="tuple", batch_size=7).kept
    dicts = run(tmp_path, body, data, batch_size=7).kept
    for (images, labels), batch in zip(pairs, dicts, strict=True):
        assert torch.equal(images, batch["image"])
        assert torch.equal(labels, batch["age_group"])
        assert labels.dtype == torch.int64
    assert run(tmp_path, BY_PLACE, data, batches="tuple").layer.weight.grad is not None


@pytest.mark.parametrize(
    "body",
    [
        BY_PLACE,
        "images, labels = next(iter(retain))",
        "for i, (x, y) in enumerate(forget): pass",
        "b = next(iter(retain)); net(b[0])",
        "x, y, *_ = next(iter(retain)); net(x.cpu())",
        "net(next(iter(retain)))",
        "for batch in retain: batch.to('cpu')",
        "x, y = retain.dataset[0]",
        "F.linear(next(iter(retain)), net.layer.weight)",
        "for x, *y in retain: F.conv2d(x, torch.zeros(3, 3, 3, 3))",
        "next(iter(retain))['label']",
        "for s in retain: s['pixel_values'], s['labels']",
    ],
)
def test_c_scripts_that_expect_pairs_are_told_so(body: str, tmp_path: Path):
    """Law: each usual error of a script that expects pairs names the option, the line and the keys of the dicts."""
    with pytest.raises(MethodError) as caught:
        run(tmp_path, body, run_data(tmp_path))
    assert "(mine.py:" in str(caught.value)
    assert "dicts with the keys image, image_id, age_group, age, person_id" in str(caught.value)
    assert "`batches: tuple`" in str(caught.value)[:500], "what a record keeps"


@pytest.mark.parametrize("body", [BY_NAME, "s = next(iter(forget)); s['image']", "retain.dataset[0]['image']"])
def test_c_scripts_that_expect_dicts_are_told_so(body: str, tmp_path: Path):
    """Law: so are the errors of a script in the challenge's form under `batches: tuple`."""
    with pytest.raises(MethodError, match=r"\[image, label\]; if it expects dicts, leave the option away"):
        run(tmp_path, body, run_data(tmp_path), batches="tuple")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("{'a': 1}['label_map']", KeyError),
        ("open('/nowhere/at/all')", FileNotFoundError),
        ("raise RuntimeError('Parent directory of all')", RuntimeError),
        ("[][3]", IndexError),
        ("{'a': 1}['b']", KeyError),
        ("int('x')", ValueError),
        ("None.to('cpu')", AttributeError),
    ],
)
def test_c_scripts_own_errors_stay_their_own(body: str, error: type[Exception], tmp_path: Path):
    """Law: an error that has nothing to do with the batches' form is not explained away."""
    with pytest.raises(error):
        run(tmp_path, body, run_data(tmp_path))


@pytest.mark.parametrize(
    "body", ["torch.load('weights.pth')", "torch.save({}, './output/best.pt')", "open('log/a.txt', 'w')"]
)
def test_a3_a_missing_folder_is_explained(body: str, tmp_path: Path):
    """Law: a file that is missing in the working folder is said to be, since that is empty; and where others are."""
    with pytest.raises(MethodError, match=r"\(mine\.py:4\); the working folder of a run is empty.*Path\(__file__\)"):
        run(tmp_path, body, run_data(tmp_path))


@pytest.mark.parametrize(
    ("body", "error", "expected"),
    [
        (
            "torch.zeros(1).mean().backward()",
            MethodError,
            r"grad_fn{}; no gradients are computed here: by @torch\.no_grad",
        ),
        ("next(iter([]))", MethodError, r"StopIteration: {}; next\(\) found no further batch"),
        ("raise EOFError('EOF when reading a line')", MethodError, r"a line{}; input\(\) gets no answer in a run"),
        (
            "raise RuntimeError('Found no NVIDIA driver')",
            RuntimeError,
            "driver{}; this worker has no GPU: use the net's",
        ),
        (
            "raise AssertionError('Torch not compiled with CUDA enabled')",
            RuntimeError,
            "enabled{}; this worker has no GPU",
        ),
    ],
)
def test_c_scripts_that_expect_another_machine(body: str, error: type[Exception], expected: str, tmp_path: Path):
    """Law: no keyboard, no GPU and no further batch are named; where a GPU is missing, another worker may try."""
    with pytest.raises(error, match=expected.format(r" \(mine\.py:4\)")):
        run(tmp_path, body, run_data(tmp_path))


@pytest.mark.filterwarnings("ignore:can't resolve package:ImportWarning")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "from . import helper",
            r"\(mine\.py:1\); a script is no part of a package: import what is beside it by its name",
        ),
        (
            "import nothing_of_that_name",
            r"\(mine\.py:1\); install 'nothing_of_that_name' on every node, or put it beside",
        ),
    ],
)
def test_c_scripts_whose_imports_fail(line: str, expected: str, tmp_path: Path):
    """Law: what a script lacks, or imports as part of a package, is named with the next step."""
    source = f"{line}\n\ndef unlearning(net, *loaders):\n    pass\n"
    with pytest.raises(MethodError, match=expected), script_function(f"{tmp_path}/mine.py:unlearning", source):
        pass


def test_c_scripts_that_define_their_function_under_main(tmp_path: Path):
    """Law: a function that exists when the script runs itself, but not when it is imported, is said to."""
    source = "if __name__ == '__main__':\n    def unlearning(net, *loaders):\n        pass\n"
    with (
        pytest.raises(
            MethodError, match=r"no function 'unlearning' in .*; it is defined, but not at the top of the fi"
        ),
        script_function(f"{tmp_path}/mine.py:unlearning", source),
    ):
        pass


@pytest.mark.parametrize("name", ["targets", "dataset", "indices"])
def test_c_scripts_that_expect_another_data_set(name: str, tmp_path: Path):
    """Law: an attribute of other data sets is answered with what an item is; one that would have no effect refused."""
    with pytest.raises(AttributeError, match=f"no '{name}'; its items are a dict with image, image_id"):
        run(tmp_path, f"retain.dataset.{name}", run_data(tmp_path))
    with pytest.raises(AttributeError, match=r"'transform' of .* no effect; its items are \[image, label\]: wrap it"):
        run(tmp_path, "retain.dataset.transform = None", run_data(tmp_path), batches="tuple")
    run(tmp_path, "import copy; retain.dataset.mine = 3; copy.deepcopy(forget.dataset)[0]", run_data(tmp_path))


FORMS = {
    "net, Df, Dr, Dv": "whose Df would get the retain_loader",
    "net, unlearn_loader, remain_loader, valid_loader": "whose unlearn_loader would get the retain_loader",
    "model, train_forget_dl, train_retain_dl, valid_dl": "whose train_forget_dl would get the retain_loader",
    "model, D_f, D_r, val": "whose D_f would get the retain_loader",
    "retain_loader, forget_loader, val_loader, net": "whose retain_loader would get the net",
    "net, retain, val, forget": "whose val would get the forget_loader",
    "net, retainLoader, validationLoader, loader": "whose validationLoader would get the forget_loader",
    "net, retain, forget, val, device": "(missing a required argument: 'device'); parameters after these four need",
    "net, retain, forget": "(too many positional arguments)",
    "net, *, retain, forget, val": "(too many positional arguments)",
    "net, retain_loader, forget_loader, val_loader": "",
    "model, Dr, Df, Dv": "",
    "unlearned_model, keep, erase, test": "",
    "student, remaining_dl, unlearning_dl, dev": "",
    "net, train_loader, forget_loader, test_loader": "",
    "net, retain_and_forget, forget_retain, forget_val": "",
    "net, rloader, floader, vloader, device='cpu'": "",
    "*loaders": "",
}
"""Parameters -> what is refused about them; nothing where they are taken."""


@pytest.mark.parametrize("parameters", FORMS)
def test_a10_names_of_parameters(parameters: str):
    """Law: names that say another order, in the usual words, are refused, and no others are."""
    found: dict[str, Any] = {}
    exec(f"def unlearning({parameters}): pass", found)  # noqa: S102
    if not FORMS[parameters]:
        check_form("mine.py:unlearning", found["unlearning"])
        return
    with pytest.raises(MethodError) as caught:
        check_form("mine.py:unlearning", found["unlearning"])
    assert FORMS[parameters] in str(caught.value)


@pytest.mark.parametrize("base", ["", "(torch.nn.Module)"])
def test_c_scripts_that_are_classes(base: str):
    """Law: a class is no function, also where it could be made with four arguments."""
    found: dict[str, Any] = {"torch": torch}
    exec(f"class unlearning{base}:\n    def __init__(self, net, retain, forget, val): pass", found)  # noqa: S102
    with pytest.raises(MethodError, match=r"expected a function .* found a class; write a function that makes one"):
        check_form("mine.py:unlearning", found["unlearning"])
    found["made"] = lambda *four: None
    check_form("mine.py:made", found["made"])


COMMAND_LINE = """\
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--set", default="own")
parser.add_argument("--lr", type=float, {more})
arguments = parser.parse_args()


def unlearning(net, *loaders):
    net.kept.append((arguments.set, arguments.lr))
"""


def test_c_scripts_with_a_command_line(tmp_path: Path, monkeypatch):
    """Law: a script parses a command line without arguments, never this program's; what it requires is explained."""
    monkeypatch.setattr(sys, "argv", ["ray-unlearn", "generate", "study.yaml", "--set", "seed=3", "--lr", "2"])
    before, source = list(sys.argv), COMMAND_LINE.format(more="default=0.1")
    with script_function(f"{tmp_path}/mine.py:unlearning", source) as function:
        assert sys.argv == [f"{tmp_path}/mine.py"]
        function(net := Net())
    assert (net.kept, sys.argv) == ([("own", 0.1)], before)
    required = COMMAND_LINE.format(more="required=True")
    with (
        pytest.raises(MethodError, match=r"SystemExit: 2 \(mine\.py:5\); it ends Python .* defaults"),
        script_function(f"{tmp_path}/mine.py:unlearning", required),
    ):
        pass
    assert sys.argv == before


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbf# caf\xc3\xa9\n", b"# -*- coding: latin-1 -*-\n# caf\xe9\n", b"# caf\xc3\xa9\r\n"],
    ids=["mark", "latin-1", "windows"],
)
def test_c_scripts_are_decoded_as_python_does(data: bytes, tmp_path: Path):
    """Law: byte order mark, encoding line and Windows' line ends give Python's text, also in modules beside."""
    (tmp_path / "mine.py").write_bytes(data + b"import beside\ndef unlearning(*four): pass\n")
    (tmp_path / "beside.py").write_bytes(data)
    source = read_script(f"{tmp_path}/mine.py:unlearning")
    assert "# caf\u00e9\n" in source
    assert list(script_identity(f"{tmp_path}/mine.py:unlearning", source)["modules"]) == ["beside.py"]
    assert "# caf\u00e9\n" in module_texts(f"{tmp_path}/mine.py:unlearning", source)["beside.py"]
    with script_function(f"{tmp_path}/mine.py:unlearning", source):
        pass
    (tmp_path / "mine.py").write_bytes(b"# caf\xe9\n")
    with pytest.raises(MethodError, match=r"mine\.py cannot be read \(not UTF-8, and its first two lines name no enc"):
        read_script(f"{tmp_path}/mine.py:unlearning")


def test_c_scripts_unknown_option(tmp_path: Path):
    """Law: an option is declared: a wrong key or value is refused with a suggestion, before any work."""
    with pytest.raises(StudyError, match=r"populations\.mine\.batch: .*did you mean 'batches'\?"):
        run(tmp_path, "pass", run_data(tmp_path), batch="tuple")
    with pytest.raises(StudyError, match=r"populations\.mine\.batches: "):
        run(tmp_path, "pass", run_data(tmp_path), batches="pairs")


# A3: files that runs share


def test_a3_files_that_runs_share_are_said(tmp_path: Path, tiny: Callable[..., Study]):
    """Law: a path in a place of the whole machine is warned of, once; relative ones and files beside the script not."""
    for body, said in (
        ("torch.save(net.state_dict(), '/tmp/best.pth'); torch.load('/tmp/best.pth')", "names '/tmp/best.pth', so"),
        ('torch.save({}, f"/kaggle/working/{1}.pt")', "names '/kaggle/working/{1}.pt', so"),
        ("import os; os.chdir(os.path.dirname(__file__))", "leaves its working folder, so"),
        ("import os; torch.save({}, os.path.dirname(__file__) + '/best.pth')", "writes beside itself, so"),
        ("torch.save({}, 'tmp/best.pth'); open('/home/me/weights.pth'); open(__file__)", ""),
        ("pass\n    # os.chdir('/tmp/x')", ""),
    ):
        (tmp_path / "mine.py").write_text(HEAD + body + "\n")
        mine = {"method": f"{tmp_path}/mine.py:unlearning", "noise_std": None, "count": 1}
        lines = [line for line in open_job(tiny(populations={"finetune": mine})).remarks if "its runs share" in line]
        assert [said in line for line in lines] == [True] * bool(said), body


# A9: what the data do not know


@pytest.mark.parametrize(("key", "column"), [("age", "age"), ("person_id", "group")])
def test_a9_unknown_values_are_said(key: str, column: str, tmp_path: Path, tiny: Callable[..., Study]):
    """Law: a script that reads ages or persons runs on data without them, and is warned of; another is not."""
    for body, warned in (
        (f"F.one_hot(next(iter(retain))['{key}'], 100)", True),
        ("net(next(iter(retain))['image'])", False),
    ):
        (tmp_path / "mine.py").write_text(HEAD + body + "\n")
        made = tiny(
            populations={"finetune": {"method": f"{tmp_path}/mine.py:unlearning", "noise_std": None, "count": 1}}
        )
        lines = [line for line in open_job(made).remarks if "the script reads" in line]
        said = f"populations.finetune: the script reads {key!r}, which data.train has for no image, so it is 0; "
        assert lines == ([f"{said}data.columns.{column} names its column"] if warned else [])
        if warned:
            assert generate(made, backend="inline").exit_code == 0
