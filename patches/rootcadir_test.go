// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// The places of the plain Deployment that the ways below edit.
const (
	ownEnv   = "{name: PILOT_CERT_PROVIDER, value: istiod}"
	ownMount = "        - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}"
	ownImage = "        image: pilot"
	allEnv   = "        env: [{name: PILOT_CERT_PROVIDER, value: istiod}]"
	lists    = "      containers:"
)

// Every way in which istiod could read its CA elsewhere than in the agent's
// volume ends as injected or denied.
func TestCACertsElsewhere(t *testing.T) {
	t.Parallel()
	const withoutAnnotations = "annotate: false"
	helper := "      - name: helper\n        volumeMounts: [{name: other, mountPath: /etc/cacerts}]\n      volumes:"
	for name, test := range map[string]struct {
		config string
		edit   []string
		denied string // part of the message; "" where it is injected
	}{
		"ROOT_CA_DIR from a ConfigMap":            {edit: []string{ownEnv, "{name: ROOT_CA_DIR, valueFrom: {configMapKeyRef: {name: a, key: b}}}"}, denied: "ROOT_CA_DIR has no plain value"},
		"ROOT_CA_DIR with a reference":            {edit: []string{ownEnv, "{name: ROOT_CA_DIR, value: /etc/cacerts$(X)}"}, denied: "ROOT_CA_DIR has no plain value"},
		"ROOT_CA_DIR set twice":                   {edit: []string{ownEnv, "{name: ROOT_CA_DIR, value: /etc/cacerts}, {name: ROOT_CA_DIR, value: /x}"}, denied: "ROOT_CA_DIR is /x"},
		"ROOT_CA_DIR empty":                       {edit: []string{ownEnv, "{name: ROOT_CA_DIR}"}, denied: "ROOT_CA_DIR is empty"},
		"ROOT_CA_DIR with ..":                     {edit: []string{ownEnv, "{name: ROOT_CA_DIR, value: /etc/x/../cacerts}"}, denied: "ROOT_CA_DIR is /etc/x/../cacerts"},
		"ROOT_CA_DIR spelled oddly":               {edit: []string{ownEnv, "{name: ROOT_CA_DIR, value: //etc/./cacerts/}"}},
		"ROOT_CA_DIR below workingDir":            {edit: []string{ownEnv, "{name: ROOT_CA_DIR, value: ./etc/cacerts}", ownImage, ownImage + "\n        workingDir: /x"}, denied: "below workingDir /x"},
		"workingDir":                              {edit: []string{ownImage, ownImage + "\n        workingDir: /x"}},
		"workingDir, without annotations":         {config: withoutAnnotations, edit: []string{ownImage, ownImage + "\n        workingDir: /x"}, denied: "workingDir /x"},
		"workingDir of dots":                      {config: withoutAnnotations, edit: []string{ownImage, ownImage + "\n        workingDir: /..."}, denied: "workingDir /..."},
		"workingDir the root, oddly":              {config: withoutAnnotations, edit: []string{ownImage, ownImage + "\n        workingDir: ///./"}},
		"workingDir the root":                     {config: withoutAnnotations, edit: []string{ownImage, ownImage + "\n        workingDir: /"}},
		"envFrom":                                 {edit: []string{ownImage, ownImage + "\n        envFrom: [{configMapRef: {name: a}}]"}},
		"envFrom, without annotations":            {config: withoutAnnotations, edit: []string{ownImage, ownImage + "\n        envFrom: [{configMapRef: {name: a}}]"}, denied: "envFrom"},
		"envFrom and ROOT_CA_DIR":                 {config: withoutAnnotations, edit: []string{ownImage, ownImage + "\n        envFrom: [{configMapRef: {name: a}}]", ownEnv, "{name: ROOT_CA_DIR, value: /etc/cacerts}"}},
		"an empty envFrom":                        {config: withoutAnnotations, edit: []string{ownImage, ownImage + "\n        envFrom: []"}},
		"a path with .":                           {edit: []string{"/etc/cacerts, readOnly", "/etc/./cacerts/, readOnly"}},
		"a relative path":                         {edit: []string{"/etc/cacerts, readOnly", "etc/cacerts, readOnly"}},
		"a path with ..":                          {edit: []string{"/etc/cacerts, readOnly", "/etc/x/../cacerts, readOnly"}, denied: `without ".."`},
		"a mount of the parent":                   {edit: []string{ownMount, ownMount + "\n        - {name: x, mountPath: /etc/}"}, denied: "mounts something at /etc/"},
		"a mount of the root":                     {edit: []string{ownMount, ownMount + "\n        - {name: x, mountPath: /}"}, denied: "mounts something at /,"},
		"a mount in the directory, spelled oddly": {edit: []string{ownMount, ownMount + "\n        - {name: x, mountPath: //etc/cacerts/./..data}"}, denied: "mounts something at //etc/cacerts/./..data"},
		"a mount beside the directory":            {edit: []string{ownMount, ownMount + "\n        - {name: x, mountPath: /etc/cacerts-old}\n        - {name: y, mountPath: /etc/ssl}"}},
		"two mounts at the directory":             {edit: []string{ownMount, ownMount + "\n        - {name: x, mountPath: /etc/cacerts/}"}, denied: "mounts /etc/cacerts twice"},
		"a device in the directory":               {edit: []string{ownMount, ownMount + "\n        volumeDevices: [{name: x, devicePath: /etc/cacerts/ca-key.pem}]"}, denied: "has a device at /etc/cacerts/ca-key.pem"},
		"a device elsewhere":                      {edit: []string{ownMount, ownMount + "\n        volumeDevices: [{name: x, devicePath: /dev/x}]"}},
		"an expanded subPath":                     {edit: []string{"readOnly: true", "subPathExpr: $(POD_NAME)"}, denied: "subPath $(POD_NAME)"},
		"a helper that mounts the directory":      {edit: []string{ownMount + "\n", "", "      volumes:", helper}},
		"a second istiod":                         {edit: []string{"      volumes:", "      - {name: pilot, args: [discovery]}\n      volumes:"}, denied: "container pilot runs istiod beside container discovery"},
		"a second istiod by command":              {edit: []string{"      volumes:", "      - {name: pilot, command: [/pilot-discovery, discovery]}\n      volumes:"}, denied: "container pilot runs istiod"},
		"a second istiod without a CA":            {edit: []string{ownEnv, "{name: ENABLE_CA_SERVER, value: 'false'}", "      volumes:", "      - {name: pilot, args: [discovery]}\n      volumes:"}, denied: "container pilot runs istiod"},
		"a second istiod that starts first":       {edit: []string{lists, "      initContainers: [{name: pilot, restartPolicy: Always, args: [discovery]}]\n" + lists}, denied: "container pilot runs istiod"},
		"EXTERNAL_CA with a reference":            {edit: []string{ownEnv, "{name: EXTERNAL_CA, value: $(X)}, {name: PILOT_CERT_PROVIDER, value: k8s.io/x}"}},
		"ENABLE_CA_SERVER from a ConfigMap":       {edit: []string{ownEnv, "{name: ENABLE_CA_SERVER, value: 'false'}, {name: ENABLE_CA_SERVER, valueFrom: {configMapKeyRef: {name: a, key: b}}}"}},
	} {
		for _, target := range []string{"target: deployments", "target: pods"} {
			t.Run(name+"/"+target, func(t *testing.T) {
				t.Parallel()
				object, kind := edit(t, test.edit...), patches.Deployment
				if target == "target: pods" {
					object, kind = podOf(t, object), patches.Pod
				}
				i := injector(t, target+"\n"+test.config)
				if test.denied != "" {
					result := i.Inject(kind, object)
					if result.Reason != patches.CACertsElsewhere || !strings.Contains(result.Message, test.denied) {
						t.Errorf("got %s: %s; want it denied: …%s…", result.Reason, result.Message, test.denied)
					}
					return
				}
				injected := inject(t, i, kind, object)
				if back := apply(t, injected, patches.Uninject(kind, injected).Operations); !same(t, back, object) {
					t.Errorf("got back  %s\nwas       %s", back, object)
				}
			})
		}
	}
}

