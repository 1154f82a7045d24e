{{/*
Sizes are written as Kubernetes writes them, 64Mi, or as everybody else does, 64MiB: each reader below gets its own spelling.
A number comes from YAML as a float, which would be printed with an exponent.
*/}}
{{- define "cache.size.text" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ int64 . }}{{- end -}}
{{- end }}

{{/* As the service writes it: 64MiB, 10MB, or plain bytes. */}}
{{- define "cache.size" -}}
{{- regexReplaceAll "^([0-9]+)(k|M|G|Ki|Mi|Gi)$" (include "cache.size.text" .) "${1}${2}B" -}}
{{- end }}

{{/* As Kubernetes writes it: 64Mi, 10M, or plain bytes. */}}
{{- define "cache.quantity" -}}
{{- include "cache.size.text" . | trimSuffix "B" -}}
{{- end }}

{{/* In bytes. Redis' own spelling, 64mb, counts in powers of two. */}}
{{- define "cache.bytes" -}}
{{- $text := include "cache.size.text" . -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $unit := regexReplaceAll "^[0-9.]+" $text "" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "K" 1000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "kb" 1024 "mb" 1048576 "gb" 1073741824 -}}
{{- $unit = trimSuffix "B" $unit -}}
{{- if not (hasKey $units $unit) -}}
{{- fail (printf "%s is no size: write 96Mi, 1Gi, 96M or plain bytes" $text) -}}
{{- end -}}
{{- mulf $number (get $units $unit) | floor | int64 -}}
{{- end }}
