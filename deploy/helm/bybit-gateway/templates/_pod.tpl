{{- /* The pod of a shared gateway, the same for every kind of workload. */ -}}
{{- define "bybit-gateway.pod" -}}
{{- $alone := eq .Values.sharing "statefulset" -}}
{{- $files := include "bybit-gateway.secretFiles" (dict "context" . "redis" (not $alone)) | fromJsonArray -}}
metadata:
  labels:
    {{- include "bybit-gateway.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "bybit-gateway.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "bybit-gateway.gracePeriodSeconds" . }}
  securityContext:
    {{- include "bybit-gateway.podSecurityContext" . | nindent 4 }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - {name: {{ . | quote }}}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.sharing "deployment" }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "bybit-gateway.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  containers:
    - name: gateway
      image: {{ include "bybit-gateway.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      env:
        - {name: GATEWAY_CONFIG, value: /etc/bybit-gateway/config.yaml}
        # The volume itself belongs to root; below it the gateway makes a directory that is its own.
        - {name: XDG_STATE_HOME, value: /var/lib/bybit-gateway}
        # For the kubelet and Prometheus, which need not reach the traffic port, nor bots this one.
        - {name: GATEWAY__ADMIN__HOST, value: 0.0.0.0}
        - {name: GATEWAY__ADMIN__PORT, value: "9090"}
        {{- include "bybit-gateway.egressId" . | nindent 8 }}
        {{- if not $alone }}
        - {name: GATEWAY__STORE__REPLICAS, value: {{ include "bybit-gateway.replicas" . | quote }}}
        {{- end }}
        {{- range $files }}
        - {name: {{ index . 0 }}_FILE, value: /run/secrets/bybit-gateway/{{ index . 1 }}}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: http, containerPort: 8080, protocol: TCP}
        - {name: pages, containerPort: 9090, protocol: TCP}
      startupProbe:
        httpGet: {path: /health/live, port: pages}
        periodSeconds: 1
        timeoutSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /health/live, port: pages}
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: {{ .Values.probes.readinessPath }}, port: pages}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- include "bybit-gateway.securityContext" . | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/bybit-gateway, readOnly: true}
        {{- if $files }}
        - {name: secrets, mountPath: /run/secrets/bybit-gateway, readOnly: true}
        {{- end }}
        - {name: state, mountPath: /var/lib/bybit-gateway}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: config
      configMap: {name: {{ include "bybit-gateway.fullname" . }}}
    {{- if $files }}
    - name: secrets
      secret:
        secretName: {{ .Values.secret.existingSecret | quote }}
        defaultMode: 288
        items:
          {{- range $files }}
          - {key: {{ index . 1 | quote }}, path: {{ index . 1 | quote }}}
          {{- end }}
    {{- end }}
    {{- if not $alone }}
    - name: state
      emptyDir: {sizeLimit: 64Mi}
    {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: 16Mi}
{{- end -}}