// istiod's container gets ROOT_CA_DIR; its own one stays, through every change
// of the configuration and an uninjection.
func TestRootCADir(t *testing.T) {
	t.Parallel()
	const own, added = "./etc/cacerts", "/etc/cacerts"
	for name, test := range map[string]struct {
		config string
		edit   []string
		want   string
		noted  bool
	}{
		"the chart's":                    {want: added, noted: true},
		"no variables":                   {edit: []string{allEnv + "\n", ""}, want: added, noted: true},
		"an empty list of variables":     {edit: []string{allEnv, "        env: []"}, want: added, noted: true},
		"its own":                        {edit: []string{ownEnv, "{name: ROOT_CA_DIR, value: ./etc/cacerts}"}, want: own},
		"the same as ours":               {edit: []string{ownEnv, "{name: ROOT_CA_DIR, value: /etc/cacerts}"}, want: added},
		"a multi-root mesh":              {config: "multiRootMesh: true", want: added, noted: true},
		"a multi-root mesh, no variable": {config: "multiRootMesh: true", edit: []string{allEnv + "\n", ""}, want: added, noted: true},
		"without annotations":            {config: "annotate: false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			object := edit(t, test.edit...)
			injected := inject(t, injector(t, test.config), patches.Deployment, object)
			var deployment appsv1.Deployment
			if err := json.Unmarshal(injected, &deployment); err != nil {
				t.Fatal(err)
			}
			template := deployment.Spec.Template
			at := slices.IndexFunc(template.Spec.Containers, func(c corev1.Container) bool { return c.Name == patches.IstiodContainer })
			var values []string
			for _, v := range template.Spec.Containers[at].Env {
				if v.Name == istio.RootCADirVariable {
					values = append(values, v.Value)
				}
			}
			if got := strings.Join(values, " and "); got != test.want {
				t.Errorf("ROOT_CA_DIR is %q, want %q", got, test.want)
			}
			if note := deployment.Annotations[patches.OriginalAnnotation]; strings.Contains(note, "rootCADirAdded") != test.noted {
				t.Errorf("the note is %q", note)
			}
			for _, config := range []string{"", "multiRootMesh: true", "sidecar: native", ""} {
				injected = apply(t, injected, injector(t, config).Inject(patches.Deployment, injected).Operations)
			}
			if test.config == "annotate: false" {
				return // nothing recorded whose variables those are
			}
			if back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations); !same(t, back, object) {
				t.Errorf("got back  %s\nwas       %s", back, object)
			}
		})
	}
}

