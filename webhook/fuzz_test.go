// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/util/diff"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// FuzzServed sends anything as a body: there is always an admission review in
// return. Then it sends anything that is JSON as an istiod, with fields that
// nobody knows put in at random: the patch applies, every field that the
// injection does not name is still there, and a second time nothing changes.
func FuzzServed(f *testing.F) {
	_, review := reviewOf(patches.Deployment, deployment)
	whole := marshal(f, review)
	for i, object := range []string{
		deployment, optedOut, noBuiltInCA, elsewhere, notIstiod, deleted, strangeFlag,
		`{"metadata":{"labels":null},"spec":{"replicas":1,"template":{"metadata":{"annotations":{"istiod-agent.io/injected":"x","a":"b"}},"spec":{"initContainers":[{"name":"istiod-agent"}],"volumes":[{"name":"x"},{"name":"ca","secret":{},"emptyDir":{}}],"containers":[{"name":"istiod-agent-init"},{"name":"pilot","securityContext":{"runAsUser":1},"volumeMounts":[{"name":"ca","mountPath":"/etc//cacerts"}],"env":[]},{"name":"discovery"}]}}}}`,
		`{"spec":{"template":{"metadata":null,"spec":{"initContainers":[],"volumes":null,"containers":[{"name":"\u0064iscovery","volumeMounts":[]}]}}}}`,
	} {
		f.Add(whole[:len(whole)*i/8], []byte(object), uint64(i))
	}
	served := map[string]http.Handler{
		"default": handler(f, "", logr.Discard()),
		"native":  handler(f, "sidecar: native\nannotate: false\ncacerts: {sizeLimit: '0'}", logr.Discard()),
	}
	f.Fuzz(func(t *testing.T, body, object []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		for name, h := range served {
			ask(t, h, body)
			if object := withUnknownFields(object, random); object != nil {
				t.Log(name, string(object))
				wantOnlyTheInjection(t, h, object)
			}
		}
	})
}

func ask(t *testing.T, h http.Handler, body []byte) *admissionv1.AdmissionResponse {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, webhook.DeploymentPath, bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, request)
	response := decodeReview(t, answer.Code, answer.Body.Bytes()).Response
	if response.Result == nil || strings.Contains(response.Result.Message, "panic") {
		t.Fatalf("panicked: %+v", response)
	}
	return response
}

func wantOnlyTheInjection(t *testing.T, h http.Handler, object []byte) {
	t.Helper()
	_, review := reviewOf(patches.Deployment, string(object))
	answer := ask(t, h, marshal(t, review))
	if len(answer.Patch) == 0 {
		return
	}
	after := patched(t, object, answer.Patch)
	if before, after := withoutInjection(t, object, after); !reflect.DeepEqual(before, after) {
		t.Errorf("more changed than the injection (-before +after):\n%s", diff.Diff(before, after))
	}
	review.Request.Object.Raw = after
	if again := ask(t, h, marshal(t, review)); len(again.Patch) > 0 || !again.Allowed {
		t.Errorf("fed back: allowed=%t with %s\n%s", again.Allowed, again.Patch, after)
	}
}

// withUnknownFields puts fields into objects of the JSON text, however deep; nil
// when it is none, or what no API server sends: lists that hold a name twice.
func withUnknownFields(text []byte, random *rand.Rand) []byte {
	var tree map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if decoder.Decode(&tree) != nil || tree == nil || namesTwice(tree) {
		return nil
	}
	values := []any{nil, true, "<&>\u2028", json.Number("12345678901234567890"), json.Number("1e-7"), []any{map[string]any{"name": "x"}}, map[string]any{}}
	var put func(value any)
	put = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			for _, key := range sortedKeys(value) { // in an order that the seed repeats
				put(value[key])
			}
			if random.IntN(2) == 0 {
				value[fmt.Sprintf("unknown/~%d", random.IntN(3))] = values[random.IntN(len(values))]
			}
		case []any:
			for _, entry := range value {
				put(entry)
			}
		}
	}
	put(tree)
	raw, err := json.Marshal(tree)
	if err != nil {
		return nil
	}
	return raw
}

