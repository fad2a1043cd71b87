"""What a store of vectors costs and how well it finds: LanceDB's index beside exact search, and `embed` beside a loop.

    python benchmarks/vectors.py --rows 1000000 --folder /tmp/vectors
    python benchmarks/vectors.py --photos data/vehicles --backbone CARD_OR_NAME

Clustered vectors, as networks make them: centres are normal, vectors lie around them. Rows are made block by block, so
that no more than a block of them is ever in this process's memory; queries are new draws from the same clusters.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from finetune.deliver.vectors.record import Identity
from finetune.deliver.vectors.store import VectorStore
from finetune.deliver.vectors.table import schema_of, vector_column

BLOCK = 10_000


def centres(features: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1000, features)).astype(np.float32)


def draw(around: np.ndarray, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n, around.shape[1]), dtype=np.float32)
    return around[rng.integers(0, len(around), n)] + 0.8 * noise


def fill(store: VectorStore, rows: int, features: int) -> None:
    around = centres(features)
    with store.writing():
        for start in range(0, rows, BLOCK):
            n = min(BLOCK, rows - start)
            columns = {
                "path": [f"/{i}.jpg" for i in range(start, start + n)],
                "class": ["x"] * n,
                "split": ["train"] * n,
                "sha256": [f"{i:064x}" for i in range(start, start + n)],
                "prediction": ["x"] * n,
                "confidence": [0.5] * n,
                "vector": vector_column(draw(around, n, start + 1)),
            }
            store.table.add(pa.table(columns, schema=schema_of(features)))
        before = time.perf_counter()
    print(f"  settle (join, index): {time.perf_counter() - before:.0f} s")


def truth_of(rows: int, features: int, queries: np.ndarray, k: int) -> list[set[str]]:
    """The exact answer, by NumPy alone, over blocks that are drawn again."""
    around, unit = centres(features), queries / np.linalg.norm(queries, axis=1, keepdims=True)
    best = np.empty((len(queries), 0))
    names = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, rows, BLOCK):
        block = draw(around, min(BLOCK, rows - start), start + 1)
        found = 1 - unit @ (block / np.linalg.norm(block, axis=1, keepdims=True)).T
        best = np.concatenate([best, found], axis=1)
        names = np.concatenate([names, np.broadcast_to(np.arange(start, start + len(block)), found.shape)], axis=1)
        order = np.argsort(best, axis=1)[:, :k]
        best, names = np.take_along_axis(best, order, 1), np.take_along_axis(names, order, 1)
    return [{f"/{i}.jpg" for i in row} for row in names.tolist()]


def asked(store: VectorStore, queries: np.ndarray, truth: list[set[str]], k: int) -> dict[str, float]:
    seconds, hits = [], 0
    store.search(queries[0], k)
    for query, right in zip(queries, truth, strict=True):
        before = time.perf_counter()
        (found,) = store.search(query, k)
        seconds.append(time.perf_counter() - before)
        hits += len({one.path for one in found} & right)
    return {
        "recall": hits / (k * len(queries)),
        "p50_ms": 1000 * float(np.median(seconds)),
        "p99_ms": 1000 * float(np.quantile(seconds, 0.99)),
    }


def search(rows: int, features: int, folder: Path, queries: int, k: int, databases: list[str]) -> None:
    drawn = draw(centres(features), queries, 2**31)
    truth = truth_of(rows, features, drawn, k)
    for database in databases:
        path = folder / database
        identity = Identity("0" * 64, "benchmark", {}, {}, "x", features)
        before = time.perf_counter()
        store = VectorStore.create(path, identity, "none", database)
        fill(store, rows, features)
        built = time.perf_counter() - before
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        count = queries if database == "lancedb" else min(queries, 10)
        figures = asked(store, drawn[:count], truth[:count], k)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        about = {"database": database, "rows": rows, "features": features, "build_s": built, "size_gb": size / 1e9}
        print(json.dumps({**about, **figures, "peak_memory_gb": peak}), flush=True)
        shutil.rmtree(path)


def embedding(photos: Path, backbone: str, folder: Path) -> None:
    import torch
    from PIL import Image

    from finetune.deliver.embed import embed
    from finetune.deliver.vectors.source import open_source

    files = sorted(path for path in photos.rglob("*.jpg"))
    for database in ("lancedb", "parquet"):
        before = time.perf_counter()
        _, done = embed(backbone, photos, folder / f"embed-{database}", database=database)
        whole = time.perf_counter() - before
        print(json.dumps({"embed": database, "images": done.images, "images_per_second": done.new / whole}), flush=True)
    source = open_source(backbone)  # the plain loop: one image after the other, the network as it is
    before = time.perf_counter()
    with torch.inference_mode():
        for file in files[:400]:
            with Image.open(file) as image:
                pixels = torch.from_numpy(source.network.preprocess.evaluate(image.convert("RGB"))[None].copy())
            source.network.module(source.network.preprocess.normalise(pixels))
    print(json.dumps({"embed": "plain loop", "images_per_second": 400 / (time.perf_counter() - before)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--databases", nargs="+", default=["lancedb", "parquet"])
    parser.add_argument("--folder", type=Path, help="where the stores are made, and deleted afterwards")
    parser.add_argument("--photos", type=Path, help="measure `embed` on these images instead")
    parser.add_argument("--backbone", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.photos:
            embedding(given.photos, given.backbone, Path(folder))
        else:
            search(given.rows, given.features, Path(folder), given.queries, given.k, given.databases)


if __name__ == "__main__":
    main()
