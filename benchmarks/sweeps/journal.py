"""Repairs the file of a journal after a power cut or a full disk."""

import json
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock


class DamagedJournal(ValueError):
    """A journal is damaged in its middle, so that nothing can be cut off."""


def mend(file: Path) -> str | None:
    """Cuts off the damaged end of a journal and keeps it in a file beside the journal.

    When a machine goes down during a write, the journal ends with half a line or with zeros, and with the
    text that a later process may have appended to them. Without this end, the journal is as it was just
    before that write.

    Returns:
        A message of one line that says what was done, or None if the journal is intact.

    Raises:
        DamagedJournal: if complete lines follow a damaged one.
    """
    lock = JournalFileSymlinkLock(str(file))  # every writer holds this lock
    lock.acquire()
    try:
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [_is_whole(line) for line in lines]
        if all(whole):
            return None
        first = whole.index(False)
        if any(whole[first:]):
            raise DamagedJournal(
                f"line {first + 1} of {file} is damaged, and whole lines follow it; bring back a copy of"
                " the file, or move it away to begin anew"
            )
        kept, cut = b"".join(lines[:first]), b"".join(lines[first:])
        beside = file.with_name(f"{file.name}.torn")
        with beside.open("ab") as stream:
            stream.write(cut)
        with file.open("r+b") as stream:
            stream.truncate(len(kept))
    finally:
        lock.release()
    return (
        f"{file} was torn, by a power cut or a full disk: its last {len(cut)} bytes were no whole line"
        f" and are in {beside.name} now"
    )


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:  # the JSON or its encoding is invalid
        return False
