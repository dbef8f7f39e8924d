"""How the services' states are put into effect on a Linux machine: one file a service, all with the same verbs."""
