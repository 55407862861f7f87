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

{{/* How often the default server scrapes: what PodMonitors ask for, and by which the operator tells what is stale. */}}
{{- define "greenfleet.scrapeInterval" -}}
{{- $prometheus := .Values.prometheus }}
{{- $server := get $prometheus.servers $prometheus.defaultServer }}
{{- if not $server }}
{{- fail (printf "prometheus.defaultServer is %s, which is not among prometheus.servers (%s): name one of them, or add it" $prometheus.defaultServer (keys $prometheus.servers | sortAlpha | join ", ")) }}
{{- end }}
{{- default "15s" $server.scrapeInterval }}
{{- end }}

{{/* The operator's configuration file. Its keys are checked again by the operator when it starts. */}}
{{- define "greenfleet.config" -}}
{{- $_ := include "greenfleet.scrapeInterval" . }}
prometheus:
  {{- toYaml .Values.prometheus | nindent 2 }}
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
