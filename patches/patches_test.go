// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"strings"
	"testing"

	evanphx "github.com/evanphx/json-patch/v5"
	"gomodules.xyz/jsonpatch/v2"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
)

// plain is the smallest Deployment of Istio's chart's shape.
const plain = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, namespace: istio-system, labels: {app: istiod}}
spec:
  template:
    metadata: {labels: {app: istiod}}
    spec:
      containers:
      - name: discovery
        image: pilot
        env: [{name: PILOT_CERT_PROVIDER, value: istiod}]
        volumeMounts:
        - {name: local-certs, mountPath: /var/run/secrets/istio-dns}
        - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}
      volumes:
      - {name: local-certs, emptyDir: {medium: Memory}}
      - {name: cacerts, secret: {secretName: cacerts, optional: true}}
`

// edit replaces text in the plain Deployment; each old must be there.
func edit(t *testing.T, oldnew ...string) []byte {
	t.Helper()
	text := plain
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("the plain Deployment holds no %q", oldnew[i])
		}
		text = strings.Replace(text, oldnew[i], oldnew[i+1], 1)
	}
	return toJSON(t, text)
}

func toJSON(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// injector of a configuration given as YAML, its first two lines left out.
func injector(t testing.TB, config string) *patches.Injector {
	t.Helper()
	decoded, err := v1alpha1.Decode([]byte("apiVersion: " + v1alpha1.APIVersion + "\nkind: " + v1alpha1.Kind + "\n" + config))
	if err != nil {
		t.Fatal(err)
	}
	i, err := patches.New(decoded)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func apply(t testing.TB, object []byte, operations []jsonpatch.Operation) []byte {
	t.Helper()
	text, err := json.Marshal(operations)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := evanphx.DecodePatch(text)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(object)
	if err != nil {
		t.Fatalf("%s does not apply to %s: %v", text, object, err)
	}
	return after
}

// inject injects, and checks what must hold of every injection: fed back, it
// gives no operation; taken out, it gives the original back.
func inject(t testing.TB, i *patches.Injector, kind patches.Kind, object []byte) []byte {
	t.Helper()
	result := i.Inject(kind, object)
	if result.Reason != patches.Injected {
		t.Fatalf("got %s (%s), want it injected", result.Reason, result.Message)
	}
	after := apply(t, object, result.Operations)
	if again := i.Inject(kind, after); again.Reason != patches.AlreadyInjected || len(again.Operations) > 0 {
		t.Fatalf("fed back: %s with %v\nobject: %s", again.Reason, again.Changes, after)
	}
	return after
}

func podSpec(t *testing.T, kind patches.Kind, object []byte) map[string]any {
	t.Helper()
	var tree map[string]any
	if err := json.Unmarshal(object, &tree); err != nil {
		t.Fatal(err)
	}
	spec := tree["spec"].(map[string]any)
	if kind == patches.Deployment {
		spec = spec["template"].(map[string]any)["spec"].(map[string]any)
	}
	return spec
}

// names of a list of the pod spec, in order.
func names(spec map[string]any, list string) string {
	var found []string
	entries, _ := spec[list].([]any)
	for _, entry := range entries {
		found = append(found, entry.(map[string]any)["name"].(string))
	}
	return strings.Join(found, " ")
}

func TestDecision(t *testing.T) {
	t.Parallel()
	mount := "- {name: cacerts, mountPath: /etc/cacerts, readOnly: true}"
	env := "{name: PILOT_CERT_PROVIDER, value: istiod}"
	for name, test := range map[string]struct {
		config  string
		edit    []string
		kind    patches.Kind
		want    patches.Reason
		message string
	}{
		"a plain istiod is injected":            {want: patches.Injected},
		"being deleted comes before all":        {edit: []string{"metadata: {name", `metadata: {deletionTimestamp: "2026-01-01T00:00:00Z", annotations: {istiod-agent.io/inject: "false"}, name`}, want: patches.BeingDeleted},
		"opted out by annotation":               {edit: []string{"metadata: {name", `metadata: {annotations: {istiod-agent.io/inject: "false"}, name`}, want: patches.OptedOut},
		"opted out by label":                    {edit: []string{"{app: istiod}}\nspec", `{app: istiod, istiod-agent.io/inject: "false"}}` + "\nspec"}, want: patches.OptedOut},
		"another value does not opt out":        {edit: []string{"metadata: {name", `metadata: {annotations: {istiod-agent.io/inject: "no"}, name`}, want: patches.Injected},
		"the template does not opt out":         {edit: []string{"metadata: {labels: {app: istiod}}\n    spec", `metadata: {annotations: {istiod-agent.io/inject: "false"}}` + "\n    spec"}, want: patches.Injected},
		"opted out, with an agent of one's own": {edit: []string{"metadata: {name", `metadata: {annotations: {istiod-agent.io/inject: "false"}, name`, "      containers:", "      initContainers: [{name: istiod-agent-init}]\n      containers:\n      - {name: istiod-agent}"}, want: patches.OptedOut, message: "because this webhook did not inject it"},
		"opting out wins over no CA":            {edit: []string{"metadata: {name", `metadata: {annotations: {istiod-agent.io/inject: "false"}, name`, env, "{name: ENABLE_CA_SERVER, value: 'false'}"}, want: patches.OptedOut},
		"CA server off":                         {edit: []string{env, "{name: ENABLE_CA_SERVER, value: 'false'}"}, want: patches.NoBuiltInCA, message: "ENABLE_CA_SERVER=false"},
		"CA server off, as Go reads it":         {edit: []string{env, "{name: ENABLE_CA_SERVER, value: F}"}, want: patches.NoBuiltInCA},
		"CA server on":                          {edit: []string{env, "{name: ENABLE_CA_SERVER, value: 'true'}"}, want: patches.Injected},
		"the last of two values counts":         {edit: []string{env, "{name: ENABLE_CA_SERVER, value: 'false'}, {name: ENABLE_CA_SERVER, value: 'true'}"}, want: patches.Injected},
		"Kubernetes signs":                      {edit: []string{env, "{name: EXTERNAL_CA, value: ISTIOD_RA_KUBERNETES_API}, {name: PILOT_CERT_PROVIDER, value: k8s.io/legacy}"}, want: patches.NoBuiltInCA, message: "k8s.io/legacy"},
		"an external CA but istiod's own":       {edit: []string{env, "{name: EXTERNAL_CA, value: X}, " + env}, want: patches.Injected},
		"Kubernetes DNS certificates only":      {edit: []string{env, "{name: PILOT_CERT_PROVIDER, value: k8s.io/legacy}"}, want: patches.Injected},
		"no container of istiod's":              {edit: []string{"- name: discovery", "- name: pilot", mount, ""}, want: patches.NoIstiodContainer, message: "found containers pilot"},
		"no containers at all":                  {edit: []string{"containers:", "notContainers:"}, want: patches.NoIstiodContainer, message: "found no containers"},
		"the mount makes it istiod":             {edit: []string{"- name: discovery", "- name: pilot"}, want: patches.Injected},
		"the name makes it istiod":              {edit: []string{mount, ""}, want: patches.Injected},
		"ROOT_CA_DIR elsewhere":                 {edit: []string{env, "{name: ROOT_CA_DIR, value: /var/run/ca}"}, want: patches.CACertsElsewhere, message: "ROOT_CA_DIR is /var/run/ca"},
		"ROOT_CA_DIR as Istio defaults it":      {edit: []string{env, "{name: ROOT_CA_DIR, value: ./etc/cacerts}"}, want: patches.Injected},
		"a part of the volume":                  {edit: []string{"readOnly: true", "subPath: ca"}, want: patches.CACertsElsewhere, message: "subPath"},
		"a file mounted over ours":              {edit: []string{mount, mount + "\n        - {name: x, mountPath: /etc/cacerts/ca-key.pem}"}, want: patches.CACertsElsewhere, message: "/etc/cacerts/ca-key.pem"},
		"Pods are the target":                   {config: "target: pods", want: patches.NotTheTarget},
		"a Pod, and Deployments are":            {kind: patches.Pod, want: patches.NotTheTarget},
		"no pod spec":                           {edit: []string{"template:", "pattern:"}, want: patches.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind := test.kind
			if kind == "" {
				kind = patches.Deployment
			}
			result := injector(t, test.config).Inject(kind, edit(t, test.edit...))
			if result.Reason != test.want || !strings.Contains(result.Message, test.message) {
				t.Errorf("got %s: %s; want %s: …%s…", result.Reason, result.Message, test.want, test.message)
			}
			if (result.Reason == patches.Injected) != (len(result.Operations) > 0) {
				t.Errorf("%s comes with operations %v", result.Reason, result.Operations)
			}
			if result.Reason == patches.NoBuiltInCA && len(result.Warnings) == 0 {
				t.Error("want a warning")
			}
		})
	}
}

func TestUnknownOptOutValue(t *testing.T) {
	t.Parallel()
	result := injector(t, "").Inject(patches.Deployment, edit(t, "metadata: {name", `metadata: {annotations: {istiod-agent.io/inject: "no"}, name`))
	if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], `"no"`) {
		t.Errorf("got warnings %q", result.Warnings)
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	others := []string{
		"      containers:", "      initContainers: [{name: first}, {name: second}]\n      containers:",
		"      volumes:", "      - {name: tail}\n      volumes:",
	}
	for name, test := range map[string]struct {
		config            string
		edit              []string
		inits, containers string
	}{
		"alone":                         {inits: "istiod-agent-init", containers: "discovery istiod-agent"},
		"alone, native":                 {config: "sidecar: native", inits: "istiod-agent", containers: "discovery"},
		"among others":                  {edit: others, inits: "istiod-agent-init first second", containers: "discovery tail istiod-agent"},
		"among others, native":          {config: "sidecar: native", edit: others, inits: "istiod-agent first second", containers: "discovery tail"},
		"empty list of init containers": {edit: []string{"      containers:", "      initContainers: []\n      containers:"}, inits: "istiod-agent-init", containers: "discovery istiod-agent"},
		"null list of init containers":  {edit: []string{"      containers:", "      initContainers: null\n      containers:"}, inits: "istiod-agent-init", containers: "discovery istiod-agent"},
		"an agent at other places": {
			edit:  []string{"      containers:", "      initContainers: [{name: first}, {name: istiod-agent-init}]\n      containers:\n      - {name: istiod-agent}"},
			inits: "istiod-agent-init first", containers: "discovery istiod-agent",
		},
		"both forms at once become native": {
			config: "sidecar: native",
			edit:   []string{"      containers:", "      initContainers: [{name: istiod-agent-init}, {name: istiod-agent}]\n      containers:\n      - {name: istiod-agent}"},
			inits:  "istiod-agent", containers: "discovery",
		},
		"native becomes containers": {
			edit:  []string{"      containers:", "      initContainers: [{name: istiod-agent, restartPolicy: Always}]\n      containers:"},
			inits: "istiod-agent-init", containers: "discovery istiod-agent",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := podSpec(t, patches.Deployment, inject(t, injector(t, test.config), patches.Deployment, edit(t, test.edit...)))
			if got := names(spec, "initContainers"); got != test.inits {
				t.Errorf("init containers: got %q, want %q", got, test.inits)
			}
			if got := names(spec, "containers"); got != test.containers {
				t.Errorf("containers: got %q, want %q", got, test.containers)
			}
		})
	}
}
