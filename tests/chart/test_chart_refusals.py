"""What contradicts itself is refused before anything is installed, in a sentence that says what to do."""

from collections.abc import Callable
from typing import Any

import pytest
from chart_rendering import RefusedError, Rendering
from chart_values import CASES, MINIMAL, SERVICES, Values, at, merged

REFUSED: dict[str, tuple[Values, str]] = {
    "sqlite with two schedulers": (
        at("database.type", "sqlite"),
        "database.type sqlite serves one scheduler only: set scheduler.replicas to 1, or take mariadb.",
    ),
    "no claim": (at("conf.claim.claim", ""), "conf.claim.claim must say which routers are Astara's"),
    "a flavor without id": (at("conf.claim.claim", "flavor"), "wants conf.claim.flavor_id"),
    "a claim that differs": (at("worker.conf.claim.claim", "provider"), "health and the workers must agree"),
    "no image": (at("conf.router.image_id", ""), "conf.router.image_id must be set"),
    "no flavor": (at("conf.router.flavor", ""), "conf.router.flavor must be set"),
    "no management network": (at("conf.router.management_network_id", ""), "management_network_id must be set"),
    "no credentials of the cloud": (
        at("endpoints.identity.auth.astara.password", ""),
        "There are no OpenStack credentials: name a Secret in secrets.identity.astara",
    ),
    "another plugin without a Secret": (
        at("conf.openstack.auth_type", "v3applicationcredential"),
        "wants its credentials in a Secret",
    ),
    "no credentials of the database": (
        at("endpoints.oslo_db.auth.astara.password", ""),
        "There are no credentials of the database",
    ),
    "no credentials of the broker": (
        at("endpoints.oslo_messaging.auth.astara.password", ""),
        "There are no credentials of the broker",
    ),
    "no secret for appliances": (at("credentials.appliance", ""), "There is no secret for appliance"),
    "no secret for metadata": (at("credentials.metadata", ""), "There is no secret for metadata"),
    "no token": (at("credentials.rpcapi", ""), "There is no secret for rpcapi"),
    "a short secret": (at("credentials.appliance", "short"), "credentials.appliance wants at least 16 characters."),
    "a short token": (at("credentials.rpcapi", "short"), "credentials.rpcapi wants at least 16 characters."),
    "a password in conf": (at("conf.openstack.password", "x"), "conf.openstack.password is a secret"),
    "a broker in a service's conf": (at("notifier.conf.notifier.broker", "x"), "notifier.conf.notifier.broker is a"),
    "a token in conf": (at("conf.rpcapi.token", "x"), "conf.rpcapi.token is a secret"),
    "a database in conf": (at("conf.scheduler.database", "x"), "conf.scheduler.database is a secret"),
    "one name for all pods": (at("conf.DEFAULT.host", "x"), "conf.DEFAULT.host would give all pods one name"),
    "one name for all workers": (at("worker.conf.worker.name", "x"), "would give all workers one name"),
    "a port of pods": (at("conf.metrics.port", 9200), "conf.metrics.port is set by the chart"),
    "a port of one service's pods": (
        at("rpcapi.conf.rpcapi.port", 8080),
        "rpcapi.conf.rpcapi.port is set by the chart",
    ),
    "an election in conf": (at("conf.scheduler.election", "kubernetes"), "conf.scheduler.election is set by the chart"),
    "a count in conf": (at("conf.scheduler.replicas", 1), "conf.scheduler.replicas is set by the chart"),
    "a file instead of MariaDB": (at("endpoints.oslo_db.scheme", "sqlite"), "oslo_db.scheme sqlite is none of MariaDB"),
    "a port in a host": (
        at("endpoints.network.host_fqdn_override.default", "neutron.example.org:9696"),
        "neutron.example.org:9696 is no host: its port belongs into endpoints.network.port.",
    ),
    "a port at an address": (
        at("endpoints.oslo_messaging.host_fqdn_override.default", "192.0.2.1,192.0.2.2:5673"),
        "192.0.2.2:5673 is no host: its port belongs into endpoints.oslo_messaging.port.",
    ),
    "a label that finds pods": (
        at("pod.labels", {"app.kubernetes.io/component": "x"}),
        "pod.labels: app.kubernetes.io/component is the chart's",
    ),
    "no worker": (at("worker", None), "worker"),
    "nothing about TLS": (at("tls", None), "tls"),
    "nothing about the Ingress": (at("rpcapi.ingress", None), "ingress"),
    "an open API": (at("conf.rpcapi.auth", "none"), "conf.rpcapi.auth none is for loopback addresses only"),
    "plain text without saying so": (at("tls.mode", "disabled"), "say tls.allowPlaintext true if a mesh encrypts"),
    "plain text with certificates": (at("tls.allowPlaintext", True), "tls.allowPlaintext contradicts tls.mode"),
    "cert-manager without issuer": (at("tls.mode", "cert-manager"), "wants tls.certManager.issuerRef.name"),
    "given certificates that are not": (at("tls.mode", "given"), "tls.mode given wants a Secret for worker"),
    "metadata without address": (at("metadata.service.loadBalancerIP", ""), "Appliances would not find metadata"),
    "appliances of another IP version": (
        at("managementCIDRs", ["fdca:3ba5:a17a:acda::/64"]),
        "its address, managementCIDRs and ipFamilies have no IP version in common.",
    ),
    "metadata inside only": (at("metadata.service.type", "ClusterIP"), "by metadata.service.externalIPs only"),
    "a port of chance": (at("metadata.service.type", "NodePort"), "NodePort wants metadata.service.nodePort"),
    "another port than the one told": (
        at("metadata.service", {"type": "NodePort", "nodePort": 30000}),
        "conf.router.metadata_port 9697 is not metadata.service.nodePort 30000",
    ),
    "no management subnets": (at("managementCIDRs", []), "managementCIDRs must name the management network's subnets"),
    "callers behind nodes": (
        at("metadata.service.externalTrafficPolicy", "Cluster"),
        "networkPolicy.nodeCIDRs must be set",
    ),
    "an API server that may not be called": (
        at("election", "kubernetes"),
        "networkPolicy.peers.kubernetes must name the API server's addresses",
    ),
    "a host that no policy can name": (
        at("endpoints.network.host_fqdn_override.default", "neutron.example.org"),
        "networkPolicy.peers.network must be set: a NetworkPolicy cannot name the host neutron.example.org.",
    ),
    "an Ingress without host": (at("rpcapi.ingress.enabled", True), "wants rpcapi.ingress.host"),
    "an Ingress that may not call": (
        at("rpcapi.ingress", {"enabled": True, "host": "a.example.org"}),
        "networkPolicy.peers.operators must name the ingress controller's pods",
    ),
    "another port of metrics": (at("conf.metrics.port", 9200), "conf.metrics.port is set by the chart"),
    "another port of rpcapi": (at("conf.rpcapi.port", 1), "conf.rpcapi.port is set by the chart"),
    "another port of metadata": (at("metadata.conf.metadata.port", 1), "metadata.conf.metadata.port is set by"),
    "another address of the scheduler": (at("conf.scheduler.listen", "[::]:1"), "conf.scheduler.listen is set by"),
    "other probes": (at("worker.conf.grpc.health_listen", "[::]:1"), "worker.conf.grpc.health_listen is set by"),
    "another number of schedulers": (at("conf.scheduler.replicas", 1), "conf.scheduler.replicas is set by the chart"),
    "another election": (
        at("scheduler.conf.scheduler.election", "kubernetes"),
        "scheduler.conf.scheduler.election is set by",
    ),
    "a port with the host": (
        at("endpoints.network.host_fqdn_override.default", "neutron.example.org:9696"),
        "endpoints.network.host_fqdn_override neutron.example.org:9696 is no host: its port belongs into",
    ),
    "a port with the address": (
        at("endpoints.oslo_messaging.host_fqdn_override.default", "10.0.0.1,10.0.0.2:5673"),
        "10.0.0.2:5673 is no host: its port belongs into endpoints.oslo_messaging.port.",
    ),
    "a port with an IPv6 address": (
        at("endpoints.oslo_db.host_fqdn_override.default", "[2001:db8::1]:3306"),
        "its port belongs into endpoints.oslo_db.port.",
    ),
    "a file for a database": (
        at("endpoints.oslo_db.scheme", "sqlite+pysqlite"),
        "endpoints.oslo_db.scheme sqlite+pysqlite is none of MariaDB",
    ),
    "a label that selects": (at("labels", {"app.kubernetes.io/name": "x"}), "labels: app.kubernetes.io/name is the"),
    "a pod's label that selects": (
        at("worker.labels", {"app.kubernetes.io/component": "x"}),
        "worker.labels: app.kubernetes.io/component is the chart's own",
    ),
    "an update that cannot begin": (at("worker.maxSurge", 0), "worker: maxSurge and maxUnavailable are both 0"),
}

