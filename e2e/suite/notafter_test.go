// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"testing"
	"time"
)

// An agent renews its certificate before the end of validity, and istiod and workloads run on. The test moves the clock of one
// cluster's Vault, istiods, agents and workloads, see cmd/workload/clock_amd64.go; all other clocks stay.
func TestCertificateEnd(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("a process's clock can be moved on amd64 only")
	}
	const almost = 31*24*time.Hour + 12*time.Hour // of the 32 days that Vault gives
	move := func(ctx context.Context, t *testing.T, by time.Duration) {
		clusters[0].onNode(ctx, t, "clock", fmt.Sprint(int64(by/time.Second)), "vault", "pilot-discovery", "istiod-agent", "workload")
	}
	environment.Test(t, feature("the end of the certificate comes near", full).
		Assess("the agent renews it", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			for _, each := range clusters {
				each.deployWorkload(ctx, t, "bookinfo")
			}
			others := clusters[len(clusters)-1].serials(ctx, t)
			before := cluster.serials(ctx, t)
			move(ctx, t, almost)
			end := time.Now().Add(almost + 31*24*time.Hour)
			eventually(ctx, t, 3*time.Minute, "there is another certificate", func(ctx context.Context) error {
				issued, err := cluster.issued(ctx, cluster.certificate())
				if err != nil {
					return err
				}
				for pod, serial := range before {
					if each := issued[pod]; each.SerialNumber == serial || each.NotAfter == nil || each.NotAfter.Time.Before(end) {
						return fmt.Errorf("Pod %s has the one with serial number %s until %s", pod, each.SerialNumber, each.NotAfter)
					}
				}
				return nil
			})
			if log := cluster.kubectl(ctx, t, "logs -n istio-system -l app=istiod -c istiod-agent --tail=-1"); !strings.Contains(log, `"why":"Expiring"`) {
				t.Errorf("it was renewed for another reason:\n%s", log)
			}
			cluster.serials(ctx, t)
			eventually(ctx, t, time.Minute, "workloads whose clock is the same call each other", func(ctx context.Context) error {
				return call(ctx, cluster, cluster, "bookinfo", almost)
			})
			wantLastStep(ctx, t)
			if len(clusters) > 1 && !maps.Equal(others, clusters[1].serials(ctx, t)) {
				t.Error("the other cluster's certificates are others as well")
			}
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			move(ctx, t, 0)
			// What was signed by then is not valid yet.
			clusters[0].kubectl(ctx, t, "rollout restart -n istio-system deployment/istiod")
			clusters[0].kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=120s")
			clusters[0].serials(ctx, t)
		})).
		Feature())
}
