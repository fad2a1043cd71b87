"""`finetune cache`: the cached features of frozen layers, listed or cleared."""

from __future__ import annotations

import time

import click

from finetune.cli.options import json_flag, print_json


@click.group()
def cache() -> None:
    """Show or clear the cached features of frozen layers.

    They are tables in the cache folder ($FINETUNE_CACHE, else $XDG_CACHE_HOME/finetune, else
    ~/.cache/finetune), filed by content; the longest unused go first when train.cache's disk_gb is reached.
    """


@cache.command()
@json_flag
def ls(as_json: bool) -> None:
    """List the tables with their size and last use."""
    from finetune.files import cache_folder
    from finetune.train.store import Store

    folder = cache_folder() / "features"
    tables = [(path.name, stats.st_size, stats.st_mtime) for path, stats in Store(folder, 0).tables()]
    total = sum(size for _, size, _ in tables)
    if as_json:
        listed = [{"name": name, "bytes": size, "last_use": used} for name, size, used in tables]
        print_json({"folder": str(folder), "bytes": total, "tables": listed})
        return
    for name, size, used in tables:
        click.echo(f"{name[:12]}  {size / 1e6:10,.1f} MB  {time.strftime('%Y-%m-%d %H:%M', time.localtime(used))}")
    click.echo(f"{len(tables)} tables, {total / 1e6:,.1f} MB in {folder}")


@cache.command()
def clear() -> None:
    """Remove every table; the next run computes its own again."""
    from finetune.files import cache_folder
    from finetune.train.store import Store

    freed = Store(cache_folder() / "features", 0).clear()
    click.echo(f"{freed / 1e6:,.1f} MB freed")
