"""Hostile files and names, through the command line: nothing of them runs, nothing escapes, everything is refused soon.

Code in a weights file given to `run` is in test_bad_input.py; the readers one by one in tests/recipe and tests/model.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import re
import shutil
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests import makers
from tests.blackbox.measure import FINETUNE, Measured, measured

FORMULA = ("=", "+", "-", "@", "\t", "\r")
NAMES = (*makers.HOSTILE_NAMES, "\ttab", "\rreturn", "+plus", "-minus", "<!--", "x<")


class Canary:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def refused(result: Any, rc: int, *culprits: str) -> None:
    """The exit code; each culprit in an error line; a remedy; no traceback."""
    assert result.rc == rc, result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    for culprit in culprits:
        assert any(culprit in line for line in errors), (culprit, result.err)
    assert "remedy: " in result.err
    assert "Traceback" not in result.err


def soon(result: Measured, rc: int, *culprits: str) -> None:
    """Refused within five seconds of processor time and 1 GB of memory."""
    refused(result, rc, *culprits)
    assert result.seconds < 5
    assert result.megabytes < 1000


# --- names -----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of a page: its elements, the addresses in it, the handlers of events."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.scripts = 0
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.comments: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.scripts += tag == "script"
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        self.text += data


def cells(text: str) -> list[list[str]]:
    found = list(csv.reader(text.splitlines()))
    assert {len(row) for row in found} == {len(found[0])}
    assert not [cell for row in found for cell in row if cell.startswith(FORMULA) and not _number(cell)]
    return found


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def no_control_characters(text: str) -> None:
    assert not [c for c in text if not c.isprintable() and c != "\n"]


def test_S12_S13_S14_hostile_names_on_the_whole_road(job: Path, cli: Any) -> None:
    shutil.rmtree(job / "images")
    for index, name in enumerate(NAMES):
        for number in range(4):
            file = makers.HOSTILE_NAMES[(index + number) % len(makers.HOSTILE_NAMES)]
            makers.put(job / "images" / name / f"{file}{number}.jpg", makers.jpeg(100 * index + number))
    makers.put(job / "images" / "x<" / "script><img src=x>.jpg", makers.jpeg(9999))  # its path has a </script> in it
    makers.put(job / "images" / "+plus" / "=broken\x1b[2J.jpg", b"")
    before = makers.tree_hash(job / "images")
    one = ("--epochs", "1", "-o", "model.unfreeze={head: 0}", "-o", "data.on_bad=skip")
    result = cli("run", "job.yaml", "--out", "o", *one, cwd=job)
    assert result.rc == 0, result.err
    no_control_characters(result.err)
    run = job / "o"

    page = Page((run / "report" / "report.html").read_text(encoding="utf-8"))
    assert not page.elements & {"iframe", "object", "embed", "form", "link", "base"}
    assert page.scripts == 1, "the page's own, which the policy in its head names by hash; none from a name"
    assert page.handlers == page.comments == []
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert all(text in page.text for text in ("<img src=x onerror=alert(1)>", "\\x1b[31mred", "two\\nlines"))

    tables = [*run.glob("*.csv"), *(run / "report").glob("*.csv")]
    assert len(tables) >= 6
    for table in tables:
        cells(table.read_text(encoding="utf-8"))
    assert len(cells((run / "data.csv").read_text(encoding="utf-8"))) == 1 + 4 * len(NAMES) + 1
    assert json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))["classes"] == sorted(NAMES)
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["classes"] == sorted(NAMES)

    table = cli("predict", "o", "images", "--csv", cwd=job)
    assert len(cells(table.out)) == 1 + 4 * len(NAMES) + 2, "a line for each image, whatever its name"
    plain = cli("predict", "o", "images", cwd=job)
    assert len(plain.out.splitlines()) == 4 * len(NAMES) + 2
    no_control_characters(plain.out)
    raw = json.loads(cli("predict", "o", "images", "--json", cwd=job).out)["predictions"]
    assert {Path(row["path"]).parts[1] for row in raw} == set(NAMES), "JSON has the names as they are"
    for command, what, rc in (("evaluate", "o", 0), ("check", "images", 3)):
        found = cli(command, what, cwd=job)
        assert found.rc == rc, found.err
        no_control_characters(found.out + found.err)
    assert makers.tree_hash(job / "images") == before


# --- recipes ---------------------------------------------------------------------------------------------------------


BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)),
    "merge": "a: &a {x: 1}\n" + "".join(f"m{n}: {{<<: *a}}\n" for n in range(1000)),
    "large": "data: {folder: images}\n#" + "x" * 50_000_000,
    "deep": "data: " + "[" * 10_000 + "]" * 10_000,
    "deep blocks": "\n".join(" " * n + "k:" for n in range(1200)),
    "many": "k: [" + "1," * 400_000 + "]",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_S06_bombs_in_a_recipe(tmp_path: Path, bomb: str) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMBS[bomb])
    soon(measured("check", "bomb.yaml", cwd=tmp_path), 2, "bomb.yaml")


def test_S05_S07_S08_S10_recipes_that_reach_for_more_than_data(job: Path, cli: Any) -> None:
    recipe = (job / "job.yaml").read_text()
    canary = job / "canary"

    def tried(text: str, *culprits: str) -> None:
        (job / "tried.yaml").write_text(text)
        refused(cli("check", "tried.yaml", cwd=job), 2, *culprits)
        assert not canary.exists()

    tried(f"data: !!python/object/apply:os.mkdir ['{canary}']\n", "tried.yaml:1", "python/object/apply")
    tried(f"{recipe}seed: !!python/name:os.system\n", "tried.yaml:9")
    tried(f"{recipe}seed: 1\nseed: 2\nsede: 3\n", "tried.yaml:10: seed: duplicate key", "(did you mean 'seed'?)")
    backbones = ("os:system", "os.system", "pkg.module.Class", "registered/os.system", "../../x", "timm/../../x")
    for name in backbones[:3]:
        tried(recipe.replace("timm/test_resnet", name), "model.backbone")
    tried(recipe.replace("images,", "images, augment: pkg.fn,"), "data.augment")
    tried(recipe.replace("images,", "images, transform: pkg.fn,"), "data.transform: unknown key")
    for value in (".nan", "-1", ".inf", "1e-4x", "[1e-4]", "true"):
        tried(recipe.replace("lr: 0.01", f"lr: {value}"), "train.lr")
    shown = cli("check", "job.yaml", "-o", "train.lr=1e-4", "-o", "data.classes=[NO, on, 08, 010, 12:30]", cwd=job)
    refused(shown, 3, *(f"data.classes: '{name}'" for name in ("NO", "on", "08", "010", "12:30")))
    for name in backbones[3:]:
        refused(cli("plan", "job.yaml", "-o", f"model.backbone={name}", cwd=job), 2, "model.backbone")


# --- weights, checkpoints, bundles -----------------------------------------------------------------------------------


def safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_S04_malformed_safetensors_cost_neither_time_nor_memory(job: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    many = {f"t{n}": {**entry, "data_offsets": [4 * n, 4 * n + 4]} for n in range(100_000)}
    safetensors(job / "many.safetensors", many, bytes(400_000))
    safetensors(job / "long.safetensors", {}, length=2**40)

    def tried(name: str) -> Measured:
        result = measured("run", "job.yaml", "--out", "o", "-o", f"model.weights={name}.safetensors", cwd=job)
        refused(result, 4, f"{name}.safetensors")
        return result

    least = tried("long")  # what torch and the network alone take
    assert least.megabytes < 1024
    result = tried("many")
    assert result.seconds < least.seconds + 5
    assert result.megabytes < least.megabytes + 200


def forged(checkpoints: Path, canary: Path) -> Path:
    """A pickle with code, under the name of a checkpoint and with a manifest that vouches for it."""
    path = checkpoints / "epoch-0009-step-0000999.pth"
    content = pickle.dumps({"model_state_dict": Canary(canary)})
    path.write_bytes(content)
    manifest = {"format": 1, "epoch": 9, "step": 999, "bytes": len(content)}
    path.with_suffix(".json").write_text(json.dumps({**manifest, "sha256": hashlib.sha256(content).hexdigest()}))
    return path


def not_believed(cli: Any, job: Path, run: Path) -> None:
    """A checkpoint whose manifest vouches for it, and a bundle that names code, in a finished run."""
    unsafe = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    path = forged(run / "checkpoints", job / "canary")
    refused(cli("resume", "real/o", "--from", path, cwd=job, env=unsafe), 4, path.name)
    refused(cli("verify", "real/o", cwd=job, env=unsafe), 4, path.name)
    description = run / "model" / "model.json"
    good = json.loads(description.read_text())
    assert "architecture" in good
    ignored, refusing = {"_instantiator": "os.system", "__import__": "os"}, {"architecture": "os:system"}
    trace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(job / "trace")] if shutil.which("strace") else []
    for added, rc in ((ignored, 0), (refusing, 4)):
        description.write_text(json.dumps({**good, **added}))
        result = measured("predict", "real/o/model", "images/ant/000.jpg", cwd=job, before=trace)
        assert result.rc == rc, result.err
        assert "Traceback" not in result.err
        started = set(re.findall(r'execve\("([^"]+)"', (job / "trace").read_text())) if trace else set()
        assert started <= {FINETUNE, "/sbin/ldconfig"}, "torch looks for libraries; nothing else is started"
    assert not (job / "canary").exists()


def test_S01_S02_S03_S09_nothing_leads_elsewhere_or_is_believed(job: Path, cli: Any) -> None:
    for name in ("../../x", "/tmp/x", "..", "a/b", ".hidden"):
        refused(cli("check", "job.yaml", "-o", f"name={name}", cwd=job), 2, "name")
    refused(cli("check", "job.yaml", "-o", "data.classes=['..', ant]", cwd=job), 3, "data.classes: '..'")
    inside = {path.name for path in job.iterdir()}
    (job / "real").mkdir()
    (job / "link").symlink_to("real")
    trace, scratch = job / "trace", job.parent / f"{job.name}-tmp"
    scratch.mkdir()
    calls = "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", calls, "-o", str(trace)] if shutil.which("strace") else []
    one = ("--epochs", "1", "-o", "model.unfreeze={head: 0}")
    result = measured("run", "job.yaml", "--out", "link/o", *one, cwd=job, before=strace, TMPDIR=str(scratch))
    assert result.rc == 0, result.err
    assert not list(scratch.iterdir()), "`tempfile` tries the folder with a file; nothing stays there"
    assert {path.name for path in (job / "real").iterdir()} == {"o"}
    assert {path.name for path in job.iterdir()} - {"trace", ".out", ".err"} == inside | {"real", "link"}
    assert not (job.parent / "x").exists()
    cache = os.path.realpath(os.environ["FINETUNE_CACHE"])
    allowed = (str(job / "real" / "o"), cache, str(scratch), "/dev/shm/sem.", "/dev/null")
    for line in trace.read_text().splitlines() if strace else ():
        made = "O_CREAT" in line or re.search(r" (mkdir|creat|rename|link|symlink)\w*\(", line)
        if made and " = -1 " not in line:
            for path in re.findall(r'"((?:[^"\\]|\\.)*)"', line):
                assert os.path.realpath(job / path).startswith(allowed), line
    not_believed(cli, job, job / "real" / "o")


def test_S15_a_damaged_file_in_the_cache_and_no_network_at_all(job: Path, cli: Any) -> None:
    default = ("-o", "model.weights=default")
    folder = Path(os.environ["FINETUNE_CACHE"]) / "weights" / "timm--test_resnet.r160_in1k"
    cached = makers.put(folder / "model.safetensors", b"one byte has changed")
    makers.put(folder / "model.safetensors.sha256", hashlib.sha256(b"one byte has Changed").hexdigest().encode())
    home = {"HF_HOME": str(job / "hub"), "TORCH_HOME": str(job / "hub")}
    refused(cli("run", "job.yaml", "--out", "o", *default, cwd=job, env=home), 4, f"{cached}: damaged")
    shutil.rmtree(folder)
    if measured("--version", cwd=job, before=["unshare", "-rn"]).rc != 0:
        pytest.skip("this system lets no process have a network of its own")
    online = {**home, "HF_HUB_OFFLINE": "0"}
    result = measured("run", "job.yaml", "--out", "o", *default, cwd=job, before=["unshare", "-rn"], **online)
    refused(result, 6, "test_resnet")
    assert "machine with network" in result.err
    assert not (job / "o").exists()
