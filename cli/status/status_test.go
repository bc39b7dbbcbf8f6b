// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

var update = flag.Bool("update", false, "accept what is printed as the golden files")

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(d)} }

const (
	rootA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	rootB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// ca is one that is well.
func ca(pod, root string, trusted ...string) certificatesv1.CertificateStatus {
	return certificatesv1.CertificateStatus{
		Pod: pod, SerialNumber: "18:47:8e:6d:08:42:50:18:0f:01:fe:d8:53:1f:28:24:2a:0c:c8:09", Issuer: "CN=Vault,O=my-org", Key: "RSA 4096",
		NotBefore: at(-48 * time.Hour), NotAfter: at(363 * 24 * time.Hour), RootNotAfter: at(3000 * 24 * time.Hour), RenewAt: at(300 * 24 * time.Hour),
		RootFingerprint: root, TrustedRoots: append([]string{root}, trusted...), Confirmed: true,
	}
}

func pod(name string, change func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "istio-system"},
		Spec:       corev1.PodSpec{ServiceAccountName: "istiod", Containers: []corev1.Container{{Name: "discovery"}, {Name: "istiod-agent"}}},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func certificate(name string, age time.Duration, host string, replicas ...certificatesv1.CertificateStatus) *certificatesv1.IssuedCertificate {
	return &certificatesv1.IssuedCertificate{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "istio-system", CreationTimestamp: *at(-age)},
		Spec: certificatesv1.IssuedCertificateSpec{
			Hosts: []string{host}, AgentCA: &certificatesv1.IntermediateCertificateAuthority{CertManager: &certificatesv1.CertManagerCA{IssuerRef: &certificatesv1.IssuerRef{Kind: "ClusterIssuer", Name: "mesh"}}},
		},
		Status: certificatesv1.IssuedCertificateStatus{Certificates: replicas},
	}
}

// going is a certificate that is being deleted: agents do not take it.
func going(c *certificatesv1.IssuedCertificate) *certificatesv1.IssuedCertificate {
	c.DeletionTimestamp = at(0)
	return c
}

const istiod = "spiffe://cluster.local/ns/istio-system/sa/istiod"

