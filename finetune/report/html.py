"""Pages from templates: every value is escaped, nothing outside the page is loaded, one script known by its hash."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from finetune.files import escape_html
from finetune.report import words
from finetune.report.tables import number


def render_page(template: str, **values: Any) -> str:
    """A template of this folder as HTML text.

    Args:
        template: its file name.
        **values: what it shows; text is escaped, `Markup` is taken as it is.
    """
    environment = Environment(
        loader=PackageLoader("finetune", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escaped,
    )
    environment.filters |= {"percent": words.percent, "number": number}
    return environment.get_template(template).render(script=_script(), policy=_policy(), **values)


def _script() -> Markup:
    """The page's own script: tables sorted by a click. The page says all that it has to say without it."""
    return Markup(resources.files("finetune.report").joinpath("page.js").read_text("utf-8"))


def _policy() -> str:
    """The content security policy: no script runs but the one with this hash, whatever a class is called."""
    digest = base64.b64encode(hashlib.sha256(str(_script()).encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def _escaped(value: object) -> object:
    """All that a template prints: our own markup as it is, anything else through the one place that escapes."""
    return value if isinstance(value, Markup) else Markup(escape_html(value))
