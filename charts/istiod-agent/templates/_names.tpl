{{/*
Every object is named by the release: istiod-agent for a release that has that
in its name, <release>-istiod-agent for any other. Cut so that the longest
suffix, -webhook-root-ca, still fits into a Service's 63 characters.
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

{{/* The webhook's Deployment, Service, Roles and the like. */}}
{{- define "istiod-agent.webhook" -}}
{{- include "istiod-agent.fullname" . }}-webhook
{{- end -}}

{{- define "istiod-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "istiod-agent.webhook" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* By this name the API server calls the webhook, so its certificate holds it. */}}
{{- define "istiod-agent.dnsName" -}}
{{- include "istiod-agent.webhook" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* The Secret that is mounted as the serving certificate, none when self-managed. */}}
{{- define "istiod-agent.certificateSecret" -}}
{{- if eq .Values.servingCertificate.source "cert-manager" -}}
{{- include "istiod-agent.webhook" . }}-tls
{{- else if eq .Values.servingCertificate.source "secret" -}}
{{- required "servingCertificate.secret.name is needed when servingCertificate.source is secret" .Values.servingCertificate.secret.name -}}
{{- end -}}
{{- end -}}

{{- define "istiod-agent.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "istiod-agent.podLabels" . }}
{{- end -}}

{{/* A Pod adds its component; a new version of the chart alone does not roll it. */}}
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
Takes an image's values and the chart's context: the tag is the chart's appVersion
when they name none, and global.imageRegistry takes the place of the registry, the
first part of the repository where that is a host.
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
