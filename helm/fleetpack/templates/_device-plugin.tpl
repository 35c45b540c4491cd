{{- define "fleetpack.devicePlugin.name" -}}
{{- printf "%s-device-plugin" (include "fleetpack.fullname" .) -}}
{{- end -}}

{{- define "fleetpack.devicePlugin.namespace" -}}
{{- default .Release.Namespace .Values.devicePlugin.namespace -}}
{{- end -}}

{{- define "fleetpack.devicePlugin.serviceAccountName" -}}
{{- default (include "fleetpack.devicePlugin.name" .) .Values.devicePlugin.serviceAccount.name -}}
{{- end -}}

{{/* Labels by which the plugin's Pods are selected; they never change between versions. */}}
{{- define "fleetpack.devicePlugin.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fleetpack.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: device-plugin
{{- end -}}

{{- define "fleetpack.devicePlugin.labels" -}}
{{ include "fleetpack.devicePlugin.selectorLabels" . }}
{{ include "fleetpack.commonLabels" . }}
{{- end -}}

{{/* Its own image where one is set, else the operator's; a digest wins over a tag. */}}
{{- define "fleetpack.devicePlugin.image" -}}
{{- $own := .Values.devicePlugin.image -}}
{{- $repository := default .Values.image.repository $own.repository -}}
{{- if $own.digest -}}
{{- printf "%s@%s" $repository $own.digest -}}
{{- else if and .Values.image.digest (not $own.repository) (not $own.tag) -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default (default .Chart.AppVersion .Values.image.tag) $own.tag) -}}
{{- end -}}
{{- end -}}

{{/* Two plugins that announce one resource take the node from each other, and each gives out cores that the other has given. */}}
{{- define "fleetpack.devicePlugin.refuseSecondPlugin" -}}
{{- if not .Values.devicePlugin.allowBesideNeuronPlugin -}}
{{- $ownName := include "fleetpack.devicePlugin.name" . -}}
{{- $ownNamespace := include "fleetpack.devicePlugin.namespace" . -}}
{{- range (lookup "apps/v1" "DaemonSet" "" "").items -}}
{{- $name := .metadata.name -}}
{{- $namespace := .metadata.namespace -}}
{{- $foreign := has $name (list "neuron-device-plugin-daemonset" "neuron-device-plugin") -}}
{{- range .spec.template.spec.containers -}}
{{- /* public.ecr.aws/neuron/neuron-device-plugin, or a mirror of it. */ -}}
{{- if regexMatch "(^|/)neuron-device-plugin(:|@|$)" .image -}}
{{- $foreign = true -}}
{{- end -}}
{{- end -}}
{{- if and $foreign (not (and (eq $name $ownName) (eq $namespace $ownNamespace))) -}}
{{- fail (printf "devicePlugin.enabled: AWS's Neuron device plugin (DaemonSet %s/%s) already serves aws.amazon.com/neuroncore on this cluster's nodes, and a node can have one plugin for a resource only. Remove it (kubectl -n %s delete daemonset %s), or label nodes so that the two never share one and set devicePlugin.allowBesideNeuronPlugin=true, or leave devicePlugin.enabled=false: fleetpack then plans, and AWS's plugin chooses the cores." $namespace $name $namespace $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
