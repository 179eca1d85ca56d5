"""URLs that a person gave, as they may be shown."""

import re

# Slashes, as keys of S3 have, make a URL with a password invalid, but not fit to be shown; digits before a slash are a port.
# A file system's error may begin with a path that holds all of the URL.
_PASSWORD = re.compile(r"(//|(?:^|=)/?(?=[^\s/]*@))([^\s/:@\[]*):(?:[^\s/]*|(?!\d+/)\S*)@")


def without_password(text: str) -> str:
    """An address, an option with one, or a sentence with URLs, where each `//user:password@host` has asterisks for the password."""
    return _PASSWORD.sub(r"\1\2:***@", text)
