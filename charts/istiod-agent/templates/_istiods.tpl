{{/*
The namespaces whose istiods are injected: the same for the webhook and the guard.
*/}}
{{- define "istiod-agent.optedIn" -}}
namespaceSelector:
  matchExpressions:
  - key: istiod-agent.io/injection
    operator: In
    values: [enabled]
  # Nothing here may ever stand in the way of the cluster's own recovery.
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: [kube-system]
{{- end -}}

{{/*
What is being deleted must always be able to go. An object that is being created
never is: the API server clears its deletionTimestamp, but only after the webhooks.
*/}}
{{- define "istiod-agent.notBeingDeleted" -}}
- name: not-being-deleted
  expression: "request.operation == 'CREATE' || !has(oldObject.metadata.deletionTimestamp)"
{{- end -}}

{{/*
Istiod's service accounts that get rights, as JSON: those whose namespace is
there. Where no cluster can be asked (helm template), all of them.
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
Namespaces where the webhook gives istiods' service accounts their rights, as JSON:
those that are there.
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

{{/* All namespaces of istiods that are there, as JSON. */}}
{{- define "istiod-agent.namespacesOfIstiods" -}}
{{- $found := include "istiod-agent.istiodNamespaces" . | fromJsonArray -}}
{{- range include "istiod-agent.istiodAccounts" . | fromJsonArray -}}
{{- $found = append $found .namespace -}}
{{- end -}}
{{- uniq $found | sortAlpha | toJson -}}
{{- end -}}

{{/* What the agent in istiod's Pods uses of the API server. */}}
{{- define "istiod-agent.agentRules" -}}
# To know which certificate istiod shall have, and when that changes.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates]
  verbs: [get, list, watch]
# To say there which one it has.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates/status]
  verbs: [patch]
# To say on the IssuedCertificate what happens, and what to do about it.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# To start under the root that the mesh has already.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio-ca-root-cert]
  verbs: [get]
{{- end -}}

{{/*
How the API server calls the webhook at a path. The webhook's program or
cert-manager writes the caBundle. The chart leaves it to them whatever the source
is: a server-side apply of another's field is a conflict.
*/}}
{{- define "istiod-agent.webhookClient" -}}
{{- $path := index . 1 -}}
{{- with index . 0 -}}
service:
  name: {{ include "istiod-agent.webhook" . }}
  namespace: {{ .Release.Namespace }}
  port: {{ .Values.service.port }}
  path: {{ $path }}
# No caBundle here: it is filled in the cluster, and must survive an upgrade.
{{- end -}}
{{- end -}}

{{/*
Whether the API server knows VirtualMeshes: Helm refuses a whole release for one
object that it does not. Where no cluster can be asked (helm template), it will.
*/}}
{{- define "istiod-agent.knowsVirtualMesh" -}}
{{- if or (.Capabilities.APIVersions.Has "networking.mesh.gloo.solo.io/v1/VirtualMesh") (not (lookup "v1" "Namespace" "" "kube-system")) -}}
yes
{{- end -}}
{{- end -}}
