"""What can go wrong in a step. The machine decides in one place what follows: try again, cool down, or say it."""


class StepError(Exception):
    """A step failed; `retry` says whether trying again without change can help.

    Its text is for operators. `public` is what the users of the router are told: no addresses, no ids, nothing of what
    other services said.
    """

    retry = True
    outage = False
    """Whether it is the cloud's trouble and not the resource's: it ends for all at once, so nobody pauses for long."""
    public = "what the orchestrator sees of the cloud is not conclusive; it looks again"


class CloudError(StepError):
    """Neutron, Nova or Glance answered with an error or not at all."""

    def __init__(self, service: str, call: str, status: int, detail: str) -> None:
        super().__init__(f"{service}: {call}: {status or 'no answer'}: {detail}")
        self.service = service
        self.call = call
        self.status = status
        self.outage = not status or status >= 500 or status in (401, 403)
        self.public = (
            f"{service.capitalize()} {f'answers {status}' if status else 'does not answer'}; it is tried again"
        )
        self.detail = detail


class NotFoundError(CloudError):
    """404."""


class ConflictError(CloudError):
    """409."""


class ForbiddenError(CloudError):
    """401 or 403: the service user lost a role, or never had it. Says nothing about what exists."""


class AttachError(CloudError):
    """Nova cannot attach a port to a server, whatever else it can: no outage."""

    def __init__(self, service: str, call: str, status: int, detail: str) -> None:
        super().__init__(service, call, status, detail)
        self.outage = False


class UncertainError(CloudError):
    """No answer, or a server's error, to a call that changes something: it may have happened."""


class ApplianceError(StepError):
    """The appliance did not do what it was told."""

    public = "its instance did not do what it was told; it is tried again"


class UnreachableError(ApplianceError):
    """The appliance did not answer."""

    public = "its instance does not answer"


class RejectedError(ApplianceError):
    """The appliance refused the configuration (422); trying the same again cannot help.

    `unknown` are the fields of the configuration that it does not know, if there is nothing else that it refused.
    """

    retry = False

    def __init__(self, message: str, unknown: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.public = message
        self.unknown = unknown


class StaleEpochError(ApplianceError):
    """The appliance has seen a higher epoch (409): somebody else owns the resource now."""

    retry = False


class LostOwnershipError(StepError):
    """The shard was revoked or the lease ended: stop acting."""

    retry = False
