{{/* The pod that takes Podwire off a node, as in conf/uninstall.yaml: ready once nothing is left. */}}
{{- define "podwire.uninstall" -}}
# Without the API server: everything it needs is on the node.
automountServiceAccountToken: false
{{ include "podwire.pod" . }}
initContainers:
  - name: uninstall
    args: [uninstall{{ if .Values.uninstall.pods }}, --pods{{ end }}]
    {{- include "podwire.container" . | nindent 4 }}
    volumeMounts: {{- include "podwire.uninstall.mounts" . | nindent 6 }}
containers:
  # A pod of a DaemonSet must not end: this one stays, idle, until that is deleted.
  - name: done
    args: [uninstall, --stay{{ if .Values.uninstall.pods }}, --pods{{ end }}]
    {{- include "podwire.container" . | nindent 4 }}
    volumeMounts: {{- include "podwire.uninstall.mounts" . | nindent 6 }}
volumes:
  - {name: cni-bin, hostPath: {path: {{ .Values.paths.cniBinDir }}, type: DirectoryOrCreate}}
  - {name: cni-conf, hostPath: {path: {{ .Values.paths.cniConfDir }}, type: DirectoryOrCreate}}
  - {name: run, hostPath: {path: {{ .Values.paths.runDir }}, type: DirectoryOrCreate}}
  - {name: sysctl, hostPath: {path: /proc/sys/net, type: Directory}}
{{- end }}

{{- define "podwire.uninstall.mounts" -}}
- {name: cni-conf, mountPath: /etc/cni/net.d}
- {name: cni-bin, mountPath: /opt/cni/bin}
# Not its parent, where the sockets of the runtime are: so the empty directory stays.
- {name: run, mountPath: {{ .Values.paths.runDir }}}
- {name: sysctl, mountPath: /host/proc/sys/net}
{{- end }}
