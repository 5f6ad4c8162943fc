"""PromptBART, its training and its sampling.

Importing this package registers PromptBART with transformers' Auto classes.
"""

from promptehr.model.promptbart import load, register

__all__ = ["load"]

register()
