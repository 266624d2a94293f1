"""Attacks by shadow models, memorisation and U-LiRA: against the authors' formulas, worked apart from the package."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, merged
from evaluated import (
    CLASSES,
    SIZES,
    SPLITS_DIGEST,
    draw_logits,
    evaluated_store,
    labels_of,
    publish,
    publish_splits,
    study_of,
)
from scipy.stats import norm

from ray_unlearn.errors import DataError, EvaluationError, StoreError, StudyError
from ray_unlearn.evaluation import shadow_scores
from ray_unlearn.evaluation import shadows as shadows_module
from ray_unlearn.evaluation.confidence import probability_of
from ray_unlearn.evaluation.evaluate import evaluate, read_scores
from ray_unlearn.evaluation.image_table import image_table
from ray_unlearn.evaluation.measures import MEASURES, lira, shadow_rmia
from ray_unlearn.evaluation.measures.memorisation import memorisation
from ray_unlearn.evaluation.measures.rmia import share_below
from ray_unlearn.evaluation.measures.shadow_u_lira import shadow_u_lira
from ray_unlearn.evaluation.memorisation import most_memorised
from ray_unlearn.evaluation.outputs import read_outputs
from ray_unlearn.evaluation.shadow_attacks import NO_NEGATIVES
from ray_unlearn.evaluation.shadow_fits import MANY_PAIRS, ShadowFit, Side
from ray_unlearn.evaluation.shadows import PairSplit, ShadowPhi, complete_pairs, pairs_of
from ray_unlearn.generation import generate
from ray_unlearn.report.markdown import markdown_page
from ray_unlearn.report.page import html_page
from ray_unlearn.report.ranking import in_order
from ray_unlearn.report.score_tables import left_out, measure_tables
from ray_unlearn.report.shadow_tables import shadow_lines, shadow_tables
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.membership import HALVED, fingerprint, half_of, half_of_train, membership_matrix
from ray_unlearn.store.outputs import SplitLogits, encode_outputs
from ray_unlearn.store.splits import read_image_names
from ray_unlearn.study import Run, Study, parse_study
from ray_unlearn.wording import MISSING

HALF = {"method": "train", "on": {"half_of": "train", "balanced": True}}


def fit_of(inside_KN: np.ndarray, outside_KN: np.ndarray) -> ShadowFit:
    """Return the fit of these phi, in one go."""
    return ShadowFit(
        inside=side_of(inside_KN),
        outside=side_of(outside_KN),
        pairs=len(inside_KN),
        inside_spread=float(inside_KN.std()),
        outside_spread=float(outside_KN.std()),
    )


def side_of(phi_KN: np.ndarray) -> Side:
    """Return what one side's models make of N images."""
    return Side(median_N=np.median(phi_KN, 0), sd_N=phi_KN.std(0), probability_N=probability_of(phi_KN).mean(0))


