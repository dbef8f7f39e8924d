"""What tests of the chart share: the clients, and each set of values rendered once."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from chart_clients import Clients, ensure
from chart_rendering import Rendering, render
from chart_values import CASES

Render = Callable[..., Rendering]


@pytest.fixture(scope="session")
def clients() -> Clients:
    return ensure()


@pytest.fixture(scope="session")
def rendered(clients: Clients) -> Callable[..., Rendering]:
    """A case of CASES by name, rendered by helm 4, or by the helm that is named."""

    @cache
    def by_name(case: str, helm: str = "helm") -> Rendering:
        return render(clients.helms[helm], CASES[case])

    return by_name


@pytest.fixture
def render_values(clients: Clients) -> Callable[[dict[str, Any]], Rendering]:
    """Any values, rendered by helm 4."""

    def of(values: dict[str, Any]) -> Rendering:
        return render(clients.helms["helm"], values)

    return of
