"""Architectures by name, reading and writing their weights, and quick copies of one model.

    model = models.build(study.model, num_classes=9, seeds=Seeds(study=0))
    models.load_weights(model, models.parse_weights(models.read_file("a.pth"), "a.pth"), where="a.pth")

Does not cover: training (`ray_unlearn.training`), the places of checkpoints (`ray_unlearn.store`).
"""

from ray_unlearn.models.architectures import BUILT_IN as BUILT_IN
from ray_unlearn.models.architectures import build as build
from ray_unlearn.models.architectures import check_source as check_source
from ray_unlearn.models.architectures import identity as identity
from ray_unlearn.models.architectures import small_cnn as small_cnn
from ray_unlearn.models.architectures import started_from as started_from
from ray_unlearn.models.hidden import check_state as check_state
from ray_unlearn.models.hidden import seeds_itself as seeds_itself
from ray_unlearn.models.hidden import untrained as untrained
from ray_unlearn.models.libraries import package_of as package_of
from ray_unlearn.models.scaling import scaled_twice as scaled_twice
from ray_unlearn.models.template import Template as Template
from ray_unlearn.models.trial import fails_on_one as fails_on_one
from ray_unlearn.models.trial import try_net as try_net
from ray_unlearn.models.weight_files import parse_weights as parse_weights
from ray_unlearn.models.weights import DTYPES as DTYPES
from ray_unlearn.models.weights import checkpoint_bytes as checkpoint_bytes
from ray_unlearn.models.weights import load_weights as load_weights
from ray_unlearn.models.weights import open_weights as open_weights
from ray_unlearn.models.weights import read_file as read_file
from ray_unlearn.models.weights import round_parameters as round_parameters
