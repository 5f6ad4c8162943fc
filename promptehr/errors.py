"""Every error that is meant for a person.

    PromptEHRError          one line on the terminal, exit status 2
    ├── SettingsError       a key, type or range in config.yaml or on the command line
    ├── InputError          a source file, a record or a column of it
    ├── ArtifactError       something under results/ is missing, damaged or of another format
    ├── BusyError           another process holds the results folder or the training run
    ├── NonFiniteError      training met a loss or gradient that is not finite (exit status 1)
    └── Interrupted         a signal ended the stage after it saved its state (exit status 75)

A message names the file and the record, column or key; the kind of value seen, never a
patient's value; what was expected; and what to do. Anything else that is raised is a bug of
ours and keeps its traceback.
"""


class PromptEHRError(Exception):
    """An error whose message is complete in one line."""

    exit_status = 2

    def __str__(self) -> str:
        """The message; a line end or another control character in a file's name is shown escaped."""
        text = super().__str__()
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class SettingsError(PromptEHRError):
    """A setting is unknown, missing, of the wrong type or out of range."""


class InputError(PromptEHRError):
    """A source file cannot be used as it is."""


class ArtifactError(PromptEHRError):
    """An artifact is missing, damaged, or not what the stage expects."""


class BusyError(PromptEHRError):
    """Another process is writing where this one wants to write."""


class NonFiniteError(PromptEHRError):
    """Training produced a loss or gradient that is not finite."""

    exit_status = 1


class Interrupted(PromptEHRError):
    """A signal asked the stage to stop, and its state is saved."""

    exit_status = 75
