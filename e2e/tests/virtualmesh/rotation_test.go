// SPDX-License-Identifier: Apache-2.0

package virtualmesh

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

const (
	oldCA = "pki/root/sign-intermediate" // the guide's
	newCA = "pki2/root/sign-intermediate"
)

// agent does and reports what the agent of an istiod Pod does, as its IssuedCertificate requests.
type agent struct {
	mesh    *mesh
	pod     string
	roots   map[string]string // fingerprints, by the path of the CA that signs under the root
	root    string
	trusted []string
}

// newAgent creates the Pod as well: the controller removes the status entries of missing Pods.
func newAgent(t *testing.T, m *mesh, pod string, roots map[string]string) *agent {
	t.Helper()
	template := shared.Stored(t, m.namespace, m.istiod.GetName()).Spec.Template
	must(t, shared.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: m.namespace, Labels: template.Labels, Annotations: template.Annotations},
		Spec:       template.Spec,
	}))
	return &agent{mesh: m, pod: pod, roots: roots}
}

// act does what the IssuedCertificate requests, and reports whether there was anything to do.
func (a *agent) act(t *testing.T) bool {
	t.Helper()
	asked, err := a.mesh.certificate(t, a.mesh.name())
	must(t, err)
	root := a.roots[asked.Spec.AgentCA.Vault.CAPath]
	trusted := fingerprints(t, []byte(asked.Annotations[certificatesv1.TrustedRootsAnnotation]))
	if len(trusted) == 0 {
		trusted = []string{root}
	}
	if a.root == root && slices.Equal(a.trusted, trusted) {
		return false
	}
	a.root, a.trusted = root, trusted
	must(t, a.report(t.Context(), "01"))
	return true
}

// report writes the agent's status entry.
func (a *agent) report(ctx context.Context, serial string) error {
	return agents.Report(ctx, shared, client.ObjectKeyFromObject(a.mesh.certificateObject()), a.pod, certificatesv1.IssuedCertificateStatus{
		State:        certificatesv1.Finished,
		Certificates: []certificatesv1.CertificateStatus{{Pod: a.pod, SerialNumber: serial, Confirmed: true, RootFingerprint: a.root, TrustedRoots: a.trusted}},
	})
}

func fingerprints(t *testing.T, roots []byte) (all []string) {
	t.Helper()
	for block, rest := pem.Decode(roots); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		sum := sha256.Sum256(certificate.Raw)
		all = append(all, hex.EncodeToString(sum[:]))
	}
	return all
}

// A change of the root whose last stage is requested at once, with the controller killed after each of its writes, goes
// through every stage, enters none before every replica is ready for it, and completes.
func TestRootRotationSurvivesCrashes(t *testing.T) {
	m := newMesh(t, "cluster.local")
	must(t, unstructured.SetNestedField(m.istiod.Object, int64(2), "spec", "replicas"))
	shared.MustApply(t, m.istiod)
	must(t, shared.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: m.namespace}}))
	object := m.guide(t, "virtual-mesh", nil)
	m.apply(t, object)
	m.wantCertificate(t, m.wantHost("cluster.local"))
	oldPEM, newPEM := testca.Root("old").PEM(), testca.Root("new").PEM()
	both := fingerprints(t, slices.Concat(oldPEM, newPEM))
	roots := map[string]string{oldCA: both[0], newCA: both[1]}
	replicas := []*agent{newAgent(t, m, "istiod-a", roots), newAgent(t, m, "istiod-b", roots)}
	for _, each := range replicas {
		each.act(t)
	}
	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "FINISHED")

	withoutLeader(t)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{
			networkingv1.RootRotationAnnotation: "drop-old", networkingv1.TrustedRootsAnnotation: string(oldPEM) + string(newPEM),
		}},
		"spec": map[string]any{"mtlsConfig": map[string]any{"shared": map[string]any{"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{"caPath": newCA}}}}},
	})
	must(t, err)
	must(t, shared.Patch(t.Context(), object.DeepCopy(), client.RawPatch(types.MergePatchType, patch)))

	gate := newGate(t)
	stages := []networkingv1.RootRotationStage{""}
	writes := 0
	for life := 1; ; life++ {
		wrote := gate.life(t)
		if wrote {
			writes++
		}
		stages = m.wantNextStage(t, stages, replicas, both[1])
		if acted := slices.ContainsFunc(replicas, func(a *agent) bool { return a.act(t) }); !wrote && !acted {
			break // one at a time
		}
		if life == 50 {
			t.Fatalf("it does not end: the stages were %q", stages)
		}
	}
	if want := append([]networkingv1.RootRotationStage{""}, networkingv1.RootRotationStages...); !slices.Equal(stages, want) {
		t.Errorf("the stages were %q, want %q", stages, want)
	}
	t.Logf("%d lives of the controller ended after one write", writes)
	if status := m.rotation(t); !status.Complete || status.NewRoot != both[1] || status.Message != "the root change is complete; remove the annotations" {
		t.Errorf("in the end it says %+v", status)
	}
	made, err := m.certificate(t, m.name())
	must(t, err)
	if _, left := made.Annotations[certificatesv1.TrustedRootsAnnotation]; left || made.Spec.AgentCA.Vault.CAPath != newCA {
		t.Errorf("in the end the IssuedCertificate is %+v", made)
	}
}

// wantNextStage expects the same stage or the next one in the status, and an IssuedCertificate for which every replica is
// ready.
func (m *mesh) wantNextStage(t *testing.T, stages []networkingv1.RootRotationStage, replicas []*agent, newest string) []networkingv1.RootRotationStage {
	t.Helper()
	last, now := stages[len(stages)-1], m.rotation(t).Stage
	if now.Number() < last.Number() || now.Number() > last.Number()+1 {
		t.Fatalf("after stage %q came %q", last, now)
	}
	if now != last {
		stages = append(stages, now)
	}
	asked, err := m.certificate(t, m.name())
	must(t, err)
	_, trustsAll := asked.Annotations[certificatesv1.TrustedRootsAnnotation]
	signsWithNew := asked.Spec.AgentCA.Vault.CAPath == newCA
	for _, each := range replicas {
		if signsWithNew && !slices.Contains(each.trusted, newest) {
			t.Fatalf("at stage %q it is to be signed under the new root, which %s does not publish", now, each.pod)
		}
		if signsWithNew && !trustsAll && each.root != newest {
			t.Fatalf("at stage %q the old root is to go, under which %s signs", now, each.pod)
		}
	}
	return stages
}

func (m *mesh) rotation(t *testing.T) networkingv1.RootRotationStatus {
	t.Helper()
	_, status, err := m.stored(t, "virtual-mesh")
	must(t, err)
	if status.RootRotation == nil {
		return networkingv1.RootRotationStatus{}
	}
	return *status.RootRotation
}

// withoutLeader stops all replicas until the end of the test. Replicas that start meanwhile run without leader election.
func withoutLeader(t *testing.T) {
	t.Helper()
	replicas := len(shared.Webhook.Replicas)
	must(t, shared.Webhook.StopReplicas())
	elect := func(elect bool) map[string]any {
		return map[string]any{"server": map[string]any{"leaderElection": elect}}
	}
	must(t, shared.Webhook.Reconfigure(t.Context(), elect(false)))
	t.Cleanup(func() {
		ctx := context.Background() // the test's is over
		must(t, shared.Webhook.StopReplicas())
		must(t, shared.Webhook.Through(""))
		must(t, shared.Webhook.Reconfigure(ctx, elect(true)))
		for range replicas {
			_, err := shared.Webhook.Scale(ctx)
			must(t, err)
		}
	})
}
