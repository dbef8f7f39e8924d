"""Pods may do no more than they need, stop in order, and are spread; exactly one service account has a token."""

from collections.abc import Callable

import pytest
from chart_rendering import Rendering
from chart_values import CASES, SERVICES

from services.worker import __main__ as worker_main

EVERY = pytest.mark.parametrize("case", CASES)


@EVERY
def test_there_is_a_deployment_for_each_service(rendered: Callable[..., Rendering], case: str) -> None:
    assert set(rendered(case).of("Deployment")) == {f"astara-{service}" for service in SERVICES}


@EVERY
def test_pods_satisfy_the_restricted_profile(rendered: Callable[..., Rendering], case: str) -> None:
    for name, pod in rendered(case).pods():
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers"} & pod.keys(), name
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 42424
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["privileged"] is False
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert not [port for port in container.get("ports", []) if "hostPort" in port]
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}


@EVERY
def test_only_tmp_and_the_database_are_writable(rendered: Callable[..., Rendering], case: str) -> None:
    for name, pod in rendered(case).pods():
        (container,) = pod["containers"]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        more = {"/more"} if case == "everything" and name != "astara-test" else set()
        database = {"/var/lib/astara"} if case.startswith("sqlite") and name == "astara-scheduler" else set()
        assert writable == {"/tmp"} | more | database  # noqa: S108 - the pods' only place to write


@EVERY
def test_every_volume_is_mounted_and_every_mount_has_its_volume(rendered: Callable[..., Rendering], case: str) -> None:
    for _, pod in rendered(case).pods():
        volumes = [volume["name"] for volume in pod["volumes"]]
        mounts = [mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]]
        assert sorted(volumes) == sorted(mounts)


@EVERY
def test_only_the_scheduler_that_elects_by_a_lease_has_a_token(rendered: Callable[..., Rendering], case: str) -> None:
    rendering = rendered(case)
    elects = case in ("everything", "election-by-lease")
    with_token = {name for name, pod in rendering.pods() if pod["automountServiceAccountToken"] is not False}
    accounts = rendering.of("ServiceAccount")
    assert with_token == ({"astara-scheduler"} if elects else set())
    assert {name for name, one in accounts.items() if one["automountServiceAccountToken"]} == with_token
    assert set(accounts) == {f"astara-{service}" for service in SERVICES}
    for name, pod in rendering.pods():
        if name != "astara-test":
            assert pod["serviceAccountName"] == name
    assert set(rendering.of("Role")) == set(rendering.of("RoleBinding")) == with_token
    assert not rendering.of("ClusterRole")
    assert not rendering.of("ClusterRoleBinding")


def test_the_role_allows_one_lease(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("election-by-lease")
    assert rendering.one("Role", "astara-scheduler")["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["astara-scheduler"],
            "verbs": ["get", "update"],
        },
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    ]
    assert "lease_name = astara-scheduler\n" in rendering.configuration("scheduler")
    # The release brings the Lease, so that it goes with the release; what is in it is the scheduler's.
    assert "spec" not in rendering.one("Lease", "astara-scheduler")


@EVERY
def test_probes_ask_the_plain_health_port(rendered: Callable[..., Rendering], case: str) -> None:
    rendering = rendered(case)
    for service in SERVICES:
        container = rendering.container(service)
        assert "health_listen = " in rendering.configuration(service)
        readiness = "readiness" if service in ("notifier", "health", "worker") else ""
        for probe, name in (("startupProbe", ""), ("livenessProbe", ""), ("readinessProbe", readiness)):
            assert container[probe]["grpc"] == {"port": 44260, "service": name}
        assert {"name": "probes", "containerPort": 44260, "protocol": "TCP"} in container["ports"]


@EVERY
def test_a_new_pod_comes_before_an_old_one_goes(rendered: Callable[..., Rendering], case: str) -> None:
    for name, deployment in rendered(case).of("Deployment").items():
        strategy = deployment["spec"]["strategy"]
        if case.startswith("sqlite") and name == "astara-scheduler":
            assert strategy == {"type": "Recreate"}
            assert deployment["spec"]["replicas"] == 1
        else:
            assert strategy["rollingUpdate"]["maxUnavailable"] == 0
            assert strategy["rollingUpdate"]["maxSurge"] != 0


def test_a_worker_has_time_to_hand_back_its_shards(rendered: Callable[..., Rendering]) -> None:
    grace = rendered("minimal").one("Deployment", "astara-worker")["spec"]["template"]["spec"]
    assert grace["terminationGracePeriodSeconds"] >= 2 * worker_main._DRAIN_SECONDS


def test_what_a_service_sends_to_pods_ends_before_they_stop(rendered: Callable[..., Rendering]) -> None:
    for service in SERVICES:
        has_pause = "lifecycle" in rendered("minimal").container(service)
        assert has_pause == (service in ("rpcapi", "metadata")), service


@EVERY
def test_pods_are_spread_and_drained_one_at_a_time(rendered: Callable[..., Rendering], case: str) -> None:
    rendering = rendered(case)
    for service in SERVICES:
        spec = rendering.one("Deployment", f"astara-{service}")["spec"]
        selector = spec["selector"]["matchLabels"]
        assert selector.items() <= spec["template"]["metadata"]["labels"].items()
        spread = spec["template"]["spec"]["topologySpreadConstraints"]
        assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        assert all(one["labelSelector"]["matchLabels"] == selector for one in spread)
        wanted = "DoNotSchedule" if case == "everything" else "ScheduleAnyway"
        assert {one["whenUnsatisfiable"] for one in spread} == {wanted}
        budget = rendering.one("PodDisruptionBudget", f"astara-{service}")["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"] == selector


