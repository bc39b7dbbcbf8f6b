// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// Without the parameter istiod cannot change; what is injected already stays as it is.
func TestWithoutParameter(t *testing.T) {
	s := startServer(t)
	const namespace = "by-default"
	s.optedIn(t, namespace)
	p := s.install(t, namespace, v1alpha1.Default(), namespace)
	inputs, err := istio.Inputs(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	istiod := copied(inputs["chart: default"].Object)
	s.inForce(t, namespace, patches.Deployment, istiod)

	// Stored once, admitted again: the generation stays.
	u := &unstructured.Unstructured{Object: copied(istiod)}
	u.SetNamespace(namespace)
	s.mustCreate(t, u)
	u.SetLabels(map[string]string{"app": "istiod", "changed": "true"})
	if err := s.Update(t.Context(), u); err != nil || u.GetGeneration() != 1 {
		t.Errorf("generation %d after an update of a label: %v", u.GetGeneration(), err)
	}
	// A container that somebody removes is there again.
	_, spec := podOf(u.Object)
	spec["containers"] = without(spec["containers"], "istiod-agent")
	if err := s.Update(t.Context(), u); err != nil || u.GetGeneration() != 1 {
		t.Errorf("generation %d after the removal of a container: %v", u.GetGeneration(), err)
	}
	// An opt-out takes all of it out.
	u.SetAnnotations(map[string]string{"istiod-agent.io/inject": "false"})
	if err := s.Update(t.Context(), u); err != nil {
		t.Error(err)
	}
	if _, spec := podOf(u.Object); len(agentsIn(spec)) > 0 || named(spec["volumes"], "cacerts")["secret"] == nil {
		t.Errorf("after an opt-out: %v", spec)
	}
	if err := s.Delete(t.Context(), u); err != nil {
		t.Fatal(err)
	}

	if err := s.Delete(t.Context(), p.Parameter.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "istiod is refused without the parameter", func() error {
		if got := s.create(t.Context(), namespace, istiod); got.err == nil || !strings.Contains(got.err.Error(), "no params found") {
			return fmt.Errorf("got %w", got.err)
		}
		return nil
	})
	s.mustCreate(t, p.Parameter.DeepCopy())
	s.inForce(t, namespace, patches.Deployment, istiod)
}

// at is the member of an object at a path whose steps are keys and indices.
func at(o any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			o = o.(object)[step]
		case int:
			o = o.(items)[step]
		}
	}
	return o
}

// put sets a member.
func put(value any, path ...any) func(spec object) {
	return func(spec object) {
		switch parent := at(spec, path[:len(path)-1]...); last := path[len(path)-1].(type) {
		case string:
			parent.(object)[last] = value
		case int:
			parent.(items)[last] = value
		}
	}
}

func drop(path ...any) func(spec object) {
	return func(spec object) { delete(at(spec, path[:len(path)-1]...).(object), path[len(path)-1].(string)) }
}

// extra adds variables to a container.
func extra(container string, variables ...any) func(spec object) {
	return func(spec object) { appended(spec[container].(object), "env", variables...) }
}

// in both containers.
func both(value any, path ...any) func(spec object) {
	return func(spec object) {
		for _, container := range []string{"initContainer", "container"} {
			put(value, append([]any{container}, path...)...)(spec)
		}
	}
}

func variables(count, length int) []any {
	var all []any
	for n := range count {
		all = append(all, object{"name": fmt.Sprint("V", n), "value": strings.Repeat("x", length)})
	}
	return all
}

