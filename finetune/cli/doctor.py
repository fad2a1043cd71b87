"""`finetune doctor`: is this machine fit, down to a toy that is frozen, trained, stopped and gone on with."""

from __future__ import annotations

import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli.options import json_flag, print_json
from finetune.errors import ResourceError, Stopped

if TYPE_CHECKING:
    from finetune.data.folder import Dataset
    from finetune.train.trainer import Trainer

STOP_AT = 4
"""The step of the toy's six after which it is stopped: in the middle of its second epoch."""


@click.command()
@json_flag
def doctor(as_json: bool) -> None:
    """Check that this machine is fit: versions, processor, GPU, room, and a toy run that is stopped and resumed."""
    from finetune.deliver.doctor import Finding, examine, finding

    found: list[Finding] = []

    def tell(item: Finding) -> None:
        found.append(item)
        if not as_json:
            click.echo(f"{'pass' if item.fit else 'FAIL'}  {item.name}: {item.told}")

    for item in examine():
        tell(item)
    with tempfile.TemporaryDirectory(prefix="finetune-doctor-", ignore_cleanup_errors=True) as folder:
        toy = Toy(Path(folder))
        tell(finding("freeze proof", toy.freeze_proof))
        tell(finding("stop and resume", toy.stop_and_resume))
    failed = [item for item in found if not item.fit]
    if as_json:
        print_json({"fit": not failed, "findings": [vars(item) for item in found]})
    if failed:
        raise ResourceError([f"{item.name}: {item.told}" for item in failed], "mend that, then ask the doctor again")


class Toy:
    """A tiny network on pictures of noise, trained on the processor: what is proved is that bits stay bits.

    Args:
        folder: an empty one to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole: str | None = None

    def freeze_proof(self) -> tuple[bool, str]:
        """Frozen tensors are the same bits after training; those that learn are not."""
        from finetune.model.freeze import freeze_hashes
        from finetune.model.weights import tensors_sha256

        trainer = self._trainer("whole")
        frozen = trainer.plan.frozen_tensors()
        before, all_before = freeze_hashes(trainer.state(), frozen), tensors_sha256(trainer.state())
        list(trainer)
        after = freeze_hashes(trainer.state(), frozen)
        self.whole = tensors_sha256(trainer.state())
        changed = [group for group in before if before[group] != after[group]]
        if changed or self.whole == all_before:
            return False, f"frozen layers changed: {changed}" if changed else "nothing was learnt"
        return True, f"{len(before)} frozen layer groups are the same bits after {trainer.position.step} steps"

    def stop_and_resume(self) -> tuple[bool, str]:
        """Stopped within an epoch and gone on with from its checkpoint, the toy ends in the same bits."""
        from finetune.model.weights import tensors_sha256

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
        return same, f"stopped at step {step}, gone on with to {'the same' if same else 'OTHER'} bits"

    def _trainer(self, name: str, stop_at: int | None = None) -> Trainer:
        """A new toy that saves in the folder `name`, and stops after `stop_at` steps."""
        from finetune.classifier import Classifier, train_config
        from finetune.train.checkpoints import Checkpoints

        data = self._data()
        classifier = Classifier(
            "timm/test_resnet",
            data.classes,
            weights="none",
            preprocess={"size": 32},
            unfreeze={"last:1": 0, "head": 0},
            device="cpu",
            precision="fp32",
        )
        classifier.compute = replace(classifier.compute, threads=1)
        config = train_config(epochs=2, batch_size=4, lr=0.01, cache="off", batchnorm="update")
        steps: list[int] = []
        return classifier.trainer(
            data,
            config,
            workers=0,
            checkpoints=Checkpoints(self.folder / name),
            tick=lambda *_: steps.append(1),
            stop=lambda: signal.SIGTERM if stop_at is not None and len(steps) >= stop_at else None,
        )

    def _data(self) -> Dataset:
        """Two classes of eight pictures of noise."""
        import io

        import numpy as np
        from PIL import Image

        from finetune.data.folder import ImageFolder
        from finetune.files import write_atomic

        root = self.folder / "images"
        rng = np.random.default_rng(0)
        for name in () if root.is_dir() else ("one", "two"):
            for number in range(8):
                memory = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(memory, format="PNG")
                write_atomic(root / name / f"{number}.png", memory.getvalue())
        return ImageFolder(root).split(val=0.25, test=0.0, seed=0)
