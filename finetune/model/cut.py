"""The cut at the freeze line: a frozen prefix, and the suffix that learns.

The method: trace the network with torch.fx in the modes of the phase; an operation is above the line if it, or
anything it depends on, uses a parameter that learns, changes a buffer (BatchNorm statistics), is random, or is another
one in evaluation. All others are the prefix; the values that cross may be computed once and kept.
"""

from __future__ import annotations

import posixpath
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import fx, nn

from finetune.device import own_randomness
from finetune.model.freeze import live_batchnorm
from finetune.model.freeze_line import Line, Uncuttable, prefix_of, suffix_of
from finetune.model.trace import Table, Trace, fetch, follow, twin

Values = tuple[torch.Tensor, ...]

TOLERANCE = 1e-3
"""Largest deviation of the parts' logits from the network's, as a share of the largest logit: precision, not logic."""


@dataclass(frozen=True)
class Cut:
    """A network in two parts: `suffix(*prefix(images))` are its logits, in the modes of the phase.

    All parts run the network's own submodules and parameters: its optimizer, modes, hashes and checkpoints are theirs.
    Nothing in `prefix` learns, is random or changes a buffer, and no part writes to the values, so they can be kept and
    used again; made in inference mode, however, they serve `eval_suffix` only. Batches may be of any size; the images
    are of the height and width of the example.

    Attributes:
        prefix: images, float32 [N, C, H, W] → the values that cross the freeze line, each [N, ...].
        suffix: those values → logits, float [N, classes]; for training, with the modules in the modes of the phase.
        eval_suffix: the same for evaluation, with all modules in eval mode.
        where: what a person calls this cut, e.g. ``before layer4``.
        whole: nothing is cut: the images are the values, and `suffix` and `eval_suffix` are the network.
        bytes_per_image: what the values of one image take in float32; 0 where nothing is cut.
    """

    prefix: Callable[[torch.Tensor], Values]
    suffix: Callable[..., torch.Tensor]
    eval_suffix: Callable[..., torch.Tensor]
    where: str
    whole: bool = False
    bytes_per_image: int = 0


def cut(module: nn.Module, learning: Collection[str], *, example: torch.Tensor | None = None) -> Cut:
    """Cut `module` for a phase in which the parameters named in `learning` learn.

    A network that cannot be traced is cut before its last module if only that one learns, else not at all: autograd
    skips what is frozen below the lowest learning layer by itself.

    Args:
        module: the network, in the modes of the phase (see `set_modes`); afterwards as it was.
        learning: names of its parameters that learn.
        example: images as the network gets them, float [N, C, H, W]; only shape, type, device and memory format count.
            Without one, nothing is cut.
    """
    if example is None:
        return _whole(module, "no example image was given")
    named = dict(module.named_parameters(remove_duplicate=False))
    ids = {id(named[name]) for name in learning}
    if ids == {id(parameter) for parameter in module.parameters()}:
        return _whole(module, "the first layer learns")
    with own_randomness():
        torch.manual_seed(0)
        try:
            found = _at_the_line(module, ids, example)
        except Uncuttable as error:
            return _whole(module, str(error))
        except Exception as error:  # a network's own code, run in an unusual way, may raise anything
            problem = textwrap.shorten(f"{type(error).__name__}: {error}", 100, placeholder=" …")
            reason = f"the network cannot be traced ({problem})"
            return _before_last_module(module, learning, example) or _whole(module, reason)
        if not _agrees(module, found, example):
            return _whole(module, "the two parts did not give what the whole network gives")
    return found


