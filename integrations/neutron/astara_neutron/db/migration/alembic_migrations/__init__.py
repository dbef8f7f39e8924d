"""Where alembic keeps how far the tables of this plugin are."""

VERSION_TABLE = "alembic_version_astara_neutron"
