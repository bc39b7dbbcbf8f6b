// SPDX-License-Identifier: Apache-2.0

// Package static tests the policies of `kubectl istiod-agent policy --static`, which an API server reads from its own disk.
package static

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/cli/files"
	"github.com/istiod-agent/istiod-agent/cli/policy"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// hostile values of variables, by the variables' names: text that would end a CEL string, start another, or be another
// expression.
var hostile = map[string]string{
	"QUOTES":       `'"` + "`" + `''' """ \' \" \\ \`,
	"EXPRESSION":   `") + string(params.spec.digest) + dyn("`,
	"BREAKS":       "a\nb\r\nc\td\v\f\b\u0085\u2028\u2029\n---\n- x: {{ .Values }}\n",
	"REFERENCE":    "$(POD_NAME) $$(X) ${Y} %s",
	"UNICODE":      "é 中 \U0001f512 \u202e \ufeff \x7f",
	"ESCAPES":      `\n \x41 \u0041 \U0001f512 \101 r"x" b"y"`,
	"VARIABLES":    "variables.parameter params.spec",
	"EMPTY":        "",
	"LONG":         strings.Repeat(`\"`, 4096),
	"NOT_A_NUMBER": "012",
}

func configuration(t *testing.T, target v1alpha1.Target) (file string, engine *patches.Injector) {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "apiVersion: %s\nkind: %s\ntarget: %s\nmultiRootMesh: true\nagent:\n  env:\n", v1alpha1.APIVersion, v1alpha1.Kind, target)
	for _, name := range slices.Sorted(maps.Keys(hostile)) {
		fmt.Fprintf(&text, "  - {name: %s, value: %s}\n", name, strconv.QuoteToASCII(hostile[name])) // whose escapes YAML has too
	}
	for n := len(hostile); n < 200; n++ { // as many as a configuration may have
		fmt.Fprintf(&text, "  - {name: VARIABLE_%d, value: some value of usual length}\n", n)
	}
	file = filepath.Join(t.TempDir(), "injection.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := v1alpha1.Decode([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if engine, err = patches.New(config); err != nil {
		t.Fatal(err)
	}
	return file, engine
}

// written is a new directory with the policies of a configuration.
func written(t *testing.T, args ...string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "istiod-agent")
	write(t, dir, args...)
	return dir
}

// write has the command write the policies of a configuration.
func write(t *testing.T, dir string, args ...string) {
	t.Helper()
	var errs bytes.Buffer
	cmd := policy.Command()
	cmd.SetErr(&errs)
	cmd.SilenceUsage = true
	cmd.SetArgs(append(args, "--static", dir))
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(errs.String()), "\n"); len(lines) != 2 || !strings.Contains(errs.String(), "--admission-control-config-file="+admissionFile(dir)) {
		t.Errorf("the command does not explain in two lines how to go on: %s", errs.String())
	}
}

func admissionFile(dir string) string { return filepath.Join(dir, "admission-control.yaml") }

// reading makes an API server read the policies.
func reading(dir string) func(*envtest.APIServer) {
	return func(server *envtest.APIServer) {
		server.Configure().Set("admission-control-config-file", admissionFile(dir))
	}
}

