"""Later options and corrections: what continues an old store, what does not, and what the refusal states."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from conftest import payload_bytes
from plans import finetune, plan_of
from pydantic import Field

from ray_unlearn.errors import PopulationChanged
from ray_unlearn.generation import generate
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.finetune import FinetuneOptions
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study import Plan, Study
from ray_unlearn.study.changes import Correction, refusal, refusal_of_frozen
from ray_unlearn.study.identity import Since, digest, identity_of
from ray_unlearn.study.plan import IDENTITY_FORMAT
from ray_unlearn.study.recipe import Augment, Block, Float


class LaterAugment(Augment):
    """A block inside a block that gained an option."""

    rotate: Annotated[Float, Since("0.2", neutral=0.0)] = 0.0


class Later(FinetuneOptions):
    """Options of a version that is to come; one default is not neutral any more."""

    augment: LaterAugment = LaterAugment()
    dropout: Annotated[Float, Since("0.2", neutral=0.0)] = Field(0.0, ge=0, lt=1)
    several: tuple[LaterAugment, ...] = (LaterAugment(),)
    named: Annotated[dict[str, LaterAugment], Since("0.3", neutral={})] = Field(default_factory=dict)


def test_a_neutral_later_option_is_in_no_identity():
    """Law: an option that came later is left out while it is neutral, in blocks, lists and mappings, too."""
    plain = identity_of(Later())
    assert plain == identity_of(FinetuneOptions()) | {"several": [{"crop": 0, "flip": False}]}
    turned = LaterAugment(rotate=2.0)
    found = identity_of(Later(augment=turned, dropout=0.5, several=(turned, LaterAugment()), named={"a": turned}))
    assert found["augment"]["rotate"] == 2.0
    assert found["dropout"] == 0.5
    assert found["several"] == [{"crop": 0, "flip": False, "rotate": 2.0}, {"crop": 0, "flip": False}]
    assert found["named"] == {"a": {"crop": 0, "flip": False, "rotate": 2.0}}


def test_a_default_may_move_away_from_neutral():
    """Law: what counts is the neutral value, not today's default: a default that changes results is in the identity."""

    class Moved(Block):
        dropout: Annotated[Float, Since("0.2", neutral=0.0)] = 0.1

    assert identity_of(Moved()) == {"dropout": 0.1}
    assert identity_of(Moved(dropout=0.0)) == {}


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that changes the registered `finetune`, as a later version would."""

    def change(**values: Any) -> None:
        later = replace(METHODS["finetune"], **values)
        monkeypatch.setitem(METHODS.own, "finetune", later)

    return change


def test_a_later_version_with_a_neutral_option_has_nothing_to_do(
    tiny: Callable[..., Study], tmp_path: Path, changed: Callable[..., None]
):
    """Law: a store continues under a version that added an option (reproduction c), but not with another value."""
    assert generate(tiny(), backend="inline").made == 4
    before = payload_bytes(tmp_path / "store" / "tiny")

    class Options(FinetuneOptions):
        dropout: Annotated[Float, Since("0.2", neutral=0.0)] = Field(0.0, ge=0, lt=1)

    changed(options=Options)
    summary = generate(tiny(), backend="inline")
    assert (summary.already, summary.made) == (4, 0)
    assert payload_bytes(tmp_path / "store" / "tiny") == before
    assert generate(tiny(populations={"finetune": {"count": 4}}), backend="inline").made == 1
    with pytest.raises(PopulationChanged, match=r"options\.dropout: \(absent\) -> 0\.5"):
        generate(tiny(populations={"finetune": {"dropout": 0.5}}), backend="inline")


def test_a_corrected_method_refuses_its_older_runs_with_the_reason(
    tiny: Callable[..., Study], tmp_path: Path, changed: Callable[..., None]
):
    """Law: a correction makes another population; the refusal states what was wrong, who made the runs, what to do."""
    generate(tiny(), backend="inline")
    before = payload_bytes(tmp_path / "store")
    changed(corrections=(Correction("0.2", "noise was added before the last step, not after it"),))
    with pytest.raises(PopulationChanged) as caught:
        generate(tiny(), backend="inline")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("population finetune in ")
    assert lines[0] == '  revisions: (absent) -> {"finetune":2}'
    assert lines[1] == "The method finetune was corrected in 0.2: noise was added before the last step, not after it."
    assert lines[2].startswith("It was made by ray-unlearn ")
    assert (
        lines[3]
        == "Give the population or the study another name to make it anew, or leave it out of the file; its runs stay."
    )
    assert payload_bytes(tmp_path / "store") == before
    renamed = tiny(populations={"finetune": None, "again": {"method": "finetune", "count": 1}})
    assert generate(renamed, backend="inline").made == 1


def test_runs_that_changed_frozen_parameters_are_refused(tiny: Callable[..., Study], tmp_path: Path):
    """Law: of a net that has some, runs of 0.1.0 by such a method, in a mix, too; not of a later version or others."""
    parts = {"method": "mix", "parts": [{"method": "sun", "share": 1, "epochs": 1}], "count": 1}
    frozen = tiny(model={"freeze": ["0"]}, populations={"finetune": {"count": 1}, "mixed": parts})
    generate(frozen, backend="inline")
    assert generate(frozen, backend="inline").made == 0
    for name in ("finetune", "mixed"):
        file = tmp_path / "store" / "tiny" / name / "population.json"
        content = json.loads(file.read_text())
        del content["made_by"]  # which 0.1.0 did not state
        file.write_text(json.dumps(content))
    with pytest.raises(PopulationChanged) as caught:
        generate(frozen, backend="inline")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("population mixed in ")
    assert first.endswith("was made differently, and the net has frozen parameters:")
    assert lines == [
        "The method sun was corrected in 0.2: it changed frozen parameters, which stay as they are now.",
        "It was made by ray-unlearn 0.1.0 or earlier.",
        "Give the population or the study another name to make it anew, or leave it out of the file; its runs stay.",
    ]
    held = {"identity": {}}
    assert refusal_of_frozen(held, {"finetune": (Correction("0.2", "other"),)}) == []
    assert METHODS["sun"].revision == 1


def test_every_correction_since_the_runs_is_named(tiny: Callable[..., Study], changed: Callable[..., None]):
    """Law: runs of revision 2 are refused by revision 3 with the second reason alone; a mix with those of its parts."""
    reasons = Correction("0.2", "one"), Correction("0.3", "two")
    parts = {"method": "mix", "parts": [{"method": "finetune", "share": 1}, {"method": "l1_sparse", "share": 1}]}
    study = tiny(populations={"finetune": {"count": 1}, "mixed": parts})
    changed(corrections=reasons[:1])
    generate(study, backend="inline", only=["finetune"])
    changed(corrections=reasons)
    with pytest.raises(PopulationChanged) as caught:
        generate(study, backend="inline")
    assert "corrected in 0.3: two." in str(caught.value)
    assert "0.2" not in str(caught.value).split("It was made by")[0]
    use = resolve(study, "mixed")
    assert use.identity["revisions"] == {"finetune": 3}
    assert use.corrections == {"finetune": reasons}


def test_a_corrected_default_is_a_reason_and_no_revision(tmp_path: Path):
    """Law: runs of 0.1.0 that differ in that option are refused with the reason; those that a later version made, and
    those that differ elsewhere, without; with the older value given, the digest is the older one."""
    reason = Correction("0.2", "the rate was ten times too high", ("lr",))
    method = replace(METHODS["finetune"], corrections=(reason,))
    assert method.revision == 1
    plan, other = plan_of(2), plan_of(2, lr=1e-2)
    elsewhere = {**plan.populations["finetune"].identity, "data": {"images": "other ones"}}
    corrections = {"finetune": (reason,)}
    now = other.populations["finetune"].identity
    for made_by, identity, expected in ((None, now, True), ("0.7.1", now, False), (None, elsewhere, False)):
        held = {"identity": plan.populations["finetune"].identity} | ({"made_by": made_by} if made_by else {})
        lines = refusal(held, identity, corrections)
        said = "The method finetune was corrected in 0.2: the rate was ten times too high."
        assert (said in lines) == expected
    assert plan_of(2, lr=1e-3).populations["finetune"].digest == plan.populations["finetune"].digest


def test_a_method_without_corrections_is_of_revision_1():
    """Law: revision 1 is in no identity, so that digests of version 0.1.0 stay."""
    method = METHODS["l1_sparse"]
    assert isinstance(method, Method)
    assert method.revision == 1 + len(method.corrections)
    assert replace(method, corrections=(Correction("9", "no"),)).revision == 2


def refused(folder: Path, held: Plan, plan: Plan, **population: Any) -> list[str]:
    """Return the lines of the refusal of a plan in the store of another, whose population.json is changed."""
    store = StudyStore(open_storage(str(folder)), "tiny")
    shutil.rmtree(folder, ignore_errors=True)
    store.admit(held)
    name = store.layout.population_json("finetune")
    content = json.loads(store.storage.read(name)) | population
    content = {key: value for key, value in content.items() if value is not None}
    store.storage.publish_file(name, json.dumps(content).encode())
    with pytest.raises(PopulationChanged) as caught:
        store.admit(plan)
    return str(caught.value).splitlines()


def test_the_refusal_states_who_made_the_population(tmp_path: Path):
    """Law: the version that made it, or that it is of 0.1.0 or earlier, which wrote none down."""
    plan, other = plan_of(2), plan_of(2, lr=1e-2)
    for made_by, said in (("0.7.1", "0.7.1"), (None, "0.1.0 or earlier")):
        lines = refused(tmp_path / "store", plan, other, made_by=made_by)
        assert lines[1] == "  options.lr: 0.001 -> 0.01"
        assert lines[-2:] == [
            f"It was made by ray-unlearn {said}.",
            "Rename the changed population or the study, leave the population out of the file, or change it back.",
        ]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"files_sha256": "a"}, "A copy of the same version continues them: pip install it without -e."),
        ({"files_sha256": "a"}, {}, "(pip install -e), which continues them with the same files."),
        ({"files_sha256": "a"}, {"files_sha256": "b"}, "which continues them with the same files."),
        ({"version": "1"}, {"version": "2"}, ""),
    ],
)
def test_the_refusal_says_which_installation_continues_the_runs(before: dict[str, str], now: dict[str, str], said: str):
    """Law: where a method's distribution was installed in another way, or edited, the user reads how to go on."""
    held = {"made_by": "0.2.0", "identity": {"method": {"name": "shrink", "distribution": before}}}
    lines = refusal(held, {"method": {"name": "shrink", "distribution": now}}, {})
    assert len(lines) == 3 + bool(said)
    assert said in lines[1]


