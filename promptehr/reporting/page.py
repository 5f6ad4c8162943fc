"""The report's content to one self-contained HTML page.

Sees only the content that `report.json` holds, so that the page shows nothing else.
"""

from collections.abc import Mapping
from typing import Any

import jinja2

from promptehr.reporting import template
from promptehr.reporting.sections import (
    fidelity,
    flow,
    likelihood,
    origins,
    overview,
    patients,
    privacy,
    training,
    utility,
)

SECTIONS = (overview, flow, training, likelihood, fidelity, utility, privacy, patients, origins)


def render(content: Mapping[str, Any]) -> str:
    """The page: inline style, figures as data URIs, no script, nothing fetched."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(template.TEMPLATE).render(
        title=content["title"],
        subtitle=overview.subtitle(content),
        verdict=overview.verdict_text(content),
        sections=[module.section(content) for module in SECTIONS],
        style=template.STYLE,
    )
    # A number and its sign stay on one line.
    return page.replace(" %", "\N{NO-BREAK SPACE}%")
