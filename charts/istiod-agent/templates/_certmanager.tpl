{{/* Whether cert-manager makes the CA too: it does unless an issuer is named. */}}
{{- define "istiod-agent.certManagerCA" -}}
{{- if and (eq .Values.servingCertificate.source "cert-manager") (not .Values.servingCertificate.issuerRef) -}}true{{- end -}}
{{- end -}}
