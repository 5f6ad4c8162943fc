"""Under which settings the records of a simulated cohort still follow its process.

Reads settings as they stand in keys, `section.key=<JSON>`; sees no patient.
"""

from collections.abc import Iterable

# A draw of whole patients changes nothing, nor the order within a SEQ_NUM, which is never repeated.
HOLDS = (
    *("records.seed", "records.split.", "records.age_cap", "records.patients", "records.tie_break"),
    *("shards.count", "shards.max_tokens"),
)
HOLDS_AT = {
    "records.min_age": "0.0",
    "records.newborns": '"keep"',
    "records.min_visits": "1",
    "records.granularity": '"full"',
    "records.fold_below": "0",
    "shards.drop": '"newest"',
}


def changed_process(settings: Iterable[str]) -> str | None:
    """The first setting under which the records are not the process's; None if there is none."""
    for text in settings:
        name, _, value = text.partition("=")
        if not name.startswith(HOLDS) and HOLDS_AT.get(name) != value:
            return text
    return None
