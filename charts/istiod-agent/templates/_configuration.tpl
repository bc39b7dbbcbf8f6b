{{/*
The webhook's configuration file. An absent or null value is omitted, so that the
program's own default applies. An explicit {} is kept and means none.
*/}}
{{- define "istiod-agent.configuration" -}}
apiVersion: config.istiod-agent.io/v1alpha1
kind: InjectionConfiguration
{{- with .Values.injection }}
by: {{ ternary "webhook" "policy" (eq "true" (include "istiod-agent.withWebhook" $)) }}
target: {{ .target }}
sidecar: {{ .sidecar }}
agent:
  image: {{ include "istiod-agent.image" (list .agent.image $) }}
  imagePullPolicy: {{ .agent.imagePullPolicy }}
  {{- with .agent.env }}
  env: {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if not (kindIs "invalid" .agent.vaultToken) }}
  vaultToken: {{- toYaml .agent.vaultToken | nindent 4 }}
  {{- end }}
  {{- with .agent.allowedServers }}
  allowedServers: {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if not (kindIs "invalid" .agent.resources) }}
  resources: {{- toYaml .agent.resources | nindent 4 }}
  {{- end }}
  {{- if not (kindIs "invalid" .agent.securityContext) }}
  securityContext: {{- toYaml .agent.securityContext | nindent 4 }}
  {{- end }}
cacerts:
  sizeLimit: {{ .cacerts.sizeLimit | quote }}
multiRootMesh: {{ .multiRootMesh }}
annotate: {{ .annotate }}
injectExisting: {{ .injectExisting }}
rollout: {{ .rollout }}
{{- end }}
{{- with .Values.clusterName }}
clusterName: {{ . | quote }}
{{- end }}
{{- with .Values.rbac.namespaces }}
namespaces: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.virtualMesh.namespaces }}
virtualMesh:
  namespaces: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .Values.istiodSidecar.createRoleBinding .Values.istiodSidecar.namespaces }}
agentRights:
  namespaces: {{- toYaml .Values.istiodSidecar.namespaces | nindent 2 }}
  roleBinding: {{ include "istiod-agent.fullname" . }}.istiods
{{- end }}
server:
  port: {{ .Values.server.port }}
  healthPort: {{ .Values.server.healthPort }}
  metricsPort: {{ .Values.server.metricsPort }}
  {{- if and .Values.server.clientCA (include "istiod-agent.withWebhook" .) }}
  clientCA: /etc/istiod-agent-webhook/client-ca.crt
  {{- end }}
  leaderElection: {{ .Values.server.leaderElection }}
  {{- if .Values.bundleEndpoint.enabled }}
  bundleEndpoint:
    port: {{ .Values.server.bundlePort }}
    namespaces: {{- toYaml .Values.bundleEndpoint.namespaces | nindent 4 }}
    directory: /bundle-tls
  {{- end }}
  namespace: {{ .Release.Namespace }}
  injection: {{ include "istiod-agent.fullname" . }}
  {{- if include "istiod-agent.withWebhook" . }}
  webhookConfiguration: {{ include "istiod-agent.fullname" . }}
  servingCertificate:
    source: {{ .Values.servingCertificate.source }}
    dnsNames: [{{ include "istiod-agent.dnsName" . }}]
    {{- if eq .Values.servingCertificate.source "self-managed" }}
    secretName: {{ include "istiod-agent.webhook" . }}-ca
    caDuration: {{ .Values.servingCertificate.caDuration }}
    leafDuration: {{ .Values.servingCertificate.leafDuration }}
    {{- else }}
    directory: /tls
    {{- end }}
    {{- if include "istiod-agent.givenCABundle" . }}
    caBundle: /etc/istiod-agent-webhook/ca-bundle.crt
    {{- end }}
  {{- end }}
{{- end -}}

{{/* The CA from the values that the API server must trust, PEM. */}}
{{- define "istiod-agent.givenCABundle" -}}
{{- if eq (include "istiod-agent.certificateSource" .) "secret" -}}{{ .Values.servingCertificate.secret.caBundle }}{{- end -}}
{{- end -}}