// Each thing that may be wrong with a replica has its state, and a sentence that says what to do.
func TestStates(t *testing.T) {
	t.Parallel()
	with := func(change func(*certificatesv1.CertificateStatus)) *certificatesv1.IssuedCertificate {
		context := ca("a", rootA)
		change(&context)
		return certificate("mesh", time.Hour, istiod, context)
	}
	well := with(func(*certificatesv1.CertificateStatus) {})
	for name, test := range map[string]struct {
		change        func(*corev1.Pod)
		certificates  []*certificatesv1.IssuedCertificate
		state         replicaState // empty for a Pod that is left out
		stateProblems string
	}{
		"all is well": {nil, []*certificatesv1.IssuedCertificate{well}, stateReady, ""},
		"a native sidecar": {func(p *corev1.Pod) {
			p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers[1:], p.Spec.Containers[:1]
		}, []*certificatesv1.IssuedCertificate{well}, stateReady, ""},
		"without the agent":   {func(p *corev1.Pod) { p.Spec.Containers = p.Spec.Containers[:1] }, []*certificatesv1.IssuedCertificate{well}, stateNotInjected, "runs without the agent"},
		"no certificate":      {nil, nil, stateNoCertificate, "there is no IssuedCertificate for its service account"},
		"another's":           {nil, []*certificatesv1.IssuedCertificate{certificate("x", 0, "spiffe://cluster.local/ns/istio-system/sa/other", ca("a", rootA))}, stateNoCertificate, "see the VirtualMesh's status"},
		"another namespace's": {nil, []*certificatesv1.IssuedCertificate{certificate("x", 0, "spiffe://cluster.local/ns/other/sa/istiod", ca("a", rootA))}, stateNoCertificate, ""},
		"the default account": {func(p *corev1.Pod) { p.Spec.ServiceAccountName = "" }, []*certificatesv1.IssuedCertificate{certificate("x", 0, "spiffe://cluster.local/ns/istio-system/sa/default", ca("a", rootA))}, stateReady, ""},
		"no report":           {nil, []*certificatesv1.IssuedCertificate{certificate("mesh", 0, istiod, ca("b", rootA))}, stateNoReport, "its agent has not reported a CA"},
		"an older one counts": {nil, []*certificatesv1.IssuedCertificate{well, certificate("older", 2*time.Hour, istiod)}, stateNoReport, ""},
		"one being deleted":   {nil, []*certificatesv1.IssuedCertificate{going(certificate("older", 2*time.Hour, istiod)), well}, stateReady, ""},
		"not loaded":          {nil, []*certificatesv1.IssuedCertificate{with(func(c *certificatesv1.CertificateStatus) { c.Confirmed = false })}, stateNotConfirmed, "istiod has not loaded its CA certificate yet"},
		"failing":             {nil, []*certificatesv1.IssuedCertificate{with(func(c *certificatesv1.CertificateStatus) { c.Error = "Vault is sealed" })}, stateFailing, "Vault is sealed"},
		"waiting": {nil, []*certificatesv1.IssuedCertificate{with(func(c *certificatesv1.CertificateStatus) {
			c.Error, c.Reason = "CertificateRequest a waits for an approval", "CertManagerWaitingForApproval"
		})}, stateWaiting, "waits for an approval"},
		"expired":            {nil, []*certificatesv1.IssuedCertificate{with(func(c *certificatesv1.CertificateStatus) { c.NotAfter, c.Error = at(0), "x" })}, stateExpired, "has expired"},
		"one that ends":      {func(p *corev1.Pod) { p.DeletionTimestamp = at(0) }, nil, "", ""},
		"one that has ended": {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := replicas([]corev1.Pod{pod("a", test.change)}, test.certificates, now)
			if test.state == "" {
				if len(found) > 0 {
					t.Errorf("got %+v", found)
				}
				return
			}
			if got := found[0]; got.State != test.state || !strings.Contains(got.problem(), test.stateProblems) || (got.State == stateReady) != (got.problem() == "") {
				t.Errorf("got %s, %q; want %s, %q", got.State, got.problem(), test.state, test.stateProblems)
			}
		})
	}
}

func answered(context string, err string, certificates ...certificatesv1.CertificateStatus) contextStatus {
	var pods []corev1.Pod
	for _, each := range certificates {
		pods = append(pods, pod(each.Pod, nil))
	}
	return contextStatus{Context: context, Replicas: replicas(pods, []*certificatesv1.IssuedCertificate{certificate("mesh", time.Hour, istiod, certificates...)}, now), Error: err}
}

// Clusters do not trust each other where their roots differ, unless everybody trusts both.
func TestRoots(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		contexts []contextStatus
		differ   bool
		roots    int
	}{
		"one root":             {[]contextStatus{answered("one", "", ca("a", rootA)), answered("two", "", ca("a", rootA))}, false, 1},
		"two roots":            {[]contextStatus{answered("one", "", ca("a", rootA)), answered("two", "", ca("a", rootB))}, true, 2},
		"two in one cluster":   {[]contextStatus{answered("one", "", ca("a", rootA), ca("b", rootB))}, true, 2},
		"both trusted":         {[]contextStatus{answered("one", "", ca("a", rootA, rootB)), answered("two", "", ca("a", rootB, rootA))}, false, 2},
		"one trusts its own":   {[]contextStatus{answered("one", "", ca("a", rootA, rootB)), answered("two", "", ca("a", rootB))}, true, 2},
		"a third is not asked": {[]contextStatus{answered("one", "", ca("a", rootA)), answered("two", "no answer")}, false, 1},
		"nobody has reported":  {[]contextStatus{answered("one", "no answer")}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := summarize(test.contexts, now)
			if differ := strings.Contains(strings.Join(found.Problems, ""), "The roots of trust differ"); differ != test.differ || len(found.Roots) != test.roots {
				t.Errorf("roots %+v, problems %q", found.Roots, found.Problems)
			}
		})
	}
}

