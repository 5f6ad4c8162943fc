"""The command line: one subcommand per stage, and `settings` and `inspect`.

Turns options into a stage's Inputs and Outputs, assignments into its settings, and an error
meant for people into one line and an exit status. Reaches a stage only by importing the module
that the stage table names, when that subcommand runs.
"""

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from promptehr import locks, provenance
from promptehr.errors import PromptEHRError, SettingsError
from promptehr.settings import Runtime, from_assignments, meanings, runtime_from
from promptehr.stage_table import STAGES, Stage

logger = logging.getLogger("promptehr")


# The base of typer's usage errors: it carries its own copy of click, which has no public name.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Entry point of the `promptehr` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one subcommand and return the exit status; an error for people takes one line."""
    sys.excepthook = _log_bug
    command = typer.main.get_command(application())
    try:
        status = command.main(
            args=list(arguments) or ["--help"], prog_name="promptehr", standalone_mode=False
        )
    except UsageError as error:
        return _fail(_usage(error), status=2)
    except PromptEHRError as error:
        return _fail(str(error), status=error.exit_status)
    return status if isinstance(status, int) else 0


def application() -> typer.Typer:
    """The subcommands: the stages in pipeline order, then what only looks."""
    app = typer.Typer(
        help="From hospital records to a measured generator of synthetic patients, stage by stage.",
        epilog="The stages run in the order shown; `snakemake --profile profiles/local` runs what is stale.",
        rich_markup_mode=None,
        add_completion=False,
    )
    for stage in STAGES:
        app.command(stage.name, help=stage.summary)(_stage_command(stage))
    app.command("status")(show_status)
    app.command("settings")(show_settings)
    app.command("inspect")(show_artifact)
    return app


def show_status(
    profile: Annotated[Path | None, typer.Option(help="Folder of a profile, as for snakemake.")] = None,
    configfile: Annotated[
        list[Path] | None,
        typer.Option(help="Settings file over config.yaml and in place of the profile's; repeatable."),
    ] = None,
) -> None:
    """Say which artifacts are fresh, stale, missing or resumable, and why; runs nothing."""
    from promptehr.seals import jobs
    from promptehr.settings_files import files_of_run, merged_from
    from promptehr.status import statuses, table

    files = files_of_run(profile, configfile or [])
    settings = merged_from(files)
    typer.echo(f"settings: {', '.join(map(str, files))}; results: {settings.results_dir}")
    typer.echo(table(statuses(jobs(settings))))