def adversarial(seed: int, pairs: int, images: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return phi of a target [N], and inside and outside [K, N]: ties, a constant, saturated, an outlier."""
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(1, 2, (pairs, images)), rng.normal(0, 1.5, (pairs, images))
    target = rng.normal(0.5, 2, images)
    inside[:, 0], outside[:, 0], target[0] = 2.0, 2.0, 2.0  # models agree
    inside[:, 1] = np.round(inside[:, 1])
    outside[:, 1], target[1] = np.round(outside[:, 1]), 1.0  # ties
    inside[:, 2], outside[:, 2] = 103.616, -103.616  # saturated
    outside[0, 3] = 90.0  # an outlier
    return target, inside, outside


# LiRA


@pytest.mark.parametrize("pairs", [3, 4, 31, 33])
@pytest.mark.parametrize("fixed", [False, True])
def test_lira_is_the_authors_program(pairs: int, fixed: bool):
    """Law: image by image, medians, ddof 0 + 1e-30, and with one variance the inside's for both sides online."""
    target, inside, outside = adversarial(pairs, pairs)
    online = lira.online(target, fit_of(inside, outside), one_variance=fixed)
    two_sided = lira.offline(target, fit_of(inside, outside), one_variance=fixed, two_sided=True)
    for n in range(len(target)):
        mean_in, mean_out = np.median(inside[:, n]), np.median(outside[:, n])
        sd_in = np.std(inside) if fixed else np.std(inside[:, n])
        sd_out = np.std(inside) if fixed else np.std(outside[:, n])
        pr_in = -norm.logpdf(target[n], mean_in, sd_in + 1e-30)
        pr_out = -norm.logpdf(target[n], mean_out, sd_out + 1e-30)
        assert online[n] == pytest.approx(pr_out - pr_in, rel=1e-12, abs=1e-9)  # the program ranks by -score
        sd_off = np.std(outside) if fixed else np.std(outside[:, n])
        assert two_sided[n] == pytest.approx(-norm.logpdf(target[n], mean_out, sd_off + 1e-30), rel=1e-12, abs=1e-9)


def test_lira_offline_is_the_papers_probability():
    """Law: its score orders images as P(Z <= phi) does, without saturating."""
    target, inside, outside = adversarial(5, 40)
    score = lira.offline(target, fit_of(inside, outside), one_variance=False)[3:]
    expected = norm.cdf(target[3:], np.median(outside, 0)[3:], outside.std(0)[3:])
    assert norm.cdf(score) == pytest.approx(expected)


def test_lira_by_hand():
    """Law: two models inside at 1 and 3, two outside at -1 and 1, a target at 2: sd 1 on both sides."""
    fit = fit_of(np.array([[1.0], [3.0]]), np.array([[-1.0], [1.0]]))
    assert lira.online(np.array([2.0]), fit, one_variance=False)[0] == pytest.approx(2.0)  # (2 - 0)^2 / 2 - 0
    assert lira.offline(np.array([2.0]), fit, one_variance=False)[0] == pytest.approx(2.0)


def test_few_shadows_share_a_variance():
    """Law: below 64 shadows one variance serves all images, from 64 on each image has its own."""
    for pairs in (MANY_PAIRS - 1, MANY_PAIRS):
        target, inside, outside = adversarial(1, pairs)
        fit = fit_of(inside, outside)
        for attack in (lira.online, lira.offline):
            chosen = attack(target[3:], _of(fit, slice(3, None)))
            assert np.array_equal(chosen, attack(target[3:], _of(fit, slice(3, None)), one_variance=pairs < MANY_PAIRS))


def _of(fit: ShadowFit, images: slice) -> ShadowFit:
    sides = {}
    for name in ("inside", "outside"):
        side = getattr(fit, name)
        sides[name] = Side(
            median_N=side.median_N[images], sd_N=side.sd_N[images], probability_N=side.probability_N[images]
        )
    return ShadowFit(**sides, pairs=fit.pairs, inside_spread=fit.inside_spread, outside_spread=fit.outside_spread)


def test_an_image_without_models_inside_is_refused_online():
    """Law: the online attack never takes test images for train images."""
    fit = fit_of(np.ones((3, 2)), np.zeros((3, 2)))
    held_out = ShadowFit(inside=None, outside=fit.outside, pairs=3, inside_spread=1.0, outside_spread=1.0)
    with pytest.raises(EvaluationError, match="models that were trained on the images; found none"):
        lira.online(np.zeros(2), held_out)


# RMIA


@pytest.mark.parametrize("online", [False, True])
def test_rmia_is_run_rmia(online: bool):
    """Law: share of population images with a smaller ratio; pbar of both sides online, offline with a."""
    rng = np.random.default_rng(3)
    target, inside, outside = adversarial(7, 6)
    z_target, z_outside = rng.normal(0, 2, 25), rng.normal(0, 1, (6, 25))
    fit = fit_of(inside, outside)
    z_fit = ShadowFit(inside=None, outside=side_of(z_outside), pairs=6, inside_spread=1.0, outside_spread=1.0)
    mine = shadow_rmia.relative(target[None], fit, both_sides=online, a=0.3)
    theirs = shadow_rmia.relative(z_target[None], z_fit, both_sides=online, a=0.3)
    found = share_below(mine, theirs)[0]

    def p(phi: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-np.asarray(phi)))

    for n in range(len(target)):
        out_x = p(outside[:, n]).mean()
        mean_x = (p(inside[:, n]).mean() + out_x) / 2 if online else 1.3 / 2 * out_x + 0.7 / 2
        below = 0
        for z in range(25):
            out_z = p(z_outside[:, z]).mean()
            mean_z = out_z if online else 1.3 / 2 * out_z + 0.7 / 2
            below += (p(target[n]) / mean_x) / (p(z_target[z]) / mean_z) > 1.0
        assert found[n] == below / 25


# U-LiRA with shadows


def test_u_lira_leaves_the_pair_out():
    """Law: log-likelihood ratios of Gaussians fitted to the other pairs of both sides, variances with ddof 1."""
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, (5, 4)), rng.normal(0, 2, (5, 4))
    found = shadow_u_lira(inside, outside)
    for k in range(5):
        others = [j for j in range(5) if j != k]
        for e in range(4):
            fits = [norm(side[others, e].mean(), side[others, e].std(ddof=1)) for side in (inside, outside)]
            for side, scores in ((inside, found.unlearned_scores), (outside, found.retrained_scores)):
                assert scores[k, e] == pytest.approx(fits[0].logpdf(side[k, e]) - fits[1].logpdf(side[k, e]))
    perfect = rng.normal(0, 1, (2, 400, 20))
    assert shadow_u_lira(*perfect).auc == pytest.approx(0.5, abs=0.01)