// The whole of what people read, at a fixed time.
func TestPrinted(t *testing.T) {
	t.Parallel()
	failing := ca("istiod-b", rootB)
	failing.Error, failing.RenewAt, failing.NotAfter = "asking Vault at https://vault:8200 to log in:\x1b[2J it is sealed.", at(-time.Minute), at(2*time.Hour)
	empty := certificatesv1.CertificateStatus{Pod: "istiod-c"}
	away := contextStatus{Context: "cluster-3", Error: "listing istiod's Pods: refused; check the cluster's address"}
	bare := contextStatus{Context: "cluster-2", Replicas: replicas([]corev1.Pod{pod("istiod-x", func(p *corev1.Pod) { p.Spec.Containers = nil })}, nil, now)}
	mixed := []contextStatus{answered("cluster-1", "", ca("istiod-a", rootA), ca("istiod-a2", rootA), failing, empty), bare, away, {Context: "cluster-4"}}
	ending := ca("istiod-a", rootA)
	ending.RootNotAfter, ending.NotAfter, ending.LimitedBy = at(89*24*time.Hour), at(89*24*time.Hour), "O=my-org, which ends at 2026-03-31T00:00:00Z"
	tokens := answered("cluster-1", "", ca("istiod-a", rootA))
	tokens.RemoteSecrets = []remoteSecret{
		{Cluster: "cluster-2", Secret: "istio-system/two", Expires: at(80 * 24 * time.Hour)},
		{Cluster: "cluster-3", Expires: at(-time.Hour)},
		{Cluster: "cluster-4", Expires: at(time.Hour), soon: true},
		{Cluster: "cluster-5\x1b[2J"},
	}
	reads := func(pod, unknown string, clusters ...certificatesv1.RemoteCluster) certificatesv1.CertificateStatus {
		report := ca(pod, rootA)
		report.RemoteClusters = &certificatesv1.RemoteClusters{Count: len(clusters), Clusters: clusters, Error: unknown}
		return report
	}
	joined := []contextStatus{answered("cluster-1", "",
		reads("istiod-a", "", certificatesv1.RemoteCluster{Name: "cluster-2", State: "Synced"}, certificatesv1.RemoteCluster{Name: "cluster-3", State: "Failing"}, certificatesv1.RemoteCluster{Name: "c\x1b[2J", State: "Syncing"}),
		reads("istiod-b", "istiod does not serve /debug/clusterz"), reads("istiod-c", ""), ca("istiod-d", rootA))}
	for name, test := range map[string]struct {
		contexts       []contextStatus
		wide, coloured bool
	}{
		"joined":       {joined, false, false},
		"joined-wide":  {joined, true, false},
		"ending":       {[]contextStatus{answered("cluster-1", "", ending), answered("cluster-2", "", ca("istiod-a", rootA))}, false, false},
		"healthy":      {[]contextStatus{answered("cluster-1", "", ca("istiod-a", rootA)), answered("cluster-2", "", ca("istiod-a", rootA))}, false, false},
		"healthy-wide": {[]contextStatus{answered("cluster-1", "", ca("istiod-a", rootA))}, true, false},
		"changing":     {[]contextStatus{answered("cluster-1", "", ca("istiod-a", rootA, rootB)), answered("cluster-2", "", ca("istiod-a", rootB, rootA))}, false, false},
		"broken":       {mixed, false, false},
		"broken-wide":  {mixed, true, false},
		"coloured":     {[]contextStatus{answered("cluster-1", "", ca("istiod-a", rootA), ca("istiod-b", rootA)), answered("cluster-2", "", ca("istiod-a", rootB)), bare}, false, true},
		"nothing":      {[]contextStatus{away}, false, false},
		"tokens":       {[]contextStatus{tokens}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			out := terminal.NewWriter(&got)
			out.Coloured = test.coloured
			summarize(test.contexts, now).print(out, now, test.wide)
			file := filepath.Join("testdata", name+".golden.txt")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("%s is not what is printed (go test ./cli/status -update accepts it):\n%s", file, &got)
			}
		})
	}
}
