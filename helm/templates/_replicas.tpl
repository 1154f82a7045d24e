{{/*
How many replicas the Deployment says, if it says anything. With an autoscaler it should not; but a number that Helm once set
and leaves out the next time is reset to 1 by the API server. So from the day that autoscaling is turned on, the Deployment
goes on saying the number that is there, which changes nothing.
*/}}
{{- define "cache.replicas" -}}
{{- if .Values.autoscaling.enabled -}}
{{ include "cache.replicas.carried" . }}
{{- else -}}
{{ .Values.replicaCount }}
{{- end -}}
{{- end }}

{{/* The current number, within the autoscaler's bounds; empty if there is none yet, or if it can't be seen from here. */}}
{{- define "cache.replicas.carried" -}}
{{- if .Values.autoscaling.enabled -}}
{{- $deployment := lookup "apps/v1" "Deployment" .Release.Namespace (include "cache.fullname" .) -}}
{{- $autoscaler := lookup "autoscaling/v2" "HorizontalPodAutoscaler" .Release.Namespace (include "cache.fullname" .) -}}
{{- $carried := dig "metadata" "annotations" "cache-layer/replicas" "" $deployment -}}
{{- if and $deployment (or $carried (not $autoscaler)) -}}
{{- with .Values.autoscaling -}}
{{ dig "spec" "replicas" 1 $deployment | int | max (int .minReplicas) | min (int .maxReplicas) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Whether there is always more than one. */}}
{{- define "cache.replicas.several" -}}
{{- if gt (int (ternary .Values.autoscaling.minReplicas .Values.replicaCount .Values.autoscaling.enabled)) 1 -}}
true
{{- end -}}
{{- end }}
