// SPDX-License-Identifier: Apache-2.0

package floods_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/floods"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }

// A replica with the chart's memory survives each flood and answers the API server's admissions meanwhile.
func TestFloods(t *testing.T) {
	memory, err := floods.NewCgroup(floods.Memory)
	if err != nil {
		t.Skipf("the program cannot be run in %d bytes of memory here: %v", floods.Memory, err)
	}
	t.Cleanup(func() {
		if err := memory.Remove(); err != nil {
			t.Error(err)
		}
	})
	served, err := webhookserver.Start(t.Context(), shared.Plane, webhookserver.Options{
		Before: memory.Command(),
		// A slow machine's API server may let a leader's Lease run out, which ends the program.
		Configuration: map[string]any{"server": map[string]any{"leaderElection": false}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := served.Stop(); err != nil {
			t.Error(err)
		}
	})
	replica := served.Replicas[0]
	target := floods.TargetOf(replica)
	namespace := shared.Namespace(t, true)
	var istiod appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(cluster.Istiod(t, namespace).Object, &istiod); err != nil {
		t.Fatal(err)
	}
	for _, flood := range floods.All {
		t.Run(flood.Name, func(t *testing.T) {
			stop := flood.Start(t.Context(), target)
			for i := range 50 {
				asked := istiod.DeepCopy()
				if err := shared.Create(t.Context(), asked, client.DryRunAll); err != nil {
					t.Errorf("admission %d: %v", i, err)
				} else if len(asked.Spec.Template.Spec.Containers) < 2 {
					t.Errorf("admission %d: istiod is not injected", i)
				}
			}
			if err := ready(t.Context(), target); err != nil {
				t.Errorf("the kubelet's probe: %v", err)
			}
			if times := stop(); times == 0 {
				t.Error("no attack was made")
			}
			killed, err := memory.Killed()
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-replica.Exited():
				t.Fatalf("the replica has ended, %d for memory:\n%.2000s", killed, replica.Log())
			default:
			}
			if killed > 0 {
				t.Errorf("%d processes were ended for memory", killed)
			}
		})
	}
	if size := len(replica.Log()); size > 1<<20 {
		t.Errorf("the floods wrote %d bytes of log", size)
	}
}

// ready probes the replica as a kubelet does, from an address of its own.
func ready(ctx context.Context, target floods.Target) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target.Health+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := new(http.Transport).RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answered with %s", answer.Status)
	}
	return nil
}
