"""int8: weights and activations in 8 bits, calibrated on training images and evaluated on those of the test split.

ONNX Runtime quantises the exported graph (QDQ: each operator between a `DequantizeLinear` and a `QuantizeLinear`), the
weights with a scale for each output channel, the activations with one for each tensor, from the smallest and largest
value that the calibration images give. The logits stay in float: in 8 bits they would have 256 values between them.

Rounding like this may cost accuracy, and parity with `predict` is not to be had. So what counts is whether the answers
on images with labels get worse: both networks answer the same images, and McNemar's exact test says whether more of
them are lost than a coin would lose.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.batches import load_images
from finetune.data.dataset import ImageSet
from finetune.data.preprocess import Preprocess
from finetune.deliver.export.runtime import onnx_answer, session
from finetune.errors import ArtefactError
from finetune.evaluate.compare import ALPHA, Difference, compare_answers
from finetune.evaluate.evaluation import BATCH

if TYPE_CHECKING:
    import onnx

CALIBRATION = 128
"""Training images at most, evenly spread: ranges of activations hardly grow after some dozens."""

LOSS = 0.01
"""Accuracy that may be lost, whatever the test says: one point."""


@dataclass(frozen=True)
class Int8:
    """What an int8 network is made with and evaluated on.

    Attributes:
        calibration: training images.
        test_images: images with labels that the network has not learned from, as a rule the test split.
        split: name of their split.
        accept_loss: publish it whatever it loses.
    """

    calibration: ImageSet
    test_images: ImageSet
    split: str
    accept_loss: bool = False


@dataclass(frozen=True)
class Int8Loss:
    """How much worse the int8 network answers.

    Attributes:
        split: the images' split.
        n: their number.
        before, after: accuracy of the network in float32 and in int8.
        changed: images that get another label.
        calibrated: training images that gave the ranges.
        difference: int8 minus float32.
    """

    split: str
    n: int
    before: float
    after: float
    changed: int
    calibrated: int
    difference: Difference

    @property
    def too_large(self) -> bool:
        """Significant, and above `LOSS`."""
        return self.difference.p < ALPHA and self.difference.accuracy < -LOSS

    def line(self) -> str:
        """One line for people."""
        low, high = (100 * end for end in self.difference.accuracy_ci95)
        return (
            f"int8: accuracy {self.before:.1%} -> {self.after:.1%} on {self.n:,} images of the {self.split} split "
            f"({100 * self.difference.accuracy:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, "
            f"p = {self.difference.p:.2g}); {self.changed} labels differ"
        )

    def as_dict(self) -> dict[str, Any]:
        """As `export.json` holds it."""
        return {
            "split": self.split,
            "n": self.n,
            "calibration_images": self.calibrated,
            "accuracy_before": self.before,
            "accuracy_after": self.after,
            "difference": self.difference.accuracy,
            "difference_ci95": list(self.difference.accuracy_ci95),
            "p": self.difference.p,
            "only_before_right": self.difference.only_first,
            "only_after_right": self.difference.only_second,
            "labels_changed": self.changed,
            "significant_loss_above_one_point": self.too_large,
        }


def require_int8(loss: Int8Loss, accept: bool) -> None:
    """Refuse to publish what answers worse.

    Raises:
        ArtefactError: a loss that is significant and above one point, unless it is accepted.
    """
    if loss.too_large and not accept:
        raise ArtefactError(
            loss.line(),
            "a significant loss above one point: nothing was published. "
            "Export without --int8, or with --accept-loss if it may be",
        )


def quantised(exported: Path, images: ImageSet, preprocess: Preprocess) -> onnx.ModelProto:
    """The network in int8; takes and gives what `exported` does.

    Args:
        exported: a file, `pixels` to `logits`, float32; files in between lie beside it for a while.
        images: of the training split; `CALIBRATION` of them are read.
        preprocess: of the network.

    Raises:
        DataError: images that are gone or changed. ArtefactError: ONNX Runtime cannot quantise this network.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    read = _batches(images, preprocess, _spread(len(images)))
    with tempfile.TemporaryDirectory(prefix="int8-", dir=exported.parent) as place, _quiet():
        folded, result = Path(place, "folded.onnx"), Path(place, "int8.onnx")
        try:
            quant_pre_process(exported, folded, skip_symbolic_shape=True)
            quantize_static(
                folded,
                result,
                _Reader(read),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                # logits stay float32: in 256 steps close classes would tie
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
            )
        except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise ArtefactError(f"int8: ONNX Runtime cannot quantise it: {line}", "export it without --int8") from error
        int8_model = onnx.load(result)
    # the quantizer declares operator sets that no node uses; a runtime without them need not refuse the file
    used = {node.domain for node in int8_model.graph.node}
    kept = [entry for entry in int8_model.opset_import if entry.domain in used | {""}]
    del int8_model.opset_import[:]
    int8_model.opset_import.extend(kept)
    int8_model.producer_name, int8_model.producer_version = "finetune", ""
    return int8_model


def loss_of_int8(exported: bytes, int8: bytes, wanted: Int8, preprocess: Preprocess) -> Int8Loss:
    """Answer every test image with both networks.

    Args:
        exported, int8: files of networks from `pixels` to `logits`.
        wanted: with the images.
        preprocess: of the network.

    Raises:
        DataError: images that are gone or changed.
    """
    run_before, run_after = (onnx_answer(session(content)) for content in (exported, int8))
    answers: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    # both networks see the very same pixels, so whatever differs is the quantization's
    for pixels in _batches(wanted.test_images, preprocess, np.arange(len(wanted.test_images))):
        for run, kept in zip((run_before, run_after), answers, strict=True):
            kept.append(run(pixels).argmax(axis=1))
    before, after = (np.concatenate(kept) for kept in answers)
    labels = wanted.test_images.labels
    return Int8Loss(
        split=wanted.split,
        n=len(labels),
        before=float((before == labels).mean()),
        after=float((after == labels).mean()),
        changed=int((before != after).sum()),
        calibrated=len(_spread(len(wanted.calibration))),
        difference=compare_answers(labels, before[None], after[None], len(wanted.test_images.classes)),
    )


class _Reader:
    """Batches as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the name of the network's input; None at the end."""
        pixels = next(self._batches, None)
        return None if pixels is None else {"pixels": pixels}


def _spread(count: int) -> np.ndarray:
    """`CALIBRATION` numbers at most, evenly spread over so many images, which lie class by class."""
    return np.unique(np.linspace(0, count - 1, min(CALIBRATION, count)).round().astype(int))


def _batches(images: ImageSet, preprocess: Preprocess, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Some of the images as the network takes them, float32 [B, C, H, W]."""
    loaded = load_images(images, preprocess)
    parts = np.array_split(chosen, max(1, -(-len(chosen) // BATCH)))
    with contextlib.closing(loaded.batches(parts)) as batches:
        for _, pixels in batches:
            yield preprocess.normalise(pixels).contiguous().numpy()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice on models, which is for whoever made them by hand."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
