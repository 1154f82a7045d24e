{{/* "internal", "external", or "" for a cache in each pod's memory. */}}
{{- define "cache.redis.kind" -}}
{{- with .Values.externalRedis -}}
{{- if $.Values.redis.enabled -}}
internal
{{- else if or .host .nodes .url .existingSecretUrlKey -}}
external
{{- end -}}
{{- end -}}
{{- end }}

{{/* The URL of Redis without its password; empty if a secret holds all of it. */}}
{{- define "cache.redis.url" -}}
{{- if eq (include "cache.redis.kind" .) "internal" -}}
redis{{ if .Values.redis.tls.enabled }}s{{ end }}://service@{{ include "cache.redis.fullname" . }}:6379
{{- else -}}
{{- with .Values.externalRedis -}}
{{- if .url -}}
{{ .url }}
{{- else if not .existingSecretUrlKey -}}
{{- $user := ternary "" (printf "%s@" .username) (empty .username) -}}
{{- $scheme := ternary "rediss" "redis" .tls.enabled -}}
{{- if eq .mode "standalone" -}}
{{ $scheme }}://{{ $user }}{{ .host }}:{{ .port }}/{{ .database }}
{{- else if eq .mode "sentinel" -}}
{{ $scheme }}+sentinel://{{ $user }}{{ join "," .nodes }}/{{ .masterName }}{{ if .database }}/{{ .database }}{{ end }}
{{- else -}}
{{ $scheme }}+cluster://{{ $user }}{{ join "," .nodes }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The secret with the password of Redis, if there is one. */}}
{{- define "cache.redis.secretName" -}}
{{- if .Values.redis.enabled -}}
{{ default (include "cache.redis.fullname" .) .Values.redis.auth.existingSecret }}
{{- else -}}
{{ .Values.externalRedis.existingSecret }}
{{- end -}}
{{- end }}

{{- define "cache.redis.secretKey" -}}
{{- if not .Values.redis.enabled -}}
{{ .Values.externalRedis.existingSecretPasswordKey }}
{{- else if .Values.redis.auth.existingSecret -}}
{{ .Values.redis.auth.existingSecretPasswordKey }}
{{- else -}}
password
{{- end -}}
{{- end }}

{{/* The secret and the key with the CA of Redis, if it is a private one: as JSON. */}}
{{- define "cache.redis.ca" -}}
{{- $internal := .Values.redis -}}
{{- $external := .Values.externalRedis -}}
{{- if and $internal.enabled $internal.tls.enabled -}}
{{ dict "secret" $internal.tls.existingSecret "key" "ca.crt" | toJson }}
{{- else if and (eq (include "cache.redis.kind" .) "external") $external.tls.existingSecret -}}
{{ dict "secret" $external.tls.existingSecret "key" $external.tls.caKey | toJson }}
{{- else -}}
{}
{{- end -}}
{{- end }}

{{/* Memory for data in bytes, or an error: the rest of the limit is for buffers, fragments and the tracking table. */}}
{{- define "cache.redis.maxmemory" -}}
{{- $share := ternary 50 75 .Values.redis.persistence.enabled -}}
{{- $limit := dig "limits" "memory" "" .Values.redis.resources -}}
{{- if not $limit -}}
{{- fail "redis.resources.limits.memory is missing: maxmemory follows from it" -}}
{{- end -}}
{{- $most := div (mul (include "cache.bytes" $limit | int64) $share) 100 -}}
{{- if .Values.redis.maxmemory -}}
{{- $asked := include "cache.bytes" .Values.redis.maxmemory | int64 -}}
{{- if gt $asked $most -}}
{{- fail (printf "redis.maxmemory %s is more than %d%% of redis.resources.limits.memory %s: Redis would be killed before it evicts" (include "cache.size.text" .Values.redis.maxmemory) $share (include "cache.size.text" $limit)) -}}
{{- end -}}
{{- $asked -}}
{{- else -}}
{{- $most -}}
{{- end -}}
{{- end }}
