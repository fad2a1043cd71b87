"""Layer groups: the stages of a network by their own names, and the patterns that pick layers out of it.

Groups come from the names in the state dict by general rules, not from a list of architectures: a *block* is a
numbered child of a list (`blocks.3`, `features.7`) or one of several numbered siblings (`layer1`, `denseblock2`, `s3`).
What comes before the first block is `stem`, what comes after the last is `final`, the new classifier is `head`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from finetune.errors import UsageError, did_you_mean

STEM, FINAL, HEAD = "stem", "final", "head"

_SIBLING = re.compile(
    r"(layers?|stages?|levels?|blocks?|s|denseblock|transition|inception|mixed|encoder_layer|cell)_?\d+[a-z]?$",
    re.IGNORECASE,
)
_NO_LIST = re.compile(
    r"^conv|stem|base_|embed|patch|pos|[cr]pe|norm|proj|downsamp|pool|pre_logits|fc|aux|head|classifier|final",
    re.IGNORECASE,
)
_EMBEDDING = re.compile(r"embed|pos_|_pos|_token")  # in the stem wherever the network declares them
_ALWAYS_LIST = {"blocks", "stages", "layers", "levels", "features"}
_DEEPEST = 4  # levels below the root at which blocks are looked for


def layer_groups(module: nn.Module, architecture: str, head: str | Sequence[str]) -> dict[str, list[str]]:
    """Layer group → names of its tensors, in forward order; every tensor of the state dict is in exactly one.

    Args:
        module: the network.
        architecture: its name, for messages only.
        head: dotted name of the new classifier; several for a network with several (distilled transformers).

    Raises:
        UsageError: `head` names no tensors.
    """
    heads = (head,) if isinstance(head, str) else tuple(head)
    names = list(module.state_dict())
    in_head = [name for name in names if _within(name, heads)]
    if not in_head:
        raise UsageError(f"{architecture}: {', '.join(heads)} is no layer with weights", "name the classifier's module")
    body = [name for name in names if not _within(name, heads)]
    blocks = _blocks(module, heads)
    return _in_order(body, blocks or _children(body), staged=bool(blocks)) | {HEAD: in_head}


def match(pattern: str, groups: Mapping[str, Sequence[str]], parameter_names: Iterable[str]) -> set[str]:
    """The parameters that a pattern picks.

    Args:
        pattern: a layer group, `head`, `backbone`, `all`, `last:N`, a module (`layer4.1`) or a glob over parameter
            names (`layer4.1.*`).
        groups: see `layer_groups`.
        parameter_names: the names there are.

    Raises:
        UsageError: nothing matches; the nearest names are in the message.
    """
    names = list(parameter_names)
    backbone = [group for group in groups if group != HEAD]
    if pattern == "all":
        return set(names)
    if pattern == "backbone" and pattern not in groups:
        return _members(backbone, groups, names)
    if pattern.startswith("last:"):
        return _members(_last(pattern, backbone), groups, names)
    if pattern in groups and (matching := _members([pattern], groups, names)):
        return matching
    matching = {name for name in names if name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)}
    if not matching:
        raise _nothing(pattern, groups, names)
    return matching


# --- finding the blocks ----------------------------------------------------------------------------------------------


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _blocks(module: nn.Module, heads: Sequence[str]) -> dict[str, str]:
    """Dotted prefix → layer group, for every block of the network."""
    blocks: dict[str, str] = {}
    _search(module, "", heads, blocks, _DEEPEST)
    return blocks


def _search(module: nn.Module, prefix: str, heads: Sequence[str], groups: dict[str, str], depth: int) -> None:
    children = [(name, child) for name, child in module.named_children() if len(child.state_dict())]
    siblings = {name for name, child in children if _SIBLING.match(name) and not _is_leaf(child)}
    for name, child in children:
        path = f"{prefix}{name}"
        if any(_within(head, [path]) for head in heads):
            continue  # the head is a group of its own, and so is what holds nothing but the head
        if name in siblings and len(siblings) > 1:  # layer1, layer2, …: one alone is no row of stages
            groups[path] = path
        elif _is_list(name, child):
            groups.update(_listed(child, path))
        elif depth > 1 and not _NO_LIST.search(name):
            _search(child, f"{path}.", heads, groups, depth - 1)


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


def _is_list(name: str, module: nn.Module) -> bool:
    if _NO_LIST.search(name):
        return False
    full = [child for child, part in module.named_children() if len(part.state_dict())]
    return bool(full) and all(child.isdigit() for child in full) and (len(full) > 1 or name in _ALWAYS_LIST)


def _listed(module: nn.Module, path: str) -> dict[str, str]:
    """The numbered children of a list as blocks by their own names; a flat list of layers by resolution."""
    children = list(module.named_children())
    flat = all(_is_leaf(child) for _, child in children) and any(_pools(child) for _, child in children)
    if not flat:
        return {f"{path}.{name}": f"{path}.{name}" for name, child in children if len(child.state_dict())}
    found, stage = {}, 1
    for name, child in children:
        if _pools(child):
            stage += 1
        elif len(child.state_dict()):
            found[f"{path}.{name}"] = f"stage{stage}"
    return found


def _pools(module: nn.Module) -> bool:
    return isinstance(module, (nn.MaxPool2d, nn.AvgPool2d))


def _children(names: Sequence[str]) -> dict[str, str]:
    """Groups of a network without blocks: its top-level children; of a single one, its children."""
    for depth in (1, 2):
        children = {".".join((_parts(name)[:-1] or _parts(name))[:depth]): None for name in names}
        if len(children) > 1:
            break
    return {child: child for child in children}


def _in_order(names: Sequence[str], blocks: Mapping[str, str], *, staged: bool) -> dict[str, list[str]]:
    owners = [_owner(name, blocks) for name in names]
    last = max((position for position, owner in enumerate(owners) if owner), default=-1)
    groups: dict[str, list[str]] = {STEM: []}
    current = STEM
    for position, (name, owner) in enumerate(zip(names, owners, strict=True)):
        if owner:
            current = owner
        elif staged and position > last:
            current = FINAL
        home = STEM if staged and not owner and _EMBEDDING.search(name) else current
        groups.setdefault(home, []).append(name)
    return {group: tensors for group, tensors in groups.items() if tensors}


def _owner(name: str, blocks: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if owner := blocks.get(".".join(parts[:length])):
            return owner
    return ""


# --- matching patterns -----------------------------------------------------------------------------------------------


def _members(picked: Iterable[str], groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> set[str]:
    return {tensor for group in picked for tensor in groups[group]} & set(names)


def _last(pattern: str, backbone: Sequence[str]) -> Sequence[str]:
    text = pattern.removeprefix("last:")
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= count <= len(backbone):
        raise UsageError(
            f"{pattern}: the backbone has {len(backbone)} layer groups, so N in last:N is 1 to {len(backbone)}",
            f"from the last one down they are {', '.join(reversed(backbone))}",
        )
    return backbone[-count:]


def _nothing(pattern: str, groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> UsageError:
    modules = {".".join(parts[:length]): None for parts in map(_parts, names) for length in range(1, len(parts) + 1)}
    plain = pattern.rstrip("*?.") or pattern
    known = dict.fromkeys([*groups, "backbone", "all", *modules])
    return UsageError(
        f"{pattern}: no layer group and no parameter has this name{did_you_mean(plain, known)}",
        f"the layer groups are {', '.join(groups)}; head, backbone, all, last:N and globs over parameter names "
        "(such as 'layer4.1.*') work too",
    )


def _parts(name: str) -> list[str]:
    return name.split(".")
