// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

// An API server of Kubernetes 1.30 stores the guard. It takes new expressions only with the libraries of the minor version
// before its own, for a rollback (cel/environment.DefaultCompatibilityVersion).
func TestOldestKubernetes(t *testing.T) {
	options := plugincel.OptionalVariableDeclarations{HasAuthorizer: true}
	for _, kind := range []patches.Kind{patches.Deployment, patches.Pod} {
		guard := policy.Guard(kind, "Remedy")
		compiler, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(version.MajorMinor(1, 29)))
		if err != nil {
			t.Fatal(err)
		}
		compile := func(accessor plugincel.ExpressionAccessor) {
			if result := compiler.CompileCELExpression(accessor, options, environment.NewExpressions); result.Error != nil {
				t.Errorf("%s: %s\n%s", kind, result.Error.Detail, accessor.GetExpression())
			}
		}
		for _, c := range guard.MatchConditions {
			compile(&matchconditions.MatchCondition{Name: c.Name, Expression: c.Expression})
		}
		for _, v := range guard.Variables {
			accessor := &validating.Variable{Name: v.Name, Expression: v.Expression}
			if result := compiler.CompileAndStoreVariable(accessor, options, environment.NewExpressions); result.Error != nil {
				t.Errorf("%s, variable %s: %s\n%s", kind, v.Name, result.Error.Detail, v.Expression)
			}
		}
		for _, v := range guard.Validations {
			compile(&validating.ValidationCondition{Expression: v.Expression})
			if v.MessageExpression != "" {
				compile(&validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
			}
		}
	}
}
