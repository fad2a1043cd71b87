"""The losses: per image, one class against the rest, and what cannot be combined."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import hinge_loss, log_loss

from finetune.errors import UsageError
from finetune.train.optimizer import make_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-0.3, 0.2, 0.1], [0.0, 0.0, 3.0], [1.5, 1.0, -2.0]])
LABELS = torch.tensor([0, 2, 2, 1])


def test_bce_is_a_logistic_regression_for_each_class() -> None:
    losses = make_loss("bce")(LOGITS, LABELS)
    chances = torch.sigmoid(LOGITS.double()).numpy()
    each = [log_loss(LABELS.numpy() == c, chances[:, c], labels=[False, True]) for c in range(3)]
    assert losses.shape == (4,)
    assert float(losses.double().mean()) == pytest.approx(sum(each), rel=1e-6)


def test_hinge_with_margin_one_is_the_usual_one() -> None:
    losses = make_loss("hinge", margin=1.0)(LOGITS, LABELS)
    each = [hinge_loss(LABELS.numpy() == c, LOGITS[:, c].numpy()) for c in range(3)]
    assert float(losses.mean()) == pytest.approx(sum(each), rel=1e-6)


def test_margin_zero_is_rosenblatts_rule() -> None:
    """What is wrong, or on the border, moves its class's weights by the input; what is right moves nothing."""
    inputs = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    weights = torch.tensor([[1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    make_loss("hinge", margin=0.0)(inputs @ weights.T, labels).sum().backward()
    # class 0: the first is right (score 1), the second (score 3, target -1) is wrong: w -= its input
    # class 1: both scores are 0, on the border: the first pushes away, the second pulls
    assert weights.grad is not None
    assert torch.equal(-weights.grad, torch.stack([-inputs[1], inputs[1] - inputs[0]]))


@pytest.mark.parametrize("kind", ["cross_entropy", "bce", "hinge"])
def test_class_weights_weigh_the_images_of_the_class(kind: str) -> None:
    plain = make_loss(kind)(LOGITS, LABELS)
    weights = torch.tensor([1.0, 3.0, 0.5])
    assert torch.allclose(make_loss(kind, class_weights=weights)(LOGITS, LABELS), plain * weights[LABELS])


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_only_cross_entropy_is_smoothed(kind: str) -> None:
    with pytest.raises(UsageError, match="label_smoothing"):
        make_loss(kind, label_smoothing=0.1)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.loss"):
        make_loss("mse")
