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
    """403: ``principal`` may not perform ``action`` on ``scope``; ``role`` would allow it."""

    def __init__(
        self,
        message: str,
        *,
        principal: str,
        action: str,
        scope: str,
        role: str,
        code: str = "",
        resource: str = "",
    ) -> None:
        super().__init__(message, code=code, resource=resource, related=(scope,))
        self.principal = principal
        self.action = action
        self.scope = scope
        self.role = role

    @property
    def mend(self) -> str:
        return (
            f'az role assignment create --role "{self.role}" '
            f"--assignee {self.principal or 'PRINCIPAL'} --scope {self.scope}"
        )

    def __str__(self) -> str:
        return (
            f"{self.principal or 'the controller'} lacks the role {self.role} on {self.scope}: "
            f"{self.action or self.code} was refused; grant it with: {self.mend}"
        )


class NotFound(CloudError):
    """The resource, or one that the request refers to, does not exist."""


class Throttled(CloudError):
    """429: ask again after ``retry_after`` seconds."""


class Conflict(CloudError):
    """Somebody else changed the document, or another operation is running on it."""


class Quota(CloudError):
    """A quota or a limit of the subscription is reached."""


class Exhausted(CloudError):
    """The public IP prefix has no address left."""


class InUse(CloudError):
    """The resource cannot be deleted: others refer to it."""


class Failed(CloudError):
    """The cloud refused or gave up for another reason; ``code`` is its own word for it."""


class Unavailable(CloudError):
    """No usable answer: connection, 5xx, or no token. Only time (or the network) mends it."""


class Unauthenticated(Unavailable):
    """Azure does not accept who we say we are. Nothing works until the credential is mended."""


class ConfigError(OperatorError):
    """The cloud's configuration is missing or wrong; names file and field. Never a secret."""
