"""Errors of the pack: each message says what was given, what is allowed and what to do."""


class PackError(Exception):
    """Base of every error that the pack raises on purpose."""


class BadInputError(PackError, ValueError):
    """A value that the user chose cannot be used."""


class OutOfMemoryError(PackError):
    """Even the smallest piece of work does not fit into memory."""
