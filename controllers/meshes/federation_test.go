// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// sees is the report of a Pod whose istiod reads remote clusters, each as name=state.
func sees(clusters ...string) certificatesv1.CertificateStatus {
	remote := &certificatesv1.RemoteClusters{Count: len(clusters)}
	for _, cluster := range clusters {
		name, state, _ := strings.Cut(cluster, "=")
		remote.Clusters = append(remote.Clusters, certificatesv1.RemoteCluster{Name: name, State: certificatesv1.RemoteClusterState(state)})
	}
	return certificatesv1.CertificateStatus{Pod: fmt.Sprintf("istiod-%p", remote), RemoteClusters: remote}
}

func TestFederation(t *testing.T) {
	t.Parallel()
	unread := certificatesv1.CertificateStatus{Pod: "istiod-old"}
	broken := certificatesv1.CertificateStatus{Pod: "istiod-0", RemoteClusters: &certificatesv1.RemoteClusters{Error: "istiod does not serve /debug/clusterz\x1b[2J"}}
	crowded := sees("a=Synced")
	crowded.RemoteClusters.Count = 4
	const join = "kubectl istiod-agent join --context cluster-1 --context "
	for name, test := range map[string]struct {
		federation any // {selectors: [{}]} by default
		meshes     []string
		replicas   []certificatesv1.CertificateStatus
		want       []string // cluster: state: a part of the message
		condition  string   // status reason: a part of the message
	}{
		"joined": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Synced"), sees("cluster-2=Synced", "cluster-3=Failing")},
			want: []string{"cluster-2: Joined: "}, condition: "True Joined: istiod reads the services and endpoints of all other clusters (1)",
		},
		"no remote secret": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees()},
			want:      []string{"cluster-2: NoAccess: istiod has no access to cluster-2: check this name in spec.meshes, then run " + join + "cluster-2 with"},
			condition: "False NoAccess: 0 of 1 joined; istiod-istio-system-cluster-1.gloo-mesh: cluster-2: istiod has no access",
		},
		"an expired token": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Failing")},
			want:      []string{"cluster-2: NotSynced: istiod's requests to its API server fail, most often because the token of the remote secret has expired; to renew the token, run " + join + "cluster-2 --renew"},
			condition: "False NotSynced: 0 of 1 joined; ",
		},
		"an API server that cannot be reached": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=TimedOut")},
			want: []string{"cluster-2: NotSynced: istiod has not been able to read it"}, condition: "False NotSynced: ",
		},
		"at first": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Syncing")},
			want: []string{"cluster-2: NotSynced: istiod reads it for the first time"}, condition: "False NotSynced: ",
		},
		"a state of a later agent": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Paused")},
			want: []string{"cluster-2: NotSynced: istiod reports an unknown state"}, condition: "False NotSynced: ",
		},
		"one of two replicas": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Synced"), sees()},
			want: []string{"cluster-2: NoAccess: "}, condition: "False NoAccess: ",
		},
		"an older agent": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{unread, sees("cluster-2=Synced")},
			want: []string{"cluster-2: Unknown: istiod's agent has not reported the remote clusters yet"}, condition: "Unknown Unknown: 0 of 1 joined; ",
		},
		"metrics that cannot be read": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{broken},
			want: []string{"cluster-2: Unknown: the remote clusters are unknown: istiod does not serve /debug/clusterz [2J"}, condition: "Unknown Unknown: ",
		},
		"no report": {meshes: []string{ours, theirs}, want: []string{"cluster-2: Unknown: istiod's agents have not reported yet"}, condition: "Unknown Unknown: "},
		"more than are listed": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{crowded},
			want: []string{"cluster-2: Unknown: it may be one of 3 remote clusters"}, condition: "Unknown Unknown: ",
		},
		"two of three": {
			meshes: []string{ours, theirs, "istiod-istio-system-cluster-3"}, replicas: []certificatesv1.CertificateStatus{sees("cluster-3=Synced")},
			want: []string{"cluster-2: NoAccess: ", "cluster-3: Joined: "}, condition: "False NoAccess: 1 of 2 joined; ",
		},
		"a cluster that nobody knows": {
			meshes: []string{ours, "istiod-istio-system-no-such-cluster"}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Synced")},
			want: []string{"no-such-cluster: NoAccess: istiod has no access to no-such-cluster: check this name in spec.meshes"}, condition: "False NoAccess: ",
		},
		"several meshes of one cluster": {
			meshes: []string{ours, theirs, "istiod-1-31-istio-system-cluster-2"}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Synced")},
			want: []string{"cluster-2: Joined: "}, condition: "True Joined: ",
		},
		"patterns": {
			meshes: []string{ours, "*-istio-system-cluster-2", "istiod-*-istio-system-cluster-3", "*-istio-system-cluster-1"}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Synced")},
			want: []string{"cluster-2: Joined: ", "cluster-3: NoAccess: "}, condition: "False NoAccess: ",
		},
		"an istiod of another name and namespace, in a cluster that is reported": {
			meshes: []string{ours, "pilot-mesh-system-cluster-2"}, replicas: []certificatesv1.CertificateStatus{sees("2=Synced", "cluster-2=Synced", "Cluster_3=Synced")},
			want: []string{"cluster-2: Joined: "}, condition: "True Joined: ",
		},
		"one in a cluster that is not reported": {
			meshes: []string{ours, "pilot-mesh-system-cluster-2"}, replicas: []certificatesv1.CertificateStatus{sees("cluster-3=Synced")},
			want: []string{"pilot-mesh-system-cluster-2: NoAccess: "}, condition: "False NoAccess: ",
		},
		"a namespace with the name of ours at its start": {
			meshes: []string{ours, "istiod-istio-system-2-cluster-3"}, replicas: []certificatesv1.CertificateStatus{sees("cluster-3=Synced")},
			want: []string{"cluster-3: Joined: "}, condition: "True Joined: ",
		},
		"a name in other letters": {
			meshes: []string{ours, "istiod-istio-system-cluster-3"}, replicas: []certificatesv1.CertificateStatus{sees("Cluster_3=Synced")},
			want: []string{"Cluster_3: Joined: "}, condition: "True Joined: ",
		},
		"two reports of a name in different letters": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Synced"), sees("CLUSTER_2=Synced")},
			want: []string{"CLUSTER_2: Joined: "}, condition: "True Joined: ",
		},
		"an error of the longest text": {
			meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{{Pod: "a", RemoteClusters: &certificatesv1.RemoteClusters{Error: strings.Repeat("\x1b", certificatesv1.MaxStatusText)}}},
			want: []string{"cluster-2: Unknown: the remote clusters are unknown: "}, condition: "Unknown Unknown: ",
		},
		"one cluster":             {meshes: []string{ours}, replicas: []certificatesv1.CertificateStatus{sees()}, condition: "True NoOtherCluster: "},
		"no mesh of this cluster": {meshes: []string{theirs}, condition: "True NoOtherCluster: "},
		"an istiod that is not there yet": {
			meshes: []string{"istiod-istio-system-canary-cluster-1", theirs}, condition: "Unknown Unknown: no istiod of this cluster has its IssuedCertificate yet",
		},
		"not requested": {federation: map[string]any{}, meshes: []string{ours, theirs}, replicas: []certificatesv1.CertificateStatus{sees("cluster-2=Synced")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := read(t, guide, func(object map[string]any) {
				spec, meshes := object["spec"].(map[string]any), []any{}
				for _, mesh := range test.meshes {
					meshes = append(meshes, map[string]any{"name": mesh, "namespace": "gloo-mesh"})
				}
				spec["meshes"] = meshes
				if test.federation != nil {
					spec["federation"] = test.federation
				}
			})
			observed := facts("cluster-1", source)
			observed.Certificates[types.NamespacedName{Namespace: "istio-system", Name: ours}] = storedCertificate{Owner: "gloo-mesh/virtual-mesh", Replicas: test.replicas}
			before := networkingv1.VirtualMeshStatus{Conditions: []metav1.Condition{{Type: networkingv1.FederatedCondition, Status: metav1.ConditionUnknown}}}
			plan := translate(source, before, observed)
			if again := translate(source, plan.Status, observed); !reflect.DeepEqual(again.Status, plan.Status) {
				t.Errorf("translated again it differs: %+v, %+v", again.Status, plan.Status)
			}
			var got []string
			for key, mesh := range plan.Status.Meshes {
				if len(mesh.Federation) > 0 && key != ours+".gloo-mesh." {
					t.Errorf("mesh %s has %+v", key, mesh.Federation)
				}
				for _, cluster := range mesh.Federation {
					if len(cluster.Message) > 2*bounded.MaxMessage {
						t.Errorf("a message of %d bytes", len(cluster.Message))
					}
					got = append(got, fmt.Sprintf("%s: %s: %s", cluster.Cluster, cluster.State, cluster.Message))
				}
			}
			if len(got) != len(test.want) {
				t.Fatalf("got %q", got)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], test.want[i]) {
					t.Errorf("got %q, want %q", got[i], test.want[i])
				}
			}
			condition := ""
			if c := meta.FindStatusCondition(plan.Status.Conditions, networkingv1.FederatedCondition); c != nil {
				condition = fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
			}
			if !strings.HasPrefix(condition, test.condition) || (condition == "") != (test.condition == "") {
				t.Errorf("condition %q", condition)
			}
		})
	}
}