// refused are parameters that the schema refuses, by what is wrong, with the field that the answer names.
var refused = map[string]struct {
	edit   func(spec object)
	field  string
	native bool
}{
	"nothing":                  {edit: func(spec object) { clear(spec) }, field: "spec.digest"},
	"a digest of another form": {edit: put("x", "digest"), field: "spec.digest"},
	"text for a flag":          {edit: put("true", "annotate"), field: "spec.annotate"},
	"no init container":        {edit: drop("initContainer"), field: "spec.initContainer"},
	"no container":             {edit: drop("container"), field: "spec.container"},
	"no volume":                {edit: drop("volume"), field: "spec.volume"},
	"a container beside the native sidecar": {native: true, edit: func(spec object) {
		spec["container"] = copied(spec["initContainer"].(object))
		delete(spec["container"].(object), "restartPolicy")
		delete(spec["container"].(object), "startupProbe")
	}, field: "spec.container"},
	"a native sidecar that runs once":  {native: true, edit: drop("initContainer", "restartPolicy"), field: "spec.initContainer.restartPolicy"},
	"a native sidecar without a probe": {native: true, edit: drop("initContainer", "startupProbe"), field: "spec.initContainer.startupProbe"},
	"an init container that goes on": {edit: func(spec object) {
		put("Always", "initContainer", "restartPolicy")(spec)
	}, field: "spec.initContainer"},
	"a container that restarts by a policy of its own": {edit: put("Always", "container", "restartPolicy"), field: "spec.container"},

	"another name":                {edit: put("other", "container", "name"), field: "spec.container.name"},
	"the other name":              {edit: put("istiod-agent-init", "container", "name"), field: "spec.container"},
	"no image":                    {edit: drop("initContainer", "image"), field: "spec.initContainer.image"},
	"an empty image":              {edit: both("", "image"), field: "spec.container.image"},
	"an image with blanks":        {edit: both("a b", "image"), field: "spec.container.image"},
	"an image with a line break":  {edit: both("a\nb", "image"), field: "spec.container.image"},
	"an image with an odd digest": {edit: both("a@sha256:0", "image"), field: "spec.container.image"},
	"an image of a megabyte":      {edit: both("a/"+strings.Repeat("x", 400_000), "image"), field: "spec.container.image"},
	"a number for an image":       {edit: both(int64(1), "image"), field: "spec.container.image"},
	"two images":                  {edit: put("example.com/other:1", "container", "image"), field: "spec.container.image"},
	"an odd pull policy":          {edit: put("Sometimes", "container", "imagePullPolicy"), field: "spec.container.imagePullPolicy"},

	"a shell for a subcommand": {edit: put(items{"sh"}, "container", "args"), field: "spec.container.args"},
	"the other subcommand":     {edit: put(items{"init-container"}, "container", "args"), field: "spec.container.args"},
	"two subcommands":          {edit: put(items{"sidecar", "--ca-dir=/tmp"}, "container", "args"), field: "spec.container.args"},
	"no subcommand":            {edit: put(items{}, "container", "args"), field: "spec.container.args"},

	"text for variables":      {edit: put("x", "container", "env"), field: "spec.container.env"},
	"no variables":            {edit: put(items{}, "initContainer", "env"), field: "spec.initContainer.env"},
	"another Pod's name":      {edit: put(object{"name": "POD_NAME", "value": "other"}, "container", "env", 1), field: "spec.container.env"},
	"another service account": {edit: put("metadata.name", "container", "env", 3, "valueFrom", "fieldRef", "fieldPath"), field: "spec.container.env"},
	"variables in another order": {edit: func(spec object) {
		env := at(spec, "container", "env").(items)
		env[0], env[1] = env[1], env[0]
	}, field: "spec.container.env"},
	"a variable twice":                {edit: extra("container", object{"name": "A"}, object{"name": "A"}), field: "spec.container.env"},
	"a variable of the agent's twice": {edit: extra("container", object{"name": "POD_NAME", "value": "x"}), field: "spec.container.env"},
	"a variable without a name":       {edit: extra("container", object{"name": ""}), field: "spec.container.env[4].name"},
	"a variable with an odd name":     {edit: extra("container", object{"name": "A=B"}), field: "spec.container.env[4].name"},
	"a variable with a number":        {edit: extra("container", object{"name": "A", "value": int64(1)}), field: "spec.container.env[4].value"},
	"a value and a source":            {edit: extra("container", object{"name": "A", "value": "x", "valueFrom": object{"secretKeyRef": object{"name": "a", "key": "b"}}}), field: "spec.container.env[4]"},
	"no source":                       {edit: extra("container", object{"name": "A", "valueFrom": object{}}), field: "spec.container.env[4].valueFrom"},
	"two sources":                     {edit: extra("container", object{"name": "A", "valueFrom": object{"secretKeyRef": object{"name": "a", "key": "b"}, "fieldRef": object{"fieldPath": "x"}}}), field: "spec.container.env[4].valueFrom"},
	"257 variables":                   {edit: extra("container", variables(253, 1)...), field: "spec.container.env"},
	"100,000 variables":               {edit: extra("container", variables(50_000, 1)...), field: "spec.container.env"},
	"a value that no process takes":   {edit: extra("container", variables(1, 131073)...), field: "spec.container.env[4].value"},

	"the CA elsewhere": {edit: put("/tmp", "container", "volumeMounts", 0, "mountPath"), field: "spec.container.volumeMounts[0].mountPath"},
	"the CA above":     {edit: put("/etc", "initContainer", "volumeMounts", 0, "mountPath"), field: "spec.initContainer.volumeMounts[0].mountPath"},
	"the CA read only": {edit: put(true, "container", "volumeMounts", 0, "readOnly"), field: "spec.container.volumeMounts[0].readOnly"},
	"no mounts":        {edit: put(items{}, "container", "volumeMounts"), field: "spec.container.volumeMounts"},
	"a mount of something else": {edit: func(spec object) {
		appended(spec["container"].(object), "volumeMounts", object{"name": "local-certs", "mountPath": "/x"})
	}, field: "spec.container.volumeMounts"},
	"the token elsewhere": {edit: put("/etc/cacerts/x", "container", "volumeMounts", 1, "mountPath"), field: "spec.container.volumeMounts[1].mountPath"},
	"no token in one container": {edit: func(spec object) {
		mounts := at(spec, "container", "volumeMounts").(items)
		spec["container"].(object)["volumeMounts"] = mounts[:1]
	}, field: "spec.initContainer.volumeMounts"},
	"no volume for the token": {edit: drop("tokenVolume"), field: "spec.initContainer.volumeMounts"},
	"no mount of the token":   {edit: both(items{object{"name": "cacerts", "mountPath": "/etc/cacerts"}}, "volumeMounts"), field: "spec.initContainer.volumeMounts"},

	"another volume":           {edit: put("other", "volume", "name"), field: "spec.volume.name"},
	"a volume on disk":         {edit: put("", "volume", "emptyDir", "medium"), field: "spec.volume.emptyDir.medium"},
	"an odd size":              {edit: put("much", "volume", "emptyDir", "sizeLimit"), field: "spec.volume.emptyDir.sizeLimit"},
	"a negative size":          {edit: put(int64(-1), "volume", "emptyDir", "sizeLimit"), field: "spec.volume.emptyDir.sizeLimit"},
	"a Secret for a volume":    {edit: put(object{"secretName": "cacerts"}, "volume", "emptyDir"), field: "spec.volume.emptyDir.medium"},
	"another audience's token": {edit: put("", "tokenVolume", "projected", "sources", 0, "serviceAccountToken", "audience"), field: "spec.tokenVolume.projected.sources[0].serviceAccountToken.audience"},
	"a token of a second":      {edit: put(int64(1), "tokenVolume", "projected", "sources", 0, "serviceAccountToken", "expirationSeconds"), field: "spec.tokenVolume.projected.sources[0].serviceAccountToken.expirationSeconds"},
	"a Secret for the token":   {edit: put(items{object{"secret": object{"name": "a"}}}, "tokenVolume", "projected", "sources"), field: "spec.tokenVolume.projected.sources[0].serviceAccountToken"},
	"no token":                 {edit: put(items{}, "tokenVolume", "projected", "sources"), field: "spec.tokenVolume.projected.sources"},

	"a request that is no quantity": {edit: put("much", "container", "resources", "requests", "cpu"), field: "spec.container.resources.requests"},
	"a negative request":            {edit: put("-1", "container", "resources", "requests", "cpu"), field: "spec.container.resources.requests"},
	"a negative number":             {edit: put(int64(-1), "container", "resources", "requests", "cpu"), field: "spec.container.resources.requests"},
	"a request of an odd resource":  {edit: put("1", "container", "resources", "requests", "a b"), field: "spec.container.resources.requests"},
	"17 requests": {edit: func(spec object) {
		requests := at(spec, "container", "resources", "requests").(object)
		for n := range 17 {
			requests[fmt.Sprint("example.com/r", n)] = "1"
		}
	}, field: "spec.container.resources.requests"},
	"text for a security context": {edit: put("x", "container", "securityContext"), field: "spec.container.securityContext"},

	"a probe of port 0":       {native: true, edit: put(int64(0), "initContainer", "startupProbe", "httpGet", "port"), field: "spec.initContainer.startupProbe.httpGet.port"},
	"a probe of port -1":      {native: true, edit: put(int64(-1), "initContainer", "startupProbe", "httpGet", "port"), field: "spec.initContainer.startupProbe.httpGet.port"},
	"a probe of istiod":       {native: true, edit: put(int64(8080), "initContainer", "startupProbe", "httpGet", "port"), field: "spec.initContainer.startupProbe.httpGet.port"},
	"a probe of another path": {native: true, edit: put("/healthz", "initContainer", "startupProbe", "httpGet", "path"), field: "spec.initContainer.startupProbe.httpGet.path"},
	"a probe by a command":    {native: true, edit: put(object{"exec": object{"command": items{"true"}}}, "initContainer", "startupProbe"), field: "spec.initContainer.startupProbe.httpGet"},
	"a probe without a pause": {native: true, edit: put(int64(0), "initContainer", "startupProbe", "periodSeconds"), field: "spec.initContainer.startupProbe.periodSeconds"},
	"a probe that gives up":   {native: true, edit: put(int64(1), "initContainer", "startupProbe", "failureThreshold"), field: "spec.initContainer.startupProbe.failureThreshold"},
}

