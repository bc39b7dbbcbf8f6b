// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
)

// limit is more than the agent needs to be sure that requests fail: two readings of istiod, a minute apart, and the pauses
// between the attempts of istiod's client.
const limit = 5 * time.Minute

// TestFederation takes a remote cluster through its life: without a remote secret, joined, its token renewed, its token
// refused, its remote secret removed, and created again before its API server runs. What istiod reports of each is in the
// agent's report, the VirtualMesh, the agent's metrics and the plugin's output.
func TestFederation(t *testing.T) {
	m := start(t)
	m.reports(t, "", "NoAccess", "False NoAccess", "istiod has no access to cluster-2: check this name in spec.meshes, then run kubectl istiod-agent join --context cluster-1 --context cluster-2 with")
	m.run(t, "status").Wants(t, 0, "REMOTE")
	m.run(t, "check").Wants(t, 0, "istiod has no access to cluster-2")

	account(t, reader)
	m.join(t, reader)
	m.reports(t, "Synced", "Joined", "True Joined", "")
	if mesh := m.stored(t); len(mesh.NotActedOn) > 0 {
		t.Errorf("not acted on: %q", mesh.NotActedOn)
	}
	m.run(t, "status").Wants(t, 0, "1/1")
	m.run(t, "status", "-o", "wide").Wants(t, 0, "cluster-2=Synced")
	m.run(t, "check").Wants(t, 0, "Federated: istiod reads the services and endpoints of all other clusters")
	m.log(t, "joined")

	// A renewed token leaves it joined, although istiod's own gauge then reports that the cluster is closed.
	account(t, "another")
	m.join(t, "another")
	cluster.Eventually(t, "istiod uses the new token", func() error {
		return contains(m.Istiod.Process().Output(), "stopping previous cluster cluster-2")
	})
	m.log(t, "renewed")

	must(t, two.Delete(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "another", Namespace: namespace}}))
	cluster.Within(t, time.Minute, "the API server refuses the token", func() error { // it caches its decisions for 10 s
		m.remote.cut()
		return contains(m.Istiod.Process().Output(), "Unauthorized")
	})
	m.reports(t, "Failing", "NotSynced", "False NotSynced", "istiod's requests to its API server fail, most often because the token of the remote secret has expired; to renew the token, run kubectl istiod-agent join --context cluster-1 --context cluster-2 --renew with")
	m.log(t, "refused")
	m.run(t, "status").Wants(t, 1, "0/1", "istio-system/istiod-0: remote cluster cluster-2: istiod's requests to its API server fail")
	m.run(t, "check").Wants(t, 1, "remote cluster cluster-2: istiod's requests to its API server fail", "kubectl istiod-agent join")

	must(t, one.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "istio-remote-secret-cluster-2", Namespace: namespace}}))
	m.reports(t, "", "NoAccess", "False NoAccess", "istiod has no access to cluster-2")
	m.log(t, "removed")

	m.remote.stop()
	m.join(t, reader)
	m.reports(t, "TimedOut", "NotSynced", "False NotSynced", "istiod has not been able to read it: its API server cannot be reached from istiod")
	m.log(t, "not reachable")
	m.remote.listen(t)
	m.reports(t, "Synced", "Joined", "True Joined", "")
	if found := secret.FindString(m.Sidecar.Output()); found != "" {
		t.Errorf("the agent logs a secret, %.12s…", found)
	}
}

// reports waits until the agent reports a state of cluster-2, "" for none, and the VirtualMesh the result of that.
func (m *mesh) reports(t *testing.T, remote certificatesv1.RemoteClusterState, state networkingv1.FederationState, condition, message string) {
	t.Helper()
	what := fmt.Sprintf("cluster-2 is %s (%s)", state, remote)
	began := time.Now()
	cluster.Within(t, limit, what, func() error {
		reported, err := m.remoteClusters(t)
		if err != nil {
			return err
		}
		var found certificatesv1.RemoteClusterState
		for _, cluster := range reported.Clusters {
			if cluster.Name == "cluster-2" {
				found = cluster.State
			}
		}
		if found != remote || reported.Error != "" {
			return fmt.Errorf("the agent reports %+v", reported)
		}
		return nil
	})
	cluster.Eventually(t, what+" in the VirtualMesh", func() error {
		status := m.stored(t)
		federation := status.Meshes["istiod-istio-system-cluster-1.."].Federation
		if len(federation) != 1 || federation[0].Cluster != "cluster-2" || federation[0].State != state || !strings.HasPrefix(federation[0].Message, message) || (message == "") != (federation[0].Message == "") {
			return fmt.Errorf("it is federated with %+v", federation)
		}
		c := meta.FindStatusCondition(status.Conditions, networkingv1.FederatedCondition)
		if c == nil || string(c.Status)+" "+c.Reason != condition {
			return fmt.Errorf("the condition is %+v", c)
		}
		return nil
	})
	t.Logf("%s after %s", what, time.Since(began).Round(100*time.Millisecond))
	text, err := m.Sidecar.Get(t.Context(), "/metrics")
	must(t, err)
	want := map[certificatesv1.RemoteClusterState]string{"": "", certificatesv1.RemoteSynced: `istiod_agent_remote_cluster_synced{cluster="cluster-2"} 1`}[remote]
	if remote != "" && want == "" {
		want = `istiod_agent_remote_cluster_synced{cluster="cluster-2"} 0`
	}
	if want != "" && !strings.Contains(text, want+"\n") || want == "" && strings.Contains(text, "istiod_agent_remote_cluster_synced{") {
		t.Errorf("want the series %q in\n%s", want, text)
	}
}

func (m *mesh) remoteClusters(t *testing.T) (*certificatesv1.RemoteClusters, error) {
	t.Helper()
	object, err := m.Issued(t.Context())
	if err != nil {
		return nil, err
	}
	var certificate certificatesv1.IssuedCertificate
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &certificate))
	for _, report := range certificate.Status.Certificates {
		if report.Pod == meshcluster.Pod && report.RemoteClusters != nil {
			return report.RemoteClusters, nil
		}
	}
	return nil, fmt.Errorf("no report of remote clusters in %+v", certificate.Status.Certificates)
}

func (m *mesh) stored(t *testing.T) networkingv1.VirtualMeshStatus {
	t.Helper()
	object := m.VirtualMesh.DeepCopy()
	must(t, one.Get(t.Context(), client.ObjectKeyFromObject(object), object))
	var mesh networkingv1.VirtualMesh
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &mesh))
	return mesh.Status
}

// log logs what istiod itself reports.
func (m *mesh) log(t *testing.T, when string) {
	t.Helper()
	text, err := m.Istiod.Metrics(t.Context())
	must(t, err)
	resident, err := m.Sidecar.Metric(t.Context(), "process_resident_memory_bytes")
	must(t, err)
	t.Logf("%s: the agent has %.1f MiB; istiod's metrics have %d bytes, among them:", when, resident/(1<<20), len(text))
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "istiod_managed_clusters{") || strings.HasPrefix(line, "istiod_remote_cluster_sync_status{") && strings.HasSuffix(line, " 1\n") ||
			strings.HasPrefix(line, "controller_sync_errors_total{") || strings.HasPrefix(line, "remote_cluster_") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func contains(text, part string) error {
	if !strings.Contains(text, part) {
		return fmt.Errorf("no %q", part)
	}
	return nil
}
