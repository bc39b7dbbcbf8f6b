{{/*
Which objects are istiods to inject: the same for the webhook and the guard.
*/}}
{{- define "istiod-agent.istiods" -}}
namespaceSelector:
  matchExpressions:
  - key: istiod-agent.io/injection
    operator: In
    values: [enabled]
  # Nothing here may ever stand in the way of the cluster's own recovery.
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: [kube-system]
objectSelector:
  matchLabels:
    app: istiod
  matchExpressions:
  # Nor of this release's own.
  - key: app.kubernetes.io/part-of
    operator: NotIn
    values: [istiod-agent]
{{- end -}}