# Stores of shadows


def publish_half(
    store: StudyStore, name: str, index: int, logits: Mapping[str, np.ndarray] | bytes, start: str = "", **fields: Any
) -> Record:
    """Publish a shadow, or a model that started from shadow `index` of `start`."""
    membership = fingerprint(half_of_train(0, start or name, index, SIZES))
    own = {"method": "finetune", "options": {}} if start else {"method": "train", "options": {"on": HALF["on"]}}
    own |= {"original": index if start else 0, "original_sha256": "", "seeds": {"study": 0}, "membership": membership}
    identity = {"starts_from": start} if start else {"options": {"on": HALF["on"]}}
    return publish(store, name, index, logits, identity, **own | fields)


def shadow_logits(seed: int, half: Mapping[str, np.ndarray], known: float) -> dict[str, np.ndarray]:
    """Return logits in which the label's is `known` higher for the images of a half."""
    logits = draw_logits(seed)
    for split, mine_N in half.items():
        rows = np.flatnonzero(mine_N)
        logits[split][rows, labels_of(split)[rows]] += known
    return logits


def shadow_store(
    folder: Path, counts: Mapping[str, int], known: float = 2.0, **changes: Any
) -> tuple[Study, StudyStore]:
    """Return a study with an original, retrained models, and `counts` shadows and models that started from them."""
    populations = {"shadows": HALF | {"count": counts["shadows"]}}
    if "forgetful" in counts:
        populations["forgetful"] = {"method": "finetune", "starts_from": "shadows", "count": counts["forgetful"]}
    others = {name: count for name, count in counts.items() if name not in populations}
    study = study_of(folder, others, populations=populations, **changes)
    store = StudyStore(open_storage(str(folder)), study.name)
    publish_splits(store)
    store.storage.publish_file(store.layout.study_json, study.model_dump_json().encode())
    for number, (name, count) in enumerate(others.items()):
        for index in range(count):
            lift = known if name == "original" else 0.5 * known if name not in ("retrained",) else 0.0
            logits = draw_logits(10_000 * number + index, shift=lift)
            if name == "original":
                rows = np.arange(SIZES["retain"])
                logits["retain"][rows, labels_of("retain")] += known
            publish(store, name, index, logits, options={"on": "train" if name == "original" else "retain"})
    for index in range(counts["shadows"]):
        half = half_of_train(0, "shadows", index, SIZES)
        publish_half(store, "shadows", index, shadow_logits(70_000 + index, half, known))
    for index in range(counts.get("forgetful", 0)):
        half = half_of_train(0, "shadows", index, SIZES)
        publish_half(store, "forgetful", index, shadow_logits(80_000 + index, half, known / 2), "shadows")
    return study, store


def test_a_pair_is_sorted_by_image(tmp_path: Path):
    """Law: inside is the run that was trained on the image; a test image gets either run, each about as often."""
    _, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 8})
    records = store.made("shadows")
    outputs = read_outputs(store, "shadows", records)
    chosen = []
    for pair, found in enumerate(pairs_of(store, "shadows", records, SIZES)):
        half = half_of_train(0, "shadows", 2 * pair, SIZES)
        for split in HALVED:
            phi, correct = outputs.splits[split].phi_RN, outputs.splits[split].correct_RN
            for n in range(SIZES[split]):
                mine, other = (2 * pair, 2 * pair + 1) if half[split][n] else (2 * pair + 1, 2 * pair)
                assert (found[split].inside_N[n], found[split].outside_N[n]) == (phi[mine, n], phi[other, n])
                assert found[split].inside_correct_N[n] == correct[mine, n]
                assert found[split].outside_correct_N[n] == correct[other, n]
        chosen.append(found["test"].outside_N == outputs.splits["test"].phi_RN[2 * pair])
    assert 0.3 < np.mean(chosen) < 0.7
    held_out = half_of(0, "shadows", 0, "test", SIZES["test"])
    assert np.array_equal(chosen[0], ~held_out)


