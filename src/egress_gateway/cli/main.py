"""The one command: ``egress-gateway``.

A signal ends it in silence while it starts, when nothing has begun that would have to end. Imports
take most of that time, and an interrupt in one would be a traceback. Process 1 of a container has
no other way to end: the kernel gives it no signal that it has no handler for.
"""

from __future__ import annotations

import gc
import os
import signal
from types import FrameType


def _leave(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)  # as a shell counts it


def main() -> None:
    """Console entry point. Signals that whoever started it has it ignore stay ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    gc.disable()  # until the command is imported: what is imported stays
    from egress_gateway.cli import commands

    commands.run()


if __name__ == "__main__":
    main()
