"""The study of tests/stress/chaos.py: its file, whose `count` grows, and what was ever seen of it.

    study = Study(Path("/tmp/chaos/disturbed"))
    study.count += BATCH
    study.write()

Does not cover: who makes it, and who dies (`chaos`).
"""

import shutil
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from ray_unlearn.models import small_cnn

HERE = Path(__file__).parent
BATCH = 60  # runs by which a finished study grows


class Study:
    """A study file whose `count` grows, and what of it was ever seen recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.seen = folder, BATCH, set[Path]()
        folder.mkdir(parents=True)
        for name in ("faults.py", "chaos_method.py", "chaos_net.py"):
            shutil.copy(HERE / name, folder)
        torch.manual_seed(0)
        save_file(small_cnn(10, width=4).state_dict(), folder / "original.safetensors")
        self.write()

    def write(self) -> Path:
        """Write the file as it is now."""
        study = {
            "name": "chaos",
            "storage": str(self.folder / "store"),
            "data": {"train": "digits", "test": "digits", "image_size": 8, "limit": 100, "forget": {"fraction": 0.1}},
            "model": {"arch": "chaos_net:make", "options": {"width": 4}},
            "populations": {
                "original": {"weights": str(self.folder / "original.safetensors")},
                "mine": {"method": f"{self.folder / 'chaos_method.py'}:unlearning", "count": self.count},
            },
            "execution": {"device": "cpu", "workers": 2, "max_attempts": 50},
        }
        path = self.folder / "study.yaml"
        path.write_text(yaml.safe_dump(study))
        return path

    def lost(self) -> set[Path]:
        """Return the runs that were recorded once and are not any more."""
        now = set(self.folder.glob("store/chaos/*/0*/record.json"))
        self.seen |= now
        return self.seen - now

    def payloads(self) -> dict[str, bytes]:
        """Return every checkpoint and output by its path in the store."""
        files = (path for path in self.folder.glob("store/chaos/*/0*/*") if path.suffix != ".json")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}
