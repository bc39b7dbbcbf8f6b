// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// From one root of Vault's to another, no handshake fails: not between workloads, nor with istiod. The controller is
// killed in each stage, and an agent in the first.
func TestFromOneRootOfVaultsToAnother(t *testing.T) {
	m := newMesh(t)
	m.apply(t)
	first, sidecar := m.replica(t, "istiod-0")
	m.replica(t, "istiod-1")
	workloads, done := m.talk(t)
	m.published(t, m.root.Certificate)
	stale := workloads.at(0)

	newest := m.newRoot(t)
	m.annotate(t, map[string]any{
		networkingv1.RootRotationAnnotation: "trust-both",
		networkingv1.TrustedRootsAnnotation: string(m.root.Certificate) + string(newest.Certificate),
	})
	m.vaultOf()["caPath"] = second + "/root/sign-intermediate" // counts from the second stage on
	m.apply(t)
	must(t, sidecar.Kill())
	m.sidecar(t, first)
	m.reached(t, networkingv1.StageTrustBoth)
	m.published(t, m.root.Certificate, newest.Certificate)
	workloads.renewed(t)

	m.annotate(t, map[string]any{networkingv1.RootRotationAnnotation: "sign-with-new"})
	m.soon(t, "second-stage")
	m.reached(t, networkingv1.StageSignWithNew)
	m.published(t, m.root.Certificate, newest.Certificate)
	workloads.renewed(t)

	// A Pod that starts half-way is like the others.
	m.replica(t, "istiod-2")
	workloads.renewed(t)

	m.annotate(t, map[string]any{networkingv1.RootRotationAnnotation: "drop-old"})
	m.reached(t, networkingv1.StageDropOld)
	m.published(t, newest.Certificate)
	workloads.renewed(t)
	done()
	for _, each := range workloads.workloads {
		if !each.trusts(newest.Certificate) || each.trusts(m.root.Certificate) {
			t.Errorf("%s does not trust the new root alone", each.name)
		}
	}
	if handshake(stale, workloads.workloads[1]) == nil || handshake(workloads.workloads[1], stale) == nil {
		t.Error("a workload that has slept through the change is trusted")
	}
}

// The same way leads from the root that istiod has made itself to Vault's. The first stage has istiod go on with its
// own CA, in Pods that are injected.
func TestFromIstiodsOwnRootToVaults(t *testing.T) {
	m := newMesh(t)
	m.istiodsRole(t)
	m.start(t, "istiod-before", "")
	workloads, done := m.talk(t)
	secret := &corev1.Secret{}
	must(t, shared.Get(t.Context(), client.ObjectKey{Namespace: m.namespace, Name: "istio-ca-secret"}, secret))
	own := secret.Data["ca-cert.pem"]
	m.published(t, own)

	m.object.SetAnnotations(map[string]string{
		networkingv1.RootRotationAnnotation:     "trust-both",
		networkingv1.TrustedRootsAnnotation:     string(own) + string(m.root.Certificate),
		networkingv1.RotateFromSecretAnnotation: "istio-ca-secret",
	})
	m.apply(t)
	// The rollout that the injection is.
	m.replica(t, "istiod-0")
	m.replica(t, "istiod-1")
	m.stop(t, m.serving()[1:]...)
	m.reached(t, networkingv1.StageTrustBoth)
	m.published(t, own, m.root.Certificate)
	workloads.renewed(t)

	m.annotate(t, map[string]any{networkingv1.RootRotationAnnotation: "sign-with-new"})
	m.soon(t, "second-stage")
	m.reached(t, networkingv1.StageSignWithNew)
	workloads.renewed(t)

	m.annotate(t, map[string]any{networkingv1.RootRotationAnnotation: "drop-old"})
	m.reached(t, networkingv1.StageDropOld)
	m.published(t, m.root.Certificate)
	workloads.renewed(t)
	done()
	for _, each := range workloads.workloads {
		if !each.trusts(m.root.Certificate) || each.trusts(own) {
			t.Errorf("%s does not trust Vault's root alone", each.name)
		}
	}
}
