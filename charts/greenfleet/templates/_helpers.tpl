{{- define "greenfleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "greenfleet.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := include "greenfleet.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "greenfleet.selectorLabels" -}}
app.kubernetes.io/name: {{ include "greenfleet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "greenfleet.labels" -}}
{{ include "greenfleet.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: greenfleet
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "greenfleet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "greenfleet.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image by digest where there is one, else by tag, else by the version of the chart. */}}
{{- define "greenfleet.image" -}}
{{- $image := index . 0 }}
{{- $root := index . 1 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* The bundled Prometheus: without tag and digest of the user's, the official v3.15.0 by its digest. */}}
{{- define "greenfleet.prometheusImage" -}}
{{- $image := .Values.prometheus.bundled.image }}
{{- if or $image.tag $image.digest }}
{{- include "greenfleet.image" (list $image .) }}
{{- else }}
{{- printf "%s@sha256:efd719c99d83b060d9daefdcf00360461adf279f45ef5391f8d111892118753e" $image.repository }}
{{- end }}
{{- end }}

{{- define "greenfleet.pullSecrets" -}}
{{- with .pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "greenfleet.podSecurityContext" -}}
{{- mergeOverwrite (dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 "seccompProfile" (dict "type" "RuntimeDefault")) .Values.podSecurityContext | toYaml }}
{{- end }}

{{- define "greenfleet.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Labels and annotations of what `helm test` makes, and removes again after a success. */}}
{{- define "greenfleet.test" -}}
labels:
  app.kubernetes.io/name: {{ include "greenfleet.name" . }}
  app.kubernetes.io/instance: {{ .Release.Name }}
  app.kubernetes.io/component: test
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/part-of: greenfleet
  app.kubernetes.io/managed-by: {{ .Release.Service }}
annotations:
  helm.sh/hook: test
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* "true" if this release has a Prometheus of its own; else empty. */}}
{{- define "greenfleet.bundled" -}}
{{- $prometheus := .Values.prometheus }}
{{- $given := $prometheus.servers }}
{{- if not (kindIs "map" $prometheus.bundled) }}
{{- fail (printf "prometheus.bundled is %v, and it takes no value of its own: set prometheus.bundled.enabled to auto, true or false" $prometheus.bundled) }}
{{- end }}
{{- $enabled := toString $prometheus.bundled.enabled }}
{{- if and (eq $enabled "false") (not $given) }}
{{- fail "prometheus.bundled.enabled is false, and prometheus.servers is empty: without a Prometheus nothing is known of the load; add a server, or leave prometheus.bundled.enabled at auto" }}
{{- end }}
{{- $on := or (eq $enabled "true") (and (eq $enabled "auto") (not $given)) }}
{{- if and $on (hasKey $given "bundled") }}
{{- fail "prometheus.servers.bundled has the name of the bundled Prometheus, and both are on: give it another name, or set prometheus.bundled.enabled=false" }}
{{- end }}
{{- if $on }}true{{ end }}
{{- end }}

{{/* A scrape interval, given the root, its field and its value. */}}
{{- define "greenfleet.interval" -}}
{{- $field := index . 1 }}
{{- $value := index . 2 | toString }}
{{- if not (regexMatch ((index . 0).Files.Get "files/interval.txt" | trim) $value) }}
{{- fail (printf "%s is %s, which is no scrape interval: write a number and a unit (ms, s or m), such as 5s" $field (default "empty" $value)) }}
{{- end }}
{{- $value }}
{{- end }}

{{/* All servers that the operator may ask, each with its scrape interval. */}}
{{- define "greenfleet.servers" -}}
{{- $prometheus := .Values.prometheus }}
{{- $found := dict }}
{{- $common := "" }}
{{- if ne (toString $prometheus.scrapeInterval) "" }}
{{- $common = include "greenfleet.interval" (list $ "prometheus.scrapeInterval" $prometheus.scrapeInterval) }}
{{- end }}
{{- range $name, $server := $prometheus.servers }}
{{- $interval := $common | default "15s" }}
{{- if hasKey $server "scrapeInterval" }}
{{- $interval = include "greenfleet.interval" (list $ (printf "prometheus.servers.%s.scrapeInterval" $name) $server.scrapeInterval) }}
{{- end }}
{{- include "greenfleet.checkServer" (list $name $server) }}
{{- $_ := set $found $name (merge (dict "scrapeInterval" $interval) $server) }}
{{- end }}
{{- if include "greenfleet.bundled" . }}
{{- $url := printf "http://%s-prometheus.%s.svc:9090" (include "greenfleet.fullname" .) .Release.Namespace }}
{{- $_ := set $found "bundled" (dict "url" $url "scrapeInterval" ($common | default "2s")) }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{/* What the operator would refuse at its start, of a server: [its name, the server]. */}}
{{- define "greenfleet.checkServer" -}}
{{- $field := printf "prometheus.servers.%s" (first .) }}
{{- $server := last . }}
{{- $auth := $server.basicAuth | default dict }}
{{- $pairs := list (list "certFile" $server.certFile "keyFile" $server.keyFile) (list "basicAuth.usernameFile" $auth.usernameFile "basicAuth.passwordFile" $auth.passwordFile) }}
{{- range $pairs }}
{{- $one := index . 1 }}
{{- $other := index . 3 }}
{{- if and $one (not $other) }}
{{- fail (printf "%s.%s is %s, and %s is empty: they belong together, set both or none" $field (index . 0) $one (index . 2)) }}
{{- else if and $other (not $one) }}
{{- fail (printf "%s.%s is %s, and %s is empty: they belong together, set both or none" $field (index . 2) $other (index . 0)) }}
{{- end }}
{{- end }}
{{- if and $server.certFile (not (hasPrefix "https:" $server.url)) }}
{{- fail (printf "%s.certFile is %s, and its url does not begin with https: remove it, or use https" $field $server.certFile) }}
{{- end }}
{{- if and $server.bearerTokenFile $auth.usernameFile }}
{{- fail (printf "%s.bearerTokenFile is %s, and basicAuth is set too, but a request has one Authorization: remove one" $field $server.bearerTokenFile) }}
{{- end }}
{{- range $name, $_ := $server.headers }}
{{- if has (lower $name) (list "authorization" "host" "content-length" "content-type" "transfer-encoding" "connection") }}
{{- fail (printf "%s.headers has %s, which cannot be set there: use bearerTokenFile or basicAuth for credentials, and leave out the others" $field $name) }}
{{- end }}
{{- end }}
{{- range $name, $_ := $server.queryParameters }}
{{- if has $name (list "query" "time" "timeout") }}
{{- fail (printf "%s.queryParameters has %s, which the operator sets in each request: remove it" $field $name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name of the server for pools that name none. */}}
{{- define "greenfleet.defaultServer" -}}
{{- $servers := include "greenfleet.servers" . | fromYaml }}
{{- $names := keys $servers | sortAlpha | join ", " }}
{{- with .Values.prometheus.defaultServer }}
{{- if not (hasKey $servers .) }}
{{- fail (printf "prometheus.defaultServer is %s, which is not among prometheus.servers (%s): name one of them, or add it" . $names) }}
{{- end }}
{{- . }}
{{- else }}
{{- if hasKey $servers "default" }}
{{- "default" }}
{{- else if eq (len $servers) 1 }}
{{- keys $servers | first }}
{{- else }}
{{- fail (printf "prometheus.defaultServer is empty, and there are several servers (%s): name one of them" $names) }}
{{- end }}
{{- end }}
{{- end }}

{{/* How often the default server scrapes: what PodMonitors ask for, and by which the operator tells what is stale. */}}
{{- define "greenfleet.scrapeInterval" -}}
{{- get (get (include "greenfleet.servers" . | fromYaml) (include "greenfleet.defaultServer" .)) "scrapeInterval" }}
{{- end }}

{{- define "greenfleet.prometheusSelectorLabels" -}}
app.kubernetes.io/name: {{ include "greenfleet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: prometheus
{{- end }}

{{- define "greenfleet.prometheusLabels" -}}
{{- $labels := include "greenfleet.labels" . | fromYaml }}
{{- toYaml (set $labels "app.kubernetes.io/component" "prometheus") }}
{{- end }}

{{/* What the bundled Prometheus scrapes, and what one pod may export; more costs its own pool its metrics, and no other. */}}
{{- define "greenfleet.prometheusConfig" -}}
global:
  scrape_interval: {{ get (get (include "greenfleet.servers" . | fromYaml) "bundled") "scrapeInterval" }}
storage:
  tsdb:
    retention:
      time: 2h
      size: 512MB
scrape_configs:
  - job_name: greenfleet
    honor_labels: false
    honor_timestamps: false
    sample_limit: 20000
    label_limit: 40
    label_name_length_limit: 200
    label_value_length_limit: 1024
    body_size_limit: 16MB
    kubernetes_sd_configs:
      - role: pod
        {{- with .Values.scope.namespaces }}
        namespaces:
          names:
            {{- toYaml . | nindent 12 }}
        {{- end }}
        selectors:
          - role: pod
            label: greenfleet.io/scrape=true
    relabel_configs:
      - source_labels: [__meta_kubernetes_pod_container_port_name]
        regex: metrics
        action: keep
      - source_labels: [__meta_kubernetes_pod_phase]
        regex: Succeeded|Failed
        action: drop
      # Prometheus itself says whose sample it is: the operator believes these labels, and nothing that a pod says.
      - source_labels: [__meta_kubernetes_namespace]
        target_label: namespace
      - source_labels: [__meta_kubernetes_pod_name]
        target_label: pod
{{- end }}

{{/* The operator's configuration file. Its keys are checked again by the operator when it starts. */}}
{{- define "greenfleet.config" -}}
prometheus:
  defaultServer: {{ include "greenfleet.defaultServer" . }}
  servers:
    {{- include "greenfleet.servers" . | nindent 4 }}
  sources:
    {{- toYaml .Values.prometheus.sources | nindent 4 }}
  allowQuery: {{ .Values.prometheus.allowQuery }}
  verifyNamespace: {{ .Values.prometheus.verifyNamespace }}
worker:
  image: {{ include "greenfleet.image" (list .Values.workerImage .) | quote }}
  imagePullPolicy: {{ .Values.workerImage.pullPolicy }}
  imagePullSecrets:
    {{- toYaml .Values.workerImage.pullSecrets | nindent 4 }}
pods:
  {{- /* Helm takes a value that is null for one that is absent. */}}
  securityContext:
    {{- range $name := list "runAsUser" "runAsGroup" "fsGroup" }}
    {{ $name }}: {{ get ($.Values.pods.securityContext | default dict) $name | default "null" }}
    {{- end }}
  allowPodTemplatePatch: {{ .Values.pods.allowPodTemplatePatch }}
podMonitors:
  enabled: {{ and .Values.metrics.podMonitor.enabled .Values.metrics.podMonitor.perPool }}
  labels:
    {{- toYaml .Values.metrics.podMonitor.labels | nindent 4 }}
namespaces:
  {{- toYaml .Values.scope.namespaces | nindent 2 }}
tick: {{ .Values.tick }}
apiConcurrency: {{ .Values.apiConcurrency }}
leaseDuration: {{ .Values.leaseDuration }}
logLevel: {{ .Values.logLevel }}
logFormat: {{ .Values.logFormat }}
{{- end }}

{{/*
What the operator may do in a namespace (or, as a ClusterRole, in all of them): each right is used, which a test sees
(tests/integration/operator/test_rights.py). Server-side apply is a patch that needs the right to create. Nothing here can read a Secret, run a
command in a pod, change an image of a running pod or widen its own rights.
*/}}
{{- define "greenfleet.rules" -}}
- apiGroups: [greenfleet.io]
  resources: [greenworkerpools]
  verbs: [list, watch]
- apiGroups: [greenfleet.io]
  resources: [greenworkerpools/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.podMonitor.perPool }}
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [list, watch, create, patch, delete]
{{- end }}
- apiGroups: [""]
  resources: [configmaps]  # no get, list or watch: the operator patches its own, and lists none
  verbs: [create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods/status]  # the annotation that carries the number of green threads; cannot change an image
  verbs: [patch]
- apiGroups: [""]
  resources: [pods/resize]  # the CPU limit of a worker that starts; cannot change an image
  verbs: [patch]
- apiGroups: [""]
  resources: [pods/eviction]  # recycling, one worker at a time, under the disruption budget
  verbs: [create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
