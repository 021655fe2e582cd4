{{- /*
A gateway in a pod of your own. In a chart that has this one as a dependency (with sharing: none):

  {{- $gateway := index .Subcharts "bybit-gateway" }}
  initContainers:
    {{- include "bybit-gateway.sidecar.container" $gateway | nindent 4 }}
  volumes:
    {{- include "bybit-gateway.sidecar.volumes" $gateway | nindent 4 }}

and, as an object of its own, {{ include "bybit-gateway.sidecar.configMap" $gateway }}. The pod needs the
securityContext of the restricted profile with runAsUser, runAsGroup and fsGroup 10001 (or the container's own).
*/ -}}
{{- define "bybit-gateway.sidecar.container" -}}
{{- $files := include "bybit-gateway.secretFiles" (dict "context" . "redis" .Values.sidecar.redis) | fromJsonArray -}}
- name: gateway
  restartPolicy: Always
  image: {{ include "bybit-gateway.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  env:
    - {name: GATEWAY_CONFIG, value: /etc/bybit-gateway/config.yaml}
    - {name: XDG_STATE_HOME, value: /var/lib/bybit-gateway}
    # The kubelet and Prometheus come from outside the pod, so their pages have a port of their own.
    - {name: GATEWAY__LISTEN__HOST, value: 127.0.0.1}
    - {name: GATEWAY__ADMIN__HOST, value: 0.0.0.0}
    - {name: GATEWAY__ADMIN__PORT, value: {{ .Values.sidecar.pagesPort | quote }}}
    {{- include "bybit-gateway.egressId" . | nindent 4 }}
    {{- if .Values.sidecar.redis }}
    - {name: GATEWAY__STORE__REPLICAS, value: {{ .Values.sidecar.replicas | quote }}}
    {{- end }}
    {{- range $files }}
    - {name: {{ index . 0 }}_FILE, value: /run/secrets/bybit-gateway/{{ index . 1 }}}
    {{- end }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: gateway-pages, containerPort: {{ .Values.sidecar.pagesPort }}, protocol: TCP}
  startupProbe:
    httpGet: {path: /health/live, port: gateway-pages}
    periodSeconds: 1
    timeoutSeconds: 2
    failureThreshold: 60
  livenessProbe:
    httpGet: {path: /health/live, port: gateway-pages}
    periodSeconds: 10
    timeoutSeconds: 3
    failureThreshold: 3
  # A sidecar that is not ready takes its whole pod out of its services.
  readinessProbe:
    httpGet: {path: /health/live, port: gateway-pages}
    periodSeconds: 5
    timeoutSeconds: 2
  resources:
    {{- toYaml .Values.sidecar.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
    {{- include "bybit-gateway.securityContext" . | nindent 4 }}
  volumeMounts:
    - {name: gateway-config, mountPath: /etc/bybit-gateway, readOnly: true}
    {{- if $files }}
    - {name: gateway-secrets, mountPath: /run/secrets/bybit-gateway, readOnly: true}
    {{- end }}
    - {name: gateway-state, mountPath: /var/lib/bybit-gateway}
{{- end -}}

{{- define "bybit-gateway.sidecar.volumes" -}}
{{- $files := include "bybit-gateway.secretFiles" (dict "context" . "redis" .Values.sidecar.redis) | fromJsonArray -}}
- name: gateway-config
  configMap: {name: {{ include "bybit-gateway.fullname" . }}-sidecar}
{{- if $files }}
- name: gateway-secrets
  secret:
    secretName: {{ .Values.secret.existingSecret | quote }}
    defaultMode: 288
    items:
      {{- range $files }}
      - {key: {{ index . 1 | quote }}, path: {{ index . 1 | quote }}}
      {{- end }}
{{- end }}
- name: gateway-state
  emptyDir: {sizeLimit: 64Mi}
{{- end -}}

{{- define "bybit-gateway.sidecar.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "bybit-gateway.fullname" . }}-sidecar
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "bybit-gateway.labels" . | nindent 4 }}
data:
  config.yaml: |
    {{- toYaml (default dict .Values.sidecar.config) | nindent 4 }}
{{- end -}}
