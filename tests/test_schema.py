"""The keys of a study: what is refused, in which words, and what is filled in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pydantic
import pytest
from conftest import TINY, merged

from ray_unlearn.errors import StudyError
from ray_unlearn.study import Study, parse_study
from ray_unlearn.study.recipe import INHERITED, Recipe
from ray_unlearn.study.schema import RESERVED_NAMES
from ray_unlearn.study.template import TEMPLATE
from ray_unlearn.study.yaml12 import parse_yaml

REMOVE = None  # how `merged` spells it


def refusal(changes: dict[str, Any]) -> str:
    """Return what TINY with these changes is refused with."""
    with pytest.raises(StudyError) as caught:
        parse_study(merged(TINY, changes), where="faces.yaml")
    return str(caught.value)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"populatons": {}}, "populatons: unknown key (did you mean 'populations'?)"),
    "unknown nested key": ({"training": {"epoch": 1}}, "training.epoch: unknown key (did you mean 'epochs'?)"),
    "unknown key of a block in a block": (
        {"training": {"augment": {"flop": True}}},
        "training.augment.flop: unknown key (did you mean 'flip'?)",
    ),
    "unknown key, none near": (
        {"training": {"augment": {"zoom": 2}}},
        "training.augment.zoom: unknown key (valid: crop, flip, transforms)",
    ),
    "unknown key of a source": (
        {"data": {"test": {"paht": "x"}}},
        "data.test.paht: unknown key (did you mean 'path'?)",
    ),
    "unknown column": (
        {"data": {"columns": {"lable": "x"}}},
        "data.columns.lable: unknown key (did you mean 'label'?)",
    ),
    "a key that is not text": ({3: 3}, "3: keys should be strings; found 3"),  # type: ignore[dict-item]
    "a key that was a word": (
        {"populations": {"original": {True: "train"}}},  # type: ignore[dict-item]
        "populations.original.1: keys should be strings; found True: programs that read YAML 1.1 turn on "
        "and yes into it; write the word",
    ),
    "a key of two lines": (
        {"model": {"a\nb": 3}},
        "model.a b: unknown key (valid: arch, freeze, grey, options, pretrained, stem, trim_dead_taps)",
    ),
    "missing block": ({"data": REMOVE}, "data: missing; this key is required"),
    "missing key": ({"data": {"train": REMOVE}}, "data.train: missing; this key is required"),
    "wrong enum": (
        {"training": {"optimizer": "adm"}},
        "training.optimizer: input should be 'sgd', 'adam' or 'adamw'; found 'adm' (did you mean 'adam'?)",
    ),
    "wrong enum in a list": (
        {"outputs": {"splits": ["forget", "tests"]}},
        "outputs.splits.1: input should be 'retain', 'forget', 'validation' or 'test'; "
        "found 'tests' (did you mean 'test'?)",
    ),
    "wrong enum beside a block": (
        {"data": {"normalize": "standart"}},
        "data.normalize: input should be 'raw', 'unit' or 'standard'; found 'standart' (did you mean 'standard'?)",
    ),
    "wrong value in a block beside an enum": (
        {"data": {"normalize": {"mean": [0, 0, 0], "std": [0, 1, 1]}}},
        "data.normalize.std.0: input should be greater than 0; found 0",
    ),
    "wrong dtype": (
        {"checkpoint_dtype": "fp8"},
        "checkpoint_dtype: input should be 'fp32', 'bf16' or 'fp16'; found 'fp8' (valid: bf16, fp16, fp32)",
    ),
    "text for a number": ({"training": {"lr": "fast"}}, "training.lr: input should be a valid number; found 'fast'"),
    "quoted number": (
        {"training": {"batch_size": "64"}},
        "training.batch_size: input should be a valid integer; found '64'",
    ),
    "true for a number": ({"seed": True}, "seed: input should be a valid integer; found True"),
    "fraction for a count": ({"seed": 1.5}, "seed: input should be a valid integer; found 1.5"),
    "number for a name": ({"name": 3}, "name: input should be a valid string; found 3"),
    "number for a block": (
        {"training": 3},
        "training: input should be a valid dictionary or instance of Recipe; found 3",
    ),
    "not a number": ({"training": {"lr": float("nan")}}, "training.lr: input should be a finite number; found nan"),
    "negative seed": ({"seed": -1}, "seed: input should be greater than or equal to 0; found -1"),
    "zero epochs": ({"training": {"epochs": 0}}, "training.epochs: input should be greater than 0; found 0"),
    "negative class weight": (
        {"training": {"class_weights": [1, -1]}},
        "training.class_weights.1: input should be greater than or equal to 0; found -1",
    ),
    "count: 0": (
        {"populations": {"finetune": {"count": 0}}},
        "populations.finetune.count: input should be greater than or equal to 1; found 0",
    ),
    "count beyond five digits": (
        {"populations": {"finetune": {"count": 100_000}}},
        "populations.finetune.count: input should be less than or equal to 99999; found 100000",
    ),
    "originals: 0": (
        {"populations": {"finetune": {"originals": 0}}},
        "populations.finetune.originals: input should be greater than or equal to 1; found 0",
    ),
    "a population called like a type": (
        {"populations": {"int": {"method": "train", "count": 0}}},
        "populations.int.count: input should be greater than or equal to 1; found 0",
    ),
    "method and weights": (
        {"populations": {"finetune": {"weights": "a.pth"}}},
        "populations.finetune: expected either a method or weights: FILE",
    ),
    "neither method nor weights": (
        {"populations": {"finetune": {"method": REMOVE}}},
        'populations.finetune: expected either a method or weights: FILE; the method null is written "null", in quotes',
    ),
    "more checkpoints than files": (
        {"populations": {"more": {"weights": ["a.pth", "b.pth"], "count": 3}}},
        "populations.more: count: expected at most 2, one per weights file; found 3",
    ),
    "no population": (
        {"populations": {"original": REMOVE, "finetune": REMOVE}},
        "populations: dictionary should have at least 1 item after validation, not 0; found {}",
    ),
    "two ways to forget": (
        {"data": {"forget": {"label": 3}}},
        "data.forget: expected exactly one of fraction, label, group, ids, given, hardest; found ['fraction', 'label']",
    ),
    "no way to forget": (
        {"data": {"forget": {"fraction": REMOVE}}},
        "data.forget: expected exactly one of fraction, label, group, ids, given, hardest; found none",
    ),
    "group without count": (
        {"data": {"forget": {"fraction": REMOVE, "group": "person_id"}}},
        "data.forget: group and count belong together: {group: person_id, count: 15}",
    ),
    "count without group": (
        {"data": {"forget": {"count": 15}}},
        "data.forget: group and count belong together: {group: person_id, count: 15}",
    ),
    "given: false": (
        {"data": {"forget": {"fraction": REMOVE, "given": False}}},
        "data.forget: given: may only be true; use fraction, label, group, ids or hardest instead",
    ),
    "everything forgotten": (
        {"data": {"forget": {"fraction": 1.0}}},
        "data.forget.fraction: input should be less than 1; found 1.0",
    ),
    "impossible held-out fraction": ({"data": {"test": 1.5}}, "data.test: input should be less than 1; found 1.5"),
    "reference that no one defines": (
        {"evaluation": {"reference": "finetuned"}},
        "evaluation.reference: 'finetuned' is not a population of the study (did you mean 'finetune'?)",
    ),
    "default reference that no one defines": (
        {"evaluation": {}},
        "evaluation.reference: 'retrained' is not a population of the study (valid: finetune, original)",
    ),
    "study name is a path": (
        {"name": "../x"},
        "name: expected 1 to 64 English letters, digits, `_`, `-` or `.`, and a letter or digit first; found '../x'",
    ),
    "population name is a path": (
        {"populations": {"a/b": {"method": "train"}}},
        "populations.a/b: expected 1 to 64 English letters, digits, `_`, `-`, and a letter or digit first; found 'a/b'",
    ),
    "no workers": (
        {"execution": {"workers": 0}},
        "execution.workers: input should be greater than or equal to 1; found 0",
    ),
    "negative GPUs": (
        {"execution": {"gpus_per_worker": -1}},
        "execution.gpus_per_worker: input should be greater than or equal to 0; found -1",
    ),
    "no storage": ({"storage": ""}, "storage: string should have at least 1 character; found ''"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_path_expected_found_and_the_nearest_name(case: str) -> None:
    """Exactly this line, opened by where the study came from."""
    changes, expected = REFUSALS[case]
    assert refusal(changes) == f"faces.yaml: {expected}"


@pytest.mark.parametrize("name", RESERVED_NAMES)
def test_names_that_the_store_uses_are_refused_by_their_key(name: str) -> None:
    """Neither the study nor a population may be called like a file or folder of the store."""
    says = f"{name!r} is a name that the store uses; choose another"
    assert refusal({"name": name}) == f"faces.yaml: name: {says}"
    assert refusal({"populations": {name: {"method": "train"}}}) == f"faces.yaml: populations.{name}: {says}"


def test_the_reserved_names_are_those_of_the_layout() -> None:
    """What the layout puts next to populations cannot be a population's name; names with dots are none anyway."""
    from ray_unlearn.store.layout import DATA_CACHE, Layout

    layout = Layout("s")
    beside = {path.split("/")[1] for path in (layout.study_json, layout.metrics, layout.splits("0" * 64))}
    assert {name for name in beside if "." not in name} | {DATA_CACHE} <= set(RESERVED_NAMES)


