"""What every service of the appliance can do, and the part of it that is the same for all."""

from typing import ClassVar, Protocol

from ..backend import Backend, BackendError, State
from ..boot import BootData
from ..interfaces import InterfaceNames
from ..models import Configuration
from ..validation import FieldError


class Service(Protocol):
    """One network service.

    `validate` and `render` are pure: they look at the configuration and the plugged interfaces and change nothing.
    `commit` and `roll_back` raise `BackendError`.
    """

    name: ClassVar[str]

    def __init__(self, boot: BootData, backend: Backend, names: InterfaceNames) -> None: ...

    def read(self) -> State | None:
        """What is in effect; None when nothing is."""

    def validate(self, configuration: Configuration) -> list[FieldError]:
        """Every field that this service cannot do, beyond what the models refuse."""

    def render(self, configuration: Configuration) -> State:
        """The wanted state. An empty one means that the service does not run."""

    async def check(self, state: State) -> None:
        """Have the machine try `state` where it is news; nothing changes. `BackendError` has what it has against it."""

    async def commit(self, state: State) -> bool:
        """Put `state` into effect; False when it was in effect already and nothing was touched."""

    async def roll_back(self) -> None:
        """Put into effect again what was before the last commit that changed something; once."""


class RecordedService:
    """Reads, commits and rolls back through the backend. Subclasses add `name`, `render`, and checks of their own."""

    __slots__ = ("_backend", "_boot", "_committed", "_former", "_names", "_touched")
    name: ClassVar[str]

    def __init__(self, boot: BootData, backend: Backend, names: InterfaceNames) -> None:
        self._boot = boot
        self._backend = backend
        self._names = names
        self._committed: State | None = None
        self._former: State | None = None
        self._touched = False

    def read(self) -> State | None:
        """What is in effect."""
        return self._backend.read(self.name)

    def validate(self, configuration: Configuration) -> list[FieldError]:  # noqa: ARG002 - part of the Protocol
        """Nothing beyond what the models refuse."""
        return []

    async def check(self, state: State) -> None:
        """Have the machine try `state` unless it is in effect."""
        if self._backend.read(self.name) != state:
            await self._backend.check(self.name, state)

    async def commit(self, state: State) -> bool:
        """Put `state` into effect unless it is."""
        present = self._backend.read(self.name)
        # What is in effect may have become unknown; what to go back to is still what was committed last.
        self._former, self._touched = (self._committed if present is None else present), False
        if present == state:
            self._committed = state
            return False
        # Set before the call: a state that took effect in part must be rolled back as well.
        self._touched = True
        await self._backend.apply(self.name, state)
        self._committed = state
        return True

    async def roll_back(self) -> None:
        """Undo the last commit, if it touched anything."""
        if self._touched:
            former, self._former, self._touched = self._former, None, False
            if former is None:
                raise BackendError("what was in effect before is not known")
            self._committed = former
            await self._backend.apply(self.name, former)
