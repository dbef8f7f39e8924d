"""Hands routers of Neutron to Astara. See docs/neutron.md.

`l3_plugin` is a service plugin that takes the place of Neutron's own router plugin; `provider` lets routers of chosen
flavors be Astara's beside others; `plugin` is what the orchestrator talks to, with either.
"""