// passed are parameters that the schema cannot refuse, or takes without what it does not know. istiod's change is refused
// with the name of the field in istiod, or it is stored as if the unknown was not there.
var passed = map[string]struct {
	edit  func(spec object)
	field string // in istiod's Deployment; "" where it is stored
}{
	"as rendered":                     {edit: func(object) {}},
	"another agent":                   {edit: both("example.com/other:1", "image")},
	"a command":                       {edit: both(items{"sh", "-c", "true"}, "command")},
	"variables from a Secret":         {edit: both(items{object{"secretRef": object{"name": "a"}}}, "envFrom")},
	"a preStop hook":                  {edit: both(object{"preStop": object{"exec": object{"command": items{"sh"}}}}, "lifecycle")},
	"a liveness probe":                {edit: both(object{"exec": object{"command": items{"sh"}}}, "livenessProbe")},
	"devices":                         {edit: both(items{object{"name": "a", "devicePath": "/dev/a"}}, "volumeDevices")},
	"a mount of a part":               {edit: both("x", "volumeMounts", 0, "subPath")},
	"a propagated mount":              {edit: both("Bidirectional", "volumeMounts", 0, "mountPropagation")},
	"a Secret beside the volume":      {edit: put(object{"secretName": "cacerts"}, "volume", "secret")},
	"a host's path beside the volume": {edit: put(object{"path": "/"}, "volume", "hostPath")},
	"a second source of the token":    {edit: put(object{"name": "a"}, "tokenVolume", "projected", "sources", 0, "secret")},
	"claims of resources":             {edit: both(items{object{"name": "a"}}, "resources", "claims")},
	"fields of the Pod":               {edit: put(true, "hostNetwork")},
	"256 variables of a kilobyte":     {edit: extra("container", variables(252, 1024)...)},

	"an unknown field of a security context": {edit: both(true, "securityContext", "bogus"), field: "bogus"},
	"a user that is no number":               {edit: both("root", "securityContext", "runAsUser"), field: "runAsUser"},
	"a negative user":                        {edit: both(int64(-1), "securityContext", "runAsUser"), field: "spec.template.spec.containers[1].securityContext.runAsUser"},
	"odd capabilities":                       {edit: both("ALL", "securityContext", "capabilities"), field: "capabilities"},
	"privileged without escalation": {edit: func(spec object) {
		both(object{"privileged": true, "allowPrivilegeEscalation": false}, "securityContext")(spec)
	}, field: "spec.template.spec.containers[1].securityContext"},
	"a field that no Pod has":    {edit: extra("container", object{"name": "A", "valueFrom": object{"fieldRef": object{"fieldPath": "spec.bogus"}}}), field: "spec.template.spec.containers[1].env[4].valueFrom.fieldRef.fieldPath"},
	"a Secret with an odd name":  {edit: extra("container", object{"name": "A", "valueFrom": object{"secretKeyRef": object{"name": "_", "key": "b"}}}), field: "spec.template.spec.containers[1].env[4].valueFrom.secretKeyRef.name"},
	"a request above its limit":  {edit: both(object{"requests": object{"cpu": "2"}, "limits": object{"cpu": "1"}}, "resources"), field: "spec.template.spec.containers[1].resources.requests"},
	"a request that no node has": {edit: both(object{"requests": object{"bogus": "2"}}, "resources"), field: "spec.template.spec.containers[1].resources.requests[bogus]"},
}

