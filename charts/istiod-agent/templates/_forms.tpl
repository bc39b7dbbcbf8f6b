{{/*
The forms of the injection that are rendered: "webhook", "policy", or both while
injection.by changes. A change takes two upgrades: the first adds the new form beside
the old one, so that no change of istiod is refused meanwhile, and the next one removes
the old one. Without a cluster (helm template), there is no such meanwhile.
Found once and kept, so that all templates agree.
*/}}
{{- define "istiod-agent.forms" -}}
{{- if not (hasKey .Values.injection "forms") -}}
{{- $forms := .Values.injection.by -}}
{{- if and (eq .Values.injection.by "webhook") (include "istiod-agent.hasPolicy" .) (not (include "istiod-agent.webhookServes" .)) -}}
{{- $forms = "webhook policy" -}}
{{- else if and (eq .Values.injection.by "policy") (include "istiod-agent.hasWebhook" .) (not (and (include "istiod-agent.hasPolicy" .) (include "istiod-agent.hasInjection" .))) -}}
{{- $forms = "webhook policy" -}}
{{- end -}}
{{- $_ := set .Values.injection "forms" $forms -}}
{{- end -}}
{{- .Values.injection.forms -}}
{{- end -}}

{{/* Whether the webhook injects, alone or beside the policy. */}}
{{- define "istiod-agent.withWebhook" -}}
{{- if contains "webhook" (include "istiod-agent.forms" .) -}}true{{- end -}}
{{- end -}}

{{/* Whether the policy injects, alone or beside the webhook. */}}
{{- define "istiod-agent.withPolicy" -}}
{{- if contains "policy" (include "istiod-agent.forms" .) -}}true{{- end -}}
{{- end -}}

{{/* Whether injection.by is changing, and both inject. */}}
{{- define "istiod-agent.changing" -}}
{{- if eq "webhook policy" (include "istiod-agent.forms" .) -}}true{{- end -}}
{{- end -}}

{{/*
The policy's binding, without which it has no effect. While injection.by changes it
waits for the Injection: without that it refuses every istiod.
*/}}
{{- define "istiod-agent.bindPolicy" -}}
{{- if and (include "istiod-agent.withPolicy" .) (or (not (include "istiod-agent.changing" .)) (include "istiod-agent.hasInjection" .)) -}}true{{- end -}}
{{- end -}}

{{/* The API server's message without the Injection names this binding and not what is missing. */}}
{{- define "istiod-agent.policyBinding" -}}
{{ include "istiod-agent.fullname" . }}.needs-injection.{{ .Release.Namespace }}.{{ include "istiod-agent.fullname" . }}
{{- end -}}

{{/* Whether this cluster has the release's policy, with its binding. */}}
{{- define "istiod-agent.hasPolicy" -}}
{{- if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicyBinding" -}}
{{- if lookup "admissionregistration.k8s.io/v1" "MutatingAdmissionPolicyBinding" "" (include "istiod-agent.policyBinding" .) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether this cluster has the policy's parameter. */}}
{{- define "istiod-agent.hasInjection" -}}
{{- if .Capabilities.APIVersions.Has "istiod-agent.io/v1alpha1/Injection" -}}
{{- if lookup "istiod-agent.io/v1alpha1" "Injection" .Release.Namespace (include "istiod-agent.fullname" .) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether this cluster has the release's webhook configuration. */}}
{{- define "istiod-agent.hasWebhook" -}}
{{- if lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" (include "istiod-agent.fullname" .) -}}true{{- end -}}
{{- end -}}

{{/* Whether the API server can call the webhook: it trusts it, and all its Pods are of the latest rollout and ready. */}}
{{- define "istiod-agent.webhookServes" -}}
{{- $webhooks := (lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" (include "istiod-agent.fullname" .)).webhooks -}}
{{- $deployment := lookup "apps/v1" "Deployment" .Release.Namespace (include "istiod-agent.webhook" .) -}}
{{- if and $webhooks $deployment -}}
{{- $status := default dict $deployment.status -}}
{{- $replicas := int $deployment.spec.replicas -}}
{{- if and (first $webhooks).clientConfig.caBundle $replicas (eq (int $status.observedGeneration) (int $deployment.metadata.generation)) (eq (int $status.updatedReplicas) $replicas) (eq (int $status.readyReplicas) $replicas) (eq (int $status.replicas) $replicas) -}}true{{- end -}}
{{- end -}}
{{- end -}}
