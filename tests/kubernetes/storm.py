"""Events at a steady rate, each of which must be acted upon by itself: nothing that comes later makes up for it.

A change is the making of a router that is nobody's business here: it has no flavor, so the claim rule does not cover
it. Its worker can only know that after it has read this one router from Neutron, and the simulated cloud remembers
what was read. Without health nothing else than the event leads a worker to it.
"""

import threading
import time
import uuid
from typing import Self

import neighbours
from neighbours import Cloud
from node_running import until

PER_SECOND = 50


class Storm:
    """Makes routers from `start` to `stop`."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = Cloud(cloud.node, cloud.address)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stopping = threading.Event()
        self._trouble: Exception | None = None
        self.made: list[str] = []
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def rest(self) -> set[str]:
        """End it, and wait until every router was read; answers with those that nobody read in a minute."""
        self._stopping.set()
        self._thread.join()
        if self._trouble is not None:
            raise self._trouble
        wanted = {f"/v2.0/routers/{router}" for router in self.made}
        left = [wanted]

        def everything_read() -> bool:
            left[0] = wanted - set(self._cloud.call(neighbours.LAB, "GET", "/lab/read"))  # type: ignore[arg-type]
            return not left[0]

        try:
            until(everything_read, 60, "every event has led to a look")
        except TimeoutError:
            return left[0]
        return set()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            while not self._stopping.wait(max(0.0, began + len(self.made) / PER_SECOND - time.monotonic())):
                # Tenants are many, so that every worker's shards get some.
                body = {"router": {"name": "nobody's", "project_id": uuid.uuid4().hex}}
                self.made.append(str(self._cloud.neutron("POST", "/routers", body)["router"]["id"]))
        except Exception as error:
            self._trouble = error
        self.seconds = time.monotonic() - began
