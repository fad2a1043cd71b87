"""Vectors into a store and images out of it: both databases alike, incremental, survived kills, never mixed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import finetune as ft
from finetune.deliver.embed import embed
from finetune.deliver.search import search_images
from finetune.deliver.vectors.knn import NeighbourVote
from finetune.deliver.vectors.record import Identity
from finetune.deliver.vectors.store import VectorStore
from finetune.deliver.vectors.table import schema_of, vector_column
from finetune.device import choose
from finetune.errors import ArtefactError, DataError, ResourceError, Stopped, UsageError
from finetune.evaluate.encode import make_encoder
from finetune.evaluate.loop import infer
from finetune.model.backbones import build
from finetune.model.bundle import save_bundle
from tests.makers import HOSTILE_NAMES, class_folders, encoded, jpeg, photo, put

DATABASES = ("lancedb", "parquet")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "model"
    save_bundle(folder, build("small/mlp", ["cat", "dog"], seed=1), {})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return class_folders(tmp_path_factory.mktemp("photos") / "in", {"cat": 6, "dog": 7})


@pytest.fixture(scope="module")
def stores(bundle, photos, tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("stores")
    for database in DATABASES:
        embed(bundle, photos, home / database, database=database)
    return {database: home / database for database in DATABASES}


def contents(store: Path) -> dict[str, list[float]]:
    rows = [row for batch in VectorStore(store).vectors() for row in batch.to_pylist()]
    assert len({row["path"] for row in rows}) == len(rows), "a path twice"
    return {row["path"]: row["vector"] for row in rows}


# --- what is in it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", DATABASES)
def test_a_row_says_what_the_image_was_and_what_the_network_took_it_for(stores, bundle, photos, database) -> None:
    rows = {row["path"]: row for batch in VectorStore(stores[database]).vectors() for row in batch.to_pylist()}
    predictions = ft.load(bundle).predict(sorted(photos.rglob("*.jpg")))
    assert len(rows) == len(predictions) == 13
    for prediction in predictions:
        row = rows[prediction.path]
        assert row["class"] == Path(prediction.path).parent.name
        assert (row["prediction"], row["split"]) == (prediction.label, None)
        assert row["confidence"] == pytest.approx(prediction.confidence, abs=1e-6)


def test_the_record_names_the_weights_of_the_bundle(stores, bundle) -> None:
    said = json.loads((bundle / "model.json").read_text("utf-8"))
    made_by = json.loads((stores["parquet"] / "store.json").read_text("utf-8"))["made_by"]
    assert made_by["weights_sha256"] == said["weights_sha256"]
    assert (made_by["layer"], made_by["features"], made_by["preprocess"]) == ("fc2", 64, said["preprocess"])


def test_the_vector_is_what_enters_the_head(bundle, photos) -> None:
    network = ft.load(bundle).network
    encoder = make_encoder(network, choose("cpu", "fp32"))
    pixels = torch.randint(0, 256, (5, 28, 28, 1), dtype=torch.uint8)
    vectors, logits = encoder.parts(infer(encoder.forward, [(np.arange(5), pixels)]))
    with torch.no_grad():
        head = network.module.get_submodule(network.head)(torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(head, logits, atol=1e-5)


@pytest.mark.parametrize("layer", ["layer1", "layer3", None, "head"])
def test_a_layer_is_averaged_over_space_whatever_the_batch(layer) -> None:
    network = build("timm/test_resnet", ["a", "b"], weights="none", preprocess={"size": 32})
    encoder = make_encoder(network, choose("cpu", "fp32"), layer, fast=True)
    pixels = torch.randint(0, 256, (7, 32, 32, 3), dtype=torch.uint8)
    together = infer(encoder.forward, [(np.arange(7), pixels)])
    one_by_one = infer(encoder.forward, [(np.array([i]), pixels[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(together, one_by_one, atol=1e-4 * np.abs(together).max())
    with torch.no_grad():
        images = network.preprocess.normalise(pixels)
        caught = {}
        module = network.module if layer == "head" else network.module.get_submodule(layer or "global_pool")
        with torch.nn.modules.module.register_module_forward_hook(
            lambda m, inputs, output: caught.update(value=output) if m is module else None
        ):
            network.module(images)
    expected = caught["value"].mean(dim=(2, 3)) if caught["value"].ndim == 4 else caught["value"]
    vectors = encoder.parts(together)[0]
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_a_head_that_reads_stages_gives_what_it_reads() -> None:
    network = build("timm/test_resnet", ["a", "b"], weights="none", preprocess={"size": 32}, features="stages")
    encoder = make_encoder(network, choose("cpu", "fp32"))
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    vectors, logits = encoder.parts(infer(encoder.forward, [(np.arange(3), pixels)]))
    assert encoder.features == network.module.get_submodule(network.head).in_features == vectors.shape[1]
    with torch.no_grad():
        expected = network.module(network.preprocess.normalise(pixels)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_tokens_are_averaged_and_a_network_of_pixels_alone_works(photos, tmp_path) -> None:
    network = build("timm/test_vit", ["a", "b"], weights="none", preprocess={"size": 160})
    assert make_encoder(network, choose("cpu", "fp32"), "blocks.0").features == 64
    store, done = embed("small/logistic", photos, tmp_path / "s", database="parquet")
    assert (store.identity.layer, store.identity.features, done.new) == ("pixels", 784, 13)


def test_an_unknown_layer_is_refused_with_the_nearest(bundle, photos, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"fc3.*did you mean 'fc[12]'"):
        embed(bundle, photos, tmp_path / "s", layer="fc3")
    assert not (tmp_path / "s").exists()


# --- searching -------------------------------------------------------------------------------------------------------


def random_stores(home: Path, vectors: np.ndarray) -> dict[str, VectorStore]:
    identity = Identity("0" * 64, "small/none", {}, {"size": [1, 1]}, "x", vectors.shape[1])
    n = len(vectors)
    columns = {
        "path": [f"/p/{i:04}.jpg" for i in range(n)],
        "class": [["it's", "b", None][i % 3] for i in range(n)],
        "split": ["train"] * n,
        "sha256": [f"{i:064}" for i in range(n)],
        "prediction": ["b"] * n,
        "confidence": (np.arange(n) / n).tolist(),
        "vector": vector_column(vectors),
    }
    made = {}
    for database in DATABASES:
        made[database] = VectorStore.create(home / database, identity, "none", database)
        with made[database].writing():
            made[database].table.add(pa.table(columns, schema=schema_of(vectors.shape[1])))
    return made


def test_lancedb_parquet_and_numpy_agree(tmp_path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 16)).astype(np.float32)
    vectors[7], vectors[8] = 0, vectors[9]  # one without a direction, and two alike
    made = random_stores(tmp_path, vectors)
    queries = np.concatenate([rng.normal(size=(4, 16)), vectors[9:10]]).astype(np.float32)
    kept = np.array([i % 3 == 0 and i / 300 >= 0.25 for i in range(300)])
    for where, mask in (((), np.ones(300, bool)), (("class=it's", "confidence>=0.25"), kept)):
        mask = mask & (np.arange(300) != 7)
        unit = vectors.astype(float) / np.maximum(np.linalg.norm(vectors.astype(float), axis=1, keepdims=True), 1e-30)
        truth = 1 - queries.astype(float) @ unit.T / np.linalg.norm(queries.astype(float), axis=1, keepdims=True)
        results = {name: store.search(queries, 12, where) for name, store in made.items()}
        for row, expected in enumerate(truth):
            best = sorted(np.flatnonzero(mask), key=lambda i: (round(expected[i], 12), i))[:12]
            for found in results.values():
                assert [one.path for one in found[row]] == [f"/p/{i:04}.jpg" for i in best]
                np.testing.assert_allclose([one.distance for one in found[row]], expected[best], atol=1e-9)
        assert results["lancedb"] == results["parquet"]


@pytest.mark.parametrize("database", DATABASES)
def test_conditions_that_cannot_be_are_refused(stores, database) -> None:
    store, query = VectorStore(stores[database]), np.ones(64)
    with pytest.raises(UsageError, match="'clas'.*did you mean 'class'") as caught:
        store.search(query, where=["clas=cat", "confidence=high", "class<cat"])
    assert len(caught.value.problems) == 3
    with pytest.raises(UsageError, match="no image of the store has class 'cta'.*did you mean 'cat'"):
        store.search(query, where="class=cta")
    assert {one.label for one in store.search(query, where="class!=cat")[0]} == {"dog"}
    with pytest.raises(UsageError, match="3 numbers; the vectors have 64"):
        store.search(np.ones(3))


def test_a_query_finds_itself_first_and_all_neighbours_when_asked_for_too_many(stores, photos) -> None:
    query = photos / "dog" / "003.jpg"
    for path in stores.values():
        (found,), notes = search_images(path, [query], k=100)
        assert (found.query, found.neighbours[0].path, len(found.neighbours)) == (str(query), str(query), 13)
        assert found.neighbours[0].distance == pytest.approx(0, abs=1e-6)
        assert notes == []


def test_the_command_prints_json_and_writes_a_page(cli, stores, photos, tmp_path) -> None:
    query, page = photos / "cat" / "000.jpg", tmp_path / "page.html"
    done = cli("search", stores["lancedb"], query, "-k", "2", "--where", "class=cat", "--html", page, "--json")
    assert (done.rc, done.err) == (0, f"searching {stores['lancedb']} …\n")
    (result,) = json.loads(done.out)["results"]
    assert set(result) == {"query", "neighbours"}
    assert result["query"] == str(query)
    assert [set(row) for row in result["neighbours"]] == [{"path", "class", "distance"}] * 2
    assert result["neighbours"][0]["path"] == str(query)
    assert page.read_text("utf-8").count("data:image/jpeg;base64,") == 3
    again = cli("search", stores["lancedb"], query, "--html", page)
    assert (again.rc, "already exists" in again.err) == (2, True)


# --- keeping it up to date -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", DATABASES)
def test_only_what_is_new_or_changed_is_computed(bundle, tmp_path, database) -> None:
    folder, path = class_folders(tmp_path / "in", {"cat": 3, "dog": 3}), tmp_path / "store"
    put(folder / "loose.jpg", jpeg(99))
    put(folder / "cat" / "bad.jpg", b"no image")
    first = embed(bundle, folder, path, database=database)[1]
    assert (first.new, first.images, [Path(p).name for p, _ in first.failed]) == (7, 7, ["bad.jpg"])
    before = contents(path)
    put(folder / "cat" / "000.jpg", jpeg(500))
    put(folder / "dog" / "new.jpg", jpeg(501))
    (folder / "cat" / "001.jpg").unlink()
    second = embed(bundle, folder, path)[1]
    assert (second.new, second.changed, second.unchanged, second.gone, second.removed) == (1, 1, 5, 1, 0)
    assert len(contents(path)) == 8
    third = embed(bundle, folder, path, prune=True)[1]
    assert (third.new, third.changed, third.unchanged, third.gone, third.removed) == (0, 0, 7, 0, 1)
    after = contents(path)
    assert {Path(p).name for p in before.keys() - after.keys()} == {"001.jpg"}
    assert {Path(p).name for p in before.keys() & after.keys() if before[p] != after[p]} == {"000.jpg"}
    shutil.rmtree(path)
    embed(bundle, folder, path, database=database)
    assert contents(path).keys() == after.keys()


def test_two_folders_share_a_store_and_pruning_one_leaves_the_other(bundle, photos, tmp_path) -> None:
    other, path = class_folders(tmp_path / "other", {"cat": 2}, seed=50), tmp_path / "store"
    embed(bundle, photos, path, database="parquet")
    embed(bundle, other, path, prune=True)
    assert len(contents(path)) == 15


@pytest.mark.parametrize("database", DATABASES)
def test_odd_names_are_found_again(bundle, tmp_path, database) -> None:
    folder = tmp_path / "in"
    for number, name in enumerate(HOSTILE_NAMES):
        put(folder / name / f"{name}.png", encoded(photo(number), "PNG"))
    assert embed(bundle, folder, tmp_path / "s", database=database)[1].new == len(HOSTILE_NAMES)
    assert embed(bundle, folder, tmp_path / "s")[1].unchanged == len(HOSTILE_NAMES)
    store = VectorStore(tmp_path / "s")
    for label in (row["class"] for batch in store.vectors() for row in batch.to_pylist()):
        assert [one.label for one in store.search(np.ones(64), where=f"class={label}")[0]] == [label]


KILLED = """
import os, signal, sys
import finetune.deliver.embed as e
from finetune.deliver.vectors.parquet import ParquetTable

