"""A toy that is frozen, trained, stopped and resumed: the last two questions of the doctor."""

from __future__ import annotations

import io
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.augment import Augment
from finetune.data.batches import load_images
from finetune.data.dataset import Dataset
from finetune.data.folder import ImageFolder
from finetune.device import choose
from finetune.errors import Stopped
from finetune.files import write_atomic
from finetune.model.backbones import build
from finetune.model.freeze import freeze_hashes
from finetune.model.plan import make_plan
from finetune.model.weights import tensors_sha256
from finetune.runs.checkpoints import Checkpoints
from finetune.train.state import Settings
from finetune.train.trainer import Trainer

STOP_AT = 4
"""The step of the toy's six after which it is stopped: in the middle of its second epoch."""

EPOCHS, RATE = 2, 0.01


class Toy:
    """A tiny network, trained on pictures of noise on the CPU: it shows that bits stay bits, not that it learns.

    Args:
        folder: an empty one to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole: str | None = None

    def freeze_proof(self) -> tuple[bool, str]:
        """Frozen tensors have the same bits after training; those that learn do not."""
        trainer = self._trainer("whole")
        frozen = trainer.plan.frozen_tensors()
        before, all_before = freeze_hashes(trainer.state(), frozen), tensors_sha256(trainer.state())
        list(trainer)
        after = freeze_hashes(trainer.state(), frozen)
        self.whole = tensors_sha256(trainer.state())
        changed = [group for group in before if before[group] != after[group]]
        if changed or self.whole == all_before:
            return False, f"frozen layers changed: {changed}" if changed else "nothing was learned"
        return True, f"{len(before)} frozen layer groups have the same bits after {trainer.position.step} steps"

    def stop_and_resume(self) -> tuple[bool, str]:
        """Stopped within an epoch and resumed from its checkpoint, the toy ends in the same bits."""
        trainer = self._trainer("stopped", stop_at=STOP_AT)
        try:
            list(trainer)
            return False, "it did not stop when asked to"
        except Stopped:
            step = trainer.position.step
        again = self._trainer("stopped")
        assert again.checkpoints is not None
        saved = again.checkpoints.latest(lambda text: None)
        if saved is None:
            return False, "nothing was saved"
        again.restore(saved)
        list(again)
        same = tensors_sha256(again.state()) == self.whole
        return same, f"stopped at step {step} and resumed to {'the same' if same else 'OTHER'} bits"

    def _trainer(self, name: str, stop_at: int | None = None) -> Trainer:
        """A new toy that saves in the folder `name`, and stops after `stop_at` steps."""
        data = self._data()
        network = build("timm/test_resnet", data.classes, weights="none", preprocess={"size": 32})
        plan = make_plan(
            network.groups,
            network.parameters,
            unfreeze={"last:1": 0, "head": 0},
            epochs=EPOCHS,
            lr=RATE,
            backbone_lr=RATE,
        )
        settings = Settings(batch_size=4, warmup_epochs=0.1, keep_statistics=False, augment=Augment("light"))
        steps: list[int] = []
        return Trainer(
            network,
            plan,
            load_images(data.train, network.preprocess, 0),
            load_images(data.val, network.preprocess, 0),
            settings,
            replace(choose("cpu", "fp32"), threads=1),
            checkpoints=Checkpoints(self.folder / name),
            tick=lambda *_: steps.append(1),
            stop=lambda: signal.SIGTERM if stop_at is not None and len(steps) >= stop_at else None,
        )

    def _data(self) -> Dataset:
        """Two classes of eight pictures of noise."""
        root = self.folder / "images"
        rng = np.random.default_rng(0)
        for name in () if root.is_dir() else ("one", "two"):
            for number in range(8):
                memory = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(memory, format="PNG")
                write_atomic(root / name / f"{number}.png", memory.getvalue())
        return ImageFolder(root).split(val=0.25, test=0.0, seed=0)