// lines of a running program.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start an API server that reads the policies, with its log.
func start(t *testing.T, dir string) (*cluster.Cluster, *lines) {
	t.Helper()
	log := &lines{}
	c, err := cluster.Start(reading(dir), func(server *envtest.APIServer) { server.Err = log })
	if err != nil {
		t.Fatal(err, log)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c, log
}

// A cluster administrator removes all that the API has, and still gets no istiod without the agent: the API server injects
// what the engine would inject.
func TestInjection(t *testing.T) {
	for _, target := range []v1alpha1.Target{v1alpha1.TargetDeployments, v1alpha1.TargetPods} {
		t.Run(string(target), func(t *testing.T) {
			file, engine := configuration(t, target)
			dir := written(t, "--config", file)
			c, log := start(t, dir)
			deleteAll(t, c)

			labelled, plain := namespace(t, c, true), namespace(t, c, false)
			inputs, err := istio.Inputs(t.Context(), labelled)
			if err != nil {
				t.Fatal(err)
			}
			for name, input := range inputs {
				object := of(t, target, input)
				if owner, _, _ := unstructured.NestedString(object.Object, append(podPath(target), "serviceAccountName")...); owner != "" {
					account(t, c, labelled, owner)
					account(t, c, plain, owner)
				}
				before, err := admitted(t, c, plain, object)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				want, err := admitted(t, c, plain, injected(t, engine, before))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				got, err := admitted(t, c, labelled, before)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				} else if !reflect.DeepEqual(got, want) {
					t.Errorf("%s (-engine +stored)\n%s", name, cmp.Diff(want.Object, got.Object))
				}
				again, err := admitted(t, c, labelled, got)
				if err != nil || !reflect.DeepEqual(again, got) {
					t.Errorf("%s, admitted again: %v\n%s", name, err, cmp.Diff(got.Object, again.Object))
				}
			}

			object := of(t, target, inputs["chart: default"])
			object.SetNamespace(labelled)
			if err := c.Create(t.Context(), object); err != nil {
				t.Fatal(err)
			}
			checkEnv(t, target, object)
			if err := c.Delete(t.Context(), object, client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
			t.Run("strippers", func(t *testing.T) { checkStrippers(t, c, target, labelled, plain) })
			if target == v1alpha1.TargetPods {
				t.Run("controllers", func(t *testing.T) { checkControllers(t, c, labelled) })
				t.Run("reload", func(t *testing.T) {
					checkReload(t, c, log, dir, file, of(t, target, inputs["chart: default"]), labelled)
				})
			}
		})
	}
}

// checkEnv requires that the agent of a stored istiod has the hostile values, byte for byte.
func checkEnv(t *testing.T, target v1alpha1.Target, object *unstructured.Unstructured) {
	t.Helper()
	containers, _, err := unstructured.NestedSlice(object.Object, append(podPath(target), "containers")...)
	if err != nil {
		t.Fatal(err)
	}
	agent := containers[len(containers)-1].(map[string]any)
	found := map[string]string{}
	for _, variable := range agent["env"].([]any) {
		variable := variable.(map[string]any)
		value, _ := variable["value"].(string)
		found[variable["name"].(string)] = value
	}
	for name, value := range hostile {
		if got, exists := found[name]; !exists || got != value {
			t.Errorf("%s: got %q, want %q", name, got, value)
		}
	}
}

// agents are the images of the agent's containers in a stored istiod.
func agents(t *testing.T, target v1alpha1.Target, object *unstructured.Unstructured) (images []string) {
	t.Helper()
	for _, list := range []string{"initContainers", "containers"} {
		containers, _, err := unstructured.NestedSlice(object.Object, append(podPath(target), list)...)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range containers {
			if c := c.(map[string]any); c["name"] == "istiod-agent" || c["name"] == "istiod-agent-init" {
				images = append(images, c["image"].(string))
			}
		}
	}
	return images
}

// checkStrippers requires that a policy of the administrator's that takes the agent out again gives no istiod without it.
func checkStrippers(t *testing.T, c *cluster.Cluster, target v1alpha1.Target, labelled, plain string) {
	pod := "/" + strings.Join(podPath(target), "/")
	resource := admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}}
	if target == v1alpha1.TargetPods {
		resource = admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}
	}
	for _, reinvocation := range []admissionv1.ReinvocationPolicyType{admissionv1.NeverReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy} {
		name := "strip-" + strings.ToLower(string(reinvocation))
		stripper := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.MutatingAdmissionPolicySpec{
			FailurePolicy: new(admissionv1.Fail), ReinvocationPolicy: reinvocation,
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: resource,
			}}}},
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{
				Expression: "[JSONPatch{op: 'add', path: '/metadata/labels/stripped', value: '" + name + "'}, JSONPatch{op: 'add', path: '" + pod + "/initContainers', value: []}]",
			}}},
		}}
		binding := &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name}}
		for _, o := range []client.Object{stripper, binding} {
			if err := c.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		object := of(t, target, cluster.Istiod(t, labelled))
		cluster.Eventually(t, "the administrator's policy is in force", func() error {
			got, err := admitted(t, c, plain, object)
			if err == nil && got.GetLabels()["stripped"] != name {
				err = fmt.Errorf("labels %v", got.GetLabels())
			}
			return err
		})
		got, err := admitted(t, c, labelled, object)
		switch {
		case err == nil && len(agents(t, target, got)) != 2:
			t.Errorf("%s: stored without the agent", name)
		case err != nil && !strings.Contains(err.Error(), "-guard.static.k8s.io"):
			t.Errorf("%s: not refused by the guard: %v", name, err)
		}
		for _, o := range []client.Object{binding, stripper} {
			if err := c.Delete(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		cluster.Eventually(t, "the administrator's policy is gone", func() error {
			got, err := admitted(t, c, plain, object)
			if err == nil && got.GetLabels()["stripped"] != "" {
				err = errors.New("it is in force")
			}
			return err
		})
	}
}

// checkControllers requires the agent in a Pod of a ReplicaSet's, whoever creates it.
func checkControllers(t *testing.T, c *cluster.Cluster, labelled string) {
	config := rest.CopyConfig(c.Plane.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:kube-system:replicaset-controller", Groups: []string{"system:masters"}}
	controller, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	pod := of(t, v1alpha1.TargetPods, cluster.Istiod(t, labelled))
	pod.SetNamespace(labelled)
	pod.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "istiod", UID: "a-uid", Controller: new(true)}})
	if err := controller.Create(t.Context(), pod, client.DryRunAll); err != nil || len(agents(t, v1alpha1.TargetPods, pod)) != 2 {
		t.Errorf("stored without the agent, or refused: %v", err)
	}
	pod = of(t, v1alpha1.TargetPods, cluster.Istiod(t, labelled))
	pod.SetNamespace(labelled)
	labels := pod.GetLabels()
	delete(labels, "app")
	pod.SetLabels(labels)
	if err := controller.Create(t.Context(), pod, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "-guard.static.k8s.io") {
		t.Errorf("an istiod that the injection does not match is not refused: %v", err)
	}
}

