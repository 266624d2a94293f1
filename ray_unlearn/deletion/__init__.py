"""One deletion request: a trained model and the images that it should forget -> an unlearned model, with evidence.

    found = forget(model="model.pth", arch="resnet18", data="photos", ids="delete.csv", out="out", budget="30m")
    found.model                                  # out/model.pth
    found.page                                   # out/deletion.html

`request` writes the study that is made, `original` checks the imported model, `making` makes runs within a budget,
`findings` reads the results, `words` states what they show, `page` shows them.

Does not cover: many methods against each other, which is what a study of its own is for.
"""

from ray_unlearn.deletion.making import Deletion as Deletion
from ray_unlearn.deletion.making import forget as forget
from ray_unlearn.deletion.making import forget_study as forget_study
from ray_unlearn.deletion.request import Request as Request
