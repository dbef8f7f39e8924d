"""One module a step, in order of `down_revision`."""
