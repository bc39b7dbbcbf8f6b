// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/policyeval"
)

// large is the golden Deployment of Istio's chart, with many variables in istiod's container.
func large(t testing.TB, variables int) object {
	t.Helper()
	o := stored(copied(documents(t)["chart-default.yaml 0.0"]))
	_, spec := podOf(o)
	for n := range variables {
		appended(istiodIn(spec), "env", object{"name": fmt.Sprint("VARIABLE_", n), "value": "some value of usual length"})
	}
	return o
}

func sent(t testing.TB, p *pair, o object) runtime.Object {
	t.Helper()
	object, err := policyeval.Typed(p.engine.Target(), must(json.Marshal(o)))
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// The evaluation stays under a tenth of the API server's limit, for istiods that are ordinary, large or injected already.
func TestCost(t *testing.T) {
	p := pairOf(t, "default", v1alpha1.Default())
	config := v1alpha1.Default()
	for n := range 200 { // as many as it may have
		config.Agent.Env = append(config.Agent.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", n), Value: "some value of usual length"})
	}
	static := staticPairOf(t, "200 variables", config)
	for name, test := range map[string]struct {
		pair   *pair
		object object
		most   int64
	}{
		"Istio's chart":            {&p, large(t, 0), celconfig.RuntimeCELCostBudget / 500},
		"injected":                 {&p, p.injected(large(t, 0)), celconfig.RuntimeCELCostBudget / 200},
		"1500 variables":           {&p, large(t, 1500), celconfig.RuntimeCELCostBudget / 10},
		"1500 variables, injected": {&p, p.injected(large(t, 1500)), celconfig.RuntimeCELCostBudget / 10},
		"static":                   {&static, large(t, 1500), celconfig.RuntimeCELCostBudget / 100},
		"static, injected":         {&static, static.injected(large(t, 1500)), celconfig.RuntimeCELCostBudget / 10},
	} {
		cost, err := test.pair.policy.Cost(sent(t, test.pair, test.object))
		t.Logf("%s: %+v of %d", name, cost, celconfig.RuntimeCELCostBudget)
		if err != nil || cost.Most() > test.most {
			t.Errorf("%s: cost %+v, want at most %d: %v", name, cost, test.most, err)
		}
	}
}

func BenchmarkPolicy(b *testing.B) {
	p := pairOf(b, "default", v1alpha1.Default())
	for name, o := range map[string]object{"chart": large(b, 0), "injected": p.injected(large(b, 0)), "1500 variables": large(b, 1500)} {
		b.Run(name, func(b *testing.B) {
			istiod := sent(b, &p, o)
			for b.Loop() {
				if _, err := p.policy.Cost(istiod); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