def work(folder, place):
    import finetune.deliver.vectors.parquet as parquet
    kill = lambda *ignored: os.kill(os.getpid(), signal.SIGKILL)
    e.SECONDS = 0
    if place == "list":  # the part is written, the list is not
        parquet.write_json = kill
    else:
        Table = ParquetTable
        if database == "lancedb":
            from finetune.deliver.vectors.lance import LanceTable as Table
        name, left, plain = place[0], [place[1]], getattr(Table, place[0])
        def counted(self, *arguments):
            if not left[0]:
                kill()
            left[0] -= 1
            plain(self, *arguments)
        setattr(Table, name, counted)
    e.embed(*folder, database=database)

database = sys.argv[4]
e.make_encoder(e.open_source(sys.argv[1]).network, e.open_source(sys.argv[1]).compute("cpu"))  # imports once for all
for place in (("add", 0), "list", ("add", 1), ("settle", 0)) if database == "parquet" else (("add", 1), ("settle", 0)):
    if not (child := os.fork()):  # nothing has begun a thread yet
        work(sys.argv[1:4], place)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


@pytest.mark.parametrize("database", DATABASES)
def test_killed_and_gone_on_with_it_is_the_same_set_of_vectors(bundle, tmp_path, database) -> None:
    folder, path = class_folders(tmp_path / "in", {"cat": 70, "dog": 50}), tmp_path / "store"
    arguments = [str(bundle), str(folder), str(path), database]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=100, check=True)
    assert not VectorStore(path).complete
    assert len(contents(path)) == 120  # the last kill fell after everything was computed
    done = embed(bundle, folder, path)[1]
    assert (done.new, done.unchanged) == (0, 120)
    assert VectorStore(path).complete
    embed(bundle, folder, tmp_path / "whole", database=database)
    mine, whole = contents(path), contents(tmp_path / "whole")
    assert mine.keys() == whole.keys()
    for name in whole:
        np.testing.assert_allclose(mine[name], whole[name], atol=1e-5)


