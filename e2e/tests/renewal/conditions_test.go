// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/kubectl"
)

// kubectlVariable makes this program act as kubectl.
const kubectlVariable = "ISTIOD_AGENT_TEST_KUBECTL"

func beKubectl() {
	if os.Getenv(kubectlVariable) != "" {
		kubectl.Main()
	}
}

// kubectl runs a kubectl command line.
func (m *mesh) kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	config, err := shared.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	command := exec.CommandContext(t.Context(), self, append(arguments, "-n", m.Namespace)...)
	command.Env = append(os.Environ(), kubectlVariable+"=1", "KUBECONFIG="+config)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

// The conditions cover all Pods: a Pod without a certificate makes them false until it gets one.
func TestConditions(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	name := "issuedcertificate/" + m.certificate.GetName()
	m.startWithoutSidecar(t)
	first := m.crashing(t)
	for _, condition := range []string{"Ready", "Confirmed", "RootTrusted"} {
		m.kubectl(t, "wait", "--for=condition="+condition, name, "--timeout=30s")
	}
	m.confirmed(t, "")
	certificate, _ := m.file(t, "ca-cert.pem")
	root, _ := m.file(t, "root-cert.pem")
	table := m.kubectl(t, "get", name)
	for _, want := range []string{
		"READY", "ENDS", "ROOT-ENDS", "True", certificate.NotAfter.UTC().Format(time.RFC3339),
		root.NotAfter.UTC().Format(time.RFC3339), fingerprint(m.root)[:12],
	} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in\n%s", want, table)
		}
	}

	pod := func(name string) *agents.Pod {
		t.Helper()
		pod, err := agents.NewPod(t.Context(), shared, m.Namespace, name, istiodserver.TmpfsDir(t), t.TempDir())
		must(t, err)
		return pod
	}
	other := pod("istiod-1")
	must(t, m.vault.Seal(t.Context()))
	if _, err := other.Init(t.Context(), "--timeout", "2s"); err == nil {
		t.Fatal("a sealed Vault has issued a certificate")
	}
	m.wantCondition(t, "Ready", "False", "VaultSealed", "Pod istiod-1: ")
	m.wantCondition(t, "RootTrusted", "True", "Trusted", "")
	must(t, m.vault.Unseal(t.Context()))

	// Many report at once, and none of them is overlooked.
	pods := []*agents.Pod{other}
	for i := range 3 {
		pods = append(pods, pod(fmt.Sprintf("istiod-%d", i+2)))
	}
	var running sync.WaitGroup
	for _, each := range pods {
		running.Go(func() {
			if _, err := each.Init(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	m.kubectl(t, "wait", "--for=condition=Ready", name, "--timeout=30s")
	m.wantCondition(t, "Ready", "True", "Published", "(Pods: 5)")
	m.wantCondition(t, "Confirmed", "False", "NotConfirmed", "") // no istiod runs there

	// Another agent of the same Pod leaves the times as they are.
	before := m.condition(t, "Ready")
	must(t, first.Kill())
	_, entry := m.status(t)
	m.startSidecar(t)
	must(t, agents.Renew(t.Context(), shared, m.certificate, "once"))
	m.confirmed(t, entry["serialNumber"].(string))
	if after := m.condition(t, "Ready"); after["lastTransitionTime"] != before["lastTransitionTime"] {
		t.Errorf("the condition was %v, and is %v", before, after)
	}
}

// wantCondition waits until a condition has a status, a reason and words in its message.
func (m *mesh) wantCondition(t *testing.T, kind, status, reason, words string) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("%s is %s", kind, status), func() error {
		c := m.condition(t, kind)
		if c["status"] != status || c["reason"] != reason || !strings.Contains(fmt.Sprint(c["message"]), words) || c["observedGeneration"] != m.stored(t).GetGeneration() {
			return fmt.Errorf("it is %v", c)
		}
		return nil
	})
}

func (m *mesh) condition(t *testing.T, kind string) map[string]any {
	t.Helper()
	all, _, _ := unstructured.NestedSlice(m.stored(t).Object, "status", "conditions")
	for _, each := range all {
		if c := each.(map[string]any); c["type"] == kind {
			return c
		}
	}
	return nil
}
