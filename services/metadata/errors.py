"""Why a request for metadata is not answered with metadata, in the statuses that cloud-init expects.

`detail` goes to the log only: an instance learns the status and one general sentence.
"""

from typing import ClassVar


class RefusalError(Exception):
    """A request that gets no metadata."""

    status: ClassVar[int]
    text: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class MalformedError(RefusalError):
    """The facts are missing or are not what they should be: the appliance is broken, or it is none."""

    status = 400
    text = "the request lacks facts"


class ForbiddenError(RefusalError):
    """The token is wrong, or does not allow this question."""

    status = 403
    text = "not allowed"


class NoInstanceError(RefusalError):
    """Nobody has this address on this network."""

    status = 404
    text = "there is no such instance"


class TooLargeError(RefusalError):
    """The request's body is larger than any that cloud-init sends."""

    status = 413
    text = "the request is too large"


class NovaError(RefusalError):
    """Nova's metadata API cannot be reached, or its answer cannot be used."""

    status = 502
    text = "the metadata API does not answer"


class TryAgainError(RefusalError):
    """Not known yet, or not now: scheduler or Neutron do not answer, the view is incomplete, too much at once."""

    status = 503
    text = "not known yet, try again"