def test_a_signal_keeps_what_was_computed(bundle, tmp_path, monkeypatch) -> None:
    folder, path = class_folders(tmp_path / "in", {"cat": 70, "dog": 50}), tmp_path / "store"
    done: list[int] = []
    with pytest.raises(Stopped, match="same command"):
        embed(bundle, folder, path, tick=lambda n, total: done.append(n), stop=lambda: 2 if len(done) > 1 else None)
    kept = len(contents(path))
    assert 0 < kept < 120
    assert embed(bundle, folder, path)[1].unchanged == kept


# --- what is refused -------------------------------------------------------------------------------------------------


def test_vectors_of_two_networks_are_not_mixed(stores, bundle, photos, tmp_path) -> None:
    other = tmp_path / "other"
    save_bundle(other, build("small/mlp", ["cat", "dog"], seed=2), {})
    before = contents(stores["parquet"])
    with pytest.raises(ArtefactError, match="weights_sha256"):
        embed(other, photos, stores["parquet"])
    with pytest.raises(ArtefactError, match="layer: fc2, not fc1"):
        embed(bundle, photos, stores["parquet"], layer="fc1")
    save_bundle(other, build("small/mlp", ["cat", "dog"], seed=1, preprocess={"crop": 0.5}), {})
    with pytest.raises(ArtefactError, match="preprocess") as caught:
        embed(other, photos, stores["parquet"])
    assert "weights_sha256" not in str(caught.value)
    with pytest.raises(UsageError, match="is a parquet store"):
        embed(bundle, photos, stores["parquet"], database="lancedb")
    assert contents(stores["parquet"]) == before


