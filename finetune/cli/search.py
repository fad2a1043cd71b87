"""`finetune search`: the nearest images of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.options import device, json_flag, print_json, say_first
from finetune.files import visible

if TYPE_CHECKING:
    from finetune.deliver.search import Found


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("-k", "k", default=10, show_default=True, type=click.IntRange(1), help="How many neighbours.")
@click.option(
    "--where", metavar="COLUMN=VALUE", multiple=True, help="Only matching images, e.g. class=ship, split!=test."
)
@click.option("--html", type=click.Path(path_type=Path), help="Write a page of thumbnails to this file.")
@click.option("--force", is_flag=True, help="Replace the page if it exists.")
@click.option("--model", metavar="RUN|BACKBONE", help="The store's network, if it has moved.")
@device
@json_flag
def search(
    store: Path,
    images: tuple[str, ...],
    k: int,
    where: tuple[str, ...],
    html: Path | None,
    force: bool,
    model: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Find the images of STORE that are nearest to each IMAGE (files, folders, globs), by cosine distance.

    0 is the same direction, 2 the opposite one. Several --where must all hold; their columns are path, class, split,
    prediction, confidence and sha256.
    """
    say_first(f"searching {visible(str(store))}")
    from finetune.deliver.search import check_page, search_images, write_page

    if html is not None:
        check_page(html, force)
    found, notes = search_images(store, images, k=k, where=where, model=model, device=device or "auto")
    for note in notes:
        click.echo(f"note: {visible(note)}", err=True)
    if html is not None:
        write_page(html, store, found, where)
    if as_json:
        print_json({"results": [_as_dict(one) for one in found]})
        return
    click.echo("\n\n".join(_text(one) for one in found))
    if html is not None:
        click.echo(f"\npage: {visible(str(html))}")


def _as_dict(found: Found) -> dict[str, Any]:
    rows = [{"path": one.path, "class": one.label, "distance": one.distance} for one in found.neighbours]
    return {"query": found.query, "neighbours": rows}


def _text(found: Found) -> str:
    rows = [f"  {one.distance:.4f}  {visible(one.label or '-')}  {visible(one.path)}" for one in found.neighbours]
    return "\n".join([visible(found.query), *(rows or ["  no image of the store fits"])])
