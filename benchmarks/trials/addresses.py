"""Addresses of stores as they may be shown: without their passwords."""

import re

_SECRETS = (
    # postgresql://user:password@host; a password may hold anything but a space and an @.
    (re.compile(r"(://[^:@/?#\s]*):[^@\s]*@"), r"\1:***@"),
    # postgresql://host/name?password=..., and libpq's 'password=...'.
    (re.compile(r"((?:password|passwd|pwd|token|secret)=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
)


def masked(text: str) -> str:
    """A text with the password of every address in it replaced by `***`."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text
