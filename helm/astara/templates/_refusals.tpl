{{/* What would contradict itself, each in a sentence. One per line; empty when there is nothing to refuse. */}}

{{- define "astara.refusals" -}}
{{- $values := .Values -}}
{{- $conf := $values.conf -}}
{{- $root := . -}}
{{- $said := list -}}
{{- if and (eq $values.database.type "sqlite") (gt (int $values.scheduler.replicas) 1) -}}
{{- $said = append $said "database.type sqlite serves one scheduler only: set scheduler.replicas to 1, or take mariadb." -}}
{{- end -}}
{{- $claim := dict "claim" $conf.claim.claim "flavor_id" $conf.claim.flavor_id -}}
{{- if not $claim.claim -}}
{{- $said = append $said "conf.claim.claim must say which routers are Astara's: all, flavor or provider. There is no default, so that nobody takes over a cloud's routers by accident." -}}
{{- else if and (eq $claim.claim "flavor") (not $claim.flavor_id) -}}
{{- $said = append $said "conf.claim.claim flavor wants conf.claim.flavor_id, the id of the router flavor." -}}
{{- end -}}
{{- range $service := list "worker" "health" -}}
{{- if hasKey ((index $values $service).conf | default dict) "claim" -}}
{{- $said = append $said (printf "%s.conf.claim: health and the workers must agree on the claim; set it in conf.claim." $service) -}}
{{- end -}}
{{- end -}}
{{- range $option := list "image_id" "flavor" "management_network_id" -}}
{{- if not (index $conf.router $option) -}}
{{- $said = append $said (printf "conf.router.%s must be set: appliances are made of it." $option) -}}
{{- end -}}
{{- end -}}
{{- if and (not $values.secrets.identity.astara) (eq $conf.openstack.auth_type "password") (not $values.endpoints.identity.auth.astara.password) -}}
{{- $said = append $said "There are no OpenStack credentials: name a Secret in secrets.identity.astara, or set endpoints.identity.auth.astara.password." -}}
{{- end -}}
{{- if and (not $values.secrets.identity.astara) (ne $conf.openstack.auth_type "password") -}}
{{- $said = append $said (printf "conf.openstack.auth_type %s wants its credentials in a Secret: name it in secrets.identity.astara, and its keys in secretKeys.identity." $conf.openstack.auth_type) -}}
{{- end -}}
{{- if and (eq $values.database.type "mariadb") (not $values.secrets.oslo_db.astara) (not $values.endpoints.oslo_db.auth.astara.password) -}}
{{- $said = append $said "There are no credentials of the database: name a Secret in secrets.oslo_db.astara, or set endpoints.oslo_db.auth.astara.password." -}}
{{- end -}}
{{- if and (not $values.secrets.oslo_messaging.astara) (not $values.endpoints.oslo_messaging.auth.astara.password) -}}
{{- $said = append $said "There are no credentials of the broker: name a Secret in secrets.oslo_messaging.astara, or set endpoints.oslo_messaging.auth.astara.password." -}}
{{- end -}}
{{- range $kind := list "appliance" "metadata" "rpcapi" -}}
{{- if not (index $values.secrets $kind).astara -}}
{{- $text := index $values.credentials $kind -}}
{{- if not $text -}}
{{- $said = append $said (printf "There is no secret for %s: name a Secret in secrets.%s.astara, or set credentials.%s." $kind $kind $kind) -}}
{{- else if and (ne $kind "metadata") (lt (len $text) 16) -}}
{{- $said = append $said (printf "credentials.%s wants at least 16 characters." $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $secret := dict "openstack" (list "password" "application_credential_secret" "token" "passcode") "notifier" (list "broker") "appliance" (list "secret") "metadata" (list "shared_secret") "rpcapi" (list "token") -}}
{{- if eq $values.database.type "mariadb" -}}{{- $_ := set $secret "scheduler" (list "database") -}}{{- end -}}
{{- $places := dict "conf" $conf -}}
{{- range $service := splitList " " (include "astara.services" .) -}}
{{- $_ := set $places (printf "%s.conf" $service) ((index $values $service).conf | default dict) -}}
{{- end -}}
{{- range $place, $sections := $places -}}
{{- range $section, $options := $secret -}}
{{- range $option := $options -}}
{{- if hasKey (index $sections $section | default dict) $option -}}
{{- $said = append $said (printf "%s.%s.%s is a secret and does not belong into a ConfigMap: see secrets and credentials." $place $section $option) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $section, $options := dict "metrics" (list "port" "address") "grpc" (list "health_listen") "rpcapi" (list "port" "listen" "grpc_listen") "metadata" (list "port" "listen" "grpc_listen") "scheduler" (list "listen" "replicas" "election" "lease_name") "notifier" (list "listen") "health" (list "listen") "worker" (list "listen") -}}
{{- range $option := $options -}}
{{- if hasKey (index $sections $section | default dict) $option -}}
{{- $said = append $said (printf "%s.%s.%s is set by the chart, whose Services, probes, roles and policies stand on it: leave it out (election and replicas have values of their own)." $place $section $option) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey ($sections.DEFAULT | default dict) "host" -}}
{{- $said = append $said (printf "%s.DEFAULT.host would give all pods one name: leave it out, a pod's name is its host's." $place) -}}
{{- end -}}
{{- if hasKey ($sections.worker | default dict) "name" -}}
{{- $said = append $said (printf "%s.worker.name would give all workers one name: leave it out, a pod's name is its worker's." $place) -}}
{{- end -}}
{{- if eq (($sections.rpcapi | default dict).auth | default "") "none" -}}
{{- $said = append $said (printf "%s.rpcapi.auth none is for loopback addresses only, and pods are reached from others." $place) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.database.type "mariadb") (not (regexMatch "^(mysql|mariadb)([+][a-z]+)?$" (include "astara.pick" $values.endpoints.oslo_db.scheme))) -}}
{{- $said = append $said (printf "endpoints.oslo_db.scheme %s is none of MariaDB, such as mysql+pymysql; for a file set database.type sqlite." (include "astara.pick" $values.endpoints.oslo_db.scheme)) -}}
{{- end -}}
{{- range $name := list "identity" "network" "compute" "image" "compute_metadata" "oslo_messaging" "oslo_db" -}}
{{- range $host := splitList "," (include "astara.pick" (index $values.endpoints $name).host_fqdn_override) -}}
{{- $bare := trim $host | trimPrefix "[" | trimSuffix "]" -}}
{{- if and (contains ":" $bare) (not (regexMatch "^[0-9a-fA-F]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$" $bare)) -}}
{{- $said = append $said (printf "endpoints.%s.host_fqdn_override %s is no host: its port belongs into endpoints.%s.port." $name $bare $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $labelled := dict "labels" $values.labels "pod.labels" $values.pod.labels -}}
{{- range $name := splitList " " (include "astara.services" .) -}}
{{- $_ := set $labelled (printf "%s.labels" $name) ((index $values $name).labels | default dict) -}}
{{- end -}}
{{- range $place, $labels := $labelled -}}
{{- range $label := list "name" "instance" "component" "part-of" "version" "managed-by" -}}
{{- if hasKey ($labels | default dict) (printf "app.kubernetes.io/%s" $label) -}}
{{- $said = append $said (printf "%s: app.kubernetes.io/%s is the chart's own, by which it finds its pods." $place $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $tls := $values.tls -}}
{{- if and (eq $tls.mode "disabled") (not $tls.allowPlaintext) -}}
{{- $said = append $said "tls.mode disabled sends everything between the services in plain text: say tls.allowPlaintext true if a mesh encrypts, or choose another mode." -}}
{{- end -}}
{{- if and (ne $tls.mode "disabled") $tls.allowPlaintext -}}
{{- $said = append $said (printf "tls.allowPlaintext contradicts tls.mode %s." $tls.mode) -}}
{{- end -}}
{{- if and (eq $tls.mode "cert-manager") (not $tls.certManager.issuerRef.name) -}}
{{- $said = append $said "tls.mode cert-manager wants tls.certManager.issuerRef.name." -}}
{{- end -}}
{{- if eq $tls.mode "given" -}}
{{- range $service := splitList " " (include "astara.services" .) -}}
{{- if not (include "astara.tlsSecret" (dict "root" $root "name" $service)) -}}
{{- $said = append $said (printf "tls.mode given wants a Secret for %s: tls.given.secret, or tls.given.secrets.%s." $service $service) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $service := $values.metadata.service -}}
{{- if not (include "astara.metadataAddresses" . | fromJsonArray) -}}
{{- $said = append $said "Appliances would not find metadata: set metadata.service.loadBalancerIP or externalIPs, or conf.router.orchestrator_addresses." -}}
{{- end -}}
{{- $told := include "astara.families-of" (include "astara.metadataAddresses" . | fromJsonArray) | fromJsonArray -}}
{{- if and $told $values.managementCIDRs -}}
{{- $met := false -}}
{{- range $family := include "astara.families-of" $values.managementCIDRs | fromJsonArray -}}
{{- if and (has $family $told) (has $family $values.ipFamilies) -}}{{- $met = true -}}{{- end -}}
{{- end -}}
{{- if not $met -}}
{{- $said = append $said "Appliances could not reach metadata: its address, managementCIDRs and ipFamilies have no IP version in common." -}}
{{- end -}}
{{- end -}}
{{- if and (eq $service.type "ClusterIP") (not $service.externalIPs) -}}
{{- $said = append $said "metadata.service.type ClusterIP is reached from outside by metadata.service.externalIPs only: set them, or take LoadBalancer or NodePort." -}}
{{- end -}}
{{- if eq $service.type "NodePort" -}}
{{- if not $service.nodePort -}}
{{- $said = append $said "metadata.service.type NodePort wants metadata.service.nodePort: appliances are told a constant port." -}}
{{- else if ne (int $service.nodePort) (int $conf.router.metadata_port) -}}
{{- $said = append $said (printf "conf.router.metadata_port %d is not metadata.service.nodePort %d, at which appliances reach metadata." (int $conf.router.metadata_port) (int $service.nodePort)) -}}
{{- end -}}
{{- end -}}
{{- if $values.networkPolicy.enabled -}}
{{- if not $values.managementCIDRs -}}
{{- $said = append $said "managementCIDRs must name the management network's subnets: workers are allowed to call these only." -}}
{{- end -}}
{{- if and (or (eq $service.type "ClusterIP") (eq $service.externalTrafficPolicy "Cluster")) (not $values.networkPolicy.nodeCIDRs) -}}
{{- $said = append $said "networkPolicy.nodeCIDRs must be set: without externalTrafficPolicy Local, calls to metadata come from the nodes' addresses." -}}
{{- end -}}
{{- if and (eq $values.election "kubernetes") (not $values.networkPolicy.peers.kubernetes) -}}
{{- $said = append $said "networkPolicy.peers.kubernetes must name the API server's addresses (kubectl get endpointslices -n default): with election kubernetes the scheduler calls it." -}}
{{- end -}}
{{- range $name := splitList " " (include "astara.cloudPeers" .) -}}
{{- $host := include "astara.pick" (index $values.endpoints $name).host_fqdn_override -}}
{{- if and $host (not (index $values.networkPolicy.peers $name)) (not (include "astara.addresses" $host | fromJsonArray)) -}}
{{- $said = append $said (printf "networkPolicy.peers.%s must be set: a NetworkPolicy cannot name the host %s." $name $host) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.rpcapi.ingress.enabled (not $values.rpcapi.ingress.host) -}}
{{- $said = append $said "rpcapi.ingress.enabled wants rpcapi.ingress.host." -}}
{{- end -}}
{{- if and $values.rpcapi.ingress.enabled $values.networkPolicy.enabled (not $values.networkPolicy.peers.operators) -}}
{{- $said = append $said "networkPolicy.peers.operators must name the ingress controller's pods: otherwise the Ingress does not reach rpcapi." -}}
{{- end -}}
{{- range $name := splitList " " (include "astara.services" .) -}}
{{- $one := include "astara.service" (dict "root" $root "name" $name) | fromYaml -}}
{{- if and (eq (toString $one.maxSurge) "0") (eq (toString $one.maxUnavailable) "0") -}}
{{- $said = append $said (printf "%s: maxSurge and maxUnavailable are both 0; no update could begin." $name) -}}
{{- end -}}
{{- end -}}
{{- join "\n" $said -}}
{{- end -}}
