"""Values with which the chart is rendered: what operators of different clouds would write."""

from typing import Any

Values = dict[str, Any]

IMAGE = "7d0c6a3e-1c4b-4b8a-9c0d-5f2a8b1e6d01"
NETWORK = "0b9f1c52-5d0e-4a77-8f7c-2a4f9f6f3e02"
PEER = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}}]
SERVICES = ("notifier", "health", "scheduler", "worker", "rpcapi", "metadata")


def merged(*parts: Values) -> Values:
    """Later parts over earlier ones, map by map."""
    result: Values = {}
    for part in parts:
        for key, value in part.items():
            old = result.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            result[key] = merged(old, value) if both else value  # type: ignore[arg-type] # both are maps
    return result


def at(path: str, value: Any) -> Values:
    """Values with one entry: `at("tls.mode", "given")`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    found: Values = value
    return found


MINIMAL: Values = {
    "conf": {
        "claim": {"claim": "all"},
        "router": {"image_id": IMAGE, "flavor": "m1.astara", "management_network_id": NETWORK},
    },
    "endpoints": {
        "identity": {"auth": {"astara": {"password": "of-keystone"}}},
        "oslo_db": {"auth": {"astara": {"password": "of db/@"}}},
        "oslo_messaging": {"auth": {"astara": {"password": "of:broker"}}},
    },
    "credentials": {
        "appliance": "of-the-appliances-tokens",
        "metadata": "of-metadata-and-nova",
        "rpcapi": "of-the-operators-api",
    },
    "managementCIDRs": ["10.9.0.0/16"],
    "metadata": {"service": {"loadBalancerIP": "192.0.2.10"}},
}

EVERYTHING: Values = merged(
    MINIMAL,
    {
        "fullnameOverride": "astara",
        "labels": {"team": "network"},
        "images": {"registry": "registry.example.org/astara", "tags": {"worker": "registry.example.org/own:3"}},
        "imagePullSecrets": [{"name": "registry"}],
        "conf": {"scheduler": {"history_days": 90}, "appliance": {"port": 5001}, "metadata": {"nova_timeout": 20.5}},
        "cloudCA": {"secret": "cloud-ca"},
        "applianceTLS": {"secret": "appliance-tls"},
        "election": "kubernetes",
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {
            "nodeCIDRs": ["198.51.100.0/24"],
            "peers": {"kubernetes": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "operators": PEER},
        },
        "pod": {
            "labels": {"tier": "control"},
            "annotations": {"example.org/note": "yes"},
            "nodeSelector": {"openstack-control-plane": "enabled"},
            "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
            "affinity": {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}
                    ]
                }
            },
            "spread": "DoNotSchedule",
            "priorityClassName": "system-cluster-critical",
            "runtimeClassName": "gvisor",
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.org:3128"}],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "serviceAccountAnnotations": {"example.org/role": "astara"},
        },
        "worker": {"replicas": 5, "maxSurge": "20%", "conf": {"worker": {"max_running": 512, "capacity": 0}}},
        "rpcapi": {
            "ingress": {
                "enabled": True,
                "className": "nginx",
                "host": "astara.example.org",
                "annotations": {"nginx.ingress.kubernetes.io/backend-protocol": "HTTPS"},
                "tlsSecret": "astara-example-org",
            }
        },
        "metadata": {"service": {"loadBalancerClass": "metallb.io/metallb", "externalTrafficPolicy": "Cluster"}},
    },
)

EXISTING_SECRETS: Values = merged(
    {key: value for key, value in MINIMAL.items() if key not in ("endpoints", "credentials")},
    {
        "secrets": {
            "identity": {"astara": "astara-keystone-user"},
            "oslo_db": {"astara": "astara-db-user"},
            "oslo_messaging": {"astara": "astara-rabbitmq-user"},
            "appliance": {"astara": "astara-appliance"},
            "metadata": {"astara": "nova-metadata-proxy"},
            "rpcapi": {"astara": "astara-operators"},
        },
        "secretKeys": {"metadata": "metadata_proxy_shared_secret"},
    },
)

# Blocks as they stand in values of openstack-helm's charts, with what Astara does not read.
OPENSTACK_HELM: Values = merged(
    MINIMAL,
    {
        "endpoints": {
            "cluster_domain_suffix": "cluster.local",
            "identity": {
                "name": "keystone",
                "namespace": "openstack",
                "auth": {
                    "admin": {"region_name": "RegionOne", "username": "admin", "project_name": "admin"},
                    "astara": {"region_name": "RegionTwo", "password": "of-keystone"},
                },
                "hosts": {"default": "keystone", "internal": "keystone-api"},
                "host_fqdn_override": {"default": None, "public": {"host": "keystone.example.org"}},
                "path": {"default": "/v3"},
                "scheme": {"default": "http"},
                "port": {"api": {"default": 80, "internal": 5000}},
            },
            "compute_metadata": {
                "name": "nova",
                "ip": {"ingress": None},
                "hosts": {"default": "nova-metadata", "public": "metadata"},
                "host_fqdn_override": {"default": None},
                "path": {"default": "/"},
                "scheme": {"default": "http"},
                "port": {"metadata": {"default": 80, "internal": 8775}},
            },
            "oslo_messaging": {
                "auth": {"admin": {"username": "rabbitmq"}, "astara": {"username": "astara", "password": "of:broker"}},
                "statefulset": {"replicas": 2, "name": "rabbitmq-rabbitmq"},
                "hosts": {"default": "rabbitmq"},
                "host_fqdn_override": {"default": None},
                "path": "/neutron",
                "scheme": "rabbit",
                "port": {"amqp": {"default": 5672}, "http": {"default": 15672}},
            },
            "oslo_cache": {"hosts": {"default": "memcached"}, "port": {"memcache": {"default": 11211}}},
        }
    },
)

_OUTSIDE = {
    name: {"host_fqdn_override": {"default": address}}
    for name, address in {
        "identity": "198.51.100.5",
        "network": "198.51.100.5",
        "compute": "198.51.100.6",
        "image": "198.51.100.7",
        "compute_metadata": "2001:db8::8",
        "oslo_db": "2001:db8::9",
        "oslo_messaging": "198.51.100.10,198.51.100.11",
    }.items()
}

_NO_NETWORK_POLICY = {"networkPolicy": {"enabled": False}, "managementCIDRs": []}

CASES: dict[str, Values] = {
    "minimal": MINIMAL,
    "everything": EVERYTHING,
    "sqlite": merged(MINIMAL, {"database": {"type": "sqlite", "sqlite": {"keep": True}}, "scheduler": {"replicas": 1}}),
    "sqlite-on-a-claim": merged(
        MINIMAL, {"database": {"type": "sqlite", "sqlite": {"existingClaim": "mine"}}, "scheduler": {"replicas": 1}}
    ),
    "outside": merged(MINIMAL, {"endpoints": _OUTSIDE}),
    "existing-secrets": EXISTING_SECRETS,
    "openstack-helm": OPENSTACK_HELM,
    "election-by-lease": merged(
        MINIMAL,
        at("election", "kubernetes"),
        at("networkPolicy.peers.kubernetes", [{"ipBlock": {"cidr": "192.0.2.1/32"}}]),
    ),
    "tls-cert-manager": merged(
        MINIMAL, at("tls", {"mode": "cert-manager", "certManager": {"issuerRef": {"name": "our-ca"}}})
    ),
    "tls-given": merged(MINIMAL, at("tls", {"mode": "given", "given": {"secret": "astara-tls"}})),
    "tls-given-one-each": merged(
        MINIMAL, at("tls", {"mode": "given", "given": {"secrets": {name: f"{name}-pair" for name in SERVICES}}})
    ),
    "tls-disabled": merged(MINIMAL, at("tls", {"mode": "disabled", "allowPlaintext": True})),
    "node-port": merged(
        MINIMAL,
        at("metadata.service", {"type": "NodePort", "nodePort": 30697, "loadBalancerIP": ""}),
        at("conf.router", {"orchestrator_addresses": ["192.0.2.20"], "metadata_port": 30697}),
    ),
    "external-ips": merged(
        MINIMAL,
        at("metadata.service", {"type": "ClusterIP", "externalIPs": ["192.0.2.20"], "loadBalancerIP": ""}),
        at("networkPolicy.nodeCIDRs", ["198.51.100.0/24"]),
    ),
    "no-network-policy": merged(MINIMAL, _NO_NETWORK_POLICY),
    "ipv6": merged(
        MINIMAL,
        {"ipFamilies": ["IPv6"], "managementCIDRs": ["fdca:3ba5:a17a:acda::/64"]},
        at("metadata.service.loadBalancerIP", "2001:db8::10"),
    ),
    "dual-stack": merged(
        MINIMAL,
        {"ipFamilies": ["IPv6", "IPv4"], "managementCIDRs": ["10.9.0.0/16", "fdca:3ba5:a17a:acda::/64"]},
    ),
    "no-test": merged(MINIMAL, at("helmTest", False)),
}
