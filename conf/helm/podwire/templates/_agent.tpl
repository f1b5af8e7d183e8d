{{/* The agent's pod: first the plugin is installed, then the agent runs. */}}
{{- define "podwire.agent" -}}
serviceAccountName: podwire
{{ include "podwire.pod" . }}
initContainers:
  - name: install
    image: {{ include "podwire.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [install, --bin-dir=/host/opt/cni/bin]
    resources: {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
      - {name: cni-bin, mountPath: /host/opt/cni/bin}
containers:
  - name: agent
    args: [run]
    {{- include "podwire.container" . | nindent 4 }}
    {{- with include "podwire.ports" . | trim }}
    # Where the agent answers. The scheduler keeps pods that want one of these as hostPort off the node:
    # they would get what is meant for the agent, the kubelet's probes among it.
    ports: {{- . | nindent 6 }}
    {{- end }}
    {{- if ne (dig "healthzBindAddress" "default" .Values.agent) "" }}
    # Fails when the agent is stuck: a change waits longer than a minute for the kernel.
    livenessProbe:
      httpGet: {{- include "podwire.probe" (dict "Values" .Values "path" "/livez") | nindent 8 }}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: {{- include "podwire.probe" (dict "Values" .Values "path" "/healthz") | nindent 8 }}
      periodSeconds: 5
      timeoutSeconds: 5
    {{- end }}
    volumeMounts:
      - {name: cni-conf, mountPath: /etc/cni/net.d}
      - {name: cni-bin, mountPath: /opt/cni/bin, readOnly: true}
      # At the same path as on the node: the plugin is told of it.
      - {name: run, mountPath: {{ .Values.paths.runDir }}}
      # /proc/sys is read-only in a container that is not privileged; this is the node's own.
      - {name: sysctl, mountPath: /host/proc/sys/net}
      {{- if .Values.paths.kubeletKubeconfig }}
      # For the address of the API server, which works before there are any Services.
      - {name: kubelet-conf, mountPath: /etc/kubernetes/kubelet.conf, readOnly: true}
      {{- end }}
volumes:
  - {name: cni-bin, hostPath: {path: {{ .Values.paths.cniBinDir }}, type: DirectoryOrCreate}}
  - {name: cni-conf, hostPath: {path: {{ .Values.paths.cniConfDir }}, type: DirectoryOrCreate}}
  - {name: run, hostPath: {path: {{ .Values.paths.runDir }}, type: DirectoryOrCreate}}
  - {name: sysctl, hostPath: {path: /proc/sys/net, type: Directory}}
  {{- with .Values.paths.kubeletKubeconfig }}
  - {name: kubelet-conf, hostPath: {path: {{ . }}, type: File}}
  {{- end }}
{{- end }}