// A variable that another has changed since is theirs.
func TestUninjectKeepsChangedRootCADir(t *testing.T) {
	t.Parallel()
	injected := inject(t, injector(t, ""), patches.Deployment, edit(t))
	changed := []byte(strings.Replace(string(injected), `"name":"ROOT_CA_DIR","value":"/etc/cacerts"`, `"name":"ROOT_CA_DIR","value":"/elsewhere"`, 1))
	if same(t, changed, injected) {
		t.Fatal("ROOT_CA_DIR is not there")
	}
	if back := apply(t, changed, patches.Uninject(patches.Deployment, changed).Operations); !strings.Contains(string(back), "/elsewhere") {
		t.Errorf("got %s", back)
	}
}

// An API server clears a deletionTimestamp that an object is created with.
func TestInjectNew(t *testing.T) {
	t.Parallel()
	object := edit(t, "labels: {app: istiod}}", "labels: {app: istiod}, deletionTimestamp: '2026-01-01T00:00:00Z'}")
	if result := injector(t, "").InjectNew(patches.Deployment, object); result.Reason != patches.Injected {
		t.Errorf("created: got %s", result.Reason)
	}
	if result := injector(t, "").Inject(patches.Deployment, object); result.Reason != patches.BeingDeleted {
		t.Errorf("stored: got %s", result.Reason)
	}
}
