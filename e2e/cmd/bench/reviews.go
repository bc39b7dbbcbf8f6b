// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
)

// reviews are admission reviews of istiod's creation, as JSON, by the variables that it has more than Istio's chart gives it.
type reviews map[int][]byte

func readReviews(ctx context.Context, c *cluster.Cluster) (r reviews, err error) {
	r = reviews{}
	for _, l := range loads {
		if r[l.variables], err = review(ctx, c, l.variables); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// review holds istiod's Deployment as the API server has it at admission, with
// its defaults and managed fields, and with so many more variables.
func review(ctx context.Context, c *cluster.Cluster, variables int) ([]byte, error) {
	env := map[string]any{}
	for i := range variables {
		env[fmt.Sprintf("VARIABLE_%04d", i)] = fmt.Sprintf("the value of variable number %d", i)
	}
	const namespace = "default" // where the dry run may go; nothing depends on it
	istiod, err := istio.Deployment(ctx, namespace, istio.Values(namespace, "1.31.0", map[string]any{"env": env}))
	if err != nil {
		return nil, err
	}
	if err := c.Create(ctx, istiod, ctrlclient.DryRunAll, ctrlclient.FieldOwner("helm")); err != nil {
		return nil, err
	}
	unstructured.RemoveNestedField(istiod.Object, "status")
	object, err := istiod.MarshalJSON()
	if err != nil {
		return nil, err
	}
	kind := metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	resource := metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	return json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID:             "705ab4f5-6393-11e8-b7cc-42010a800002",
			Kind:            kind,
			Resource:        resource,
			RequestKind:     &kind,
			RequestResource: &resource,
			Name:            "istiod",
			Namespace:       namespace,
			Operation:       admissionv1.Create,
			UserInfo:        authenticationv1.UserInfo{Username: "admin", Groups: []string{"system:masters", "system:authenticated"}},
			Object:          runtime.RawExtension{Raw: object},
			DryRun:          new(false),
			Options:         runtime.RawExtension{Raw: []byte(`{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1","fieldManager":"helm"}`)},
		},
	})
}
