"""Which ranks are running."""

import psutil


def ranks_alive() -> list[psutil.Process]:
    """The running ranks that this process started: the children of its fork server."""
    here = psutil.Process()
    return [
        process
        for process in here.children(recursive=True)
        if process.ppid() != here.pid
        and process.status() != psutil.STATUS_ZOMBIE
        and "multiprocessing.forkserver" in " ".join(process.cmdline())
    ]
