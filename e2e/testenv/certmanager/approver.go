// SPDX-License-Identifier: Apache-2.0

package certmanager

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// identity does what cert-manager's webhook does, which does not run: it writes the requester's name into a new CertificateRequest.
const identity = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: certificaterequest-identity}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules:
    - {apiGroups: [cert-manager.io], apiVersions: [v1], resources: [certificaterequests], operations: [CREATE]}
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: '[JSONPatch{op: "add", path: "/spec/username", value: request.userInfo.username}]'
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: certificaterequest-identity}
spec: {policyName: certificaterequest-identity}
`

// ApproverPolicy is a running approver-policy. Its webhook, which only validates policies, is not registered.
type ApproverPolicy struct {
	*process.Process

	client client.Client
}

// StartApproverPolicy installs the CRDs of cert-manager and approver-policy, and starts the latter in an existing namespace.
// Stop must be called, also after a failed test.
func StartApproverPolicy(ctx context.Context, plane *controlplane.ControlPlane, c client.Client, namespace string) (*ApproverPolicy, error) {
	program, err := built.ApproverPolicy()
	if err != nil {
		return nil, err
	}
	if err := InstallCRDs(ctx, plane); err != nil {
		return nil, err
	}
	crds, err := built.ApproverPolicyCRDs(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := envtest.InstallCRDs(plane.Config, envtest.CRDInstallOptions{Paths: []string{crds}, ErrorIfPathMissing: true}); err != nil {
		return nil, fmt.Errorf("installing approver-policy's CRD: %w", err)
	}
	objects, err := manifest.Parse([]byte(identity))
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if err := c.Create(ctx, object); client.IgnoreAlreadyExists(err) != nil {
			return nil, err
		}
	}
	if err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		request := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest", "metadata": map[string]any{"namespace": namespace, "generateName": "identity-"},
			"spec": map[string]any{"request": "bm9uZQ==", "issuerRef": map[string]any{"name": "none"}},
		}}
		err := c.Create(ctx, request, client.DryRunAll)
		name, _, _ := unstructured.NestedString(request.Object, "spec", "username")
		return err == nil && name != "", nil
	}); err != nil {
		return nil, fmt.Errorf("waiting until the API server writes requesters: %w", err)
	}
	kubeconfig, err := plane.Kubeconfig("approver-policy", "system:masters")
	if err != nil {
		return nil, err
	}
	ports, err := process.FreePorts(2)
	if err != nil {
		return nil, err
	}
	started, err := process.Start("approver-policy", exec.Command(program, "--kubeconfig", kubeconfig, "--metrics-bind-address", "0",
		"--leader-election-namespace", namespace, "--webhook-ca-secret-namespace", namespace, "--webhook-host", "127.0.0.1",
		"--webhook-port", fmt.Sprint(ports[0]), "--readiness-probe-bind-address", fmt.Sprintf("127.0.0.1:%d", ports[1])))
	if err != nil {
		return nil, err
	}
	return &ApproverPolicy{started, c}, nil
}

// Stop ends the program, and removes what writes requesters.
func (a *ApproverPolicy) Stop(ctx context.Context) error {
	failed := []error{a.Process.Stop(30 * time.Second)}
	objects, err := manifest.Parse([]byte(identity))
	for _, object := range objects {
		err = errors.Join(err, client.IgnoreNotFound(a.client.Delete(ctx, object)))
	}
	return errors.Join(append(failed, err)...)
}
