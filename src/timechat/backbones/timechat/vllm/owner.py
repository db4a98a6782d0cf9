"""The processes of vLLM end with the process that started them, however that one ends."""

import os
import threading
import time

_VARIABLE = "TIMECHAT_ENGINE_OWNER"  # inherited by the processes of the engine
_INTERVAL_SECONDS = 2.0


def claim_engine() -> None:
    """Make this process the owner of the engine that it starts next."""
    os.environ[_VARIABLE] = str(os.getpid())


def end_with_owner() -> None:
    """Let this process of the engine end soon after the owner; the other processes of the engine end with this one."""
    owner = os.environ.get(_VARIABLE, "")
    if owner.isdigit() and int(owner) != os.getpid():
        threading.Thread(target=_watch, args=(int(owner),), name="timechat-owner", daemon=True).start()


def _watch(owner: int) -> None:
    while is_running(owner):
        time.sleep(_INTERVAL_SECONDS)
    os._exit(1)


def is_running(process: int) -> bool:
    """Return whether there is a process with this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
