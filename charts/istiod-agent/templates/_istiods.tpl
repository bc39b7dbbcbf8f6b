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

{{/* Those of a list of namespaces that exist, as JSON. Without a cluster, all of them. */}}
{{- define "istiod-agent.existing" -}}
{{- $found := list -}}
{{- $asked := lookup "v1" "Namespace" "" "kube-system" -}}
{{- range . -}}
{{- if or (not $asked) (lookup "v1" "Namespace" "" .) -}}
{{- $found = append $found . -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/*
Existing namespaces in which the webhook grants istiods' service accounts their
rights, as JSON.
*/}}
{{- define "istiod-agent.istiodNamespaces" -}}
{{- include "istiod-agent.existing" (ternary .Values.istiodSidecar.namespaces list .Values.istiodSidecar.createRoleBinding) -}}
{{- end -}}

{{/*
All existing namespaces of istiods in which the webhook may have rights, as JSON.
*/}}
{{- define "istiod-agent.namespacesOfIstiods" -}}
{{- $found := include "istiod-agent.istiodNamespaces" . | fromJsonArray -}}
{{- range include "istiod-agent.istiodAccounts" . | fromJsonArray -}}
{{- if or (not $.Values.rbac.namespaces) (has .namespace $.Values.rbac.namespaces) -}}
{{- $found = append $found .namespace -}}
{{- end -}}
{{- end -}}
{{- uniq $found | sortAlpha | toJson -}}
{{- end -}}

{{/* Rights of the agent in istiod's Pods. */}}
{{- define "istiod-agent.agentRules" -}}
# To watch the specification of istiod's certificate. Without it, istiod waits in Init,
# and the agent's message names this right.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates]
  verbs: [get, list, watch]
# To report the current certificate in its status. Without it, the status does not have
# this Pod's certificate, and a change of the root waits for it.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates/status]
  verbs: [patch]
# To report events and remedies on the IssuedCertificate. Without it, only the agent's
# log reports them.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# To start under the mesh's current root. Without it, a Pod waits whose root differs from
# that of its replicas, even if the mesh already trusts its root.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio-ca-root-cert]
  verbs: [get]
{{- if .Values.istiodSidecar.certManager }}
# To request istiod's CA certificate from an issuer of cert-manager, and to delete the
# request afterwards. Without it, no certificate is issued; the reason is
# CertManagerForbidden.
- apiGroups: [cert-manager.io]
  resources: [certificaterequests]
  verbs: [create, get, list, watch, delete]
{{- end }}
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
