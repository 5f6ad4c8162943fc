"""Settings files as a person reads them: merged in order, each value beside where it comes from.

Reads YAML for `promptehr settings`; the workflow itself gets the merged mapping from Snakemake.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from promptehr.errors import SettingsError
from promptehr.settings import Settings, for_experiment, leaves, merge, parse


def table(files: Sequence[Path], experiment: str | None = None) -> str:
    """Every setting as a line `key  value  origin`, the files merged in the given order.

    Raises:
        SettingsError: if a file is missing, not YAML, or holds a setting that is refused.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for file in files:
        content = load(file)
        merged = merge(merged, content)
        origins |= {key: str(file) for key, _ in leaves(content)}
    settings = parse(merged)
    if experiment is not None:
        settings = for_experiment(settings, experiment)
        changes = settings.experiments[experiment].model_dump(exclude_defaults=True)
        origins |= {key: f"experiments.{experiment}" for key, _ in leaves(changes)}
    rows = [
        (key, value, origins.get(key, "default"))
        for key, value in leaves(settings.model_dump(by_alias=True, exclude={"experiments"}))
    ]
    rows.append(("experiments", " ".join(settings.experiments), origins.get("experiments", "settings files")))
    return _aligned([("setting", "value", "from"), *rows])


def files_of_run(profile: Path | None, configfiles: Sequence[Path]) -> list[Path]:
    """The files of `snakemake --profile P --configfile F...`: config.yaml, then the profile's or these.

    Raises:
        SettingsError: if the profile's file is missing or not YAML.
    """
    named = (
        load(profile / "config.yaml").get("configfile", []) if profile and not configfiles else configfiles
    )
    return [Path(file) for file in ["config.yaml", *([named] if isinstance(named, str) else named)]]


def merged_from(files: Sequence[Path]) -> Settings:
    """The settings in the files, later ones over earlier ones.

    Raises:
        SettingsError: if a file is missing, not YAML, or holds a setting that is refused.
    """
    merged: dict[str, Any] = {}
    for file in files:
        merged = merge(merged, load(file))
    return parse(merged)


def load(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        SettingsError: if the file is missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{file}: {reason}; name a settings file with --configfile") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SettingsError(f"{file}: line {line} is not YAML ({error.problem}); correct it") from None
    if not isinstance(content, dict | None):
        raise SettingsError(f"{file}: expected sections like `train:`, found {type(content).__name__}")
    return content or {}


def _aligned(rows: Sequence[tuple[str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for key, value, origin in rows)
