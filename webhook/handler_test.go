// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

const (
	deployment  = `{"metadata":{"name":"istiod"},"spec":{"template":{"metadata":{"labels":{"app":"istiod"}},"spec":{"containers":[{"name":"discovery"}]}}}}`
	pod         = `{"metadata":{"name":"istiod-1"},"spec":{"containers":[{"name":"discovery"}]}}`
	optedOut    = `{"metadata":{"annotations":{"istiod-agent.io/inject":"false"}},"spec":{"template":{"spec":{"containers":[{"name":"discovery"}]}}}}`
	noBuiltInCA = `{"spec":{"template":{"spec":{"containers":[{"name":"discovery","env":[{"name":"ENABLE_CA_SERVER","value":"false"}]}]}}}}`
	elsewhere   = `{"spec":{"template":{"spec":{"containers":[{"name":"discovery","env":[{"name":"ROOT_CA_DIR","value":"/etc/ca"}]}]}}}}`
	notIstiod   = `{"spec":{"template":{"spec":{"containers":[{"name":"pilot"}]}}}}`
	deleted     = `{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"template":{"spec":{"containers":[{"name":"pilot"}]}}}}`
	strangeFlag = `{"metadata":{"labels":{"istiod-agent.io/inject":"off"}},"spec":{"template":{"spec":{"containers":[{"name":"discovery"}]}}}}`
)

