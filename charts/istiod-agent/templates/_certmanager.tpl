{{/* Whether cert-manager also issues the CA: yes, without an issuerRef. */}}
{{- define "istiod-agent.certManagerCA" -}}
{{- if and (eq (include "istiod-agent.certificateSource" .) "cert-manager") (not .Values.servingCertificate.issuerRef) -}}true{{- end -}}
{{- end -}}