def test_no_store_no_image_no_folder(stores, bundle, photos, tmp_path) -> None:
    with pytest.raises(UsageError, match="no such store"):
        VectorStore(tmp_path / "none")
    with pytest.raises(ArtefactError, match="no vector store"):
        VectorStore(photos)
    with pytest.raises(ArtefactError, match="no vector store, but a folder with other things"):
        embed(bundle, photos, photos)
    with pytest.raises(DataError, match="no such folder"):
        embed(bundle, tmp_path / "none", tmp_path / "s")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        embed(bundle, tmp_path / "empty", tmp_path / "s")
    text = put(tmp_path / "text.jpg", b"words")
    with pytest.raises(DataError, match=r"text\.jpg"):
        search_images(stores["lancedb"], [text])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("database", DATABASES)
def test_a_damaged_store_is_an_artefacts_error(stores, photos, tmp_path, database) -> None:
    path = tmp_path / "store"
    shutil.copytree(stores[database], path)
    largest = max((p for p in path.rglob("*") if p.suffix in (".parquet", ".lance")), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:200])
    with pytest.raises(ArtefactError, match="make it again"):
        search_images(path, [photos / "cat" / "000.jpg"])
    (path / "store.json").write_text('{"format": 99}', "utf-8")
    with pytest.raises(ArtefactError, match="newer version"):
        VectorStore(path)