def show_settings(
    configfile: Annotated[
        list[Path] | None,
        typer.Option(help="Settings file; later ones are merged over earlier ones. Default: config.yaml."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Show one experiment's settings.")] = None,
) -> None:
    """Print every setting in force, its value, and the file it comes from."""
    from promptehr.settings_files import table

    typer.echo(table(configfile or [Path("config.yaml")], experiment))


def show_artifact(
    path: Annotated[Path, typer.Argument(help="A file or folder under results/.")],
    rows: Annotated[int, typer.Option(min=0, help="Patient rows to show; they may be private.")] = 0,
) -> None:
    """Show an artifact: what it is, its columns, counts, top codes, flow of rows."""
    from promptehr.inspect import describe

    typer.echo(describe(path, rows=rows))


def _stage_command(stage: Stage) -> Callable[..., None]:
    """A function whose signature is the stage's files, runtime, log and settings."""

    def command(**options: Any) -> None:
        _run_stage(stage, options)

    parameters = [
        *(_file_parameter(name, "read") for name in stage.inputs),
        *(_file_parameter(name, "written") for name in stage.outputs),
        *(_runtime_parameters() if stage.runtime else ()),
        _parameter("log", Path | None, typer.Option(help="Append log lines to this file."), None),
        _parameter("assignments", list[str] | None, _assignments_argument(stage), None),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(
    name: str, kind: Any, option: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option], default=default
    )


def _file_parameter(name: str, use: str) -> inspect.Parameter:
    bare = name.rstrip("?*")
    if name.endswith("*"):
        return _parameter(bare, list[Path] | None, typer.Option(help=f"{use}; repeatable"), None)
    if name.endswith("?"):
        return _parameter(bare, Path | None, typer.Option(help=f"{use}; optional"), None)
    return _parameter(bare, Path, typer.Option(help=use))


def _runtime_parameters() -> list[inspect.Parameter]:
    # Values stay text up to the settings model, which says what is wrong with them.
    return [
        _parameter(name, str | None, typer.Option(help=text), None)
        for name, text in meanings(Runtime).items()
    ]


def _assignments_argument(stage: Stage) -> Any:
    return typer.Argument(
        metavar=f"[{stage.name}.KEY=VALUE]...",
        help="Settings; docs/settings.md lists them.",
        show_default=False,
    )


def _run_stage(stage: Stage, options: Mapping[str, Any]) -> None:
    _start_logging(options["log"])
    settings = from_assignments(stage.name, options["assignments"] or ())
    # Read before the work begins: an edit during a long job is not the code that ran.
    provenance.code(stage.name)
    module = importlib.import_module(stage.module)
    inputs = module.Inputs(**_files(stage.inputs, options))
    outputs = module.Outputs(**_files(stage.outputs, options))
    _check_files(stage, options)
    logger.info("%s starts", stage.name)
    runtime = [_runtime(options)] if stage.runtime else []
    written = [options[name] for name in stage.outputs]
    with nullcontext() if stage.resumes else locks.outputs(written):
        module.run(inputs, outputs, settings, *runtime)
    logger.info("%s is done", stage.name)


def _check_files(stage: Stage, options: Mapping[str, Any]) -> None:
    """Refuse outputs that are each other, an input, or not beside the one that seals them.

    Raises:
        SettingsError: naming the options.
    """
    places: dict[Path, str] = {}
    for name in stage.inputs:
        given = options[name.rstrip("?*")] or ()
        for path in given if name.endswith("*") else [given] if given else []:
            places[_place(path)] = name.rstrip("?*")
    seal = _place(options[stage.outputs[-1]])
    for name in stage.outputs:
        path = _place(options[name])
        option = _option(name)
        if path in places:
            raise SettingsError(
                f"{option} {options[name]}: is {_option(places[path])} too; name another file"
            )
        places[path] = name
        if seal.parent not in path.parents:
            raise SettingsError(
                f"{option} {options[name]}: expected in the folder of {_option(stage.outputs[-1])}"
                f" {options[stage.outputs[-1]]}; name a file there"
            )


def _place(path: Path) -> Path:
    """Where it lies, links followed; links that lead nowhere or in a circle are the stage's business."""
    return Path(os.path.realpath(path))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _files(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """One path, None, or a tuple of paths for `name*`, by the name without its mark."""
    files: dict[str, Any] = {}
    for name in names:
        bare = name.rstrip("?*")
        files[bare] = tuple(options[bare] or ()) if name.endswith("*") else options[bare]
    return files


def _runtime(options: Mapping[str, Any]) -> Runtime:
    given = [f"{name}={options[name]}" for name in Runtime.model_fields if options[name] is not None]
    return runtime_from(given)


def _start_logging(log: Path | None) -> None:
    """Lines go to the log file if there is one; warnings, or all without one, to the terminal."""
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING if log else logging.INFO)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if log:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(log)
        except OSError as error:
            raise SettingsError(f"--log {log}: {error.strerror}; name a file that can be written") from None
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    logger.handlers = handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _fail(message: str, *, status: int) -> int:
    """One line on the terminal, and the same line in the log file if there is one."""
    line = f"promptehr: {message}"
    typer.echo(line, err=True)
    _write_to_log(logging.ERROR, line)
    return status


def _write_to_log(level: int, message: str, error: Any = None) -> None:
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(logging.LogRecord(logger.name, level, __file__, 0, message, None, error))


def _usage(error: Exception) -> str:
    """A usage error as one line that names the subcommand's help."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "promptehr"
    message = " ".join(getattr(error, "message", str(error)).split())
    name = getattr(getattr(error, "param", None), "opts", [""])[0]
    missing = type(error).__name__ == "MissingParameter"
    what = f"{name} is missing" if missing else f"{name}: {message}" if name else message
    return f"{what.rstrip('.')}; see {where} --help"


def _log_bug(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """A bug of ours: its traceback goes to the log file too."""
    _write_to_log(logging.CRITICAL, "bug in promptehr", (kind, error, traceback))
    sys.__excepthook__(kind, error, traceback)