// The most meshes of this and of other clusters, with the longest reports, give a status that can be stored.
func TestLargeFederation(t *testing.T) {
	t.Parallel()
	var reported []string
	for i := range certificatesv1.MaxRemoteClusters {
		reported = append(reported, fmt.Sprintf("%s-%03d=Failing", strings.Repeat("c", 240), i))
	}
	all := facts("cluster-1")
	var names []any
	for i := range networkingv1.MaxMeshes {
		name := fmt.Sprintf("%s-%03d", strings.Repeat("d", 200), i)
		if i%2 == 0 {
			names = append(names, map[string]any{"name": name + "-istio-system-cluster-" + fmt.Sprint(i+2)})
			continue
		}
		own := deployedIstiod{Name: name, Namespace: "istio-system", ServiceAccount: name, TrustDomain: "cluster.local"}
		mesh := own.mesh("cluster-1")
		names = append(names, map[string]any{"name": mesh})
		all.Istiods[mesh] = []deployedIstiod{own}
		all.Certificates[types.NamespacedName{Namespace: "istio-system", Name: mesh}] = storedCertificate{Owner: "gloo-mesh/virtual-mesh", Replicas: []certificatesv1.CertificateStatus{sees(reported...)}}
	}
	source := read(t, guide, func(object map[string]any) { object["spec"].(map[string]any)["meshes"] = names })
	plan := translate(source, networkingv1.VirtualMeshStatus{}, all)
	raw, err := json.Marshal(plan.Status)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Certificates) != networkingv1.MaxMeshes/2 || len(raw) > 1<<20 {
		t.Errorf("%d certificates, a status of %d bytes", len(plan.Certificates), len(raw))
	}
	if c := meta.FindStatusCondition(plan.Status.Conditions, networkingv1.FederatedCondition); c == nil || !strings.HasPrefix(c.Message, "0 of 125000 joined; ") {
		t.Errorf("condition %+v", c)
	}
}