// A parameter that somebody has edited into nonsense is refused by its schema, with the field. Where it passes, no istiod is
// stored that runs another command, has the CA elsewhere or lacks its token: its change is refused with the field.
func TestEditedParameter(t *testing.T) {
	s := startServer(t)
	inputs, _ := inputs(t)
	const namespace, native = "by-edited", "by-native"
	parameters := map[bool]*unstructured.Unstructured{}
	for name, text := range map[string]string{namespace: "", native: "sidecar: native\n"} {
		s.optedIn(t, name)
		p := s.install(t, name, decoded(t, text+"agent: {image: '"+ownImage+"', vaultToken: {audience: vault, expirationSeconds: 600}}"), name)
		parameters[name == native] = p.Parameter
		s.inForce(t, name, patches.Deployment, inputs[chart])
	}
	for name, test := range refused {
		edited := parameters[test.native].DeepCopy()
		test.edit(edited.Object["spec"].(object))
		edited.SetName("edited")
		if err := s.Create(t.Context(), edited, client.DryRunAll); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s: want a refusal of %s, got %v", name, test.field, err)
		}
	}

	large := parameters[false].DeepCopy()
	extra("container", variables(12, 131072)...)(large.Object["spec"].(object))
	large.SetName("large")
	if err := s.Create(t.Context(), large); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("a parameter of one and a half megabytes: %v", err)
	}

	rendered := s.create(t.Context(), namespace, inputs[chart])
	for name, test := range passed {
		edited := parameters[false].DeepCopy()
		test.edit(edited.Object["spec"].(object))
		mark := fmt.Sprintf("%016x", len(name)<<32|int(name[0])<<16|int(name[len(name)-1])) // by which the parameter's arrival shows
		edited.Object["spec"].(object)["digest"] = mark
		s.replace(t, edited)
		var got admitted
		eventually(t, name+" has arrived", func() error {
			got = s.create(t.Context(), namespace, inputs[chart])
			if test.field != "" {
				if got.err == nil || !strings.Contains(got.err.Error(), test.field) {
					return fmt.Errorf("want a refusal of %s, got %w", test.field, got.err)
				}
				return nil
			}
			if got.err != nil {
				return got.err
			}
			template, _ := podOf(got.object)
			if digest := at(template, "metadata", "annotations", patches.InjectedAnnotation); digest != mark {
				return fmt.Errorf("digest %v", digest)
			}
			return nil
		})
		if test.field != "" {
			continue
		}
		if difference := unlike(rendered.object, got.object); difference != "" {
			t.Errorf("%s: %s", name, difference)
		}
	}
}

// free are the fields of the agent's containers that the parameter's author decides.
var free = []string{"image", "imagePullPolicy", "env", "resources", "securityContext"}

// unlike compares two injected istiods, but for those fields.
func unlike(rendered, got object) string {
	pinned := func(o object) object {
		o = copied(o)
		template, spec := podOf(o)
		delete(at(template, "metadata", "annotations").(object), patches.InjectedAnnotation)
		for _, c := range agentsIn(spec) {
			for _, field := range free {
				delete(c, field)
			}
		}
		return o
	}
	return gocmp.Diff(pinned(rendered), pinned(got))
}

// replace the stored parameter.
func (s *server) replace(t *testing.T, parameter *unstructured.Unstructured) {
	t.Helper()
	stored := parameter.DeepCopy()
	if err := s.Get(t.Context(), client.ObjectKeyFromObject(parameter), stored); err != nil {
		t.Fatal(err)
	}
	parameter.SetResourceVersion(stored.GetResourceVersion())
	if err := s.Update(t.Context(), parameter); err != nil {
		t.Fatal(err)
	}
}
