"""The table of scores.parquet.

    table = scores_table(scores)                 # pandas, one row per population and measure

Does not cover: tables for readers (`ray_unlearn.report`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_unlearn.evaluation.scores import Scores

if TYPE_CHECKING:
    import pandas as pd


def scores_table(scores: Scores) -> pd.DataFrame:
    """Return one row per population and measure: what scores.parquet holds.

    `low` and `high` are of the population alone; of ranked measures, `low_at_once` and `high_at_once` hold for all
    populations together, hence for the best of them, and `place_best` and `place_worst` are its places.
    """
    import pandas as pd

    whole = {"study": scores.study, "mode": scores.mode, "reference": scores.reference}
    places = {measure: {n: one.model_dump() for n, one in each.items()} for measure, each in scores.ranks.items()}
    columns = {"low": "low_at_once", "high": "high_at_once", "best": "place_best", "worst": "place_worst"}
    rows = [
        {**whole, "population": name, "method": found.method, "measure": measure, **estimate.model_dump()}
        | {column: places.get(measure, {}).get(name, {}).get(key) for key, column in columns.items()}
        for name, found in scores.populations.items()
        for measure, estimate in found.measures.items()
    ]
    return pd.DataFrame(rows)