def test_fits_in_blocks_are_those_of_all_images_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: whatever the size of a block; without the last pair, as if it did not exist."""
    _, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 12})
    records = store.made("shadows")
    pairs = list(pairs_of(store, "shadows", records, SIZES))
    monkeypatch.setattr(shadows_module, "BLOCK_BYTES", 7 * 16 * 6)  # seven images of six pairs
    found = {}
    for without_last in (False, True):
        kept = {index: record for index, record in records.items() if not without_last or index < len(records) - 2}
        with ShadowPhi(store, "shadows", kept, SIZES) as phi:
            found[without_last] = phi.fits()
    for without_last, fits in found.items():
        used = pairs[:-1] if without_last else pairs
        for split in SIZES:
            sides = [np.stack([getattr(one[split], f"{side}_N") for one in used]) for side in ("inside", "outside")]
            fit = fits[split]
            assert fit.pairs == len(used)
            assert (fit.inside is None) == (split == "test")
            for side, phi_KN in zip((fit.inside, fit.outside), sides, strict=True):
                if side is not None:
                    assert np.array_equal(side.median_N, np.median(phi_KN, 0))
                    assert side.sd_N == pytest.approx(phi_KN.std(0))
                    assert side.probability_N == pytest.approx(probability_of(phi_KN).mean(0))
        train = [
            np.concatenate([np.stack([getattr(p[s], f"{side}_N") for p in used]) for s in HALVED], axis=1)
            for side in ("inside", "outside")
        ]
        assert fits["test"].inside_spread == pytest.approx(train[0].std())
        assert fits["test"].outside_spread == pytest.approx(train[1].std())


def test_memory_does_not_grow_with_shadows(monkeypatch: pytest.MonkeyPatch):
    """Law: eight times as many shadows need no more memory than a few; Python and NumPy report every array."""
    images = 20_000
    labels_N = np.zeros(images, np.int64)

    def made_up(store: Any, population: str, records: Mapping[int, Any], sizes: Any) -> Any:
        for pair in complete_pairs(records):
            phi = np.random.default_rng(pair).normal(size=(2, images))
            one = PairSplit(
                positions_N=np.arange(images),
                labels_N=labels_N,
                inside_N=phi[0],
                outside_N=phi[1],
                inside_correct_N=phi[0] > 0,
                outside_correct_N=phi[1] > 0,
            )
            yield {"retain": one}

    monkeypatch.setattr(shadows_module, "pairs_of", made_up)
    monkeypatch.setattr(shadows_module, "BLOCK_BYTES", 2**20)
    peaks = []
    for shadows in (16, 128):
        tracemalloc.start()
        with ShadowPhi(None, "", dict.fromkeys(range(shadows)), {}) as phi:  # type: ignore[arg-type]
            fit = phi.fits()["retain"]
        memorisation(made_up(None, "", dict.fromkeys(range(shadows)), {}))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert fit.pairs == shadows // 2
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 128 * images * 8 / 2  # half of what all phi would take


def test_memorisation_is_the_authors_program(tmp_path: Path):
    """Law: masked averages of correctness over the models with and without each image."""
    _, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 10}, known=1.0)
    records = store.made("shadows")
    outputs = read_outputs(store, "shadows", records)
    found = memorisation(pairs_of(store, "shadows", records, SIZES))
    for split in HALVED:
        mask = np.stack([half_of_train(0, "shadows", index, SIZES)[split] for index in range(10)])
        correct = outputs.splits[split].correct_RN
        expected = (correct * mask).sum(0) / mask.sum(0) - (correct * ~mask).sum(0) / (~mask).sum(0)
        assert found[split].score_N == pytest.approx(expected)
        p = probability_of(outputs.splits[split].phi_RN)
        assert found[split].gap_N == pytest.approx((p * mask).sum(0) / 5 - (p * ~mask).sum(0) / 5)
    assert memorisation([]) == {}


def test_a_run_without_its_partner_is_left_out(tmp_path: Path):
    """Law: only complete pairs count, so that each image has as many models inside as outside."""
    _, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 9})
    records = store.made("shadows")
    assert complete_pairs(records) == [0, 1, 2, 3]
    del records[2]
    assert complete_pairs(records) == [0, 2, 3]
    assert len(list(pairs_of(store, "shadows", records, SIZES))) == 3


def test_another_half_is_refused(tmp_path: Path):
    """Law: a shadow whose record names another half is an error, never a wrong attack."""
    _, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 8})
    publish_half(store, "shadows", 8, draw_logits(1), membership="1" * 64)
    publish_half(store, "shadows", 9, draw_logits(2))
    with pytest.raises(StoreError, match="shadows/00008: its record names another half"):
        list(pairs_of(store, "shadows", store.made("shadows"), SIZES))


def test_a_population_that_is_not_of_shadows_has_no_matrix(tmp_path: Path):
    """Law: the error says what its models are trained on."""
    _, store = shadow_store(tmp_path, {"original": 1, "retrained": 2, "shadows": 2})
    assert membership_matrix(store, "shadows").shape == (2, SIZES["retain"] + SIZES["forget"])
    with pytest.raises(StoreError, match=r"retrained: expected shadows, on: \{half_of: train\}; found retain"):
        membership_matrix(store, "retrained")


def test_the_table_of_images_compares_what_is_compared(tmp_path: Path):
    """Law: models on halves of the images get no epsilon; a population of other images is an error."""
    counts = {"original": 1, "retrained": 4, "finetune": 4, "shadows": 4, "forgetful": 4}
    study, store = shadow_store(tmp_path, counts)
    table = image_table(study, store)
    assert set(table[table["epsilon_n"] > 0]["population"]) == {"finetune"}
    publish(store, "finetune", 4, draw_logits(0), {"data": {"splits": "cd" * 32}})
    with pytest.raises(StoreError, match="finetune and retrained do not compare: their images are of splits cdcd"):
        image_table(study, store)


def test_shadows_are_no_reference(tmp_path: Path):
    """Law: nothing unlearned is compared with models of which some were trained on the forget images."""
    study, store = shadow_store(tmp_path, {"original": 1, "retrained": 3, "finetune": 3, "shadows": 4})
    tree = study.model_dump(mode="json")
    tree["evaluation"]["reference"] = "shadows"
    with pytest.raises(StudyError, match=r"evaluation\.reference: shadows is of models on parts of .*: finetune does"):
        evaluate(parse_study(tree, where="a test"), store)


def test_margins_to_the_next_class_are_not_attacked_by_shadows(tmp_path: Path):
    """Law: shadows are fitted to phi, and such margins are another number."""
    _, store = shadow_store(tmp_path, {"original": 1, "retrained": 3, "finetune": 3, "shadows": 8})
    fits = shadow_scores.fits_of(store, "shadows", store.made("shadows"), SPLITS_DIGEST)
    outputs = read_outputs(store, "finetune", store.made("finetune"))
    nexts = replace(outputs, splits={name: replace(one, margin="top_two") for name, one in outputs.splits.items()})
    assert MEASURES["lira_online_auc"].applies(outputs.with_shadows(fits))
    assert not MEASURES["lira_online_auc"].applies(nexts.with_shadows(fits))


def test_an_original_of_another_store_is_not_attacked(tmp_path: Path):
    """Law: shadows attack the originals of their own study; another's is described alone."""
    study, store = shadow_store(tmp_path / "a", {"original": 1, "retrained": 3, "shadows": 8})
    _, away = shadow_store(tmp_path / "b", {"original": 2, "retrained": 3, "shadows": 2})
    tree = study.model_dump(mode="json")
    del tree["populations"]["original"]
    tree["evaluation"]["populations"] = {"original": f"{away.uri}/original"}
    found = evaluate(parse_study(tree, where="a test"), store).populations["original"]
    assert (found.role, found.runs, found.attacks) == ("original", 2, {})


