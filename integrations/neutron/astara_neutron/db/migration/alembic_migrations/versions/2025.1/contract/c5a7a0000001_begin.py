"""Where migrations begin that want Neutron's servers stopped: none yet, but `neutron-db-manage` asks for the branch."""

revision = "c5a7a0000001"
down_revision = None
branch_labels = ("contract",)


def upgrade() -> None:
    """Nothing is taken away."""
