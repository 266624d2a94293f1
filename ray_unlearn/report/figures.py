"""The page's pictures as files for a paper: PDF and SVG.

    files = save_figures(scores, Path("figures"))        # figures/closeness.pdf, closeness.svg, growth-kookmin.pdf, ...

They are the page's own drawings, in its light colours on a transparent ground; text stays text.

Does not cover: what the pictures show (`overview_pictures`, `image_pictures`, `curve_pictures`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ray_unlearn.errors import writing
from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.report import curve_pictures, image_pictures, overview_pictures
from ray_unlearn.report.ink import for_paper, kept
from ray_unlearn.report.ranking import in_order

ENDINGS = (".pdf", ".svg")
OF_ALL: dict[str, Callable[[Scores], str]] = {
    "closeness": overview_pictures.forest,
    "accuracy-against-forgetting": overview_pictures.plane,
}
OF_EACH: dict[str, Callable[[Scores, PopulationScores], str]] = {
    "epsilon": image_pictures.histogram,
    "images": image_pictures.distributions,
    "growth": curve_pictures.growth,
    "epochs": curve_pictures.stages,
    **{f"roc-{name}": partial(curve_pictures.roc, attack=name) for name in curve_pictures.ATTACKS},
}


def save_figures(scores: Scores, folder: Path) -> list[Path]:
    """Write every picture as PDF and as SVG; return the files.

    Raises:
        StoreError: the folder cannot be written.

    """
    files = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in _drawings(scores):
            with kept() as figures:
                draw()
            for figure in figures:
                for ending in ENDINGS:
                    files.append(folder / f"{name}{ending}")
                    files[-1].write_bytes(for_paper(figure, ending[1:]))
    return files


def _drawings(scores: Scores) -> Iterator[tuple[str, Callable[[], str]]]:
    for name, draw in OF_ALL.items():
        yield name, partial(draw, scores)
    for found in in_order(scores):
        for name, draw_one in OF_EACH.items():
            yield f"{name}-{found.population}", partial(draw_one, scores, found)
