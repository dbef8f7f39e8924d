{{/* Who may speak to whom: NetworkPolicy peers and rules. */}}

{{- define "astara.cloudPeers" -}}identity network compute image compute_metadata oslo_messaging
{{- if eq .Values.database.type "mariadb" }} oslo_db{{ end -}}
{{- end -}}

{{/* The hosts of a comma-separated list as CIDRs, as JSON; empty when one is a name. */}}
{{- define "astara.addresses" -}}
{{- $found := list -}}
{{- $names := false -}}
{{- range splitList "," . -}}
{{- $host := trim . | trimPrefix "[" | trimSuffix "]" -}}
{{- if regexMatch "^[0-9]+([.][0-9]+){3}$" $host -}}
{{- $found = append $found (printf "%s/32" $host) -}}
{{- else if contains ":" $host -}}
{{- $found = append $found (printf "%s/128" $host) -}}
{{- else -}}
{{- $names = true -}}
{{- end -}}
{{- end -}}
{{- $names | ternary (list) $found | toJson -}}
{{- end -}}

{{/* Peers of a kind as YAML. Argument: (dict "root" $ "name" kind). */}}
{{- define "astara.peers" -}}
{{- $given := index .root.Values.networkPolicy.peers .name -}}
{{- if $given -}}
{{- toYaml $given -}}
{{- else if hasKey .root.Values.endpoints .name -}}
{{- $endpoint := index .root.Values.endpoints .name -}}
{{- $host := include "astara.pick" $endpoint.host_fqdn_override -}}
{{- if $host -}}
{{- include "astara.blocks" (include "astara.addresses" $host | fromJsonArray) -}}
{{- else -}}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ $endpoint.namespace | default .root.Release.Namespace | quote }}}}
  podSelector: {matchLabels: {application: {{ $endpoint.name | default (include "astara.pick" $endpoint.hosts) | quote }}}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* CIDRs as peers. */}}
{{- define "astara.blocks" -}}
{{- range $index, $cidr := . -}}
{{- if $index }}
{{ end -}}
- ipBlock: {cidr: {{ $cidr }}}
{{- end -}}
{{- end -}}

{{/* Pods of ours as a peer. */}}
{{- define "astara.podPeer" -}}
- podSelector:
    matchLabels:
      {{- include "astara.componentSelector" . | nindent 6 }}
{{- end -}}

{{/* A rule; nothing without peers, because a rule without peers would allow everybody.
     Argument: (dict "way" "to" or "from" "peers" YAML "ports" list of numbers). */}}
{{- define "astara.rule" -}}
{{- if .peers -}}
- {{ .way }}:
    {{- .peers | nindent 4 }}
  ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end -}}
{{- end -}}

{{/* What a service calls besides the scheduler, with blanks between. */}}
{{- define "astara.callsOf" -}}
{{- $database := eq .root.Values.database.type "mariadb" | ternary "oslo_db" "" -}}
{{- index (dict "notifier" "oslo_messaging" "health" "identity network compute" "scheduler" $database "worker" "identity network compute image" "rpcapi" "" "metadata" "identity network compute_metadata") .name -}}
{{- end -}}