func namesTwice(value any) bool {
	switch value := value.(type) {
	case map[string]any:
		for _, member := range value {
			if namesTwice(member) {
				return true
			}
		}
	case []any:
		var names []any
		for _, entry := range value {
			if named, ok := entry.(map[string]any); ok {
				if slices.Contains(names, named["name"]) {
					return true
				}
				names = append(names, named["name"])
			}
			if namesTwice(entry) {
				return true
			}
		}
	}
	return false
}

func sortedKeys(object map[string]any) []string {
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// withoutInjection takes out of both objects the places that the injection
// names: the agent's containers, its volumes, a mount at /etc/cacerts and a
// ROOT_CA_DIR that istiod's container did not have, and two annotations; and then
// what is empty.
func withoutInjection(t *testing.T, before, after []byte) (was, is map[string]any) {
	t.Helper()
	was, is = decodeTree(t, before), decodeTree(t, after)
	volume := "cacerts"
	had, hadDir := map[any]bool{}, map[any]bool{}
	for _, container := range entries(podSpec(was), "containers") {
		if agents(container) {
			continue
		}
		for _, variable := range entries(container, "env") {
			hadDir[container["name"]] = hadDir[container["name"]] || variable["name"] == istio.RootCADirVariable
		}
		for _, mount := range entries(container, "volumeMounts") {
			if at, _ := mount["mountPath"].(string); path.Clean(at) == patches.CACertsPath {
				had[container["name"]] = true
			}
		}
	}
	for _, list := range []string{"initContainers", "containers"} {
		for _, container := range entries(podSpec(is), list) {
			if !agents(container) {
				continue
			}
			for _, mount := range entries(container, "volumeMounts") {
				if mount["mountPath"] == patches.CACertsPath {
					volume, _ = mount["name"].(string)
				}
			}
		}
	}
	for _, object := range []map[string]any{was, is} {
		pod := podSpec(object)
		drop(pod, "initContainers", agents)
		drop(pod, "containers", agents)
		drop(pod, "volumes", func(v map[string]any) bool { return v["name"] == volume || v["name"] == patches.VaultTokenVolume })
		for _, container := range entries(pod, "containers") {
			drop(container, "volumeMounts", func(mount map[string]any) bool {
				return !had[container["name"]] && mount["mountPath"] == patches.CACertsPath
			})
			drop(container, "env", func(variable map[string]any) bool {
				return !hadDir[container["name"]] && variable["name"] == istio.RootCADirVariable && variable["value"] == patches.CACertsPath
			})
		}
		template := member(member(object, "spec"), "template")
		delete(member(member(template, "metadata"), "annotations"), patches.InjectedAnnotation)
		delete(member(member(object, "metadata"), "annotations"), patches.OriginalAnnotation)
		dropEmpty(member(template, "metadata"), "annotations")
		dropEmpty(member(object, "metadata"), "annotations")
		dropEmpty(object, "metadata")
		dropEmpty(template, "metadata")
	}
	return was, is
}

func agents(container map[string]any) bool {
	return container["name"] == patches.AgentContainer || container["name"] == patches.InitContainer
}

func drop(object map[string]any, list string, unwanted func(map[string]any) bool) {
	values, ok := object[list].([]any)
	if !ok {
		dropEmpty(object, list)
		return
	}
	object[list] = slices.DeleteFunc(values, func(value any) bool {
		entry, ok := value.(map[string]any)
		return ok && unwanted(entry)
	})
	dropEmpty(object, list)
}

func dropEmpty(object map[string]any, key string) {
	switch value := object[key].(type) {
	case nil:
		delete(object, key)
	case []any:
		if len(value) == 0 {
			delete(object, key)
		}
	case map[string]any:
		if len(value) == 0 {
			delete(object, key)
		}
	}
}

func entries(object map[string]any, list string) []map[string]any {
	var found []map[string]any
	values, _ := object[list].([]any)
	for _, value := range values {
		if entry, ok := value.(map[string]any); ok {
			found = append(found, entry)
		}
	}
	return found
}

func podSpec(object map[string]any) map[string]any {
	return member(member(member(object, "spec"), "template"), "spec")
}

func member(object map[string]any, key string) map[string]any {
	found, _ := object[key].(map[string]any)
	return found
}

func decodeTree(t *testing.T, text []byte) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var tree map[string]any
	if err := decoder.Decode(&tree); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return tree
}
