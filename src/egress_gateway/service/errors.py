"""What ends a component for a reason that its operator can mend."""

from __future__ import annotations


class OperatorError(Exception):
    """Its text is the whole story, in one line: a traceback would only bury it. Raised before or
    while a component runs; the component ends with status 1 and is started again by its host."""