def test_several_wrong_keys_are_one_line_each() -> None:
    """Every wrong key is named; a union's complaints about one key count once."""
    text = refusal({"seed": -1, "training": {"optimiser": "adam"}, "data": {"normalize": "standart"}})
    assert sorted(text.splitlines()) == [
        "faces.yaml: data.normalize: input should be 'raw', 'unit' or 'standard'; found 'standart' "
        "(did you mean 'standard'?)",
        "faces.yaml: seed: input should be greater than or equal to 0; found -1",
        "faces.yaml: training.optimiser: unknown key (did you mean 'optimizer'?)",
    ]


def test_a_long_value_is_shortened() -> None:
    """A refusal shows at most 60 characters of what it found."""
    text = refusal({"seed": "x" * 1000})
    assert text.endswith("found '" + "x" * 56 + "...")


@pytest.mark.parametrize(
    ("block", "key"),
    [((), "seed"), (("data",), "image_size"), (("training",), "lr"), (("populations", "finetune"), "count")],
)
def test_values_are_frozen(tiny: Callable[..., Study], block: tuple[str, ...], key: str) -> None:
    """No block's key can be set once the study is validated."""
    value: Any = tiny()
    for part in block:
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        setattr(value, key, 1)


def test_short_forms_mean_the_long_ones(tiny: Callable[..., Study]) -> None:
    """A name, a path, a list and a fraction are read as what they stand for; numbers keep their type."""
    data = tiny(data={"train": ["a.parquet", "b.parquet"], "test": 0.25, "validation": "given"}).data
    assert data.train.path == ("a.parquet", "b.parquet")
    assert data.train.format == "auto"
    assert data.test == 0.25
    assert data.validation == "given"
    study = tiny(training={"lr": 1}, populations={"given": {"weights": "w.pth"}, "two": {"weights": ["a", "b"]}})
    assert study.data.train.format == "digits"
    assert study.data.train.path is None
    assert isinstance(study.training.lr, float)
    assert [study.populations[name].planned for name in ("given", "two", "original", "finetune")] == [1, 2, 1, 3]
    assert study.populations["given"].method_name == "weights"
    assert study.populations["two"].options == {"weights": ("a", "b")}
    assert study.populations["finetune"].options == {"noise_std": 0.01}


