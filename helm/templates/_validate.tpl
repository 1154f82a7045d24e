{{/* What a schema can't say in words that help. */}}
{{- define "cache.validate" -}}
{{- $v := .Values -}}
{{- if not $v.database.existingSecret -}}
{{- if gt (int $v.replicaCount) 1 -}}
{{- fail (printf "replicaCount is %d, but without database.existingSecret the products are in a SQLite of one pod: give it a PostgreSQL" (int $v.replicaCount)) -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- fail "autoscaling.enabled needs a PostgreSQL, in database.existingSecret: the products are in a SQLite of one pod" -}}
{{- end -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and $v.redis.enabled $v.redis.tls.enabled (not $v.redis.tls.existingSecret) -}}
{{- fail "redis.tls.enabled needs redis.tls.existingSecret, with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- with $v.externalRedis -}}
{{- if and (ne .mode "standalone") .host -}}
{{- fail (printf "externalRedis.host is for mode standalone: for %s, list HOST:PORT in externalRedis.nodes" .mode) -}}
{{- end -}}
{{- if and (eq .mode "standalone") .nodes -}}
{{- fail "externalRedis.nodes are for the modes sentinel and cluster: for standalone, set externalRedis.host" -}}
{{- end -}}
{{- if and (eq .mode "cluster") .database -}}
{{- fail "externalRedis.database must be 0: a cluster has no other" -}}
{{- end -}}
{{- if and .existingSecretUrlKey (not .existingSecret) -}}
{{- fail "externalRedis.existingSecretUrlKey needs externalRedis.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- if and $v.otel.enabled (not $v.otel.endpoint) (not $v.otel.nodeAgent) -}}
{{- fail "otel.enabled needs otel.endpoint, or otel.nodeAgent" -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would scrape every pod twice: enable one of them" -}}
{{- end -}}
{{- if $v.terminationGracePeriodSeconds -}}
{{- $needed := include "cache.shutdownSeconds" . | int -}}
{{- if lt (int $v.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but shutdown adds up to %d with the time to flush: requests would be cut off" (int $v.terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* From the decision to stop a pod to its end at the latest: sleep, delay, drain, and writing out what is left. */}}
{{- define "cache.shutdownSeconds" -}}
{{- with .Values.shutdown -}}
{{- add .preStopSleepSeconds .delaySeconds .timeoutSeconds 5 -}}
{{- end -}}
{{- end }}
