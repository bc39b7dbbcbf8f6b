// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/e2e-framework/pkg/envconf"

	"github.com/istiod-agent/istiod-agent/e2e/altered"
)

// clockFile is read by the agent with another clock: by how many seconds it is fast. It is in the one place to which the
// agent's container can write.
const clockFile = "/etc/cacerts/clock"

// anotherClock is added to Go's package time in that agent.
const anotherClock = `package time

import "sync/atomic"

var fast atomic.Int64

func init() {
	go func() {
		for {
			Sleep(100 * Millisecond)
			file, err := open("` + clockFile + `")
			if err != nil {
				continue
			}
			var text [16]byte
			n, _ := read(file, text[:])
			closefd(file)
			var seconds int64
			for _, digit := range text[:max(n, 0)] {
				if digit < '0' || digit > '9' {
					break
				}
				seconds = seconds*10 + int64(digit-'0')
			}
			fast.Store(seconds)
		}
	}()
}
`

// An agent whose clock comes near the end of its certificate renews it by itself. The rest of the world keeps its time.
func TestTheEndOfTheCertificateComesNear(t *testing.T) {
	if started == nil {
		t.Skip("clusters of a kubeconfig: no other agent's image can be brought into them here")
	}
	environment.Test(t, feature("the end of the certificate comes near", full).
		Setup(func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
			must(t, err)
			library := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time")
			const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
			archive, err := altered.AgentImage(ctx, t.TempDir(), "clock",
				altered.Edit{File: filepath.Join(library, "time.go"), Old: now, New: now + "\tsec += fast.Load()\n"},
				altered.Edit{File: filepath.Join(library, "fast.go"), New: anotherClock})
			must(t, err)
			must(t, started.All[0].Load(ctx, archive))
			clusters[0].useAgent(ctx, t, "clock")
			return ctx
		}).
		Assess("the agent renews it", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			before := cluster.serials(ctx, t)
			const almost = 31*24*time.Hour + 12*time.Hour // of the 32 days that Vault gives
			cluster.onNode(ctx, t, "write", "istiod-agent", clockFile, fmt.Sprint(int64(almost/time.Second)))
			eventually(ctx, t, 3*time.Minute, "there is another certificate", func(ctx context.Context) error {
				issued, err := cluster.issued(ctx, cluster.certificate())
				if err != nil {
					return err
				}
				for pod, serial := range before {
					if issued[pod].SerialNumber == serial {
						return errNotYet
					}
				}
				return nil
			})
			cluster.onNode(ctx, t, "write", "istiod-agent", clockFile, "0")
			if log := cluster.kubectl(ctx, t, "logs -n istio-system -l app=istiod -c istiod-agent --tail=-1"); !strings.Contains(log, `"why":"Expiring"`) {
				t.Errorf("it was renewed for another reason:\n%s", log)
			}
			cluster.serials(ctx, t)
			wantCall(ctx, t, cluster, cluster, "bookinfo")
			wantLastStep(ctx, t)
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) { clusters[0].useAgent(ctx, t, "") })).
		Feature())
}

// useAgent has istiod run with another tag of the agent's image, the chart's own by default.
func (c *target) useAgent(ctx context.Context, t *testing.T, tag string) {
	t.Helper()
	_, err := shell(ctx, fmt.Sprintf("helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --wait --timeout=2m --kube-context=%s --set injection.agent.image.tag=%s", c.name, tag))
	must(t, err)
	c.webhookSettled(ctx, t)
	c.kubectl(ctx, t, "rollout restart -n istio-system deployment/istiod")
	c.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=120s")
	c.serials(ctx, t)
}
