// SPDX-License-Identifier: Apache-2.0

package injections

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/policy"
)

// Check reads the policies, their bindings and the Injection, and requires of each the fields of desired. It returns one
// sentence for each, or the first failure.
func Check(ctx context.Context, reader client.Reader, desired *policy.Policy) ([]string, error) {
	var passed []string
	for _, object := range append(desired.Policies(), desired.Parameter) {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return passed, err
		}
		want := &unstructured.Unstructured{Object: content}
		name := want.GetKind() + " " + want.GetName()
		stored := injection(want)
		err = reader.Get(ctx, client.ObjectKeyFromObject(want), stored)
		switch {
		case meta.IsNoMatchError(err):
			return passed, fmt.Errorf("this API server does not serve %s, which injection.by=policy needs: it must be of Kubernetes 1.%d or later, with MutatingAdmissionPolicy not switched off", want.GetKind(), policy.OldestMinor)
		case err != nil:
			return passed, fmt.Errorf("reading %s: %w", name, err)
		case !contains(stored.Object["spec"], want.Object["spec"]):
			return passed, fmt.Errorf("%s is not as this version writes it: upgrade the chart, which writes it again", name)
		}
		passed = append(passed, name+" is as this version writes it")
	}
	return passed, nil
}

// contains reports whether a stored value has all that is wanted. An API server adds defaults.
func contains(stored, want any) bool {
	wanted, ok := want.(map[string]any)
	if !ok {
		return equality.Semantic.DeepEqual(stored, want)
	}
	fields, ok := stored.(map[string]any)
	for name, value := range wanted {
		ok = ok && contains(fields[name], value)
	}
	return ok
}
