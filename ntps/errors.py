"""The one exception for what a user can cause and mend."""


class UserError(Exception):
    """Says what is wrong, where, and what to do; scripts print it without a traceback and exit 1."""
