"""The one exception that is meant for the user's eyes."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user gave is wrong: a file, a row, an option.

    The message says what was wrong, where, and how to mend it. The command line prints it without a traceback and
    exits with status 2; from Python it is an ordinary ``ValueError``.
    """
