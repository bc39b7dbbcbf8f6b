{{/* Rights of the webhook on istiods and, with restarts.enabled, on workloads. */}}
{{- define "istiod-agent.istiodRules" -}}
{{- if or .Values.injection.injectExisting (eq .Values.injection.rollout "automatic") -}}
# To find existing istiods, inject them if so configured, and remove the agent from an
# istiod that has opted out. Without patch, existing istiods stay as they are, and an
# Event on each shows the refusal. Without the others, the Pods do not become ready.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, patch]
{{- else -}}
# To find existing istiods. Without it, the Pods do not become ready.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch]
{{- end }}
# To find istiod's Pods without the agent (if Pods are injected), and status entries of
# deleted Pods. Without get, these entries stay. Without the others, the Pods do not
# become ready.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# To keep this cluster's IssuedCertificates as specified in the VirtualMeshes. Without
# create or patch, istiod waits in Init for its IssuedCertificate. Without delete,
# unneeded ones stay. Without the others, the Pods do not become ready.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates]
  verbs: [list, watch, create, patch, delete]
# To keep their PodBounceDirectives (autoRestartPods), and to follow other ones. Without
# create or patch, a VirtualMesh with autoRestartPods has no effect. Without delete,
# unneeded ones stay. Without get, a restart pauses when another program writes the same
# status. Without the others, the Pods do not become ready.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [podbouncedirectives]
  verbs: [get, list, watch, create, patch, delete]
# To record restarts in their status in advance. Without it, nothing restarts.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [podbouncedirectives/status]
  verbs: [patch]
# To remove entries of deleted Pods from their status. Without it, the status grows with
# each rollout of istiod.
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates/status]
  verbs: [patch]
# To read the trust domain of each istiod without a revision from its ConfigMap. Without
# it, the Pods do not become ready.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio]
  verbs: [list, watch]
# To check that a namespace publishes a new root before Pods in it restart, and to serve
# the roots (bundleEndpoint). Without it, nothing restarts, and no roots are served.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio-ca-root-cert]
  verbs: [get]
# To report changes and their reasons on istiods' Deployments, VirtualMeshes and
# restarted workloads. Without it, only the log reports them.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# To warn about missing rights of the agent when istiod is injected. Without it,
# istiod's Pods are the first to report them.
- apiGroups: [authorization.k8s.io]
  resources: [{{ ternary "localsubjectaccessreviews" "subjectaccessreviews" (gt (len .Values.rbac.namespaces) 0) }}]
  verbs: [create]
{{- if .Values.restarts.enabled }}
# To restart the owners of a mesh's Pods with a rollout after a change of the root, and
# to wait until they are ready before the next restart. Without it, nothing restarts,
# and the status of the VirtualMesh names the missing right.
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, patch]
# To find the Deployment above a Pod. Without it, nothing restarts, and the status of
# the VirtualMesh names the missing right.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get]
# To replace Pods whose owner has no rollout, within PodDisruptionBudgets. Without it,
# nothing restarts, and the status of the VirtualMesh names the missing right.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
{{- end }}
{{- end -}}

{{/* Rights of the webhook on VirtualMeshes. */}}
{{- define "istiod-agent.virtualMeshRules" -}}
# To read VirtualMeshes. Without it, the Pods do not become ready.
- apiGroups: [networking.mesh.gloo.solo.io]
  resources: [virtualmeshes]
  verbs: [list, watch]
# To report the result in their status. Without it, the status stays empty, and a change
# of the root does not begin.
- apiGroups: [networking.mesh.gloo.solo.io]
  resources: [virtualmeshes/status]
  verbs: [patch]
{{- end -}}
