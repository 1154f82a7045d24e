{{/* Releases with the same prefix share the cache: by default, none. What is cached of SQLite's products is not served for PostgreSQL's. */}}
{{- define "cache.prefix" -}}
{{- $default := include "cache.prefix.default" . -}}
{{- default (ternary $default (printf "%s.sqlite" $default) (not (empty .Values.database.existingSecret))) .Values.cache.prefix }}
{{- end }}

{{/* The same, for any database, as a pattern: another database is no reason to start Redis anew. */}}
{{- define "cache.prefixes" -}}
{{- default (printf "%s*" (include "cache.prefix.default" .)) .Values.cache.prefix }}
{{- end }}

{{/* With ".sqlite" within the 64 characters that the service allows. */}}
{{- define "cache.prefix.default" -}}
{{- $name := printf "%s.%s" .Release.Namespace (include "cache.fullname" .) -}}
{{- if gt (len $name) 57 -}}
{{ trunc 48 $name }}-{{ sha256sum $name | trunc 8 }}
{{- else -}}
{{ $name }}
{{- end -}}
{{- end }}

{{/* The variables of the service. */}}
{{- define "cache.env" -}}
{{- $kind := include "cache.redis.kind" . -}}
{{- $ca := include "cache.redis.ca" . | fromJson -}}
- {name: APP_LISTEN, value: {{ .Values.listen | quote }}}
{{- if .Values.database.existingSecret }}
- {name: APP_DATABASE_URL_FILE, value: /run/secrets/service/database-url}
{{- else }}
- {name: APP_DATABASE_URL, value: "sqlite:///data/products.db"}
{{- end }}
- {name: APP_DATABASE_CONNECTIONS, value: {{ .Values.database.connections | quote }}}
{{- if $kind }}
{{- with include "cache.redis.url" . }}
- {name: APP_REDIS_URL, value: {{ . | quote }}}
{{- else }}
- {name: APP_REDIS_URL_FILE, value: /run/secrets/service/redis-url}
{{- end }}
{{- if and (include "cache.redis.secretName" .) (include "cache.redis.url" .) }}
- {name: APP_REDIS_PASSWORD_FILE, value: /run/secrets/service/redis-password}
{{- end }}
{{- if $ca }}
# Beside the image's own certificates, which this variable names otherwise: PostgreSQL and the collector may have public ones.
- {name: SSL_CERT_FILE, value: /run/secrets/service/redis-ca.crt}
- {name: SSL_CERT_DIR, value: /etc/ssl/certs}
{{- end }}
- {name: APP_REDIS_CONNECTIONS, value: {{ .Values.cache.redisConnections | quote }}}
- {name: APP_REDIS_TIMEOUT, value: {{ .Values.cache.redisTimeout | quote }}}
- {name: APP_CACHE_PREFIX, value: {{ include "cache.prefix" . | quote }}}
- {name: APP_CACHE_FIRST_TIER, value: {{ include "cache.size" .Values.cache.firstTier | quote }}}
- {name: APP_CACHE_HOT_KEYS, value: {{ .Values.cache.hotKeys | quote }}}
- {name: APP_CACHE_WARM, value: {{ .Values.cache.warm | quote }}}
- {name: APP_CACHE_RECLAIM, value: {{ .Values.cache.reclaim | quote }}}
{{- end }}
- {name: APP_CACHE, value: {{ ternary "on" "off" .Values.cache.enabled | quote }}}
{{- if .Values.cache.rules }}
- {name: APP_CACHE_RULES, value: /etc/cache-layer/rules.toml}
{{- end }}
- {name: APP_CACHE_PATHS, value: {{ .Values.cache.paths | quote }}}
- {name: APP_CACHE_DEFAULT_TTL, value: {{ .Values.cache.defaultTtl | quote }}}
- {name: APP_CACHE_MAX_BODY, value: {{ include "cache.size" .Values.cache.maxBody | quote }}}
- {name: APP_CACHE_CREDENTIALS, value: {{ .Values.cache.credentials | quote }}}
- {name: APP_CACHE_ENCODE, value: {{ .Values.cache.encode | quote }}}
- {name: APP_CACHE_VERIFY, value: {{ .Values.cache.verify | quote }}}
- {name: APP_CACHE_MEMORY, value: {{ include "cache.size" .Values.cache.memory | quote }}}
- {name: APP_CACHE_LOCK_TIMEOUT, value: {{ .Values.cache.lockTimeout | quote }}}
{{- if .Values.admin.enabled }}
- {name: APP_ADMIN_LISTEN, value: {{ .Values.admin.listen | quote }}}
{{- if .Values.admin.existingSecret }}
- {name: APP_ADMIN_TOKEN_FILE, value: /run/secrets/service/admin-token}
{{- with .Values.admin.purge }}
- {name: APP_ADMIN_PURGE, value: {{ . | quote }}}
{{- end }}
{{- end }}
- {name: APP_ADMIN_SIZING, value: {{ .Values.admin.sizing | quote }}}
{{- end }}
- {name: APP_REQUEST_TIMEOUT, value: {{ .Values.requestTimeout | quote }}}
- {name: APP_SHUTDOWN_DELAY, value: "{{ .Values.shutdown.delaySeconds }}s"}
- {name: APP_SHUTDOWN_TIMEOUT, value: "{{ .Values.shutdown.timeoutSeconds }}s"}
- {name: APP_LOG, value: {{ .Values.log.level | quote }}}
- {name: APP_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
{{- with .Values.otel }}
{{- if .enabled }}
- {name: APP_TRACE_KEYS, value: {{ .traceKeys | quote }}}
- {name: K8S_POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: K8S_POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: K8S_NAMESPACE_NAME, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: K8S_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
{{- if .nodeAgent }}
- {name: K8S_NODE_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: "http://$(K8S_NODE_IP):{{ include "cache.otel.port" $ }}"}
{{- else }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
{{- end }}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }}}
{{- with .headersSecret }}
{{- if .name }}
- {name: OTEL_EXPORTER_OTLP_HEADERS, valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}}
{{- end }}
{{- end }}
- {name: OTEL_SERVICE_NAME, value: {{ default (include "cache.fullname" $) .serviceName | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: {{ .sampler | quote }}}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .samplerArg | quote }}}
{{- $attributes := list "k8s.pod.name=$(K8S_POD_NAME)" "k8s.pod.uid=$(K8S_POD_UID)" "k8s.namespace.name=$(K8S_NAMESPACE_NAME)" "k8s.node.name=$(K8S_NODE_NAME)" "service.instance.id=$(K8S_POD_UID)" (printf "service.version=%s" (default $.Chart.AppVersion $.Values.image.tag)) }}
{{- range $name, $value := .resourceAttributes }}
{{- $attributes = append $attributes (printf "%s=%s" $name (toString $value)) }}
{{- end }}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ join "," $attributes | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The collector's port: that of the endpoint, or the protocol's. */}}
{{- define "cache.otel.port" -}}
{{- $default := ternary "4317" "4318" (eq .Values.otel.protocol "grpc") -}}
{{- if .Values.otel.nodeAgent -}}
{{ $default }}
{{- else -}}
{{- $scheme := ternary "443" $default (hasPrefix "https://" .Values.otel.endpoint) -}}
{{ regexFind ":[0-9]+(/|$)" .Values.otel.endpoint | trimPrefix ":" | trimSuffix "/" | default $scheme }}
{{- end -}}
{{- end }}

{{/* The port of the operator's page, if others than the pod itself can reach it. */}}
{{- define "cache.admin.port" -}}
{{- if and .Values.admin.enabled (not (regexMatch "^(127\\.|\\[::1\\])" .Values.admin.listen)) -}}
{{ regexFind "[0-9]+$" .Values.admin.listen }}
{{- end -}}
{{- end }}
