"""From a run to a backbone with a card: the weights in half precision, and what is known of them.

    python examples/make_card.py runs/NAME/001 models/NAME --size 128

It writes `models/NAME.safetensors`, head included, and begins `models/NAME.yaml` if there is none: architecture,
options, preprocessing, classes and the file's sha256. Licence, source, data, metrics and limits are yours to add;
a card that is there already is left alone, and the new sha256 printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from finetune.files import sha256_file, write_atomic, write_text
from finetune.model.bundle import find_bundle, read_description, read_state


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kernels and matrices in half precision; norms, biases and counters, which are next to nothing, as they are."""
    kept = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    for name, tensor in kept.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise SystemExit(f"{name}: has values that half precision cannot hold")
    return {name: tensor.contiguous() for name, tensor in kept.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run, or a model bundle")
    parser.add_argument("name", type=Path, help="where the files go, without their suffix")
    parser.add_argument("--size", type=int, help="pixels at which it is to be used, where not as in training")
    given = parser.parse_args()
    described = read_description(find_bundle(given.run))
    weights, card = given.name.with_suffix(".safetensors"), given.name.with_suffix(".yaml")
    write_atomic(weights, save(halved(read_state(described))))
    preprocess = dict(described.preprocess)
    if given.size:
        preprocess["size"] = [given.size, given.size]
    facts = {
        "architecture": described.architecture,
        "options": described.options,
        "weights": weights.name,
        "sha256": sha256_file(weights),
        "preprocess": preprocess,
        "classes": described.classes,
    }
    if not card.exists():
        write_text(card, yaml.safe_dump(facts, sort_keys=False, width=118))
    print(f"{weights}: {weights.stat().st_size:,} bytes, sha256 {facts['sha256']}")


if __name__ == "__main__":
    main()
