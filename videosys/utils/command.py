"""How a command ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

USAGE_ERROR, INTERRUPTED = 2, 130  # exit statuses


def exit_status(
    run: Callable[[], int], interrupted: str, mistakes: tuple[type[Exception], ...] = (ValueError,)
) -> int:
    """The exit status of `run`; 2 after one line for a mistake of the user's, 130 after Ctrl-C.

    interrupted: what is printed after Ctrl-C, such as what is complete; "" for nothing. mistakes: errors that
    are the user's to mend.
    """
    try:
        return run()
    except mistakes as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        if interrupted:
            print(interrupted, file=sys.stderr)
        return INTERRUPTED
