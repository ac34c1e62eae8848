"""Removes the passwords from addresses of stores before they are shown."""

import re

_SECRETS = (
    # postgresql://user:password@host. A password may contain anything but a space and an @.
    (re.compile(r"(://[^:@/?#\s]*):[^@\s]*@"), r"\1:***@"),
    # postgresql://host/name?password=... and libpq's 'password=...'.
    (re.compile(r"((?:password|passwd|pwd|token|secret)=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
)


def masked(text: str) -> str:
    """Returns a text with the password of every address replaced by `***`."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text
