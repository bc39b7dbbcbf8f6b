{{/*
The names of the objects derive from the release: its own name if that contains
istiod-agent, otherwise <release>-istiod-agent. Truncated so that the longest suffix,
-webhook-root-ca, fits into a Service's 63 characters.
*/}}
{{- define "istiod-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 47 | trimSuffix "-" -}}
{{- end -}}

{{- define "istiod-agent.fullname" -}}
{{- $name := include "istiod-agent.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 47 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 47 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of the webhook's Deployment, Service, Roles and so on. */}}
{{- define "istiod-agent.webhook" -}}
{{- include "istiod-agent.fullname" . }}-webhook
{{- end -}}

{{- define "istiod-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "istiod-agent.webhook" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: required when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The API server calls the webhook by this name: its certificate must contain it. */}}
{{- define "istiod-agent.dnsName" -}}
{{- include "istiod-agent.webhook" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* The source of the serving certificate; none without the webhook. */}}
{{- define "istiod-agent.certificateSource" -}}
{{- if include "istiod-agent.withWebhook" . -}}{{ .Values.servingCertificate.source }}{{- end -}}
{{- end -}}

{{/* The mounted Secret with the serving certificate; none when self-managed. */}}
{{- define "istiod-agent.certificateSecret" -}}
{{- if eq (include "istiod-agent.certificateSource" .) "cert-manager" -}}
{{- include "istiod-agent.webhook" . }}-tls
{{- else if eq (include "istiod-agent.certificateSource" .) "secret" -}}
{{- required "servingCertificate.secret.name: required when servingCertificate.source is secret" .Values.servingCertificate.secret.name -}}
{{- end -}}
{{- end -}}

{{/* Name of the bundle endpoint's Service. */}}
{{- define "istiod-agent.bundle" -}}
{{- include "istiod-agent.fullname" . }}-bundle
{{- end -}}

{{/* The mounted Secret with the bundle endpoint's certificate. */}}
{{- define "istiod-agent.bundleSecret" -}}
{{- if .Values.bundleEndpoint.issuerRef -}}
{{- include "istiod-agent.bundle" . }}-tls
{{- else -}}
{{- .Values.bundleEndpoint.secretName -}}
{{- end -}}
{{- end -}}

{{- define "istiod-agent.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "istiod-agent.podLabels" . }}
{{- end -}}

{{/* A Pod adds its component. Without the chart's version: a new chart alone restarts no Pod. */}}
{{- define "istiod-agent.podLabels" -}}
{{ include "istiod-agent.selectorLabels" . }}
app.kubernetes.io/part-of: istiod-agent
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* These never change. */}}
{{- define "istiod-agent.selectorLabels" -}}
app.kubernetes.io/name: {{ include "istiod-agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "istiod-agent.webhookSelectorLabels" -}}
{{ include "istiod-agent.selectorLabels" . }}
app.kubernetes.io/component: webhook
{{- end -}}

{{/*
Takes an image's values and the chart's context. The default tag is the chart's
appVersion. global.imageRegistry replaces the registry, which is the first part of the
repository if that is a host.
*/}}
{{- define "istiod-agent.image" -}}
{{- $image := index . 0 -}}
{{- $chart := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with (default dict $chart.Values.global).imageRegistry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{ $repository }}:{{ default $chart.Chart.AppVersion $image.tag }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end -}}
