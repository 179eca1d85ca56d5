"""The one kind of error that dev.py shows as a sentence instead of a traceback."""


class DevError(Exception):
    """Something the person can put right; the message says what was found, what is needed and what to do."""
