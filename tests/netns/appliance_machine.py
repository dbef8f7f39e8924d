"""The machines of these tests."""

from lab.appliance_machine import *  # noqa: F403
