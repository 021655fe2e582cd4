{{- define "bybit-gateway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains "bybit-gateway" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-bybit-gateway" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bybit-gateway.selector" -}}
app.kubernetes.io/name: bybit-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bybit-gateway.labels" -}}
{{ include "bybit-gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "bybit-gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "bybit-gateway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "bybit-gateway.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "bybit-gateway.kind" -}}
{{- get (dict "deployment" "Deployment" "daemonset" "DaemonSet" "statefulset" "StatefulSet") .Values.sharing -}}
{{- end -}}

{{- /* A duration of the gateway's configuration, such as 250ms, 30s or 10m, in microseconds. */ -}}
{{- define "bybit-gateway.microseconds" -}}
{{- $text := toString . -}}
{{- if not (regexMatch "^[0-9]{1,14}(us|ms|s|m|h|d)$" $text) -}}
{{- fail (printf "config: expected a duration such as 250ms, 30s or 10m, got %q" $text) -}}
{{- end -}}
{{- $factors := dict "us" 1 "ms" 1000 "s" 1000000 "m" 60000000 "h" 3600000000 "d" 86400000000 -}}
{{- mul (regexFind "^[0-9]+" $text | int64) (get $factors (regexFind "[a-z]+$" $text) | int64) -}}
{{- end -}}

{{- /* What may pass between SIGTERM and the end, as drain_seconds of proxy/workers.py counts it. */ -}}
{{- define "bybit-gateway.drainSeconds" -}}
{{- $delay := include "bybit-gateway.microseconds" (dig "listen" "drain_delay" "0s" .) | int64 -}}
{{- $total := include "bybit-gateway.microseconds" (dig "upstream" "timeouts" "total" "30s" .) | int64 -}}
{{- $wait := include "bybit-gateway.microseconds" (dig "queue" "max_wait" "8s" .) | int64 -}}
{{- add (div (add $delay $total $total $wait) 1000000) 15 -}}
{{- end -}}

{{- define "bybit-gateway.gracePeriodSeconds" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- include "bybit-gateway.drainSeconds" (default dict .Values.config) -}}
{{- else -}}
{{- .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{- /* How many gateways share the budget at most; two while one replaces another on its node. */ -}}
{{- define "bybit-gateway.replicas" -}}
{{- if eq .Values.sharing "daemonset" -}}
2
{{- else if .Values.autoscaling.enabled -}}
{{- .Values.autoscaling.maxReplicas -}}
{{- else -}}
{{- .Values.replicas -}}
{{- end -}}
{{- end -}}

{{- define "bybit-gateway.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "bybit-gateway.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "bybit-gateway.egressId" -}}
{{- if .Values.egress.fromNode -}}
- {name: GATEWAY__EGRESS__ID, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
{{- else -}}
- {name: GATEWAY__EGRESS__ID, value: {{ .Values.egress.id | quote }}}
{{- end -}}
{{- end -}}

{{- /* Variables that name files of secrets, and which files there are; `redis`: whether its URL is among them. */ -}}
{{- define "bybit-gateway.secretFiles" -}}
{{- $keys := .context.Values.secret.keys -}}
{{- $files := list -}}
{{- if not .context.Values.secret.existingSecret -}}{{- $keys = dict -}}{{- end -}}
{{- if and .redis $keys.redisUrl -}}{{- $files = append $files (list "REDIS_URL" $keys.redisUrl) -}}{{- end -}}
{{- if $keys.adminToken -}}{{- $files = append $files (list "GATEWAY__ADMIN__TOKEN" $keys.adminToken) -}}{{- end -}}
{{- if $keys.hashKey -}}{{- $files = append $files (list "GATEWAY__IDENTITY__HASH_KEY" $keys.hashKey) -}}{{- end -}}
{{- if $keys.archiveUrl -}}{{- $files = append $files (list "GATEWAY__ARCHIVE__URL" $keys.archiveUrl) -}}{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{- /* What would be accepted by Kubernetes and not work. */ -}}
{{- define "bybit-gateway.judge" -}}
{{- $config := default dict .Values.config -}}
{{- $ours := list
      (list "egress" "id" "egress.id")
      (list "store" "replicas" "it follows from replicas or autoscaling")
      (list "store" "password" "secret.keys.redisUrl")
      (list "listen" "host" "nothing: all addresses of the pod")
      (list "listen" "port" "service.port")
      (list "admin" "host" "nothing: all addresses of the pod")
      (list "admin" "port" "nothing: the pages are on port 9090")
      (list "admin" "token" "secret.keys.adminToken")
      (list "identity" "hash_key" "secret.keys.hashKey")
      (list "archive" "url" "secret.keys.archiveUrl")
      (list "archive" "password" "secret.keys.archiveUrl")
-}}
{{- range $ours -}}
{{- if get (dig (index . 0) (dict) $config | default dict) (index . 1) -}}
{{- fail (printf "config.%s.%s is the chart's to set; instead of it: %s" (index . 0) (index . 1) (index . 2)) -}}
{{- end -}}
{{- end -}}
{{- $redis := and .Values.secret.existingSecret .Values.secret.keys.redisUrl -}}
{{- if and (has .Values.sharing (list "deployment" "daemonset")) (not $redis) -}}
{{- fail (printf "sharing: %s needs Redis: secret.existingSecret and secret.keys.redisUrl; without one take sharing: statefulset" .Values.sharing) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (ne .Values.sharing "deployment") -}}
{{- fail "autoscaling is for sharing: deployment" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling: minReplicas is more than maxReplicas" -}}
{{- end -}}
{{- if and .Values.egress.fromNode (ne .Values.sharing "daemonset") (ne .Values.sharing "none") -}}
{{- fail "egress.fromNode is for sharing: daemonset: other gateways may be anywhere, and their nodes change" -}}
{{- end -}}
{{- if lt (int (include "bybit-gateway.gracePeriodSeconds" .)) (int (include "bybit-gateway.drainSeconds" $config)) -}}
{{- fail (printf "terminationGracePeriodSeconds: with this config requests may need %s s to end" (include "bybit-gateway.drainSeconds" $config)) -}}
{{- end -}}
{{- end -}}