// reloaded is longer than an API server takes to see a changed file: it reads them every minute at least.
const reloaded = 2 * time.Minute

// checkReload requires that a running API server takes new files, and keeps what it has where a file is no manifest.
func checkReload(t *testing.T, c *cluster.Cluster, log *lines, dir, file string, pod *unstructured.Unstructured, labelled string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "injection.yaml")
	if err := os.WriteFile(other, append(text, "  image: registry.example/other:2\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "--config", other)
	wantOther := func() error {
		got, err := admitted(t, c, labelled, pod)
		if err == nil && !slices.Equal(agents(t, v1alpha1.TargetPods, got), []string{"registry.example/other:2", "registry.example/other:2"}) {
			err = fmt.Errorf("images %q", agents(t, v1alpha1.TargetPods, got))
		}
		return err
	}
	cluster.Within(t, reloaded, "the new files are in force", wantOther)

	plugins := []string{"Mutating", "Validating"}
	for _, plugin := range plugins {
		path := filepath.Join(dir, strings.ToLower(plugin), "istiod-agent.json")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := files.Replace(path, text[:len(text)/2]); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Within(t, reloaded, "the API server has read half of each file", func() error {
		for _, plugin := range plugins {
			failed := regexp.MustCompile(`"reloading manifest config" err=.* plugin="` + plugin + `AdmissionPolicy"`)
			if !failed.MatchString(log.String()) {
				return fmt.Errorf("its log has no %s", failed)
			}
		}
		return nil
	})
	if err := wantOther(); err != nil {
		t.Errorf("with half of a file: %v", err)
	}
	pod = pod.DeepCopy()
	labels := pod.GetLabels()
	labels["app"] = "pilot" // which the injection does not match
	pod.SetLabels(labels)
	if _, err := admitted(t, c, labelled, pod); err == nil || !strings.Contains(err.Error(), "-guard.static.k8s.io") {
		t.Errorf("with half of a file, the guard does not refuse: %v", err)
	}
}

// With the validating plugin alone, the guard refuses what nothing has injected, in its words, and admits what another has injected.
func TestGuardAlone(t *testing.T) {
	for target, kind := range map[v1alpha1.Target]string{v1alpha1.TargetDeployments: "this Deployment", v1alpha1.TargetPods: "this Pod"} {
		t.Run(string(target), func(t *testing.T) {
			file, engine := configuration(t, target)
			dir := written(t, "--config", file, "--name", "mesh-ca")
			withoutInjection(t, dir)
			c, _ := start(t, dir)
			deleteAll(t, c)

			labelled, plain := namespace(t, c, true), namespace(t, c, false)
			object := of(t, target, cluster.Istiod(t, labelled))
			_, err := admitted(t, c, labelled, object)
			for _, part := range []string{
				"ValidatingAdmissionPolicy 'mesh-ca-guard.static.k8s.io'", "istiod would read its CA from volume cacerts, which is not an in-memory emptyDir. Nothing has injected it: ",
				"MutatingAdmissionPolicy mesh-ca.static.k8s.io", "to exclude " + kind,
			} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("the refusal lacks %q: %v", part, err)
				}
			}
			before, err := admitted(t, c, plain, object)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := admitted(t, c, labelled, injected(t, engine, before)); err != nil {
				t.Errorf("an injected istiod: %v", err)
			}
		})
	}
}