def noise(example: torch.Tensor, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Images like the example, but no two alike.

    Args:
        example: float [N, C, H, W]; only shape, type, device and memory format count.
        batch: how many.
        generator: of the example's device; None for the global random state.
    """
    shape = (batch, *example.shape[1:])
    images = torch.randn(shape, dtype=example.dtype, device=example.device, generator=generator)
    last = example.is_contiguous(memory_format=torch.channels_last)
    return images.to(memory_format=torch.channels_last) if last else images


def _whole(module: nn.Module, reason: str) -> Cut:
    return Cut(
        prefix=lambda images: (images,), suffix=module, eval_suffix=module, where=f"at the images: {reason}", whole=True
    )


# --- by tracing ------------------------------------------------------------------------------------------------------


def _at_the_line(module: nn.Module, learning: set[int], example: torch.Tensor) -> Cut:
    copied, table = twin(module), Table()
    train = follow(copied, noise(example, 2), table)
    evaluated = follow(copied.eval(), noise(example, 1), table)
    if any(evaluated.effects[node].impure for node in evaluated.nodes):
        raise Uncuttable("it is random, or changes a buffer, in evaluation too")
    by_key = {evaluated.keys[node]: evaluated.effects[node] for node in evaluated.nodes}
    line = Line(train, _seeds(train, learning, by_key), by_key, evaluated.batch)
    if train.output not in line.learning:
        raise Uncuttable("nothing that learns has a part in the logits")
    below = [node for node in train.nodes if node in train.varying and node not in line.learning]
    if not any(train.parameters(source) for node in below for source in (node, *node.all_input_nodes)):
        raise Uncuttable("the first layer learns")
    keys = [train.keys[node] for node in line.values]
    suffix = suffix_of(line, train, module, keys)
    eval_suffix = suffix
    if [train.keys[node] for node in train.nodes] != [evaluated.keys[node] for node in evaluated.nodes]:
        fixed = {train.keys[node] for node in below}
        other = {train.keys[node]: train.effects[node] for node in train.nodes}
        seeds = [n for n in evaluated.nodes if n in evaluated.varying and evaluated.keys[n] not in fixed]
        eval_suffix = suffix_of(Line(evaluated, seeds, other, train.batch), evaluated, module, keys)
    return Cut(
        prefix=prefix_of(line, train, module),
        suffix=suffix,
        eval_suffix=eval_suffix,
        where=f"before {_place(train, module, learning)}",
        bytes_per_image=sum(4 * train.effects[node].value[0].numel() for node in line.values),
    )


def _seeds(train: Trace, learning: set[int], evaluated: Collection[int]) -> list[fx.Node]:
    """The operations that learn by themselves, not because of what they depend on."""
    return [
        node
        for node in train.nodes
        if any(id(parameter) in learning for parameter in train.parameters(node))
        or train.effects[node].impure
        or (node in train.varying and train.keys[node] not in evaluated)
    ]


def _place(trace: Trace, module: nn.Module, learning: set[int]) -> str:
    """The largest module that learns as a whole and runs first; the head is the one that everything else precedes."""
    used = [node for node in trace.nodes if trace.parameters(node)]
    first = next(node for node in used if any(id(parameter) in learning for parameter in trace.parameters(node)))
    owner = str(first.target) if first.op == "call_module" else str(first.target).rpartition(".")[0]
    parts = owner.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        found = {id(parameter) for parameter in fetch(module, name).parameters()} if name else set()
        if found and found <= learning:
            last = str(used[-1].target)
            return "the head" if learning <= found and f"{last}.".startswith(f"{name}.") else name
    return owner or str(first.target)


# --- without tracing -------------------------------------------------------------------------------------------------


class _Reached(Exception):
    """Carries what a module was called with out of a forward pass."""


def _before_last_module(module: nn.Module, learning: Collection[str], example: torch.Tensor) -> Cut | None:
    """The cut in front of the module that all that learns is in, if its output is the network's; else None."""
    name = posixpath.commonpath([name.rpartition(".")[0].replace(".", "/") for name in learning]).replace("/", ".")
    if not name:
        return None
    last = module.get_submodule(name)

    def prefix(images: torch.Tensor) -> Values:
        def stop(_: nn.Module, args: Values) -> None:
            raise _Reached(args)

        handle = last.register_forward_pre_hook(stop)
        try:
            module(images)
        except _Reached as reached:
            values: Values = reached.args[0]
            return values
        finally:
            handle.remove()
        raise RuntimeError(f"the network does not call its module {name}")

    def suffix(*values: torch.Tensor) -> torch.Tensor:
        # The first thing the module does may be done in place.
        logits: torch.Tensor = last(*(value.clone() for value in values))
        return logits

    if any(not f"{norm}.".startswith(f"{name}.") for norm in live_batchnorm(module)):
        return None
    try:
        with torch.no_grad():
            images = noise(example, 2)
            values, again = prefix(images), prefix(images)
    except Exception:  # a network's own code again: any failure only means that it is not cut here
        return None
    fit = all(isinstance(value, torch.Tensor) and value.dim() and len(value) == len(images) for value in values)
    if not values or not fit or not all(torch.equal(a, b) for a, b in zip(values, again, strict=True)):
        return None
    found = Cut(prefix, suffix, suffix, "before the head", False, sum(4 * value[0].numel() for value in values))
    return found if _agrees(module, found, example) else None


# --- the proof -------------------------------------------------------------------------------------------------------


def _agrees(module: nn.Module, found: Cut, example: torch.Tensor) -> bool:
    """Whether the parts give what the network gives, in eval mode, and leave the values as they are."""
    # Three: a size of batch that nothing was traced or settled with.
    images = noise(example, 3)
    with evaluating(module), torch.no_grad():
        whole = module(images)
        values = found.prefix(images)
        kept = [value.clone() for value in values]
        parts = found.eval_suffix(*values)
    close = float((parts - whole).abs().max()) <= TOLERANCE * max(float(whole.abs().max()), 1e-6)
    return close and all(torch.equal(a, b) for a, b in zip(values, kept, strict=True))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; outside, each module is in the mode that it was in."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
