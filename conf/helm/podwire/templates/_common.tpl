{{/* What the pods of the agent and of uninstall share. */}}
{{- define "podwire.pod" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{ end -}}
priorityClassName: {{ .Values.priorityClassName }}
# The node's own network is what the agent sets up.
hostNetwork: true
# There is no cluster DNS before the agent has run.
dnsPolicy: Default
tolerations: {{- toYaml .Values.tolerations | nindent 2 }}
nodeSelector: {{- toYaml .Values.nodeSelector | nindent 2 }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
# Nothing has to be cleaned up: everything stays in place on exit.
terminationGracePeriodSeconds: 5
securityContext:
  # Capabilities of a container are only effective for root; all but one are dropped below.
  runAsUser: 0
  runAsGroup: 0
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Of a container with the capability to set up the node's network: its image and what it may. */}}
{{- define "podwire.container" -}}
image: {{ include "podwire.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
envFrom:
  - configMapRef: {name: podwire, optional: true}
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    # Routes, links and nftables tables of the node. Nothing else is needed.
    add: [NET_ADMIN]
{{- end }}
