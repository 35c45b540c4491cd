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
app.kubernetes.io/name: {{ include "fleetpack.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
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
{{- /* The class that AWS's DRA driver brings; "never beside the device plugin on the same node", says its documentation. */ -}}
{{- if and (.Capabilities.APIVersions.Has "resource.k8s.io/v1/DeviceClass") (lookup "resource.k8s.io/v1" "DeviceClass" "" "neuron.aws.com") -}}
{{- fail "devicePlugin.enabled: AWS's Neuron DRA driver (DeviceClass neuron.aws.com) already gives out this cluster's Neuron devices through resource claims, and on one node neither would know what the other has given. Remove the driver and its class (kubectl delete deviceclass neuron.aws.com), or label nodes so that the two never share one (fleetpack.dev/device-plugin=false keeps this plugin off) and set devicePlugin.allowBesideNeuronPlugin=true, or leave devicePlugin.enabled=false." -}}
{{- end -}}
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
{{- $own := and (eq $name $ownName) (eq $namespace $ownNamespace) -}}
{{- $labels := dict -}}
{{- with .spec.template.metadata -}}{{- $labels = default dict .labels -}}{{- end -}}
{{- /* Ours by the label that all Pods of plugins carry, and by the command, which no name or image of another's has. */ -}}
{{- $fleetpack := false -}}
{{- range .spec.template.spec.containers -}}
{{- if and (eq (get $labels "app.kubernetes.io/component") "device-plugin") (eq (join " " .command) "fleetpack device-plugin") -}}
{{- $fleetpack = true -}}
{{- end -}}
{{- end -}}
{{- /* The release's own one under an earlier name goes with this upgrade. */ -}}
{{- $notes := default dict .metadata.annotations -}}
{{- $ours := and (eq (get $notes "meta.helm.sh/release-name") $.Release.Name) (eq (get $notes "meta.helm.sh/release-namespace") $.Release.Namespace) -}}
{{- if and $fleetpack (not $own) (not $ours) -}}
{{- $release := default "of no release" (get $labels "app.kubernetes.io/instance") -}}
{{- fail (printf "devicePlugin.enabled: another fleetpack release (%s) already serves aws.amazon.com/neuroncore with its own device plugin (DaemonSet %s/%s), and a node can have one plugin for a resource only. Set devicePlugin.enabled=false in one of the two (helm list -A shows them), or label nodes so that the plugins never share one and set devicePlugin.allowBesideNeuronPlugin=true. Two operators in one cluster would plan the same nodes besides: one release serves all namespaces." $release $namespace $name) -}}
{{- end -}}
{{- if and $foreign (not $own) -}}
{{- fail (printf "devicePlugin.enabled: AWS's Neuron device plugin (DaemonSet %s/%s) already serves aws.amazon.com/neuroncore on this cluster's nodes, and a node can have one plugin for a resource only. Remove it (kubectl -n %s delete daemonset %s), or label nodes so that the two never share one and set devicePlugin.allowBesideNeuronPlugin=true, or leave devicePlugin.enabled=false: fleetpack then plans, and AWS's plugin chooses the cores." $namespace $name $namespace $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
