{{/* The labels that a chart adds to those of install.yaml. They stay off the pods: a new version of
     the chart alone is no reason to replace these. */}}
{{- define "podwire.labels" -}}
app.kubernetes.io/name: podwire
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "podwire.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The agent's environment: each flag is PODWIRE_ and its name. Helm reads numbers as floating
     point, which would print large ones with an exponent. */}}
{{- define "podwire.environment" -}}
{{- range $flag, $value := .Values.agent }}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "slice" $value) (empty $value))) }}
PODWIRE_{{ $flag | snakecase | upper }}: {{ if kindIs "slice" $value -}}
{{ join "," $value | quote }}
{{- else if kindIs "float64" $value -}}
{{ int64 $value | quote }}
{{- else -}}
{{ $value | toString | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if ne .Values.paths.runDir "/run/podwire" }}
PODWIRE_RUN_DIR: {{ .Values.paths.runDir | quote }}
{{- end }}
{{- end }}

{{/* A probe of the agent: where it answers follows agent.healthzBindAddress. */}}
{{- define "podwire.probe" -}}
{{- $address := .Values.agent.healthzBindAddress | default "[::]:10256" -}}
{{- $host := regexReplaceAll ":[0-9]+$" $address "" | trimPrefix "[" | trimSuffix "]" -}}
path: {{ .path }}
port: {{ regexFind "[0-9]+$" $address }}
{{- if not (has $host (list "::" "0.0.0.0")) }}
host: {{ $host | quote }}
{{- end }}
{{- end }}

{{/* The ports of agent.healthzBindAddress and agent.metricsBindAddress, each once. */}}
{{- define "podwire.ports" -}}
{{- $health := dig "healthzBindAddress" "[::]:10256" .Values.agent | regexFind "[0-9]+$" -}}
{{- $metrics := dig "metricsBindAddress" "127.0.0.1:10249" .Values.agent | regexFind "[0-9]+$" -}}
{{- with $health }}
- {name: health, containerPort: {{ . }}}
{{- end }}
{{- if and $metrics (ne $metrics $health) }}
- {name: metrics, containerPort: {{ $metrics }}}
{{- end }}
{{- end }}

{{/* Something unless policies are switched off: what is not read needs no permission. */}}
{{- define "podwire.policies" -}}
{{- if ne (toString .Values.agent.networkPolicy) "false" }}yes{{ end -}}
{{- end }}