def test_a_network_that_has_moved_can_be_named(bundle, photos, tmp_path) -> None:
    was = tmp_path / "was"
    shutil.copytree(bundle, was)
    embed(was, photos, tmp_path / "s", database="parquet")
    shutil.move(was, tmp_path / "now")
    query = [photos / "cat" / "000.jpg"]
    with pytest.raises(ArtefactError, match="--model RUN"):
        search_images(tmp_path / "s", query)
    assert search_images(tmp_path / "s", query, model=str(tmp_path / "now"))[0][0].neighbours[0].path == str(query[0])


def test_an_image_that_vanished_is_a_neighbour_with_a_note(bundle, tmp_path) -> None:
    folder = class_folders(tmp_path / "in", {"cat": 3})
    embed(bundle, folder, tmp_path / "s", database="parquet")
    (folder / "cat" / "002.jpg").unlink()
    (found,), notes = search_images(tmp_path / "s", [folder / "cat" / "000.jpg"])
    assert len(found.neighbours) == 3
    assert "002.jpg" in notes[0]


def test_one_writer_at_a_time(bundle, photos, stores) -> None:
    with VectorStore(stores["parquet"]).writing(), pytest.raises(ResourceError, match="another process is writing"):
        embed(bundle, photos, stores["parquet"])


def test_without_lancedb_parquet_serves_and_a_lancedb_store_names_the_package(
    bundle, photos, stores, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    assert embed(bundle, photos, tmp_path / "s")[0].database == "parquet"
    with pytest.raises(ResourceError, match=r"finetune-toolkit\[search\]"):
        VectorStore(stores["lancedb"])
    with pytest.raises(ResourceError, match=r"finetune-toolkit\[search\]"):
        embed(bundle, photos, tmp_path / "t", database="lancedb")


def test_a_picture_of_another_mode_and_size_is_embedded(bundle, tmp_path) -> None:
    put(tmp_path / "in" / "grey.png", encoded(Image.new("L", (3, 90), 7), "PNG"))
    assert embed(bundle, tmp_path / "in", tmp_path / "s", database="parquet")[1].new == 1


# --- classes by neighbours -------------------------------------------------------------------------------------------


def test_neighbours_vote_and_nobody_for_itself(bundle, tmp_path, cli) -> None:
    folder = tmp_path / "in"
    for number in range(12):  # bright and dark pictures: the vectors tell them apart, whatever the weights
        for name, level in (("bright", 200), ("dark", 20)):
            noise = np.random.default_rng(number).integers(0, 50, (28, 28), dtype=np.uint8)
            put(folder / name / f"{number}.png", encoded(Image.fromarray(noise + np.uint8(level)), "PNG"))
    embed(bundle, folder, tmp_path / "s")
    odd = folder / "bright" / "0.png"
    odd.replace(folder / "dark" / "odd.png")  # a bright one among the dark: alone it would be its own nearest
    embed(bundle, folder, tmp_path / "s", prune=True)
    done = cli("predict", bundle, folder, "--knn", tmp_path / "s", "--json")
    assert (done.rc, done.err) == (0, f"predicting with {bundle} …\n")
    rows = json.loads(done.out)["predictions"]
    wrong = [Path(row["path"]).name for row in rows if row["label"] != Path(row["path"]).parent.name]
    assert (len(rows), wrong) == (24, ["odd.png"])
    other = tmp_path / "other"
    save_bundle(other, build("small/mlp", ["cat", "dog"], seed=2), {})
    refused = cli("predict", other, folder, "--knn", tmp_path / "s")
    assert (refused.rc, "weights_sha256" in refused.err) == (4, True)


def test_only_training_images_vote(bundle, tmp_path) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / "in" / split, {"cat": 2, "dog": 2}, seed=7 if split == "val" else 900)
    store, _ = embed(bundle, tmp_path / "in", tmp_path / "s", database="parquet")
    vote = NeighbourVote(ft.load(bundle).network, store.path, choose("cpu", "fp32"), k=4)
    voters = vote.store.search(np.ones(64), 8, vote._where)[0]
    assert len(voters) == 4
    assert {one.split for one in voters} == {"train"}