// withoutInjection removes the mutating plugin from the file that the API server's flag names.
func withoutInjection(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(admissionFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	file["plugins"] = slices.DeleteFunc(file["plugins"].([]any), func(p any) bool { return p.(map[string]any)["name"] == "MutatingAdmissionPolicy" })
	if text, err = yaml.Marshal(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(admissionFile(dir), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// An API server does not start with policies that it does not take: a mistake is never a cluster without the guard.
func TestWrongManifests(t *testing.T) {
	for name, test := range map[string]struct {
		file, from, to, want string
	}{
		"a name without the suffix": {"validating", `"name": "istiod-agent-guard.static.k8s.io"`, `"name": "istiod-agent-guard"`, "must have a name ending with"},
		"a parameter":               {"mutating", `"failurePolicy": "Fail",`, `"failurePolicy": "Fail", "paramKind": {"apiVersion": "istiod-agent.io/v1alpha1", "kind": "Injection"},`, "spec.paramKind is not supported for static manifests"},
		"half of a file":            {"validating", `"messageExpression"`, "", "error loading"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t)
			path := filepath.Join(dir, test.file, "istiod-agent.json")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			before, after, found := strings.Cut(string(text), test.from)
			if !found {
				t.Fatalf("%s has no %s", path, test.from)
			}
			if test.to == "" {
				after = ""
			}
			if err := os.WriteFile(path, []byte(before+test.to+after), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := cluster.Start(reading(dir))
			if err == nil {
				t.Fatal("the API server starts", c.Stop())
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the API server does not start, without %q: %v", test.want, err)
			}
		})
	}
}

// lists of all that changes or refuses objects.
func lists() []client.ObjectList {
	return []client.ObjectList{
		&admissionv1.MutatingAdmissionPolicyList{}, &admissionv1.MutatingAdmissionPolicyBindingList{}, &admissionv1.ValidatingAdmissionPolicyList{},
		&admissionv1.ValidatingAdmissionPolicyBindingList{}, &admissionv1.MutatingWebhookConfigurationList{}, &admissionv1.ValidatingWebhookConfigurationList{},
	}
}

// deleteAll stores policies of the API's own, shows that the API has no static ones and takes none, and deletes all.
func deleteAll(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	rules := []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{APIGroups: []string{"example.com"}, APIVersions: []string{"v1"}, Resources: []string{"widgets"}},
	}}}
	meta := metav1.ObjectMeta{Name: "istiod-agent"}
	objects := []client.Object{
		&admissionv1.ValidatingAdmissionPolicy{ObjectMeta: meta, Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: rules}, Validations: []admissionv1.Validation{{Expression: "true"}},
		}},
		&admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: meta, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: meta.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		}},
		&admissionv1.MutatingAdmissionPolicy{ObjectMeta: meta, Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: rules}, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: "[JSONPatch{op: 'remove', path: '/spec'}]"}}},
		}},
		&admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: meta, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: meta.Name}},
		&admissionv1.MutatingWebhookConfiguration{ObjectMeta: meta},
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: meta},
	}
	for _, o := range objects {
		static := o.DeepCopyObject().(client.Object)
		static.SetName("istiod-agent.static.k8s.io")
		if err := c.Create(t.Context(), static); !apierrors.IsInvalid(err) {
			t.Errorf("%T with a static name: %v", o, err)
		}
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for i, list := range lists() {
		wantNames(t, c, list, "istiod-agent")
		if err := c.DeleteAllOf(t.Context(), deletable(objects)[i]); err != nil {
			t.Fatal(err)
		}
		wantNames(t, c, list)
	}
}