def test_what_the_first_version_did_not_record_is_reported(tmp_path: Path):
    """Law: a script's modules that 0.1.0 did not write down are one reason; for later runs they are none."""
    plan = plan_of(2)
    script = {"script_sha256": "a" * 64, "function": "unlearning"}
    then = dict(plan.populations["finetune"].identity) | {"method": script}
    now = then | {"method": script | {"modules": {"helper.py": "b" * 64}}}
    use = replace(plan.populations["finetune"], identity=now, digest=digest(now))
    later = replace(plan, populations={**plan.populations, "finetune": use})
    lines = refused(tmp_path / "a", plan, later, identity=then, digest="0", made_by=None)
    assert lines[1].startswith('  method.modules: (absent) -> {"helper.py":"bbb')
    assert lines[2] == (
        "method.modules: version 0.1.0 did not record the modules that a script imports from its folder, so these runs "
        "may be of other code."
    )
    assert lines[4].endswith("or leave it out of the file; its runs stay.")
    lines = refused(tmp_path / "b", plan, later, identity=then, digest="0", made_by="0.2.0")
    assert len(lines) == 4
    assert lines[-1].endswith("or change it back.")


def test_a_newer_identity_format_is_explained(tmp_path: Path):
    """Law: where the same study gives other bytes than before, the refusal states since when, and why."""
    plan = plan_of(2)
    identity = dict(plan.populations["finetune"].identity)
    lines = refused(tmp_path, plan, plan, identity=identity | {"format": IDENTITY_FORMAT - 1}, digest="0")
    assert lines[1] == f"  format: {IDENTITY_FORMAT - 1} -> {IDENTITY_FORMAT}"
    assert lines[2].startswith(f"The same study gives other bytes since format {IDENTITY_FORMAT}: ")
    assert finetune(0).population in lines[0]