def test_selectors_tell_the_services_apart(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("minimal")
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"] for name, one in rendering.of("Deployment").items()
    } | {name: one["metadata"]["labels"] for name, one in rendering.of("Pod").items()}

    def selected(service: str) -> set[str]:
        selector = rendering.one("Service", service)["spec"]["selector"].items()
        return {name for name, its in labels.items() if selector <= its.items()}

    assert selected("astara-scheduler") == {"astara-scheduler"}
    assert selected("astara-rpcapi") == {"astara-rpcapi"}
    assert selected("astara-metadata") == {"astara-metadata"}
    assert selected("astara-metrics") == {f"astara-{service}" for service in SERVICES}


def test_clients_see_every_replica_of_the_scheduler(rendered: Callable[..., Rendering]) -> None:
    spec = rendered("minimal").one("Service", "astara-scheduler")["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is True
    assert "scheduler = astara-scheduler:44251\n" in rendered("minimal").configuration("worker")


def test_what_a_pod_reads_at_its_start_is_in_its_checksum(render_values: Callable[..., Rendering]) -> None:
    def checksums(values: dict[str, object]) -> dict[str, dict[str, str]]:
        return {
            name.removeprefix("astara-"): one["spec"]["template"]["metadata"]["annotations"]
            for name, one in render_values(values).of("Deployment").items()
        }

    minimal = CASES["minimal"]
    first = checksums(minimal)

    def changed(values: dict[str, object]) -> set[str]:
        after = checksums(values)
        return {name for name, before in first.items() if before != after[name]}

    assert changed(minimal) == set()
    assert changed({**minimal, "worker": {"conf": {"worker": {"max_running": 9}}}}) == {"worker"}
    assert changed({**minimal, "conf": {**minimal["conf"], "DEFAULT": {"log_level": "debug"}}}) == set(SERVICES)
    token = {**minimal["credentials"], "rpcapi": "another-token-of-operators"}
    assert changed({**minimal, "credentials": token}) == {"rpcapi"}
    secret = {**minimal["credentials"], "appliance": "another-secret-of-appliances"}
    assert changed({**minimal, "credentials": secret}) == {"worker", "metadata"}


def test_options_for_pods_reach_every_pod(rendered: Callable[..., Rendering]) -> None:
    for name, deployment in rendered("everything").of("Deployment").items():
        template = deployment["spec"]["template"]
        pod = template["spec"]
        assert template["metadata"]["labels"]["tier"] == "control"
        assert template["metadata"]["annotations"]["example.org/note"] == "yes"
        assert pod["priorityClassName"] == "system-cluster-critical"
        assert pod["runtimeClassName"] == "gvisor"
        assert pod["nodeSelector"] == {"openstack-control-plane": "enabled"}
        assert pod["tolerations"]
        assert pod["affinity"]
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert {"name": "HTTPS_PROXY", "value": "http://proxy.example.org:3128"} in pod["containers"][0]["env"]
        assert deployment["spec"]["revisionHistoryLimit"] == 5
        service = name.removeprefix("astara-")
        own = "registry.example.org/own:3"
        image = own if service == "worker" else f"registry.example.org/astara/{name}:0.1.0"
        assert pod["containers"][0]["image"] == image
        assert pod["containers"][0]["resources"]["limits"].keys() == {"memory"}
        assert pod["enableServiceLinks"] is False


def test_sqlite_lies_on_a_volume(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("sqlite")
    claim = rendering.one("PersistentVolumeClaim", "astara-database")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "database = sqlite:////var/lib/astara/scheduler.db\n" in rendering.configuration("scheduler")
    assert not rendered("sqlite-on-a-claim").of("PersistentVolumeClaim")
    assert not rendered("minimal").of("PersistentVolumeClaim")


def test_metadata_has_the_kind_of_address_that_was_asked_for(rendered: Callable[..., Rendering]) -> None:
    def service(case: str) -> dict[str, object]:
        spec: dict[str, object] = rendered(case).one("Service", "astara-metadata")["spec"]
        return spec

    balanced = service("minimal")
    assert (balanced["type"], balanced["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert balanced["loadBalancerIP"] == "192.0.2.10"
    assert balanced["loadBalancerSourceRanges"] == ["10.9.0.0/16"]
    port = service("node-port")
    assert (port["type"], port["externalTrafficPolicy"]) == ("NodePort", "Local")
    assert port["ports"] == [{"name": "http", "port": 9697, "targetPort": "http", "protocol": "TCP", "nodePort": 30697}]
    external = service("external-ips")
    assert (external["type"], external["externalIPs"]) == ("ClusterIP", ["192.0.2.20"])
    assert "externalTrafficPolicy" not in external
    assert service("dual-stack")["ipFamilies"] == ["IPv6", "IPv4"]
    assert service("dual-stack")["ipFamilyPolicy"] == "RequireDualStack"
    assert service("ipv6")["ipFamilyPolicy"] == "SingleStack"


def test_prometheus_and_operators_find_their_way(rendered: Callable[..., Rendering]) -> None:
    rendering = rendered("everything")
    monitor = rendering.one("ServiceMonitor", "astara")
    labels = rendering.one("Service", "astara-metrics")["metadata"]["labels"]
    others = [one["metadata"]["labels"] for name, one in rendering.of("Service").items() if name != "astara-metrics"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= labels.items()
    assert not [one for one in others if wanted <= one.items()]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    ingress = rendering.one("Ingress", "astara-rpcapi")["spec"]
    (rule,) = ingress["rules"]
    assert rule["host"] == "astara.example.org"
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "astara-rpcapi", "port": {"name": "http"}}
    assert ingress["tls"] == [{"hosts": ["astara.example.org"], "secretName": "astara-example-org"}]
    assert not rendered("minimal").of("ServiceMonitor")
    assert not rendered("minimal").of("Ingress")
