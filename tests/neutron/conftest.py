"""What all tests beside Neutron need."""

# Chooses how Neutron's threads are made, before another import would choose eventlet.
import neutron.tests.unit  # noqa: F401
