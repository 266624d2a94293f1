"""The study file as frozen, validated values, and the plan made from it.

    study = load_study("faces.yaml", overrides=["training.lr=1e-4"])
    study.data.image_size                        # 32
    plan = make_plan(study, Ingredients(data={...}, model={...}, methods={...}))
    plan.runs                                    # every run of every population, as frozen values

`schema` holds the keys, `loading` reads the file and describes its errors, `template` writes one to start from, and
`plan` turns a study into runs and digests.

Does not cover: the options of methods (`ray_unlearn.methods`), nor whether the data exist (`ray_unlearn.data`).
"""

from ray_unlearn.study.loading import load_study as load_study
from ray_unlearn.study.loading import parse_study as parse_study
from ray_unlearn.study.plan import Ingredients as Ingredients
from ray_unlearn.study.plan import Plan as Plan
from ray_unlearn.study.plan import Population as Population
from ray_unlearn.study.plan import Run as Run
from ray_unlearn.study.plan import Shard as Shard
from ray_unlearn.study.plan import make_plan as make_plan
from ray_unlearn.study.recipe import Recipe as Recipe
from ray_unlearn.study.schema import Study as Study
