{{/* Configuration as oslo.config ini: what the chart knows, `conf` on top, the service's own `conf` on top of that. */}}

{{/* The sections that a service knows, with blanks between them. */}}
{{- define "astara.sections" -}}
DEFAULT grpc metrics {{ . }}
{{- if eq . "health" }} openstack claim{{ end }}
{{- if eq . "worker" }} openstack claim router appliance{{ end }}
{{- if eq . "metadata" }} openstack appliance{{ end }}
{{- end -}}

{{/* A service's options by section, as YAML. Argument: (dict "root" $ "name" service). */}}
{{- define "astara.conf" -}}
{{- $root := .root -}}
{{- $any := include "astara.any" $root -}}
{{- $listen := printf "%s:%s" $any (include "astara.grpcPort" .name) -}}
{{- $all := list -}}
{{- range $family := $root.Values.ipFamilies -}}
{{- $all = append $all (eq $family "IPv6" | ternary "::" "0.0.0.0") -}}
{{- end -}}
{{- $grpc := dict "scheduler" (printf "%s-scheduler:44251" (include "astara.fullname" $root)) "health_listen" (printf "%s:44260" $any) -}}
{{- if eq $root.Values.tls.mode "disabled" -}}
{{- $_ := set $grpc "allow_plaintext" true -}}
{{- else -}}
{{- $_ := merge $grpc (dict "tls_cert" "/etc/astara/tls/tls.crt" "tls_key" "/etc/astara/tls/tls.key" "tls_ca" "/etc/astara/tls/ca.crt") -}}
{{- end -}}
{{- $own := dict -}}
{{- if has .name (list "rpcapi" "metadata") -}}
{{- $own = dict "listen" $all "grpc_listen" $listen -}}
{{- else -}}
{{- $own = dict "listen" $listen -}}
{{- end -}}
{{- $openstack := dict -}}
{{- with $root.Values.cloudCA.secret -}}{{- $_ := set $openstack "cafile" "/etc/astara/cloud-ca/ca.crt" -}}{{- end -}}
{{- $appliance := dict -}}
{{- $router := dict -}}
{{- if eq .name "scheduler" -}}
{{- $_ := set $own "replicas" $root.Values.scheduler.replicas -}}
{{- if eq $root.Values.election "kubernetes" -}}
{{- $_ := merge $own (dict "election" "kubernetes" "lease_name" (include "astara.leaseName" $root)) -}}
{{- end -}}
{{- if eq $root.Values.database.type "sqlite" -}}
{{- $_ := set $own "database" "sqlite:////var/lib/astara/scheduler.db" -}}
{{- end -}}
{{- else if eq .name "notifier" -}}
{{- with $root.Values.cloudCA.secret -}}{{- $_ := set $own "broker_ca" "/etc/astara/cloud-ca/ca.crt" -}}{{- end -}}
{{- else if eq .name "rpcapi" -}}
{{- $_ := set $own "token_file" "/etc/astara/token/token" -}}
{{- if and $root.Values.rpcapi.https (ne $root.Values.tls.mode "disabled") -}}
{{- $_ := merge $own (dict "tls_cert" "/etc/astara/tls/tls.crt" "tls_key" "/etc/astara/tls/tls.key") -}}
{{- end -}}
{{- else if eq .name "metadata" -}}
{{- $_ := set $own "nova_metadata_url" (include "astara.baseUrl" (dict "root" $root "name" "compute_metadata")) -}}
{{- else if eq .name "worker" -}}
{{- $_ := set $router "orchestrator_addresses" (include "astara.metadataAddresses" $root | fromJsonArray) -}}
{{- with $root.Values.applianceTLS.secret -}}
{{- $_ := merge $appliance (dict "tls_ca" "/etc/astara/appliance-tls/ca.crt" "tls_cert" "/etc/astara/appliance-tls/tls.crt" "tls_key" "/etc/astara/appliance-tls/tls.key" "tls_appliance_cert" "/etc/astara/appliance-tls/appliance.crt" "tls_appliance_key" "/etc/astara/appliance-tls/appliance.key") -}}
{{- end -}}
{{- end -}}
{{- $options := dict "grpc" $grpc "metrics" (dict "port" 9100 "address" (has "IPv6" $root.Values.ipFamilies | ternary "::" "0.0.0.0")) "openstack" $openstack "appliance" $appliance .name $own -}}
{{- range $source := list $root.Values.conf ((index $root.Values .name).conf | default dict) -}}
{{- range $section, $values := $source -}}
{{- if not (hasKey $options $section) -}}{{- $_ := set $options $section dict -}}{{- end -}}
{{- range $option, $value := $values -}}{{- $_ := set (index $options $section) $option $value -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $router.orchestrator_addresses -}}
{{- if not $options.router.orchestrator_addresses -}}{{- $_ := set $options.router "orchestrator_addresses" $router.orchestrator_addresses -}}{{- end -}}
{{- end -}}
{{- $known := splitList " " (include "astara.sections" .name) -}}
{{- $result := dict -}}
{{- range $section, $values := $options -}}
{{- if and $values (has $section $known) -}}{{- $_ := set $result $section $values -}}{{- end -}}
{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{/* Where appliances reach metadata, as JSON: `conf.router.orchestrator_addresses`, or the Service's addresses. */}}
{{- define "astara.metadataAddresses" -}}
{{- $service := .Values.metadata.service -}}
{{- $addresses := .Values.conf.router.orchestrator_addresses -}}
{{- if not $addresses -}}{{- $addresses = $service.externalIPs -}}{{- end -}}
{{- if and (not $addresses) $service.loadBalancerIP -}}{{- $addresses = list $service.loadBalancerIP -}}{{- end -}}
{{- toJson ($addresses | default list) -}}
{{- end -}}

{{- define "astara.leaseName" -}}{{ include "astara.fullname" . }}-scheduler{{- end -}}

{{/* One section after the other, without blanks at ends of lines: kubectl shows such a text as it is.
     Argument: options by section. */}}
{{- define "astara.ini" -}}
{{- range $section, $options := . }}
[{{ $section }}]
{{- range $option, $value := $options }}
{{- if not (kindIs "invalid" $value) }}
{{ printf "%s = %s" $option (include "astara.iniValue" $value) | trim }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* JSON writes whole numbers without an exponent. */}}
{{- define "astara.iniValue" -}}
{{- if kindIs "slice" . -}}
{{- $parts := list -}}
{{- range . -}}{{- $parts = append $parts (include "astara.iniValue" .) -}}{{- end -}}
{{- join "," $parts -}}
{{- else if kindIs "string" . -}}
{{- . -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}
