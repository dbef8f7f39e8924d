"""What a worker remembers of one resource between two runs of its state machine: small, and all derivable again."""

import hashlib
from dataclasses import dataclass, field

from services.common import marks

from .appliance import ApplianceStatus, Endpoint
from .cloud import Json
from .inbox import Inbox
from .reading import RouterReading
from .states import InstanceState, State


@dataclass(slots=True)
class Instance:
    """One appliance VM: the server that the management port names."""

    boot_id: str
    server_id: str
    management: Json  # the management port, with cidrs, mtu and gateway added
    image_id: str
    operation_id: str
    booted_at: float  # wall clock
    ports: dict[str, str] | None = None  # service ports plugged in, network id -> MAC; None: not read yet
    tls: bool = False  # it was given certificates at boot
    spare: dict[str, str] | None = None  # service ports seen that may not be plugged in, network id -> port id
    unknown: frozenset[str] = frozenset()  # fields of a configuration that its appliance is too old to know
    dead_in: str = ""  # the run that found it dead, until Nova begins to delete it or it answers after all

    @property
    def address(self) -> str:
        """Where its API listens."""
        return str(self.management["fixed_ips"][0]["ip_address"])


@dataclass(slots=True)
class ManagedResource:
    """A router (or load balancer) that this worker cares for."""

    resource_id: str
    tenant_id: str
    kind: int
    shard: int
    inbox: Inbox = field(default_factory=Inbox)
    hints: int = 0  # delivered so far that ask for more than a poll: a reading older than the newest is stale
    hand: Inbox | None = None  # what the run that is under way took from the inbox
    state: InstanceState | None = None  # None: nobody has looked yet
    step: State | None = None  # the step that runs now
    since: float = 0.0  # wall clock, of the last change of state
    name: str = ""
    revision: int = 0
    instance: Instance | None = None
    management: Json | None = None  # a management port that no server holds yet
    image_override: str = ""
    wanted_digest: str | None = None
    status: ApplianceStatus | None = None
    reading: RouterReading | None = None  # kept only from the boot to the first push
    attachments: tuple[tuple[str, int, str, tuple[str, ...]], ...] = ()
    attempts: int = 0
    cooldowns: int = 0  # since the last success
    failures: int = 0
    stale_readings: int = 0  # in a row: Neutron answered with a lower revision than an event promised
    last_error: str = ""  # for operators
    public_error: str = ""  # the same for the router's users, without what is inside the cloud
    retry_at: float | None = None  # lease clock; the timer that brings it back
    unanswered_since: float | None = None  # lease clock
    waiting_since: float | None = None  # lease clock; of the wait that goes on (boot, replug, stop)
    stop_turns: int = 0  # how often Nova was asked anew for the deletion that is waited for
    cooling_until: float | None = None  # lease clock
    hold_until: float | None = None  # lease clock; a step failed: until then only liveness is looked at
    paused_until: float | None = None  # lease clock; the same, but what is urgent does not end it
    rebuild_id: str = ""  # the operation by which it was last booted
    absent_since: float | None = None  # lease clock; of the first 404
    shown: tuple[str, str] | None = None  # status and reason that Neutron shows, as far as this worker knows
    untold: Json = field(default_factory=dict)  # statuses of floating IPs and ports that Neutron does not show yet
    told_down: bool = False  # Neutron was told, or may have been, that nothing of it is served
    unserved: str = ""  # what its users are told that the appliance does not do, though it runs what it was given
    boot_uncertain: bool = False  # Nova did not answer to a boot: look by name before the next
    reconcile_id: str = ""

    def failed(self, reason: str, public: str) -> None:
        """Remember what went wrong, for operators and for the router's users."""
        self.last_error, self.public_error = reason, public

    def forgive(self) -> None:
        """The next failure is the first one again."""
        self.failures, self.paused_until = 0, None

    def endpoint(self, secret: str, deployment: str) -> Endpoint:
        """How to reach its instance, which must be there."""
        if self.instance is None:
            raise ValueError(f"{self.resource_id} has no instance")
        boot_id = self.instance.boot_id
        token = marks.appliance_token(secret, deployment, self.resource_id, 0, boot_id)
        return Endpoint(self.instance.address, token, boot_id, tls=self.instance.tls)

    def jitter(self) -> float:
        """A number in 0..1 that is always the same for this resource: spreads timers without randomness."""
        return hashlib.sha256(self.resource_id.encode()).digest()[0] / 255.0