@pytest.mark.parametrize(("lost", "pairs"), [([4], 3), (range(8), 0)])
def test_models_whose_shadows_are_lost(tmp_path: Path, lost: Sequence[int], pairs: int):
    """Law: U-LiRA is of the pairs whose shadows are there, and too few of these are a reason, not a crash."""
    study, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 8, "forgetful": 8})
    for index in lost:
        shutil.rmtree(tmp_path / study.name / "shadows" / f"{index:05d}")
    scored = evaluate(study, store).populations["forgetful"]
    assert [one.targets for one in scored.attacks.values()] == [2 * pairs] * 2 * (pairs > 0)
    assert any("complete pairs of models and their shadows" in line for line in scored.warnings) is (pairs == 0)


@pytest.mark.parametrize("others", [(8, 9), (9,)])
def test_outputs_of_other_images_are_refused(tmp_path: Path, others: tuple[int, ...]):
    """Law: runs, or pairs, with outputs of as many other images are an error, never numbers of mixed images."""
    store = StudyStore(open_storage(str(tmp_path)), "mixed")
    for index in range(10):
        one_N = np.array([1 if index in others else 0])
        split = SplitLogits(one_N, labels_of("forget")[one_N], draw_logits(index)["forget"][one_N])
        publish_half(store, "shadows", index, encode_outputs({"forget": split}))
    with pytest.raises(StoreError, match=r"pair 4 ha(s|ve) outputs of other images"):
        memorisation(pairs_of(store, "shadows", store.made("shadows"), SIZES))


# A study's scores