func TestHandlerOutcomes(t *testing.T) {
	tests := map[string]struct {
		config    string
		kind      patches.Kind
		object    string
		operation admissionv1.Operation
		outcome   string
		reason    patches.Reason
		says      string
		warnings  []string
	}{
		"istiod is created": {
			kind: patches.Deployment, object: deployment, operation: admissionv1.Create,
			outcome: "patched", reason: patches.Injected, says: "add container istiod-agent-init",
		},
		"istiod is updated": {
			kind: patches.Deployment, object: deployment, operation: admissionv1.Update,
			outcome: "patched", reason: patches.Injected, says: "add container istiod-agent",
		},
		"an opt-out that was never injected": {
			kind: patches.Deployment, object: optedOut, operation: admissionv1.Create,
			outcome: "allowed", reason: patches.OptedOut, says: `istiod-agent.io/inject: "false"`,
		},
		"a word that does not opt out": {
			kind: patches.Deployment, object: strangeFlag, operation: admissionv1.Create,
			outcome: "patched", reason: patches.Injected,
			warnings: []string{`istiod-agent: Injected: istiod-agent.io/inject is "off"`},
		},
		"istiod without a CA": {
			kind: patches.Deployment, object: noBuiltInCA, operation: admissionv1.Create,
			outcome: "allowed", reason: patches.NoBuiltInCA, says: "ENABLE_CA_SERVER=false",
			warnings: []string{"istiod-agent: NoBuiltInCA: not injected: "},
		},
		"istiod that is being deleted": {
			kind: patches.Deployment, object: deleted, operation: admissionv1.Update,
			outcome: "allowed", reason: patches.BeingDeleted, says: "being deleted",
		},
		"no istiod in it": {
			kind: patches.Deployment, object: notIstiod, operation: admissionv1.Create,
			outcome: "denied", reason: patches.NoIstiodContainer, says: "istiod-agent: NoIstiodContainer: cannot inject: expected a container",
		},
		"a CA directory that the agent does not fill": {
			kind: patches.Deployment, object: elsewhere, operation: admissionv1.Create,
			outcome: "denied", reason: patches.CACertsElsewhere, says: "istiod-agent: CACertsElsewhere: cannot inject: ",
		},
		"no pod template": {
			kind: patches.Deployment, object: `{"spec":{}}`, operation: admissionv1.Create,
			outcome: "denied", reason: patches.Malformed, says: "istiod-agent: Malformed: cannot read the Deployment",
		},
		"a Pod, which is not the target": {
			kind: patches.Pod, object: pod, operation: admissionv1.Create,
			outcome: "allowed", reason: patches.NotTheTarget, says: "the configuration's target is the other kind",
		},
		"a Deployment, which is not the target": {
			config: "target: pods", kind: patches.Deployment, object: deployment, operation: admissionv1.Create,
			outcome: "allowed", reason: patches.NotTheTarget,
		},
		"a Pod is created": {
			config: "target: pods", kind: patches.Pod, object: pod, operation: admissionv1.Create,
			outcome: "patched", reason: patches.Injected,
		},
		"a Pod is updated": {
			config: "target: pods", kind: patches.Pod, object: pod, operation: admissionv1.Update,
			outcome: "allowed", reason: "PodIsImmutable", says: "injected only when it is created",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { // one at a time: the counter is shared
			log := &lines{}
			s := serve(t, test.config, log.logger())
			path, review := reviewOf(test.kind, test.object)
			review.Request.Operation = test.operation
			before := counted(t)
			answer := s.ask(t, path, review)

			if answer.Allowed != (test.outcome != "denied") || (len(answer.Patch) > 0) != (test.outcome == "patched") {
				t.Errorf("allowed=%t with patch %s, want it %s", answer.Allowed, answer.Patch, test.outcome)
			}
			if got := answer.AuditAnnotations["reason"]; got != string(test.reason) || len(answer.AuditAnnotations) != 1 {
				t.Errorf("audit annotations are %v, want reason %s", answer.AuditAnnotations, test.reason)
			}
			if !strings.Contains(answer.Result.Message, test.says) {
				t.Errorf("says %q, want %q", answer.Result.Message, test.says)
			}
			if want := map[bool]int32{true: http.StatusOK, false: http.StatusForbidden}[answer.Allowed]; answer.Result.Code != want {
				t.Errorf("the status code is %d, want %d", answer.Result.Code, want)
			}
			if len(answer.Warnings) != len(test.warnings) {
				t.Errorf("warnings are %q, want %q", answer.Warnings, test.warnings)
			}
			for i, warning := range test.warnings {
				if i < len(answer.Warnings) && !strings.HasPrefix(answer.Warnings[i], warning) {
					t.Errorf("warning is %q, want it to begin with %q", answer.Warnings[i], warning)
				}
			}

			label := fmt.Sprintf("kind=%s outcome=%s reason=%s", test.kind, test.outcome, test.reason)
			if got := difference(before, counted(t)); len(got) != 1 || got[label] != 1 {
				t.Errorf("counted %v, want one %s", got, label)
			}
			level := map[string]string{"patched": `"level"=0`, "allowed": `"level"=1`, "denied": `"msg"="Admission review refused" "error"=`}[test.outcome]
			log.wantOne(t, level, `"outcome"="`+test.outcome+`"`, `"reason"="`+string(test.reason)+`"`, `"claimedName"="istiod"`)
		})
	}
}

// A refusal asks for a person, whatever the cause.
func TestRefusalsAreLoggedAsErrors(t *testing.T) {
	t.Parallel()
	path, review := reviewOf(patches.Deployment, notIstiod)
	checkRequest := *review.Request
	checkRequest.SubResource = "scale"
	for name, test := range map[string]struct {
		path    string
		request *admissionv1.AdmissionRequest
	}{
		"denied":                  {path, review.Request},
		"misdirected":             {path, &checkRequest},
		"no request":              {path, nil},
		"an invalid VirtualMesh":  {webhook.VirtualMeshPath, &admissionv1.AdmissionRequest{Namespace: "gloo-mesh", Object: runtime.RawExtension{Raw: []byte(`{"spec":{"meshes":5}}`)}}},
		"an oversize VirtualMesh": {webhook.VirtualMeshPath, &admissionv1.AdmissionRequest{Object: runtime.RawExtension{Raw: []byte(`{"a":"` + strings.Repeat("a", 2<<20) + `"}`)}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &lines{quiet: true}
			s := serve(t, "", log.logger())
			s.post(t, test.path, "application/json", marshal(t, &admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Request: test.request}))
			log.wantOne(t, `"error"=`)
		})
	}
}

