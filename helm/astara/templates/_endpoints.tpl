{{/* openstack-helm's `endpoints` block: hosts, ports and URLs. Argument: (dict "root" $ "name" endpoint). */}}

{{/* One value of a map as openstack-helm has them ({internal: …, default: …}, of a host also {host: …}), or the plain value itself. */}}
{{- define "astara.pick" -}}
{{- if kindIs "map" . -}}
{{- $one := .internal | default .default | default "" -}}
{{- if kindIs "map" $one -}}{{- $one.host -}}{{- else -}}{{- $one -}}{{- end -}}
{{- else -}}
{{- . | default "" -}}
{{- end -}}
{{- end -}}

{{- define "astara.endpointHost" -}}
{{- $endpoint := index .root.Values.endpoints .name -}}
{{- $outside := include "astara.pick" $endpoint.host_fqdn_override -}}
{{- if $outside -}}
{{- $outside -}}
{{- else -}}
{{- printf "%s.%s.svc.%s" (include "astara.pick" $endpoint.hosts) ($endpoint.namespace | default .root.Release.Namespace) .root.Values.endpoints.cluster_domain_suffix -}}
{{- end -}}
{{- end -}}

{{/* An address as it stands in a URL: IPv6 in brackets. */}}
{{- define "astara.urlHost" -}}
{{- if and (contains ":" .) (not (hasPrefix "[" .)) -}}[{{ . }}]{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* The first port of the block whose name is known, else of any name. */}}
{{- define "astara.endpointPort" -}}
{{- $ports := (index .root.Values.endpoints .name).port -}}
{{- $port := "" -}}
{{- range $name := list "api" "metadata" "mysql" "amqp" -}}
{{- if and (not $port) (hasKey $ports $name) -}}
{{- $port = index $ports $name -}}
{{- if kindIs "map" $port -}}{{- $port = $port.internal | default $port.default -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- int $port -}}
{{- end -}}

{{- define "astara.baseUrl" -}}
{{- $endpoint := index .root.Values.endpoints .name -}}
{{- include "astara.pick" $endpoint.scheme }}://{{ include "astara.urlHost" (include "astara.endpointHost" .) }}:{{ include "astara.endpointPort" . -}}
{{- end -}}

{{- define "astara.authUrl" -}}
{{- $endpoint := .Values.endpoints.identity -}}
{{- include "astara.baseUrl" (dict "root" . "name" "identity") }}{{ include "astara.urlPath" $endpoint.path -}}
{{- end -}}

{{/* A path as it stands in a URL: with a slash before it, or nothing. */}}
{{- define "astara.urlPath" -}}
{{- with include "astara.pick" . -}}/{{ trimPrefix "/" . }}{{- end -}}
{{- end -}}

{{- define "astara.login" -}}
{{- urlquery .username | replace "+" "%20" }}:{{ urlquery .password | replace "+" "%20" -}}
{{- end -}}

{{- define "astara.databaseUrl" -}}
{{- $endpoint := .Values.endpoints.oslo_db -}}
{{- $host := include "astara.urlHost" (include "astara.endpointHost" (dict "root" . "name" "oslo_db")) -}}
{{- $port := include "astara.endpointPort" (dict "root" . "name" "oslo_db") -}}
{{- printf "%s://%s@%s:%s%s" (include "astara.pick" $endpoint.scheme) (include "astara.login" $endpoint.auth.astara) $host $port (include "astara.urlPath" $endpoint.path) -}}
{{- with $endpoint.query -}}?{{ . }}{{- end -}}
{{- end -}}

{{/* One host for each node of a cluster, as oslo.messaging writes them. */}}
{{- define "astara.brokerUrl" -}}
{{- $endpoint := .Values.endpoints.oslo_messaging -}}
{{- $login := include "astara.login" $endpoint.auth.astara -}}
{{- $port := include "astara.endpointPort" (dict "root" . "name" "oslo_messaging") -}}
{{- $host := include "astara.endpointHost" (dict "root" . "name" "oslo_messaging") -}}
{{- $nodes := list -}}
{{- if $endpoint.statefulset -}}
{{- range $number := until (int $endpoint.statefulset.replicas) -}}
{{- $nodes = append $nodes (printf "%s@%s-%d.%s:%s" $login $endpoint.statefulset.name $number $host $port) -}}
{{- end -}}
{{- else -}}
{{- range splitList "," $host -}}
{{- $nodes = append $nodes (printf "%s@%s:%s" $login (include "astara.urlHost" (trim .)) $port) -}}
{{- end -}}
{{- end -}}
{{- printf "%s://%s%s" (include "astara.pick" $endpoint.scheme) (join "," $nodes) (include "astara.urlPath" $endpoint.path) -}}
{{- end -}}