def test_a_study_with_shadows(tmp_path: Path):
    """Law: attacks on the original, the last pair and unlearned models; memorisation; saved and read back."""
    counts = {"original": 1, "retrained": 16, "finetune": 8, "shadows": 64, "forgetful": 64}
    study, store = shadow_store(tmp_path, counts, known=3.0)
    scores = evaluate(study, store)
    assert read_scores(store) == scores
    roles = {name: one.role for name, one in scores.populations.items()}
    assert roles == {
        "original": "original",
        "retrained": "reference",
        "finetune": "unlearned",
        "shadows": "shadow",
        "forgetful": "unlearned shadow",
    }
    assert scores.ranks == {} or set(scores.ranks["score"]) == {"finetune"}
    original, shadows = (scores.populations[name].attacks for name in ("original", "shadows"))
    assert (original["lira_online"].auc, original["lira_online"].missing) == (None, NO_NEGATIVES)
    offline = original["lira_offline"]
    assert (offline.members, offline.non_members, offline.shadows, offline.targets) == (42, 20, 64, 1)
    assert offline.auc is not None
    assert offline.auc > 0.85
    assert offline.tpr_1_percent is None  # 20 test images: one false positive is 5 %
    assert (shadows["lira_online"].members, shadows["lira_online"].non_members) == (21, 21)
    assert (shadows["lira_online"].shadows, shadows["lira_online"].targets) == (62, 2)
    for attack in ("lira_online", "lira_offline", "rmia_online", "rmia_offline"):
        assert shadows[attack].auc > 0.8, attack  # type: ignore[operator]
    assert scores.populations["shadows"].measures == {}
    forgetful = scores.populations["forgetful"].attacks
    assert forgetful.keys() == {"u_lira_unlearned", "u_lira_retrained"}
    assert forgetful["u_lira_unlearned"].members == 32 * SIZES["forget"]
    for one in forgetful.values():
        assert 0.7 < one.auc < 0.95  # type: ignore[operator]  # half of what was learned is left
    memorised = scores.populations["shadows"].memorisation
    assert memorised is not None
    assert (memorised.images, memorised.models) == (42, 64)
    best = memorised.hardest[0]
    assert best.inside - best.outside == max(memorised.quantiles)
    rows = list(csv.DictReader(io.StringIO(store.storage.read(store.layout.memorisation("shadows")).decode())))
    assert [row["image_id"] for row in rows] == [*most_memorised(store, 41), rows[-1]["image_id"]]
    assert (rows[0]["image_id"], rows[0]["label"]) == (best.image_id, best.label)
    assert float(rows[0]["memorisation"]) == pytest.approx(best.inside - best.outside, abs=1e-5)
    assert {row["split"] for row in rows} == {"retain", "forget"}
    measures = scores.populations["finetune"].measures
    assert measures.keys() == MEASURES.keys()
    for name in ("lira_offline_auc", "lira_online_auc", "shadow_rmia_offline_auc", "shadow_rmia_online_auc"):
        found = measures[name]
        assert found.value > 0.6, name  # type: ignore[operator]
        assert 0.3 < found.null < 0.7, name  # type: ignore[operator]
        assert found.low < found.value < found.high, name  # type: ignore[operator]
    assert {"lira_online", "lira_offline_auc"} <= scores.populations["finetune"].curves.keys()


def test_the_last_pair_is_attacked_by_all_others(tmp_path: Path):
    """Law: its two models are targets and never part of a fit; members are those of each one's own half."""
    study, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 12}, known=2.0)
    found = evaluate(study, store).populations["shadows"].attacks
    outputs, areas = read_outputs(store, "shadows", store.made("shadows")), []
    halves = [half_of_train(0, "shadows", index, SIZES) for index in range(12)]
    mask_RN = np.concatenate([np.stack([half[split] for half in halves]) for split in HALVED], axis=1)
    phi_RN = np.concatenate([outputs.splits[split].phi_RN for split in HALVED], axis=1)
    inside_RN, outside_RN = (np.where(mask, phi_RN, np.nan)[:10] for mask in (mask_RN, ~mask_RN))
    sd = np.nanstd(inside_RN)  # five pairs share a variance
    for target in (10, 11):
        scores = norm.logpdf(phi_RN[target], np.nanmedian(inside_RN, 0), sd)
        scores = scores - norm.logpdf(phi_RN[target], np.nanmedian(outside_RN, 0), sd)
        members = mask_RN[target]
        areas.append((scores[members][:, None] > scores[~members]).mean())
    assert found["lira_online_one_variance"].auc == pytest.approx(np.mean(areas))
    assert found["lira_online_one_variance"].shadows == 10


def test_without_shadows_there_is_no_word_of_them(tmp_path: Path):
    """Law: a study that has none has none of their measures, as before there were shadows."""
    study, store = evaluated_store(tmp_path, {"retrained": 8, "again": 4})
    one = evaluate(study, store).populations["again"]
    assert one.measures.keys() == {name for name, measure in MEASURES.items() if not measure.of_shadows}
    assert not any(name.startswith(("lira", "shadow")) for name in one.curves)


