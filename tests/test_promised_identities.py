"""What a store's users were promised: the same study has the same digest, whichever version reads it.

`promises/digests.json` holds digests as commit 9ae5280 (version 0.1.0) computed them, and of what later versions added;
`promises/options.json` the options that each method and block had then, and the marks of those that came later. Where a
test below fails, either an identity changed by accident (mend that), or the table lacks something new: then

    uv run python tests/test_promised_identities.py

adds it. The command neither changes nor removes a line. Where a digest has to change, its line is removed by hand, and
the method gets a `Correction`, or the plan a new `IDENTITY_FORMAT`, so that the refusal of older runs states why.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import safetensors.torch
import torch
from conftest import TINY, merged
from pydantic import BaseModel, Field

from ray_unlearn import models
from ray_unlearn.data.study_data import prepare_study
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.methods.script import ScriptOptions
from ray_unlearn.store import open_storage
from ray_unlearn.study import Ingredients, Study, load_study, make_plan, parse_study
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.study.schema import Model, Normalize, Outputs
from ray_unlearn.study.shuffle import Shuffle

PROMISES = Path(__file__).parent / "promises"
DIGESTS, OPTIONS = PROMISES / "digests.json", PROMISES / "options.json"

REQUIRED: dict[str, dict[str, Any]] = {
    "train": {"on": "train"},
    "mix": {"parts": [{"method": "kookmin", "share": 1, "lr": 5e-4}, {"method": "sun", "share": 2}]},
}
BLOCKS: dict[str, type[BaseModel]] = {
    "(script)": ScriptOptions,
    "outputs": Outputs,
    "data.shuffle": Shuffle,
    "data.normalize": Normalize,
    "model": Model,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "training": {"training": {"batch_size": 32, "precision": "bf16", "augment": {"crop": 2, "flip": True}}},
    "class weights": {"training": {"class_weights": "inverse"}, "checkpoint_dtype": "bf16"},
    "outputs": {"outputs": {"splits": ["retain", "forget"], "retain_sample": 10}},
    "raw pixels": {"data": {"normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.5]}}},
    "blocks": {"data": {"shuffle": {"order": "blocks", "buffer_blocks": 2}}},
    "originals": {"populations": {"original": {"count": 3}, "finetune": {"originals": 3}}},
    "whole taps": {"model": {"trim_dead_taps": False}},
    "shadows": {
        "populations": {
            "shadows": {"method": "train", "on": {"half_of": "train", "balanced": True}, "count": 4},
            "finetune": {"starts_from": "shadows"},
        }
    },
    "a label": {"data": {"forget": {"label": 3, "fraction": None}}, "seed": 7},
}
SCRIPT = "def unlearning(net, retain_loader, forget_loader, val_loader):\n    pass\n"


# What the tables hold


def digests(study: Study, *, opened: bool = False) -> dict[str, str]:
    """Return the digest of every population; the data are decoded, or a fixed value stands for them."""
    data: Any = {"images": "those of a test"}
    if opened:
        data = prepare_study(study, open_storage(study.storage)).identity
    methods = {name: resolve(study, name) for name in study.populations}
    plan = make_plan(study, Ingredients(data=data, model=models.identity(study.model), methods=methods))
    return {name: population.digest for name, population in plan.populations.items()}


def parsed(**changes: Any) -> Study:
    """Return TINY with changes."""
    return parse_study(merged(TINY, changes), where="a test")


def of_methods() -> Iterator[tuple[str, str]]:
    """Yield the digest of every method with every preset, and with none."""
    for name, method in METHODS.items():
        if name == "weights":
            continue
        for preset in (None, *method.presets):
            spec = {"method": name} | REQUIRED.get(name, {}) | ({"preset": preset} if preset else {})
            yield f"{name}/{preset or ''}", digests(parsed(populations={"mine": spec}))["mine"]


def written_weights(folder: Path) -> Path:
    """Write a weights file; return its path."""
    path = folder / "model.safetensors"
    path.write_bytes(safetensors.torch.save({"bias": torch.arange(3.0)}))
    return path


def written_script(folder: Path) -> Path:
    """Write a script that imports nothing of its folder; return its path."""
    (folder / "mine.py").write_text(SCRIPT)
    return folder / "mine.py"


def of_studies(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the digests of variants of a tiny study; its data are decoded."""
    for variant, changes in VARIANTS.items():
        for name, found in digests(parsed(storage=str(folder), **changes), opened=True).items():
            yield f"tiny, {variant}/{name}", found


