{{/* Names, labels, and a service's settings: what every template begins with. */}}

{{- define "astara.services" -}}notifier health scheduler worker rpcapi metadata{{- end -}}

{{- define "astara.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "astara.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "astara.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change: what selectors use. Argument: the root. */}}
{{- define "astara.selector" -}}
app.kubernetes.io/name: {{ include "astara.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Argument: (dict "root" $ "name" component). */}}
{{- define "astara.componentSelector" -}}
{{ include "astara.selector" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "astara.labels" -}}
{{ include "astara.selector" . }}
app.kubernetes.io/part-of: astara
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "astara.componentLabels" -}}
{{ include "astara.labels" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{/* What holds for one service, as YAML: `pod`, and the service's own values instead, also 0, false and empty ones. */}}
{{- define "astara.service" -}}
{{- $result := deepCopy .root.Values.pod -}}
{{- range $key, $value := index .root.Values .name -}}{{- $_ := set $result $key $value -}}{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{- define "astara.image" -}}
{{- $images := .root.Values.images -}}
{{- $whole := index $images.tags .name -}}
{{- if $whole -}}
{{- $whole -}}
{{- else -}}
{{- with $images.registry -}}{{ trimSuffix "/" . }}/{{- end -}}
astara-{{ .name }}:{{ $images.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "astara.grpcPort" -}}
{{- index (dict "scheduler" "44251" "notifier" "44252" "health" "44253" "worker" "44254" "rpcapi" "44255" "metadata" "44256") . -}}
{{- end -}}

{{/* `[::]` where pods have IPv6: a wildcard that takes IPv4 as well. */}}
{{- define "astara.any" -}}
{{- if has "IPv6" .Values.ipFamilies -}}[::]{{- else -}}0.0.0.0{{- end -}}
{{- end -}}

{{- define "astara.families" -}}
ipFamilyPolicy: {{ gt (len .Values.ipFamilies) 1 | ternary "RequireDualStack" "SingleStack" }}
ipFamilies: {{ toJson .Values.ipFamilies }}
{{- end -}}

{{/* The IP versions of addresses or CIDRs, as JSON. */}}
{{- define "astara.families-of" -}}
{{- $found := list -}}
{{- range . -}}{{- $found = append $found (contains ":" . | ternary "IPv6" "IPv4") -}}{{- end -}}
{{- uniq $found | toJson -}}
{{- end -}}