def test_few_shadows_attack_nothing(tmp_path: Path):
    """Law: with fewer than four complete pairs there is a warning instead of a number."""
    study, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "finetune": 4, "shadows": 7})
    scores = evaluate(study, store)
    assert scores.populations["shadows"].attacks == {}
    assert "3 complete pairs of shadows" in scores.populations["shadows"].warnings[0]
    assert scores.populations["original"].attacks == {}
    assert "lira_offline_auc" not in scores.populations["finetune"].measures


def test_an_original_on_a_half_is_attacked_by_both(tmp_path: Path):
    """Law: its own half are the positives, the rest the negatives, online and offline."""
    study, store = shadow_store(tmp_path, {"retrained": 4, "shadows": 16}, known=3.0)
    half = half_of_train(0, "original", 0, SIZES)
    publish_half(store, "original", 0, shadow_logits(5, half, 3.0))
    found = evaluate(study, store).populations["original"].attacks
    for attack, one in found.items():
        assert (one.members, one.non_members, one.shadows) == (21, 21, 16), attack
        assert one.auc > 0.6 or attack == "lira_offline_two_sided", attack  # type: ignore[operator]


def test_more_shadows_score_their_parts_anew(tmp_path: Path):
    """Law: parts that shadows attack depend on the shadows; the reference's own does not."""
    counts = {"original": 1, "retrained": 8, "finetune": 8, "shadows": 8}
    study, store = shadow_store(tmp_path, counts)
    evaluate(study, store)
    log: list[str] = []
    more, _ = shadow_store(tmp_path, counts | {"shadows": 10})
    evaluate(more, store, log=log.append)
    assert log[0] == "1 of 5 parts are unchanged"


