// SPDX-License-Identifier: Apache-2.0

// Package rights tests that the webhook's program has exactly the rights that it needs: in each form of the chart, it does all
// of its work, no request is refused, and each right serves a request that is refused without it.
package rights

import (
	"errors"
	"slices"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }

// unforced are rights that this test's requests do not need for certain, and when they do.
var unforced = map[string]string{
	"role istiod-agent.virtualmeshes: patch events.events.k8s.io": "a second Event about one version of a VirtualMesh, which the cache still had",
}

func TestRights(t *testing.T) {
	for name, form := range map[string]struct {
		by      string
		limited bool
	}{
		"webhook":                      {"webhook", false},
		"webhook, in named namespaces": {"webhook", true},
		"policy":                       {"policy", false},
		"policy, in named namespaces":  {"policy", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, form.limited)
			values := s.values()
			values["injection"] = helm.Values{"by": form.by}
			values["restarts"] = helm.Values{"enabled": true}
			if form.limited {
				values["rbac"] = helm.Values{"namespaces": []any{s.system, s.other}}
			}
			s.install(t, values)
			s.inject(t)
			s.issue(t)
			s.restart(t)
			s.withdraw(t)
			s.warn(t)
			s.keepInjection(t)
			if form.limited {
				s.report(t)
			}
			if form.by == "webhook" {
				s.replaceCA(t)
				s.warnAuthor(t, form.limited)
			}
			if output, err := shared.Webhook.Check(t.Context()); err != nil {
				t.Errorf("helm test: %v: %s", err, output)
			}
			s.list(t)
			must(t, shared.Webhook.StopReplicas())

			made, refused := s.requests(t)
			for _, each := range refused {
				t.Errorf("refused: %+v", each)
			}
			wantUsed(t, made, unforced)
			for _, each := range grants(t) {
				if form.by == "policy" && (each.resource == "secrets" || strings.HasPrefix(each.resource, "mutatingwebhook")) {
					t.Errorf("without a webhook, there is the right to %s", each)
				}
			}
		})
	}
}

// Without injectExisting, the program neither has the right to write Deployments nor tries to. A listed namespace that does
// not exist stops nothing.
func TestRightsWithoutWritesOfDeployments(t *testing.T) {
	s := newScenario(t, true)
	values := s.values()
	values["injection"] = helm.Values{"injectExisting": false}
	values["rbac"] = helm.Values{"namespaces": []any{s.system, s.other, missing}}
	s.install(t, values)
	s.leave(t)
	s.issue(t)
	s.lack(t)
	s.withdraw(t)
	must(t, shared.Webhook.StopReplicas())

	if i := slices.IndexFunc(grants(t), func(g grant) bool { return g.resource == "deployments" && g.verb == "patch" }); i >= 0 {
		t.Errorf("there is the right to %s", grants(t)[i])
	}
	_, refused := s.requests(t)
	seen := map[request]int{}
	for _, each := range refused {
		if each.resource == "virtualmeshes/status" {
			continue // withheld
		}
		if seen[each]++; each.namespace != missing || seen[each] > 1 {
			t.Errorf("refused: %+v", each)
		}
	}
	if len(seen) == 0 {
		t.Error("the missing namespace was not tried")
	}
}

// missing is a listed namespace that does not exist.
const missing = "not-created-yet"

func (s *scenario) values() helm.Values {
	return helm.Values{
		"clusterName":   "cluster-1",
		"istiodSidecar": helm.Values{"serviceAccounts": []any{}, "namespaces": []any{s.system}},
		"virtualMesh":   helm.Values{"namespaces": []any{s.meshes}},
	}
}

// install installs the chart for one test, as for the first time.
func (s *scenario) install(t *testing.T, values helm.Values) {
	t.Helper()
	for _, kind := range []client.Object{&corev1.Secret{}, &coordinationv1.Lease{}, injection()} {
		err := shared.DeleteAllOf(t.Context(), kind, client.InNamespace(webhookserver.Release.Namespace))
		if !meta.IsNoMatchError(err) { // the CRD comes with the first installation
			must(t, err)
		}
	}
	events, err := shared.Plane.AllRequests(user)
	must(t, err)
	s.before = len(events)
	must(t, shared.Install(t.Context(), webhookserver.Options{Values: values}))
	t.Cleanup(func() {
		must(t, shared.Webhook.Stop())
		shared.Webhook = nil
	})
}

// list has a replica of the program list what it watches, as with API servers that do not stream lists.
func (s *scenario) list(t *testing.T) {
	t.Helper()
	must(t, shared.Webhook.StopReplicas())
	t.Setenv("KUBE_FEATURE_WatchListClient", "false")
	_, err := shared.Webhook.Scale(t.Context())
	must(t, err)
	cluster.Eventually(t, "the new leader lists PodBounceDirectives", func() error {
		made, _ := s.requests(t)
		if !slices.ContainsFunc(made, func(r request) bool { return r.resource == "podbouncedirectives" && r.verb == "list" }) {
			return errors.New("it does not")
		}
		return nil
	})
}
