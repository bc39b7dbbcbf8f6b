{{/*
Checks combinations of values, which the schema cannot describe. Otherwise, the webhook's
Pods would find these mistakes at their start.
*/}}
{{- define "istiod-agent.checkValues" -}}
{{- $taken := dict -}}
{{- $ports := list "port" "healthPort" "metricsPort" -}}
{{- if .Values.bundleEndpoint.enabled -}}
{{- $ports = append $ports "bundlePort" -}}
{{- include "istiod-agent.checkBundle" . -}}
{{- end -}}
{{- range $name := $ports -}}
{{- $port := int (index $.Values.server $name) | toString -}}
{{- with get $taken $port -}}
{{- fail (printf "server.%s: must differ from server.%s (%s)" $name . $port) -}}
{{- end -}}
{{- $_ := set $taken $port $name -}}
{{- end -}}
{{- if eq (int .Values.service.port) (int .Values.service.metricsPort) -}}
{{- fail (printf "service.metricsPort: must differ from service.port (%d)" (int .Values.service.port)) -}}
{{- end -}}
{{- include "istiod-agent.checkEnv" (list "injection.agent.env" .Values.injection.agent.env) -}}
{{- include "istiod-agent.checkEnv" (list "extraEnv" .Values.extraEnv) -}}
{{- if .Values.injection.agent.allowedServers -}}
{{- range .Values.injection.agent.env -}}
{{- if eq .name "ISTIOD_AGENT_ALLOWED_SERVERS" -}}
{{- fail "injection.agent.env: ISTIOD_AGENT_ALLOWED_SERVERS and injection.agent.allowedServers exclude each other" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "istiod-agent.checkResources" (list "injection.agent.resources" .Values.injection.agent.resources) -}}
{{- include "istiod-agent.checkResources" (list "resources" .Values.resources) -}}
{{- with .Values.podDisruptionBudget -}}
{{- if not (or (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable)) -}}
{{- fail "podDisruptionBudget: minAvailable and maxUnavailable exclude each other" -}}
{{- end -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if .enabled -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.maxReplicas: must be at least minReplicas (%d)" (int .minReplicas)) -}}
{{- end -}}
{{- if not (dig "requests" "cpu" "" (default dict $.Values.resources)) -}}
{{- fail "resources.requests.cpu: required with autoscaling.enabled, whose target is a percentage of it" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.rbac.namespaces -}}
{{- if not $.Values.virtualMesh.namespaces -}}
{{- fail "virtualMesh.namespaces: required with rbac.namespaces, because the rights on VirtualMeshes are granted in them" -}}
{{- end -}}
{{- range $.Values.istiodSidecar.namespaces -}}
{{- if not (has . $.Values.rbac.namespaces) -}}
{{- fail (printf "istiodSidecar.namespaces: %s must also be in rbac.namespaces" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $accounts := dict -}}
{{- range .Values.istiodSidecar.serviceAccounts -}}
{{- $account := printf "%s/%s" .namespace .name -}}
{{- if hasKey $accounts $account -}}
{{- fail (printf "istiodSidecar.serviceAccounts: %s is listed twice" $account) -}}
{{- end -}}
{{- $_ := set $accounts $account true -}}
{{- end -}}
{{- end -}}

{{/* A webhook's own certificate does not do: no client of another cluster trusts its CA. */}}
{{- define "istiod-agent.checkBundle" -}}
{{- $endpoint := .Values.bundleEndpoint -}}
{{- if and $endpoint.secretName $endpoint.issuerRef -}}
{{- fail "bundleEndpoint: secretName and issuerRef exclude each other" -}}
{{- end -}}
{{- if not (or $endpoint.secretName $endpoint.issuerRef) -}}
{{- fail "bundleEndpoint: secretName or issuerRef is required with enabled, for a certificate that clients in other clusters trust" -}}
{{- end -}}
{{- if $endpoint.issuerRef -}}
{{- if not $endpoint.issuerRef.name -}}
{{- fail "bundleEndpoint.issuerRef.name: required with any other field of issuerRef" -}}
{{- end -}}
{{- if not $endpoint.dnsNames -}}
{{- fail "bundleEndpoint.dnsNames: required with issuerRef: the host of the URL that clients use" -}}
{{- end -}}
{{- else if $endpoint.dnsNames -}}
{{- fail "bundleEndpoint.dnsNames: only with issuerRef: the certificate in secretName has its own names" -}}
{{- end -}}
{{- with .Values.rbac.namespaces -}}
{{- range $endpoint.namespaces -}}
{{- if not (has . $.Values.rbac.namespaces) -}}
{{- fail (printf "bundleEndpoint.namespaces: %s must also be in rbac.namespaces" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* An API server refuses a duplicate name in a server-side apply. */}}
{{- define "istiod-agent.checkEnv" -}}
{{- $path := index . 0 -}}
{{- $seen := dict -}}
{{- range index . 1 -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "%s: %s is listed twice" $path .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- end -}}

{{- define "istiod-agent.checkResources" -}}
{{- $path := index . 0 -}}
{{- $resources := default dict (index . 1) -}}
{{- $limits := default dict $resources.limits -}}
{{- range $name, $request := default dict $resources.requests -}}
{{- if hasKey $limits $name -}}
{{- $limit := get $limits $name -}}
{{- if gt (include "istiod-agent.quantity" $request | float64) (include "istiod-agent.quantity" $limit | float64) -}}
{{- fail (printf "%s.requests.%s: must not exceed the limit of %v, got %v" $path $name $limit $request) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity as a number. */}}
{{- define "istiod-agent.quantity" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+([eE][-+]?[0-9]+)?" $text -}}
{{- $factors := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (float64 $number) (default 1.0 (get $factors (trimPrefix $number $text))) -}}
{{- end -}}