def test_what_a_method_inherits_are_keys_of_the_recipe() -> None:
    """A typo among the inherited names would silently inherit nothing."""
    assert set(INHERITED) <= set(Recipe.model_fields)


def test_a_study_survives_its_own_json(tiny: Callable[..., Study]) -> None:
    """study.json in the store can be read back into the same values."""
    study = tiny(data={"normalize": {"mean": [0, 0.5, 1], "std": [1, 1, 1]}}, execution={"workers": 2})
    assert Study.model_validate(json.loads(study.model_dump_json())) == study


def test_the_template_loads_and_is_what_it_states() -> None:
    """`ray-unlearn init` writes a study that is complete as it is."""
    study = parse_study(parse_yaml(TEMPLATE), where="template")
    assert {name: spec.planned for name, spec in study.populations.items()} == {
        "original": 1,
        "retrained": 8,
        "finetune": 8,
    }
    assert study.populations["original"].options["on"] == "train"
    assert study.training.lr == 1e-3
    assert study.evaluation is not None
    assert study.evaluation.reference == "retrained"


def test_the_json_schema_accepts_the_template_and_refuses_an_unknown_key() -> None:
    """The schema for editors agrees with the loader on both."""
    schema = Study.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    tree = parse_yaml(TEMPLATE)
    jsonschema.validate(tree, schema)
    tree["populations"]["original"] = {"weights": "original.pth"}
    tree["data"] |= {"train": ["a.parquet", "b.parquet"], "test": {"path": "test", "format": "folder"}}
    jsonschema.validate(tree, schema)
    tree["training"]["epoch"] = 1
    with pytest.raises(jsonschema.ValidationError, match="'epoch' was unexpected"):
        jsonschema.validate(tree, schema)
