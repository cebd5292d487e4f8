"""Every way in which a cloud says no, as few types that a planner can tell apart.

The message is the cloud's own (it names principal, action and scope better than we could);
``mend`` is what the reader can do about it. ``retry_after`` is in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from egress_gateway.service.errors import ExpectedError, OperatorError


class CloudError(ExpectedError):
    """A request failed. ``resource`` is the id of what it was about, as far as known."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        resource: str = "",
        related: Iterable[str] = (),
        retry_after: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.resource = resource
        self.related = tuple(related)
        """Ids of other resources that the refusal names: who is to blame in a gathered write."""
        self.retry_after = retry_after
        self.hint = hint

    @property
    def mend(self) -> str:
        """What a person can do; empty when only waiting helps."""
        return self.hint

    def __str__(self) -> str:
        return f"{self.message} ({self.mend})" if self.mend else self.message


class Forbidden(CloudError):
    """403: our identity lacks a right on the scopes in ``related``. The hint has a command that
    grants it, if one can."""


class OutOfReach(CloudError):
    """The resource lies where this cluster cannot use it (another account, another region)."""


class NotFound(CloudError):
    """The resource, or one that the request refers to, does not exist."""


class Throttled(CloudError):
    """429: ask again after ``retry_after`` seconds."""


class Conflict(CloudError):
    """Somebody else changed the document, or another operation is running on it."""


class Quota(CloudError):
    """A quota or a limit of the account or a resource is reached."""


class Exhausted(CloudError):
    """The public IP prefix has no address left."""


class InUse(CloudError):
    """The resource cannot be deleted: others refer to it."""


class Failed(CloudError):
    """The cloud refused or gave up for another reason; ``code`` is its own word for it."""


class Unavailable(CloudError):
    """No usable answer: connection, 5xx, or no token. Only time (or the network) mends it."""


class Overdue(Unavailable):
    """The cloud took the write and did not finish it within the limit of the wait. It may still:
    the next look shows."""


class Unauthenticated(Unavailable):
    """The cloud does not accept who we say we are. Nothing works until that is mended."""


class CloudConfigError(OperatorError):
    """The cloud's configuration is missing or wrong; names file and field. Never a secret."""
