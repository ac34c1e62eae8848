"""Mends the file of a journal that a power cut or a full disk has torn."""

import json
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock


class DamagedJournal(ValueError):
    """A journal is damaged in its middle, where nothing can be left out."""


def mend(file: Path) -> str | None:
    """Cuts off the end of a journal that is no whole line, and keeps it beside the journal.

    What was being written when the machine went down is at the end: half a line, or zeros, with what a
    later process may have put behind them. Without it the journal is as it was just before.

    Returns:
        What was done, in one line; None where the journal is whole.

    Raises:
        DamagedJournal: whole lines follow the one that is damaged.
    """
    lock = JournalFileSymlinkLock(str(file))  # whoever writes a line holds it
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
    except ValueError:  # of JSON or of its encoding
        return False
