{{/* A service's pod. Argument: (dict "root" $ "name" service "service" its settings). */}}

{{- define "astara.podSecurity" -}}
runAsNonRoot: true
runAsUser: 42424
runAsGroup: 42424
fsGroup: 42424
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "astara.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "astara.hasToken" -}}
{{- if and (eq .name "scheduler") (eq .root.Values.election "kubernetes") -}}true{{- else -}}false{{- end -}}
{{- end -}}

{{- define "astara.mountsCloudCA" -}}
{{- if and .root.Values.cloudCA.secret (ne .name "rpcapi") -}}true{{- end -}}
{{- end -}}

{{/* Changes with what the pod reads at its start, so that an upgrade replaces exactly the pods that it concerns. */}}
{{- define "astara.checksums" -}}
{{- $root := .root -}}
checksum/config: {{ include "astara.ini" (include "astara.conf" (dict "root" $root "name" .name) | fromYaml) | sha256sum }}
{{- $made := "" -}}
{{- range $kind := splitList " " (include "astara.secretsOf" .) -}}
{{- if $kind -}}{{- $made = print $made (include "astara.secretData" (dict "root" $root "name" $kind)) -}}{{- end -}}
{{- end }}
{{- if $made }}
checksum/secrets: {{ sha256sum $made }}
{{- end }}
{{- end -}}

{{- define "astara.pod" -}}
{{- $root := .root -}}
{{- $name := .name -}}
{{- $service := .service -}}
{{- $fullname := include "astara.fullname" $root -}}
{{- $tls := ne $root.Values.tls.mode "disabled" -}}
metadata:
  labels:
    {{- include "astara.componentLabels" . | nindent 4 }}
    {{- with $service.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- include "astara.checksums" . | nindent 4 }}
    {{- with $service.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ $fullname }}-{{ $name }}
  automountServiceAccountToken: {{ include "astara.hasToken" . }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $service.terminationGracePeriodSeconds }}
  securityContext:
    {{- include "astara.podSecurity" . | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $service.priorityClassName }}
  priorityClassName: {{ quote . }}
  {{- end }}
  {{- with $service.runtimeClassName }}
  runtimeClassName: {{ quote . }}
  {{- end }}
  {{- with $service.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $service.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $service.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      whenUnsatisfiable: {{ $service.spread }}
      labelSelector:
        matchLabels:
          {{- include "astara.componentSelector" (dict "root" $root "name" $name) | nindent 10 }}
      # The old pods of an update do not count: the new ones are spread among themselves.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  containers:
    - name: {{ $name }}
      image: {{ include "astara.image" . }}
      imagePullPolicy: {{ $root.Values.images.pull_policy }}
      args:
        - --config-dir
        - /etc/astara/conf.d
        {{- range $service.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        - {name: PYTHONUNBUFFERED, value: "1"}
        {{- include "astara.secretEnv" . | nindent 8 }}
        {{- with $service.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: grpc, containerPort: {{ include "astara.grpcPort" $name }}, protocol: TCP}
        - {name: probes, containerPort: 44260, protocol: TCP}
        - {name: metrics, containerPort: 9100, protocol: TCP}
        {{- if eq $name "rpcapi" }}
        - {name: http, containerPort: 44250, protocol: TCP}
        {{- else if eq $name "metadata" }}
        - {name: http, containerPort: 9697, protocol: TCP}
        {{- end }}
      # Five minutes: a scheduler brings its database up to date before it answers.
      startupProbe: {grpc: {port: 44260, service: ""}, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 150}
      readinessProbe: {grpc: {port: 44260, service: {{ $service.readiness | quote }}}, periodSeconds: 5, timeoutSeconds: 3, failureThreshold: 2}
      livenessProbe: {grpc: {port: 44260, service: ""}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
      {{- if has $name (list "rpcapi" "metadata") }}
      # Until every node has heard that this pod goes, calls still come; SIGTERM follows.
      lifecycle: {preStop: {exec: {command: [python, -c, "import time; time.sleep(5)"]}}}
      {{- end }}
      resources:
        {{- toYaml $service.resources | nindent 8 }}
      securityContext:
        {{- include "astara.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: conf, mountPath: /etc/astara/conf.d, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        {{- if $tls }}
        - {name: tls, mountPath: /etc/astara/tls, readOnly: true}
        {{- end }}
        {{- if include "astara.mountsCloudCA" . }}
        - {name: cloud-ca, mountPath: /etc/astara/cloud-ca, readOnly: true}
        {{- end }}
        {{- if and (eq $name "worker") $root.Values.applianceTLS.secret }}
        - {name: appliance-tls, mountPath: /etc/astara/appliance-tls, readOnly: true}
        {{- end }}
        {{- if eq $name "rpcapi" }}
        - {name: token, mountPath: /etc/astara/token, readOnly: true}
        {{- end }}
        {{- if and (eq $name "scheduler") (eq $root.Values.database.type "sqlite") }}
        - {name: database, mountPath: /var/lib/astara}
        {{- end }}
        {{- with $service.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: conf
      configMap: {name: {{ $fullname }}-{{ $name }}}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- if $tls }}
    - name: tls
      secret: {secretName: {{ include "astara.tlsSecret" . | quote }}, defaultMode: 0440}
    {{- end }}
    {{- if include "astara.mountsCloudCA" . }}
    - name: cloud-ca
      secret: {secretName: {{ quote $root.Values.cloudCA.secret }}, items: [{key: {{ $root.Values.cloudCA.key | quote }}, path: ca.crt}]}
    {{- end }}
    {{- if and (eq $name "worker") $root.Values.applianceTLS.secret }}
    - name: appliance-tls
      secret: {secretName: {{ quote $root.Values.applianceTLS.secret }}, defaultMode: 0440}
    {{- end }}
    {{- if eq $name "rpcapi" }}
    - name: token
      secret: {secretName: {{ include "astara.secretName" (dict "root" $root "name" "rpcapi") | quote }}, defaultMode: 0440, items: [{key: {{ quote $root.Values.secretKeys.rpcapi }}, path: token}]}
    {{- end }}
    {{- if and (eq $name "scheduler") (eq $root.Values.database.type "sqlite") }}
    - name: database
      persistentVolumeClaim: {claimName: {{ $root.Values.database.sqlite.existingClaim | default (printf "%s-database" $fullname) | quote }}}
    {{- end }}
    {{- with $service.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
