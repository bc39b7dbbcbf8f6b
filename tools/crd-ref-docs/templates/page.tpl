{{- define "gvList" -}}
<!-- Generated from the Go types in api/ by make generate. Change their comments instead. -->
{{- $configuration := eq (index . 0).Group "config.istiod-agent.io" }}
# {{ if $configuration }}Configuration file{{ else }}API reference{{ end }}
{{ if $configuration }}
The injection and the webhook read this file. The chart writes it into the ConfigMap `istiod-agent-webhook`, from its value [`injection`](../charts/istiod-agent/README.md) and others: change those instead. You write the file yourself for [kustomize](install.md#without-helm), and for `kubectl istiod-agent inject --config`.

Unknown fields are errors. All fields but `apiVersion` and `kind` are optional.
{{ else }}
These are the custom resources that people read or write. `kubectl explain` prints the same descriptions, for example:

```
kubectl explain issuedcertificates.spec.agentCa.vault
```

The API server checks the limits and rules: a rule is shown by its error message. The webhook, the controllers and the agent check more, and report the path of a wrong field. Annotations are not part of this page: see [VirtualMesh](virtual-mesh.md) and [the agent](agent.md).

There is one more resource, `injections.istiod-agent.io`: with [`injection.by=policy`](install.md#which-form), the controllers write one, and the API server reads it. [Its CRD](../config/crd/istiod-agent.io_injections.yaml) describes the fields.
{{ end }}
{{- if not $configuration }}
Kinds: {{ $kinds := list }}{{ range . }}{{ range .SortedTypes }}{{ if .GVK }}{{ $kinds = append $kinds (printf "[%s](#%s)" .Name (lower .Name)) }}{{ end }}{{ end }}{{ end }}{{ join ", " $kinds }}.
{{ end }}
{{- range . }}
## {{ .GroupVersionString }}

{{- range .SortedTypes }}{{ if or .GVK (eq .Name "InjectionConfiguration") }}{{ template "type" . }}{{ end }}{{ end }}
{{- range .SortedTypes }}{{ if and (not .GVK) .References }}{{ template "type" . }}{{ end }}{{ end }}
{{- end }}
{{- end }}

{{- define "type" }}
### {{ .Name }}

{{ template "prose" .Doc }}
{{ with .SortedReferences }}
Used by {{ range $i, $type := . }}{{ if $i }}, {{ end }}{{ markdownRenderTypeLink $type }}{{ end }}.
{{ end }}
{{- template "rules" . }}
{{- with .Members }}
| field | type | description |
|---|---|---|
{{- if $.GVK }}
| `apiVersion` | string | `{{ $.GVK.Group }}/{{ $.GVK.Version }}` |
| `kind` | string | `{{ $.GVK.Kind }}` |
{{- else if eq $.Name "InjectionConfiguration" }}
| `apiVersion` | string | `config.istiod-agent.io/v1alpha1` |
| `kind` | string | `InjectionConfiguration` |
{{- end }}
{{- range . }}
{{- if or .Doc (not (has .Name (list "apiVersion" "kind"))) }}
| `{{ .Name }}` | {{ template "kind" .Type }} | {{ template "field" . }}{{ template "limits" . }} |
{{- end }}
{{- end }}
{{ end }}
{{- with markdownTemplateValue .Name }}
An example:

```yaml
{{ . }}
```
{{ end }}
{{- if .EnumValues }}
{{- $explained := false }}{{ range .EnumValues }}{{ if .Doc }}{{ $explained = true }}{{ end }}{{ end }}
{{- if $explained }}
| value | meaning |
|---|---|
{{- range .EnumValues }}
| `{{ .Name }}` | {{ template "meaning" .Doc }} |
{{- end }}
{{ else }}
One of {{ range $i, $value := .EnumValues }}{{ if $i }}, {{ end }}`{{ .Name }}`{{ end }}.
{{ end }}
{{- end }}
{{- end }}

{{- /* A type, as it is written in YAML. The kinds of types are crd-ref-docs' own numbers. */ -}}
{{- define "kind" }}
{{- $kind := printf "%d" .Kind }}
{{- if and (eq $kind "5") (eq .Name "byte") }}string (base64)
{{- else if eq $kind "5" }}{{ template "kind" .UnderlyingType }} array
{{- else if eq $kind "4" }}{{ template "kind" .UnderlyingType }}
{{- else if eq $kind "3" }}map of {{ template "kind" .ValueType }}
{{- else if eq .Name "RawExtension" }}object
{{- else if eq .Name "Time" }}string (RFC 3339)
{{- else if hasPrefix "k8s.io/" .Package }}[{{ .Name }}](https://pkg.go.dev/{{ .Package }}#{{ .Name }})
{{- else }}{{ markdownRenderTypeLink . }}{{ end }}
{{- end }}

{{- /* A field's comment. Where it begins with the field's name in Go, that is left out, or written as in YAML. */ -}}
{{- define "field" }}
{{- $doc := regexReplaceAll (print "(?i)^" .Name " (is|are) ") .Doc "" }}
{{- if ne $doc .Doc }}{{ $doc = print (substr 0 1 $doc | upper) (substr 1 -1 $doc) }}
{{- else if ne (lower .Name) .Name }}{{ $doc = regexReplaceAll (print "(?i)^" .Name "\\b") $doc .Name }}{{ end }}
{{- template "prose" $doc }}
{{- end }}

{{- /* A constant's comment, without its name and without a reason's remedy (tools/reasons). */ -}}
{{- define "meaning" }}
{{- with regexReplaceAll "^[A-Z][A-Za-z0-9]*(:| is)? " (regexReplaceAll "(?s)\nRemedy:.*" . "" | replace "\n" " " | trim) "" }}{{ template "prose" (print (substr 0 1 . | upper) (substr 1 -1 .)) }}{{ end }}
{{- end }}

{{- /* What the API server checks of a field besides its type. What it checks of the type is shown there. */ -}}
{{- define "limits" }}
{{- $limits := list }}
{{- range .Validation }}
{{- if not (or (hasPrefix "Enum" .) (hasPrefix "Optional" .) (hasPrefix "Required" .)) }}
{{- $limit := . | replace "items:" "each: " | replace "MinLength: 1" "not empty" | replace "Minimum: " "at least " | replace "Pattern: " "matches " }}
{{- $limit = regexReplaceAll "MaxLength: ([0-9]+)" $limit "at most $1 characters" }}
{{- $limit = regexReplaceAll "(MaxItems|MaxProperties): ([0-9]+)" $limit "at most $2" }}
{{- $limits = append $limits $limit }}
{{- end }}
{{- end }}
{{- with $limits }} Limits: {{ join "; " . }}.{{ end }}
{{- end }}

{{- /* The error messages of a type's CEL rules, and of those of its fields which the fields' types do not have. */ -}}
{{- define "rules" }}
{{- $name := "kubebuilder:validation:XValidation" }}
{{- $rules := list }}
{{- range index .Markers $name }}
{{- $rules = append $rules (dict "path" (trimPrefix "." .FieldPath) "message" .Message) }}
{{- end }}
{{- range $field := .Members }}
{{- $types := index .Type.Markers $name }}
{{- with .Type.UnderlyingType }}{{ $types = default $types (index .Markers $name) }}{{ end }}
{{- $own := index .Markers $name }}
{{- if ne (toString $own) (toString $types) }}
{{- range $own }}
{{- $rules = append $rules (dict "path" (print $field.Name .FieldPath) "message" .Message) }}
{{- end }}
{{- end }}
{{- end }}
{{- with $rules }}
Rules:
{{ range . }}
- {{ with .path }}`{{ . }}`: {{ end }}{{ template "prose" .message }}
{{- end }}
{{ end }}
{{- end }}

{{- /* A comment as Markdown: what is no plain word is shown as code. Characters of Markdown and HTML occur in nothing else. */ -}}
{{- define "prose" }}
{{- $text := . | replace "\n" " " | trim }}
{{- if contains "`" $text }}{{ $text }}
{{- else }}
{{- $part := "(?:<[^>]+>|[^ ,;()<])" }}
{{- $last := "(?:<[^>]+>|[^ ,;().:<])" }}
{{- $code := list
  (print "(?:https?|spiffe)://" $part "*" $last)  "https?://"
  (print "[\\w.-]*<[^>]+>" $part "*" $last)  (print "\\b[a-z][a-z.-]*/" $part "*" $last)  (print "(?:\\.\\.\\.)?/" $part "*" $last)
  (print "[a-z-]*\\*" $part "*" $last)
  "\\.?\\b[a-z][a-z-]*(?:\\.[a-zA-Z]+)+\\b"  "\\b[a-z]+[A-Z]\\w*(?:\\.\\w+)*\\b"  "\\b[A-Z]+_[A-Z_]+(?:=\\w+)?"  "selectors: \\[\\{\\}\\]" }}
{{- regexReplaceAll (print "(" (join "|" $code) ")") $text "`$1`" }}
{{- end }}
{{- end }}