def test_shadows_are_fitted_once_for_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: original, method and null take the fits that the first of them made, and no number changes."""
    fitted: list[int] = []

    class Counted(ShadowPhi):
        def fits(self, **wanted: Any) -> Any:
            fitted.append(self.pairs)
            return super().fits(**wanted)

    class Never(dict[Any, Any]):
        def __contains__(self, key: object) -> bool:
            return False

    monkeypatch.setattr(shadow_scores, "ShadowPhi", Counted)
    study, store = shadow_store(tmp_path, {"original": 1, "retrained": 8, "finetune": 8, "shadows": 8})
    monkeypatch.setattr(shadow_scores, "_KNOWN", {})
    once = evaluate(study, store)
    assert sorted(fitted) == [3, 4]  # the last pair is a target, and is left out there
    for part in (tmp_path / study.name / "scores").rglob("*"):
        part.unlink() if part.is_file() else None
    monkeypatch.setattr(shadow_scores, "_KNOWN", Never())
    assert evaluate(study, store) == once
    assert sorted(fitted[2:]) == [3, 4, 4, 4]


# Forget sets by memorisation


def test_the_most_memorised_images_come_first(tmp_path: Path):
    """Law: by score, ties by the gap; of retain and forget images alike."""
    study, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 12}, known=1.0)
    scores = memorisation(pairs_of(store, "shadows", store.made("shadows"), SIZES))
    rows = [
        (-one.score_N[n], -one.gap_N[n], f"{split}-{n:03d}")
        for split, one in scores.items()
        for n in range(SIZES[split])
    ]
    wanted = [name for _, _, name in sorted(rows)]
    assert len({score for score, _, _ in rows}) < len(rows)
    assert most_memorised(store, 41) == wanted[:41]
    assert most_memorised(store, 5, "shadows") == wanted[:5]
    with pytest.raises(DataError, match="asks for 42 of its 42 train images; some must remain"):
        most_memorised(store, 42)
    with pytest.raises(DataError, match="population original is not trained on halves"):
        most_memorised(store, 5, "original")
    assert CLASSES == 3
    assert study.data.forget.fraction


def test_images_without_outputs_are_missed(tmp_path: Path):
    """Law: the hardest of a part of the images are not taken for the hardest of all."""
    _, store = shadow_store(tmp_path, {"original": 1, "retrained": 4, "shadows": 8})
    for index in range(8):
        logits = draw_logits(index)
        del logits["retain"]
        store.discard(Run(population="shadows", index=index))
        publish_half(store, "shadows", index, logits)
    with pytest.raises(DataError, match="population shadows saved outputs of 0 of 30 retain images"):
        most_memorised(store, 3)


def test_a_study_without_shadows_memorises_nothing_known(tmp_path: Path):
    """Law: one line names what is missing, or which of several populations is to be named."""
    _, store = evaluated_store(tmp_path, {"retrained": 4})
    with pytest.raises(DataError, match="it has no population of shadows, such as"):
        most_memorised(store, 3)
    two = {"shadows": HALF | {"count": 8}, "more": HALF | {"count": 8}}
    study = study_of(tmp_path, {"retrained": 4}, populations=two)
    store.storage.publish_file(store.layout.study_json, study.model_dump_json().encode())
    with pytest.raises(DataError, match="it has 2 populations of shadows; name one: shadows: shadows"):
        most_memorised(store, 3)


def test_a_study_forgets_what_shadows_of_another_memorised(tmp_path: Path):
    """Law: from the study file alone; the other study is read, and a study cannot name itself."""
    base = {
        "storage": str(tmp_path),
        "populations": {"original": None, "finetune": None, "shadows": HALF | {"count": 8}},
    }
    outputs = {"outputs": {"splits": ["retain", "forget", "test"]}}
    first = parse_study(merged(TINY, base | outputs | {"name": "known"}), "a test")
    assert generate(first, backend="inline").exit_code == 0
    wanted = most_memorised(StudyStore(open_storage(str(tmp_path)), "known"), 6)
    forget = {"fraction": None, "hardest": 6, "by": "memorisation", "of": "known"}
    hard = merged(TINY, {"storage": str(tmp_path), "name": "hard", "data": {"forget": forget}})
    assert generate(parse_study(hard, "a test"), backend="inline").exit_code == 0
    store = StudyStore(open_storage(str(tmp_path)), "hard")
    held = store.held("original") or {}
    assert sorted(read_image_names(store, held["identity"]["data"]["splits"]).ids["forget"]) == sorted(wanted)
    with pytest.raises(
        StudyError, match=r"data.forget.of: 'known' is this study; its forget set cannot depend on its own"
    ):
        parse_study(hard | {"name": "known"}, "a test")
    with pytest.raises(StudyError, match="shadows belongs to by: memorisation"):
        parse_study(merged(hard, {"data": {"forget": {"by": "confidence_gap", "shadows": "shadows"}}}), "a test")


# What people see


def test_the_report_shows_attacks_and_memorisation(tmp_path: Path):
    """Law: one row per population and attack with its N, one per population that memorised; a line on the terminal."""
    counts = {"original": 1, "retrained": 8, "finetune": 4, "shadows": 16, "forgetful": 8}
    study, store = shadow_store(tmp_path, counts, known=3.0)
    scores = evaluate(study, store)
    attacks, memorised = shadow_tables(scores)
    assert len(attacks.rows) == 7 + 7 + 2
    original = {row[1].text: row for row in attacks.rows if row[0].text == "original"}
    assert original["LiRA online"][1].notes == (NO_NEGATIVES,)
    assert original["LiRA offline"][2].value == scores.populations["original"].attacks["lira_offline"].auc
    assert [cell.text for cell in original["LiRA offline"][5:]] == ["42", "20", "16"]
    assert [row[0].text for row in memorised.rows] == ["shadows"]
    known = scores.populations["shadows"].memorisation
    assert known is not None
    assert known.by_chance is not None
    assert memorised.rows[0][4].notes[1] == f"{known.by_chance:.0f} by chance"
    lines = shadow_lines(scores)
    assert [line.split()[0].rstrip(":,") for line in lines] == ["AUC", "original", "shadows", "shadows", "forgetful"]
    assert lines[1].split()[1:4] == [MISSING, original["LiRA offline"][2].text, MISSING]
    assert lines[2].split()[-1] == "14"
    assert f" of 42 train images are memorised (0.25 or more, {known.by_chance:.0f} by chance)" in lines[3]
    assert max(map(len, lines)) <= 100
    captions = [table.caption for table in measure_tables(scores)]
    assert "LiRA: attacks that know shadow models" in captions
    page = html_page(scores, json.loads(study.model_dump_json()))
    for words in (
        "Membership attacks by shadow models",
        "Memorised images",
        "ROC of LiRA offline, training images known",
    ):
        assert words in page, words
    assert "Memorised images" in markdown_page(scores, {})
    assert [one.population for one in in_order(scores)] == ["retrained", "original", "finetune", "shadows", "forgetful"]


def test_a_report_without_shadows_does_not_mention_them(tmp_path: Path):
    """Law: nothing is said about attacks that the study never asked for."""
    study, store = evaluated_store(tmp_path, {"retrained": 8, "again": 4})
    scores = evaluate(study, store)
    assert shadow_tables(scores) == []
    assert shadow_lines(scores) == []
    assert not any("LiRA o" in line or "shadow" in line for line in left_out(scores))