def of_user_code(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the digests of a script that imports nothing of its folder, of a net in the study's folder, and of
    weights.
    """
    (folder / "nets_of_a_test.py").write_text("import parts_of_a_test\n\ndef tiny(num_classes):\n    pass\n")
    (folder / "parts_of_a_test.py").write_text("WIDTH = 3\n")
    weights = written_weights(folder)
    spec: dict[str, Any] = {"method": f"{written_script(folder)}:unlearning", "batch_size": 16}
    yield "script", digests(parsed(populations={"mine": spec}))["mine"]
    given = {"weights": str(weights), "method": None, "on": None}
    yield "weights", digests(parsed(populations={"original": given}))["original"]
    tree = merged(TINY, {"model": {"arch": "nets_of_a_test:tiny", "options": None}})
    (folder / "study.yaml").write_text(json.dumps(tree))
    yield "factory beside the study", digests(load_study(folder / "study.yaml"))["original"]


def options_of(block: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, field) of every option of a block and of the blocks inside it."""
    for name, field in block.model_fields.items():
        yield f"{prefix}{name}", field
        for inner in _blocks(field.annotation):
            yield from options_of(inner, f"{prefix}{name}.")


def _blocks(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _blocks(inner)


def blocks() -> dict[str, Any]:
    """Return every block of options that enters an identity, by method or place in the study."""
    return {name: method.options for name, method in METHODS.items()} | BLOCKS


def mark_of(field: Any) -> dict[str, Any] | None:
    """Return an option's mark as the table holds it."""
    from ray_unlearn.study.identity import Since

    mark = next((one for one in field.metadata if isinstance(one, Since)), None)
    return {"version": mark.version, "neutral": json.loads(json.dumps(mark.neutral))} if mark else None


def offences(found: dict[str, Any], table: dict[str, Any]) -> list[str]:
    """Return a line for every option that is neither of its block's first version nor marked as the table states."""
    lines = []
    for name, block in found.items():
        if name not in table["options"]:
            lines.append(f"{name}: a new block of options, which the table lacks")
            continue
        first, seen = set(table["options"][name]), set()
        for option, field in options_of(block):
            mark, promised = mark_of(field), table["marks"].get(f"{name}: {option}")
            seen.add(option)
            if option in first and mark:
                lines.append(f"{name}: {option} is of the first version; without the mark, digests stay")
            if option not in first and not mark:
                lines.append(f'{name}: {option} is new; mark it: Annotated[..., Since("VERSION", neutral=...)]')
            if option not in first and mark and mark != promised:
                lines.append(f"{name}: {option} is marked {mark}, and the table says {promised}")
        lines += [f"{name}: {option} is gone, and older studies name it" for option in sorted(first - seen)]
    return lines


# The promises


@pytest.fixture(scope="module")
def promised() -> dict[str, str]:
    """Digests by name."""
    return dict(json.loads(DIGESTS.read_text()))


def test_every_method_and_preset_has_the_digest_that_it_had(promised: dict[str, str]):
    """Law: no change of this package changes what a population of a registered method is, but on purpose."""
    found = dict(of_methods())
    assert found == {key: promised.get(key) for key in found}
    assert len(found) > 60


def test_studies_have_the_digests_that_they_had(promised: dict[str, str], tmp_path: Path):
    """Law: data, splits, training, outputs, originals and seed enter an identity as they did."""
    found = dict(of_studies(tmp_path))
    assert found == {key: promised.get(key) for key in found}


def test_user_code_has_the_digests_that_it_had(promised: dict[str, str], tmp_path: Path):
    """Law: a script that imports nothing of its folder, a net in the study's folder and imported weights are as
    before.
    """
    found = dict(of_user_code(tmp_path))
    assert found == {key: promised.get(key) for key in found}


def test_nothing_promised_is_forgotten(promised: dict[str, str], tmp_path: Path):
    """Law: a method, a preset or a study of the table that is gone is a promise broken."""
    found = {key for key, _ in (*of_methods(), *of_user_code(tmp_path))}
    kept = {key for key in promised if not key.startswith("tiny, ")}
    assert kept - found == set()


def test_every_option_is_promised_or_marked():
    """Law: an option is of its block's first version, or marked with its version and its neutral value."""
    assert offences(blocks(), json.loads(OPTIONS.read_text())) == []


def test_an_option_that_is_not_marked_is_found():
    """Law: the test above fails for a new option, for one whose neutral value moved, and for one that went."""
    from ray_unlearn.study.identity import Since

    class Forgotten(Recipe):
        dropout: float = 0.0

    class Moved(Recipe):
        dropout: Annotated[float, Since("0.2", neutral=0.5)] = Field(0.5)

    marks = {f"mine: {option}": mark for option, field in options_of(Recipe) if (mark := mark_of(field))}
    first = [option for option, field in options_of(Recipe) if not mark_of(field)]
    table = {"options": {"mine": first}, "marks": marks}
    marked = table | {"marks": marks | {"mine: dropout": {"version": "0.2", "neutral": 0.0}}}
    assert offences({"mine": Recipe}, table) == []
    assert "dropout is new; mark it" in offences({"mine": Forgotten}, table)[0]
    assert "the table says {'version': '0.2', 'neutral': 0.0}" in offences({"mine": Moved}, marked)[0]
    longer = table | {"options": {"mine": ["lr", "splits", "retain_sample"]}}
    assert "lr is gone" in offences({"mine": Outputs}, longer)[0]
    assert "a new block" in offences({"yours": Recipe}, table)[0]


def write() -> None:
    """Add to the tables what they lack."""
    with tempfile.TemporaryDirectory() as folder:
        found = dict((*of_methods(), *of_studies(Path(folder)), *of_user_code(Path(folder))))
    held = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
    DIGESTS.write_text(json.dumps(found | held, indent=1, sort_keys=True) + "\n")
    table = json.loads(OPTIONS.read_text()) if OPTIONS.exists() else {"options": {}, "marks": {}}
    for name, block in blocks().items():
        known = table["options"].setdefault(name, [option for option, _ in options_of(block)])
        for option, field in options_of(block) if name in table["options"] else ():
            if option not in known and (mark := mark_of(field)):
                table["marks"].setdefault(f"{name}: {option}", mark)
    OPTIONS.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(write())