WRONG: dict[str, Values] = {
    "a misspelt value": at("worker.replica", 2),
    "a misspelt section": at("conf.wroker.max_running", 2),
    "an unknown service": at("billing.replicas", 2),
    "an unknown claim": at("conf.claim.claim", "some"),
    "an unknown database": at("database.type", "postgresql"),
    "an unknown election": at("election", "coin"),
    "an unknown TLS mode": at("tls.mode", "off"),
    "a negative number of pods": at("worker.replicas", -1),
    "a word for a number": at("worker.replicas", "two"),
    "an id that no mark can carry": at("conf.DEFAULT.deployment", "Astara East"),
    "a network that is none": at("managementCIDRs", ["fdca::1"]),
    "an address that is none": at("conf.router.orchestrator_addresses", ["metadata.example.org"]),
    "a peer that allows everybody": at("networkPolicy.peers.operators", [{}]),
    "nobody who resolves names": at("networkPolicy.peers.dns", []),
    "a family that is none": at("ipFamilies", ["IPv5"]),
    "a prefix that is too long": at("managementCIDRs", ["10.0.0.0/33"]),
    "an octet that is too large": at("managementCIDRs", ["10.0.256.0/24"]),
    "an IPv6 prefix that is too long": at("networkPolicy.nodeCIDRs", ["fdca::/129"]),
    "a load balancer's address that is none": at("metadata.service.loadBalancerIP", "metadata.example.org"),
    "a scheme that is none": at("endpoints.identity.scheme.default", "ftp"),
    "an empty key": at("secretKeys.identity.username", ""),
    "a name that no object can have": at("fullnameOverride", "Astara_East"),
    "a Secret's name that is none": at("secrets.rpcapi.astara", "Astara Token"),
    "an option of two lines": at("conf.worker.max_running", "1\nname = x"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_contradiction_is_refused_in_a_sentence(render_values: Callable[[Any], Rendering], mistake: str) -> None:
    values, sentence = REFUSED[mistake]
    with pytest.raises(RefusedError) as refused:
        render_values(merged(MINIMAL, values))
    assert sentence in str(refused.value)


@pytest.mark.parametrize("mistake", WRONG)
def test_the_schema_refuses(render_values: Callable[[Any], Rendering], mistake: str) -> None:
    with pytest.raises(RefusedError, match="values don't meet the specifications of the schema"):
        render_values(merged(MINIMAL, WRONG[mistake]))


NEEDED = (
    *SERVICES, "tls", "secrets", "database", "pod", "cloudCA", "applianceTLS", "images", "images.tags",
    "rpcapi.ingress",
    "networkPolicy", "networkPolicy.peers", "conf", "endpoints", "endpoints.oslo_db", "endpoints.oslo_db.auth",
    "metadata.service", "serviceMonitor", "secretKeys", "secretKeys.oslo_db", "credentials", "managementCIDRs",
)  # fmt: skip


@pytest.mark.parametrize("name", NEEDED)
def test_a_value_that_is_needed_cannot_be_nothing(render_values: Callable[[Any], Rendering], name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        render_values(merged(MINIMAL, at(name, None)))
    said = str(refused.value)
    assert "values don't meet the specifications of the schema" in said
    assert name.rpartition(".")[2] in said


def test_everything_that_is_missing_is_said_at_once(render_values: Callable[[Any], Rendering]) -> None:
    with pytest.raises(RefusedError) as refused:
        render_values({})
    said = str(refused.value)
    for name in ("conf.claim.claim", "conf.router.image_id", "secrets.identity.astara", "managementCIDRs"):
        assert name in said


def test_with_other_peers_a_host_by_name_is_fine(render_values: Callable[[Any], Rendering]) -> None:
    values = merged(
        MINIMAL,
        at("endpoints.network.host_fqdn_override.default", "neutron.example.org"),
        at("networkPolicy.peers.network", [{"ipBlock": {"cidr": "192.0.2.99/32"}}]),
    )
    assert render_values(values).of("NetworkPolicy")


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_can_be_given_its_own_pod_options(render_values: Callable[[Any], Rendering], service: str) -> None:
    own = {
        "resources": {"limits": {"memory": "2Gi"}},
        "nodeSelector": {"only": service},
        "minReadySeconds": 0,
        "disruptions": "50%",
    }
    rendering = render_values(merged(CASES["everything"], at(service, own)))
    spec = rendering.one("Deployment", f"astara-{service}")["spec"]
    assert spec["minReadySeconds"] == 0
    assert spec["template"]["spec"]["nodeSelector"] == {"only": service}
    assert spec["template"]["spec"]["containers"][0]["resources"]["limits"] == {"memory": "2Gi"}
    assert rendering.one("PodDisruptionBudget", f"astara-{service}")["spec"]["maxUnavailable"] == "50%"
