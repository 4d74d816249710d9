"""The exceptions pentti raises on purpose.

::

    PenttiError
    ├── ArgumentError (also a ValueError)   an argument cannot be used as it is
    ├── StoreError (also a RuntimeError)    a file cannot be read or written
    └── TrainingError (also a RuntimeError) a run cannot go on

    UserWarning
    └── SettingWarning                      a setting is allowed, and hardly meant

Every message is one sentence that names the argument or the file, what was
expected and what came. Catch `PenttiError` to catch them all.
"""

__all__ = ["ArgumentError", "PenttiError", "SettingWarning", "StoreError", "TrainingError"]


class PenttiError(Exception):
    """Base of every error that pentti raises on purpose."""


class ArgumentError(PenttiError, ValueError):
    """An argument has the wrong type, shape, range or value."""


class StoreError(PenttiError, RuntimeError):
    """A file is missing, damaged, of a newer format, or cannot be written."""


class TrainingError(PenttiError, RuntimeError):
    """A training run cannot go on, such as from a loss that is no number."""


class SettingWarning(UserWarning):
    """A setting that works, and leaves the memory useless; the message names a good one."""