func TestHandlerIsIdempotent(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	path, review := reviewOf(patches.Deployment, deployment)
	first := s.ask(t, path, review)
	if first.PatchType == nil || *first.PatchType != admissionv1.PatchTypeJSONPatch {
		t.Fatalf("the patch is of type %v", first.PatchType)
	}
	review.Request.Object = runtime.RawExtension{Raw: patched(t, []byte(deployment), first.Patch)}
	second := s.ask(t, path, review)
	if !second.Allowed || len(second.Patch) > 0 || second.AuditAnnotations["reason"] != string(patches.AlreadyInjected) {
		t.Errorf("fed back: %+v", second)
	}
}

func TestHandlerOptOut(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	path, review := reviewOf(patches.Deployment, deployment)
	injected := patched(t, []byte(deployment), s.ask(t, path, review).Patch)
	review.Request.Object.Raw = []byte(strings.Replace(string(injected), `"annotations":{`, `"annotations":{"istiod-agent.io/inject":"false",`, 1))
	answer := s.ask(t, path, review)
	after := patched(t, review.Request.Object.Raw, answer.Patch)
	if !answer.Allowed || strings.Contains(string(after), `"name":"istiod-agent`) {
		t.Errorf("not taken out: %s", after)
	}
	if len(answer.Warnings) != 1 || !strings.HasPrefix(answer.Warnings[0], "istiod-agent: OptedOut: the agent is removed") {
		t.Errorf("warnings are %q", answer.Warnings)
	}
}

func TestHandlerDryRun(t *testing.T) {
	t.Parallel()
	log := &lines{quiet: true}
	s := serve(t, "", log.logger())
	path, review := reviewOf(patches.Deployment, deployment)
	wet := s.ask(t, path, review)
	review.Request.DryRun = new(true)
	if dry := s.ask(t, path, review); string(dry.Patch) != string(wet.Patch) {
		t.Errorf("a dry run is patched otherwise:\n%s\n%s", dry.Patch, wet.Patch)
	}
	log.wantOne(t, `"dryRun"=false`)
}

func TestHandlerPodWithoutName(t *testing.T) {
	t.Parallel()
	log := &lines{}
	s := serve(t, "target: pods", log.logger())
	path, review := reviewOf(patches.Pod, pod)
	review.Request.Name = ""
	s.ask(t, path, review)
	log.wantOne(t, `"claimedName"="(name not yet generated)"`, `"claimedNamespace"="istio-system"`)
}

// lines are what is logged.
type lines struct {
	quiet bool // without debug lines

	mu  sync.Mutex
	all []string
}

func (l *lines) logger() logr.Logger {
	options := funcr.Options{Verbosity: 1}
	if l.quiet {
		options.Verbosity = 0
	}
	return funcr.New(func(_, line string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all = append(l.all, line)
	}, options)
}

func (l *lines) wantOne(t *testing.T, holding ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) != 1 {
		t.Fatalf("want one line logged, got %q", l.all)
	}
	for _, words := range holding {
		if !strings.Contains(l.all[0], words) {
			t.Errorf("the log line does not hold %s: %s", words, l.all[0])
		}
	}
}

// counted is the admissions counter by its labels.
func counted(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "istiod_agent_webhook_admissions_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			counts[strings.Join(slices.Sorted(slices.Values(labels)), " ")] = metric.GetCounter().GetValue()
		}
	}
	return counts
}

func difference(before, after map[string]float64) map[string]float64 {
	validationErrs := map[string]float64{}
	for label := range maps.Keys(after) {
		if after[label] != before[label] {
			validationErrs[label] = after[label] - before[label]
		}
	}
	return validationErrs
}
