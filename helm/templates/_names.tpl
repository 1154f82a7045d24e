{{- define "cache.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Short enough that the names made from it (the longest ends in "-redis-headless") stay within a DNS label. */}}
{{- define "cache.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 47 | trimSuffix "-" }}
{{- end }}

{{- define "cache.redis.fullname" -}}
{{- include "cache.fullname" . }}-redis
{{- end }}

{{- define "cache.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "cache.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The labels that select, and that never change: (list $ component). */}}
{{- define "cache.selectorLabels" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "cache.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The labels of every object: (list $ component). */}}
{{- define "cache.labels" -}}
{{- $ := index . 0 -}}
{{ include "cache.selectorLabels" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "cache.name" $ }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* An image, by digest if there is one: (list $ image tag). */}}
{{- define "cache.image" -}}
{{- $ := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := printf "%s/%s" (default $image.registry $.Values.global.imageRegistry) $image.repository -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ default (index . 2) $image.tag }}
{{- end }}
{{- end }}

{{/* Pods with this label may talk to Redis. */}}
{{- define "cache.redis.clientLabel" -}}
{{ include "cache.redis.fullname" . }}-client
{{- end }}
