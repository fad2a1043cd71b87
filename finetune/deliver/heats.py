"""Small heat maps for the answers that a report shows, where the network has any."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from finetune.data.batches import AnyImages
from finetune.device import Compute
from finetune.evaluate.attribution import explain_pixels
from finetune.evaluate.evaluation import Evaluation
from finetune.evaluate.metrics import predict
from finetune.model.network import Network
from finetune.report.heat import overlay_jpeg
from finetune.report.thumbnails import SIDE, data_address


def heats_of(
    network: Network, images: AnyImages, evaluation: Evaluation, places: Sequence[int], compute: Compute
) -> dict[int, str]:
    """Grad-CAM of the images at these places for the class that they were given, as `data:` addresses.

    Occlusion would take some hundred passes an image, too many for a report: without a layer that tells places apart
    there are none.

    Args:
        network: with its classes.
        images: that were evaluated.
        evaluation: of them; answers out of fold are explained by the network that learned from all folds.
        places: in the evaluation.
        compute: where.
    """
    answers = predict(evaluation.probabilities)
    pictures: dict[int, str] = {}
    with contextlib.closing(images.batches([np.array([place]) for place in places])) as shown:
        for indices, pixels in shown:
            place = int(indices[0])
            label = network.classes[int(answers[place])]
            explanation = explain_pixels(network, pixels[0].numpy(), compute, label=label, method="gradcam")
            if explanation is None:
                break
            pictures[place] = data_address(overlay_jpeg(explanation, SIDE))
    return pictures
