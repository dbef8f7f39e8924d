{{/* Which Secret holds what: an existing one by name, or the chart's own. Argument: (dict "root" $ "name" kind). */}}

{{- define "astara.secretName" -}}
{{- $existing := (index .root.Values.secrets .name).astara -}}
{{- if $existing -}}
{{- $existing -}}
{{- else -}}
{{- include "astara.fullname" .root }}-{{ index (dict "identity" "keystone-user" "oslo_db" "db-user" "oslo_messaging" "rabbitmq-user" "appliance" "appliance" "metadata" "metadata-proxy" "rpcapi" "api-token") .name -}}
{{- end -}}
{{- end -}}

{{/* The data of a Secret that the chart makes, as YAML; empty when one exists, or none is needed. */}}
{{- define "astara.secretData" -}}
{{- $values := .root.Values -}}
{{- $keys := index $values.secretKeys .name -}}
{{- if (index $values.secrets .name).astara -}}
{{- else if eq .name "identity" -}}
{{- $known := merge (dict "auth_url" (include "astara.authUrl" .root)) $values.endpoints.identity.auth.astara -}}
{{- range $option, $key := $keys -}}
{{- if and $key (hasKey $known $option) }}
{{ $key }}: {{ index $known $option | toString | quote }}
{{- end -}}
{{- end -}}
{{- else if eq .name "oslo_db" -}}
{{- if eq $values.database.type "mariadb" -}}
{{ $keys }}: {{ include "astara.databaseUrl" .root | quote }}
{{- end -}}
{{- else if eq .name "oslo_messaging" -}}
{{ $keys }}: {{ include "astara.brokerUrl" .root | quote }}
{{- else -}}
{{ $keys }}: {{ index $values.credentials .name | quote }}
{{- end -}}
{{- end -}}

{{/* The Secrets that a service reads, with blanks between them. Argument: (dict "root" $ "name" service). */}}
{{- define "astara.secretsOf" -}}
{{- $database := eq .root.Values.database.type "mariadb" | ternary "oslo_db" "" -}}
{{- index (dict "notifier" "oslo_messaging" "health" "identity" "scheduler" $database "worker" "identity appliance" "rpcapi" "rpcapi" "metadata" "identity appliance metadata") .name -}}
{{- end -}}

{{/* The environment that carries secrets: OS_<SECTION>__<OPTION>. */}}
{{- define "astara.secretEnv" -}}
{{- $root := .root -}}
{{- $options := dict "oslo_db" "SCHEDULER__DATABASE" "oslo_messaging" "NOTIFIER__BROKER" "appliance" "APPLIANCE__SECRET" "metadata" "METADATA__SHARED_SECRET" -}}
{{- range $kind := splitList " " (include "astara.secretsOf" .) -}}
{{- if $kind -}}
{{- $secret := include "astara.secretName" (dict "root" $root "name" $kind) -}}
{{- $keys := index $root.Values.secretKeys $kind -}}
{{- if eq $kind "identity" -}}
{{- range $option, $key := $keys -}}
{{- if $key }}
- name: OS_OPENSTACK__{{ upper $option }}
  valueFrom: {secretKeyRef: {name: {{ quote $secret }}, key: {{ quote $key }}}}
{{- end -}}
{{- end -}}
{{- else if hasKey $options $kind }}
- name: OS_{{ index $options $kind }}
  valueFrom: {secretKeyRef: {name: {{ quote $secret }}, key: {{ quote $keys }}}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret with a service's certificate. */}}
{{- define "astara.tlsSecret" -}}
{{- $given := .root.Values.tls.given -}}
{{- if eq .root.Values.tls.mode "given" -}}
{{- index $given.secrets .name | default $given.secret -}}
{{- else -}}
{{- include "astara.fullname" .root }}-{{ .name }}-tls
{{- end -}}
{{- end -}}

{{/* The names in a service's certificate, as JSON. */}}
{{- define "astara.tlsNames" -}}
{{- $name := printf "%s-%s" (include "astara.fullname" .root) .name -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $names := list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.%s" $name $namespace .root.Values.endpoints.cluster_domain_suffix) "localhost" -}}
{{- if and (eq .name "rpcapi") .root.Values.rpcapi.ingress.host -}}{{- $names = append $names .root.Values.rpcapi.ingress.host -}}{{- end -}}
{{- toJson $names -}}
{{- end -}}
