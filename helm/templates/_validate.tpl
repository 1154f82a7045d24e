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
{{- if and $v.redis.tls.existingSecret (not $v.redis.tls.enabled) -}}
{{- fail "redis.tls.existingSecret is set, but redis.tls.enabled is false: Redis would be spoken to in plain text" -}}
{{- end -}}
{{- include "cache.validate.externalRedis" . -}}
{{- include "cache.validate.memory" . -}}
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

{{/* Half of a Redis is none, and a cache in each pod's memory instead of it would be noticed late. */}}
{{- define "cache.validate.externalRedis" -}}
{{- $set := include "cache.externalRedis.set" . -}}
{{- if and .Values.redis.enabled $set -}}
{{- fail (printf "externalRedis.%s is set, but redis.enabled is true, and the chart's own Redis is used: set redis.enabled=false to use yours" $set) -}}
{{- end -}}
{{- with .Values.externalRedis -}}
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
{{- if gt (len (compact (list .host .url .existingSecretUrlKey))) 1 -}}
{{- fail "externalRedis.host, externalRedis.url and externalRedis.existingSecretUrlKey each say where Redis is: set one of them" -}}
{{- end -}}
{{- $url := or .url .existingSecretUrlKey -}}
{{- if and (ne .mode "standalone") (not .nodes) (not $url) -}}
{{- fail (printf "externalRedis.mode is %s, but externalRedis.nodes is empty: list HOST:PORT of %s" .mode (ternary "each Sentinel" "some nodes of the cluster" (eq .mode "sentinel"))) -}}
{{- end -}}
{{- if and (eq .mode "sentinel") (not .masterName) (not $url) -}}
{{- fail "externalRedis.masterName is empty: the Sentinels know the master by it" -}}
{{- end -}}
{{- if and $set (not .host) (not .nodes) (not $url) -}}
{{- fail (printf "externalRedis.%s is set, but nothing says where Redis is: set externalRedis.host, nodes with a mode, url, or existingSecretUrlKey" $set) -}}
{{- end -}}
{{- if and .tls.enabled .url (not (regexMatch "^(rediss|valkeys)" .url)) -}}
{{- fail "externalRedis.tls.enabled is true, but externalRedis.url is not for TLS: begin it with rediss or valkeys" -}}
{{- end -}}
{{- $plain := ternary (not (regexMatch "^(rediss|valkeys)" (default "" .url))) (not .tls.enabled) (not (empty .url)) -}}
{{- if and .tls.existingSecret $plain (not .existingSecretUrlKey) -}}
{{- fail "externalRedis.tls.existingSecret is set, but TLS is not: set externalRedis.tls.enabled, or begin externalRedis.url with rediss or valkeys" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The first value of externalRedis that is not its default, if any. */}}
{{- define "cache.externalRedis.set" -}}
{{- $defaults := dict "mode" "standalone" "port" 6379 "masterName" "mymaster" "database" 0 "existingSecretPasswordKey" "password" "caKey" "ca.crt" -}}
{{- $set := list -}}
{{- range $name, $value := omit .Values.externalRedis "tls" -}}
{{- if and $value (ne (toString $value) (toString (get $defaults $name))) -}}
{{- $set = append $set $name -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .Values.externalRedis.tls -}}
{{- if and $value (ne (toString $value) (toString (get $defaults $name))) -}}
{{- $set = append $set (printf "tls.%s" $name) -}}
{{- end -}}
{{- end -}}
{{- first (append $set "") -}}
{{- end }}

{{/* What a pod keeps in memory has to leave it room for everything else. */}}
{{- define "cache.validate.memory" -}}
{{- $first := include "cache.bytes" .Values.cache.firstTier | int64 -}}
{{- $redis := include "cache.redis.kind" . -}}
{{- if and $first (not $redis) -}}
{{- fail (printf "cache.firstTier is %s, but there is no Redis for it to be before: cache.memory is the size of a cache without one" (include "cache.size.text" .Values.cache.firstTier)) -}}
{{- end -}}
{{- $limit := dig "limits" "memory" "" .Values.resources -}}
{{- if $limit -}}
{{- $name := ternary "cache.firstTier" "cache.memory" (not (empty $redis)) -}}
{{- $value := ternary .Values.cache.firstTier .Values.cache.memory (not (empty $redis)) -}}
{{- if gt (include "cache.bytes" $value | int64) (div (include "cache.bytes" $limit | int64) 2) -}}
{{- fail (printf "%s %s is more than half of resources.limits.memory %s: the pod would be killed before it evicts" $name (include "cache.size.text" $value) (include "cache.size.text" $limit)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* From the decision to stop a pod to its end at the latest: sleep, delay, drain, and writing out what is left. */}}
{{- define "cache.shutdownSeconds" -}}
{{- with .Values.shutdown -}}
{{- add .preStopSleepSeconds .delaySeconds .timeoutSeconds 5 -}}
{{- end -}}
{{- end }}
