"""2,000 routers from CREATE to CONFIGURED against a cloud and appliances without delays: CPU is all that limits it."""

import asyncio

from bench.measure import Figure
from bench.routers import rate


def main() -> None:
    """Three runs."""
    values = [asyncio.run(rate(2_000, boot_delay=0.0, latency={}, appliance_delay=0.0)) for _ in range(3)]
    Figure("routers_instant", "routers/s", values, "", 4, "2000 routers, 2 workers, cloud on the same cores").write()


if __name__ == "__main__":
    main()
