// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
)

// The messages of each outcome: the refusal, the warning, and the reason in the API server's audit log.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		values  helm.Values
		change  func(*unstructured.Unstructured)
		reason  string
		refused []string // what the refusal must say; nil when it is admitted
		warned  []string // what the warning must say; nil for none
		absent  bool     // nothing is injected
	}{
		"injected": {reason: "Injected"},
		"opted out": {
			change: func(u *unstructured.Unstructured) {
				u.SetAnnotations(map[string]string{"istiod-agent.io/inject": "false"})
			},
			reason: "OptedOut", absent: true,
		},
		"opted out by a label": {
			change: func(u *unstructured.Unstructured) {
				u.SetLabels(map[string]string{"app": "istiod", "istiod-agent.io/inject": "false"})
			},
			reason: "OptedOut", absent: true,
		},
		"without a CA": {
			values: helm.Values{"env": helm.Values{"ENABLE_CA_SERVER": "false"}},
			reason: "NoBuiltInCA", absent: true, warned: []string{"ENABLE_CA_SERVER"},
		},
		"with Kubernetes's CA": {
			values: helm.Values{"env": helm.Values{"EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API", "PILOT_CERT_PROVIDER": "k8s.io/example.com/signer"}},
			reason: "NoBuiltInCA", absent: true, warned: []string{"EXTERNAL_CA"},
		},
		"no istiod": {
			change:  func(u *unstructured.Unstructured) { onlyContainer(u, "pilot", nil) },
			reason:  "NoIstiodContainer",
			refused: []string{"/etc/cacerts", "discovery", "pilot"},
		},
		"no istiod, yet called so": {
			change: func(u *unstructured.Unstructured) { onlyContainer(u, "discovery", nil) },
			reason: "Injected",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			istiod := cluster.Istiod(t, shared.Namespace(t, true), test.values)
			if err := agents.Grant(t.Context(), shared, istiod.GetNamespace()); err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				test.change(istiod)
			}
			without := shared.Without(t, istiod)

			warnings, listening := warned(t)
			err := listening.Create(t.Context(), istiod.DeepCopy())

			wantWords(t, "the refusal", test.refused, err)
			wantWords(t, "the warnings", test.warned, warnings.said())
			wantAudited(t, istiod.GetNamespace(), test.reason)
			if err == nil && test.absent {
				if err := injected.Absent(without, &shared.Stored(t, istiod.GetNamespace(), istiod.GetName()).Spec.Template); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// The webhook does not report the rights of an istiod that is not stored: any client could ask about any service account.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	words := []string{"/istiod may not list issuedcertificates", "waits in Init", "istiodSidecar.createRoleBinding=true", "istiodSidecar.serviceAccounts", "run helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values"}
	istiod := cluster.Istiod(t, shared.Namespace(t, true))
	warnings, listening := warned(t)
	if err := listening.Create(t.Context(), istiod.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	wantWords(t, "the warnings of a first installation", nil, warnings.said())
	cluster.Eventually(t, "an Event reports them", func() error {
		var events eventsv1.EventList
		if err := shared.List(t.Context(), &events, client.InNamespace(istiod.GetNamespace())); err != nil {
			return err
		}
		for _, event := range events.Items {
			if event.Reason == "AgentLacksRights" {
				wantWords(t, "the Event", words, said(event.Note))
				return nil
			}
		}
		return fmt.Errorf("none of %d Events does", len(events.Items))
	})
	cluster.Eventually(t, "a change warns", func() error {
		stored := shared.Stored(t, istiod.GetNamespace(), istiod.GetName())
		delete(stored.Spec.Template.Annotations, "istiod-agent.io/injected") // so that there is something to inject
		if err := listening.Update(t.Context(), stored, client.DryRunAll); err != nil {
			return err
		}
		if warnings.said() == nil {
			return errors.New("no warning")
		}
		return nil
	})
	wantWords(t, "the warnings", words, warnings.said())
}

func TestAudit(t *testing.T) {
	t.Parallel()
	istiod := cluster.Istiod(t, shared.Namespace(t, true))
	shared.MustApply(t, istiod)
	shared.MustApply(t, istiod)
	// Server-side apply brings the chart's Secret volume back beside the
	// in-memory one, so there is work to do although nothing changes.
	wantAudited(t, istiod.GetNamespace(), "Injected", "Injected")
	patch(t, shared, shared.Stored(t, istiod.GetNamespace(), istiod.GetName()), "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`)
	wantAudited(t, istiod.GetNamespace(), "Injected", "Injected", "AlreadyInjected")
}

// onlyContainer leaves a pod with one container that mounts nothing.
func onlyContainer(u *unstructured.Unstructured, name string, volumes []any) {
	container := map[string]any{"name": name, "image": "example/" + name}
	_ = unstructured.SetNestedSlice(u.Object, []any{container}, "spec", "template", "spec", "containers")
	_ = unstructured.SetNestedSlice(u.Object, volumes, "spec", "template", "spec", "volumes")
}

func wantAudited(t *testing.T, namespace string, reasons ...string) {
	t.Helper()
	cluster.Eventually(t, "the audit log tells the reasons", func() error { // it is written after the client is answered
		events, err := shared.Plane.AuditEvents(namespace)
		if err != nil {
			return err
		}
		var found []string
		for _, event := range events {
			if reason, ok := event.Annotations["deployments.istiod-agent.io/reason"]; ok {
				found = append(found, reason)
			}
		}
		if !slices.Equal(found, reasons) {
			return fmt.Errorf("found %v, want %v", found, reasons)
		}
		return nil
	})
}

// wantWords checks that an answer exists if words are expected, and holds them.
func wantWords(t *testing.T, what string, words []string, answer error) {
	t.Helper()
	if (len(words) > 0) != (answer != nil) {
		t.Errorf("%s: %v; wanted: %q", what, answer, words)
		return
	}
	for _, word := range words {
		if !strings.Contains(answer.Error(), word) {
			t.Errorf("%s do not mention %q: %v", what, word, answer)
		}
	}
}

// heard holds the warnings that a client received.
type heard struct {
	mu       sync.Mutex
	warnings []string
}

// warned returns a client and its warnings.
func warned(t *testing.T) (*heard, client.Client) {
	t.Helper()
	h := &heard{}
	config := rest.CopyConfig(shared.Plane.Config)
	config.WarningHandler = h
	listening, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return h, listening
}

func (h *heard) HandleWarningHeader(_ int, _ string, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.warnings = append(h.warnings, text)
}

func (h *heard) said() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.warnings) == 0 {
		return nil
	}
	return said(strings.Join(h.warnings, "\n"))
}

type said string

func (s said) Error() string { return string(s) }
