{{/* Where everything of a release lies in the cluster is fixed: there can be one only, since its
     kinds, its place in the CNI chain and its Azure resources are the cluster's. */}}

{{- define "seg.image" -}}
{{- $i := .Values.image -}}
{{- if $i.digest -}}
{{ $i.repository }}@{{ $i.digest }}
{{- else -}}
{{ $i.repository }}:{{ $i.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Labels of an object. Call with the component's name. */}}
{{- define "seg.labels" -}}
app.kubernetes.io/name: static-egress-gateway
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Labels of a pod: (list component values), and its name where that is not the component's. */}}
{{- define "seg.podLabels" -}}
{{- $component := index . 0 -}}
app: {{ gt (len .) 2 | ternary (last .) (printf "egress-gateway-%s" $component) }}
{{ include "seg.labels" $component }}
{{- with (index . 1).podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What every pod has: (list root values). */}}
{{- define "seg.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Settings as environment variables: (list root values). */}}
{{- define "seg.settings" -}}
{{- $root := index . 0 -}}
- {name: EGRESS_GATEWAY_LOG_LEVEL, value: {{ $root.Values.logging.level }}}
- {name: EGRESS_GATEWAY_LOG_FORMAT, value: {{ $root.Values.logging.format }}}
{{- range $key, $value := (index . 1).settings }}
- name: EGRESS_GATEWAY_{{ $key | snakecase | upper }}
  value: {{ kindIs "slice" $value | ternary (join "," ($value | default list)) (toString $value) | quote }}
{{- end }}
{{- end }}

{{/* Where key Secrets live. */}}
{{- define "seg.keysNamespace" -}}
{{ .Values.keys.namespace | default .Release.Namespace }}
{{- end }}

{{/* Where a component's metrics are, if anywhere: (list root component). */}}
{{- define "seg.metrics" -}}
{{- $m := (index . 0).Values.metrics -}}
{{- if $m.enabled }}
- {name: EGRESS_GATEWAY_METRICS_PORT, value: {{ index $m.ports (index . 1) | quote }}}
{{- if $m.auth }}
- {name: EGRESS_GATEWAY_METRICS_AUTH, value: "true"}
{{- end }}
{{- end }}
{{- end }}

{{/* Who and where an agent is. */}}
{{- define "seg.identity" -}}
- name: EGRESS_GATEWAY_NODE_NAME
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: spec.nodeName}}
- name: NODE_NAME
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: spec.nodeName}}
- name: POD_NAME
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}
- name: EGRESS_GATEWAY_SYSTEM_NAMESPACE
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}
{{- end }}

{{/* The annotation and label of the public contract. */}}
{{- define "seg.annotation" -}}kubernetes.azure.com/static-gateway-configuration{{- end }}
{{- define "seg.readyLabel" -}}egressgateway.kubernetes.azure.com/cni-ready{{- end }}
{{- define "seg.waitContainer" -}}egress-gateway-wait{{- end }}
{{- define "seg.notReadyTaint" -}}egressgateway.kubernetes.azure.com/cni-not-ready{{- end }}
{{- define "seg.modeLabel" -}}kubeegressgateway.azure.com/mode{{- end }}
{{- define "seg.group" -}}egressgateway.kubernetes.azure.com{{- end }}

{{/* Annotations of what runs before the chart goes; call with the weight. */}}
{{- define "seg.hook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* Nothing of `helm test` stays: what it has to say, Helm prints. */}}
{{- define "seg.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* The newest version of MutatingAdmissionPolicy that the cluster serves; empty: none. */}}
{{- define "seg.policyVersion" -}}
{{- $found := "" }}
{{- range list "v1beta1" "v1" }}
{{- if $.Capabilities.APIVersions.Has (printf "admissionregistration.k8s.io/%s/MutatingAdmissionPolicy" .) }}{{ $found = . }}{{ end }}
{{- end }}
{{- $found }}
{{- end }}

{{/* How annotated pods are kept off nodes that are not ready for them: policy, webhook or none. */}}
{{- define "seg.admission" -}}
{{- $mode := .Values.admission.mode }}
{{- $served := include "seg.policyVersion" . }}
{{- if eq $mode "auto" }}{{ $mode = $served | empty | ternary "webhook" "policy" }}{{ end }}
{{- if and (eq $mode "policy") (not $served) }}
{{- fail "admission.mode is \"policy\", but this cluster serves no MutatingAdmissionPolicy (Kubernetes 1.36 has it): set it to \"webhook\", or leave it at \"auto\"" }}
{{- end }}
{{- $mode }}
{{- end }}

{{/* Pools whose gateway agents have accounts of their own, and "" for all others', as JSON. */}}
{{- define "seg.pools" -}}
{{- concat (list "") .Values.gateway.pools | toJson -}}
{{- end }}

{{/* Name of the gateway agents of a pool, and of their account. Call with the pool. */}}
{{- define "seg.gatewayName" -}}
egress-gateway-gateway{{ with . }}-{{ . }}{{ end }}
{{- end }}

{{/* User names of all gateway agents' accounts, for CEL. */}}
{{- define "seg.gatewayUsers" -}}
{{- $root := . -}}
{{- $users := list -}}
{{- range fromJsonArray (include "seg.pools" .) -}}
{{- $users = append $users (printf "'system:serviceaccount:%s:%s'" $root.Release.Namespace (include "seg.gatewayName" .)) -}}
{{- end -}}
{{- join ", " $users -}}
{{- end }}

{{/* The affinity of a pool's gateway agents: the common one, on nodes of that pool; of the others':
     on nodes of none that is named. Call with (list root pool). */}}
{{- define "seg.gatewayAffinity" -}}
{{- $g := (index . 0).Values.gateway -}}
{{- $pool := index . 1 -}}
{{- $affinity := deepCopy ($g.affinity | default dict) -}}
{{- if $g.pools -}}
{{- $of := dict "key" $g.poolLabel "operator" ($pool | empty | ternary "NotIn" "In") "values" ($pool | empty | ternary $g.pools (list $pool)) -}}
{{- $required := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" dict $affinity -}}
{{- $terms := list -}}
{{- range (get $required "nodeSelectorTerms" | default (list dict)) -}}
{{- $expressions := get . "matchExpressions" | default list -}}
{{- $terms = append $terms (merge (dict "matchExpressions" (append $expressions $of)) .) -}}
{{- end -}}
{{- $node := merge (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms)) (get $affinity "nodeAffinity" | default dict) -}}
{{- $affinity = merge (dict "nodeAffinity" $node) (omit $affinity "nodeAffinity") -}}
{{- end -}}
{{- $affinity | toJson -}}
{{- end }}

{{/* CEL: who has written which fields, which no schema bounds, takes no more than so many characters
     (the argument), or no more than before. */}}
{{- define "seg.fewFields" -}}
'%s'.format([object.metadata.?managedFields.orValue([])]).size() <= {{ . }}
|| (request.operation == 'UPDATE'
&& '%s'.format([object.metadata.?managedFields.orValue([])]).size()
<= '%s'.format([oldObject.metadata.?managedFields.orValue([])]).size() + 1024)
{{- end }}