// deletable are the objects in the order of lists.
func deletable(objects []client.Object) []client.Object {
	return []client.Object{objects[2], objects[3], objects[0], objects[1], objects[4], objects[5]}
}

func wantNames(t *testing.T, c *cluster.Cluster, list client.ObjectList, want ...string) {
	t.Helper()
	if err := c.List(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	var found struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := json.Unmarshal(raw, &found); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, item := range found.Items {
		names = append(names, item.Metadata.Name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("%T: %v, want %v", list, names, want)
	}
}

// namespace with the service accounts that istiods name.
func namespace(t *testing.T, c *cluster.Cluster, labelled bool) string {
	t.Helper()
	name := c.Namespace(t, labelled)
	account(t, c, name, "default")
	account(t, c, name, "istiod")
	return name
}

// account is a service account, without which the API server takes no Pod.
func account(t *testing.T, c *cluster.Cluster, namespace, name string) {
	t.Helper()
	object := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := c.Create(t.Context(), object); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

func podPath(target v1alpha1.Target) []string {
	if target == v1alpha1.TargetPods {
		return []string{"spec"}
	}
	return []string{"spec", "template", "spec"}
}

// of is a Deployment, or a Pod of its template.
func of(t *testing.T, target v1alpha1.Target, deployment *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	if target == v1alpha1.TargetDeployments {
		return deployment.DeepCopy()
	}
	pod, _, err := unstructured.NestedMap(deployment.Object, "spec", "template")
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: pod}
	u.SetAPIVersion("v1")
	u.SetKind("Pod")
	u.SetName("istiod-1")
	labels := u.GetLabels()
	labels["app"] = "istiod"
	u.SetLabels(labels)
	return u
}

// admitted is an object as the API server would store it in a namespace, without what it alone sets.
func admitted(t *testing.T, c *cluster.Cluster, namespace string, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	t.Helper()
	if object == nil {
		return nil, errors.New("no object")
	}
	u := object.DeepCopy()
	u.SetNamespace(namespace)
	if err := c.Create(t.Context(), u, client.DryRunAll); err != nil {
		return nil, err
	}
	meta := u.Object["metadata"].(map[string]any)
	for _, field := range []string{"uid", "creationTimestamp", "managedFields", "generation", "resourceVersion", "namespace"} {
		delete(meta, field)
	}
	delete(u.Object, "status")
	// The API server names the volume of a Pod's token at random.
	raw, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	volumes, _, _ := unstructured.NestedSlice(u.Object, "spec", "volumes")
	for _, v := range volumes {
		if name, _ := v.(map[string]any)["name"].(string); strings.HasPrefix(name, "kube-api-access-") {
			raw = bytes.ReplaceAll(raw, []byte(name), []byte("kube-api-access-x"))
		}
	}
	return u, u.UnmarshalJSON(raw)
}

// injected is an object as the engine injects it.
func injected(t *testing.T, engine *patches.Injector, object *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	raw, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	result := engine.InjectNew(engine.Target(), raw)
	operations, err := json.Marshal(result.Operations)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(operations)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = patch.Apply(raw); err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}
