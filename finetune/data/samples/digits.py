"""The sample `digits`: 1,797 real handwritten digits of 8x8 grey pixels, which come with scikit-learn.

The test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI Machine Learning Repository 1998),
written by 13 people; each pixel counts the ink in 4x4 of a scan, 0 to 16.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.samples.place import whole
from finetune.files import write_atomic

CLASSES = [str(digit) for digit in range(10)]


def draw(folder: Path) -> list[str]:
    """Write the digits into `folder`, absent or empty, one sub-folder of PNG files per class; the same bytes always.

    Returns:
        The class names.

    Raises:
        UsageError: the folder is not empty.
        ResourceError: it cannot be written.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    found = load_digits()
    ink = np.round(found.images * (255 / 16)).astype(np.uint8)
    with whole(folder) as half:
        for number, (picture, label) in enumerate(zip(ink, found.target.tolist(), strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            write_atomic(half / CLASSES[label] / f"{number:04d}.png", buffer.getvalue())
    return CLASSES
