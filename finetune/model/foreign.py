"""Recognises files that are no weights by their content, so that the error can say what they are.

Nothing is unpacked or executed; a few bytes of the start are looked at, and the names in a zip archive.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

LOOK = 4096
"""Bytes of the start that are looked at."""

_CONVERT = "save its weights as safetensors, or with torch.save(model.state_dict(), path), and give that file"
_SIGNS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"GGUF", "a GGUF file", _CONVERT),
    (b"\x1f\x8b", "a gzip archive", "unpack it first: gunzip FILE"),
    (b"BZh", "a bzip2 archive", "unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first: unxz FILE"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first: unzstd FILE"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"%PDF", "a PDF", "give the weights file"),
    (b"\x89PNG", "a picture", "give the weights file"),
    (b"\xff\xd8\xff", "a picture", "give the weights file"),
    (b"model_checkpoint_path:", "the index of a TensorFlow checkpoint", _CONVERT),
)
_PAGE = "the download gave a web page: fetch the file itself, perhaps after logging in there"


def looks_like_safetensors(start: bytes) -> bool:
    """Whether a file begins with a length and a JSON object."""
    return len(start) > 8 and 2 <= struct.unpack("<Q", start[:8])[0] < 2**40 and start[8:9] == b"{"


def what_else(path: Path) -> tuple[str, str] | None:
    """The kind of a file that is no weights file, and what to do; None if it may be safetensors or PyTorch's."""
    with open(path, "rb") as file:
        start = file.read(LOOK)
    if not start:
        return "an empty file (0 bytes)", "download or copy it again"
    if looks_like_safetensors(start):
        return None
    if zipfile.is_zipfile(path):
        return _zip(path)
    kind_and_remedy = next(((what, remedy) for sign, what, remedy in _SIGNS if start.startswith(sign)), None)
    return kind_and_remedy or _text(path, start) or _binary(path, start)


def _zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:LOOK]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):  # damaged: its reader says how
        return None
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return "a TorchScript program, which is code", f"load it in a process that may run it, and {_CONVERT}"
    if "data.pkl" in inside or any(name.endswith("data.pkl") for name in names):
        return None
    if any(name.startswith("models/") or name == "archive_format" for name in inside):
        return "a torch.export program", f"load it where it was made, and {_CONVERT}"
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz)", _CONVERT
    if any(name.endswith(("config.json", "model.weights.h5")) for name in names):
        return "a Keras model (.keras)", _CONVERT
    return (
        f"a zip archive of something else ({', '.join(sorted(names)[:3]) or 'empty'})",
        "unpack it, and give the weights file in it",
    )


def _text(path: Path, start: bytes) -> tuple[str, str] | None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<":
        page = b"<html" in text.lower() or b"<!doctype html" in text.lower()
        return ("an HTML page" if page else "an XML file"), _PAGE
    if b'"weight_map"' in start:
        return "the index of weights in several files", "give one file: save the whole state dict as safetensors"
    if b"\0" in start or any(byte < 9 for byte in start[:256]):
        return None
    try:
        text.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.start < len(text) - 4:
            return None
    return (f"a text file ({path.name})", "give the weights file") if len(text) > 1 and text[:1] != b"\x80" else None


def _binary(path: Path, start: bytes) -> tuple[str, str] | None:
    # protocol buffers: field 1, a small version number, then field 2, the producer's name
    if start[:1] == b"\x08" and (start[2:3] in (b"\x12", b"\x3a", b"\x42") or b"onnx" in start):
        return "an ONNX model", f"load it where it was made, and {_CONVERT}"
    if path.name.startswith("saved_model.pb") or b"saved_model" in start[:64]:
        return "a TensorFlow SavedModel", _CONVERT
    if ".data-0" in path.name or path.suffix == ".index":
        return "a part of a TensorFlow checkpoint", _CONVERT
    if start[257:262] == b"ustar" and b"storages" not in start and b"pickle" not in start:
        return "a tar archive", "unpack it first: tar xf FILE"
    return None
