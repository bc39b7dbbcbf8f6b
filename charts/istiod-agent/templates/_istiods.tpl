{{/*
Selects the namespaces with injection, for the webhook. Package policy does the same
for the policies.
*/}}
{{- define "istiod-agent.optedIn" -}}
namespaceSelector:
  matchExpressions:
  - key: istiod-agent.io/injection
    operator: In
    values: [enabled]
  # Never block the cluster's own recovery.
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: [kube-system]
{{- end -}}

{{/*
Never block a deletion. A new object is never being deleted: the API server clears its
deletionTimestamp, but only after the webhooks.
*/}}
{{- define "istiod-agent.notBeingDeleted" -}}
- name: not-being-deleted
  expression: "request.operation == 'CREATE' || !has(oldObject.metadata.deletionTimestamp)"
{{- end -}}

{{/*
istiods' service accounts that get rights, as JSON: those in existing namespaces.
Without a cluster (helm template), all of them.
*/}}
{{- define "istiod-agent.istiodAccounts" -}}
{{- $found := list -}}
{{- if .Values.istiodSidecar.createRoleBinding -}}
{{- $asked := lookup "v1" "Namespace" "" "kube-system" -}}
{{- range .Values.istiodSidecar.serviceAccounts -}}
{{- if or (not $asked) (lookup "v1" "Namespace" "" .namespace) -}}
{{- $found = append $found . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/*
Existing namespaces in which the webhook grants istiods' service accounts their
rights, as JSON.
*/}}
{{- define "istiod-agent.istiodNamespaces" -}}
{{- $found := list -}}
{{- if .Values.istiodSidecar.createRoleBinding -}}
{{- $asked := lookup "v1" "Namespace" "" "kube-system" -}}
{{- range .Values.istiodSidecar.namespaces -}}
{{- if or (not $asked) (lookup "v1" "Namespace" "" .) -}}
{{- $found = append $found . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* All existing namespaces of istiods, as JSON. */}}
{{- define "istiod-agent.namespacesOfIstiods" -}}
{{- $found := include "istiod-agent.istiodNamespaces" . | fromJsonArray -}}
{{- range include "istiod-agent.istiodAccounts" . | fromJsonArray -}}
{{- $found = append $found .namespace -}}
{{- end -}}
{{- uniq $found | sortAlpha | toJson -}}
{{- end -}}

{{/* Rights of the agent in istiod's Pods. */}}
{{- define "istiod-agent.agentRules" -}}
# To watch the specification of istiod's certificate.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates]
  verbs: [get, list, watch]
# To report the current certificate in its status.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates/status]
  verbs: [patch]
# To report events and remedies on the IssuedCertificate.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# To start under the mesh's current root.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio-ca-root-cert]
  verbs: [get]
{{- end -}}

{{/*
The clientConfig of the webhook for a path. The webhook's program or cert-manager
writes the caBundle. The chart never does, for any source: a server-side apply of
another manager's field is a conflict.
*/}}
{{- define "istiod-agent.webhookClient" -}}
{{- $path := index . 1 -}}
{{- with index . 0 -}}
service:
  name: {{ include "istiod-agent.webhook" . }}
  namespace: {{ .Release.Namespace }}
  port: {{ .Values.service.port }}
  path: {{ $path }}
# No caBundle: it is written in the cluster, and must survive an upgrade.
{{- end -}}
{{- end -}}

{{/*
Whether the API server serves VirtualMeshes: Helm refuses a whole release for one
unknown object. Without a cluster (helm template), yes.
*/}}
{{- define "istiod-agent.knowsVirtualMesh" -}}
{{- if or (.Capabilities.APIVersions.Has "networking.mesh.gloo.solo.io/v1/VirtualMesh") (not (lookup "v1" "Namespace" "" "kube-system")) -}}
yes
{{- end -}}
{{- end -}}
