// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	contract "github.com/istiod-agent/istiod-agent/internal/traffic"
)

// TestTraffic proves that two clusters are one mesh, by real calls of clients and servers that the istiods configure: first a
// call to a service with endpoints only in the other cluster; then calls without pause while endpoints fail over, both CAs are
// renewed and the root is changed in stages, of which none may fail; at last a root of its own in one cluster.
func TestTraffic(t *testing.T) {
	ip, config := address(t), contexts(t)
	done := steps(t)
	first := newSide(t, one, 1, vaultserver.FastRoot)
	second := newSide(t, two, 2, func() (*vaultserver.Root, error) { return first.Root, nil })
	for _, s := range []*side{first, second} {
		s.prepare(t)
	}
	done("two clusters started")
	remote := second.server(t, "echo-0", ip)
	remote.publish(t)
	if got := first.reach(t, ip, 3*time.Second, "anywhere", second); got.Outcome != contract.Unknown && got.Outcome != contract.Failed {
		t.Errorf("before the clusters are joined, the outcome is %+v", got)
	}

	done("a server in cluster-2 started")
	began := time.Now()
	join(t, config, first, second)
	for _, service := range services {
		if got := first.reach(t, ip, time.Minute, service, second); got.Outcome != contract.Calls { // the limit is the requirement
			t.Fatalf("from cluster-1, %s: %+v", service, got)
		}
	}
	t.Logf("the first call across came %s after the join", time.Since(began).Round(100*time.Millisecond))

	local := first.server(t, "echo-0", ip)
	local.publish(t)
	spread, near := first.load(t, ip, "anywhere"), second.load(t, ip, "nearest")
	cluster.Within(t, time.Minute, "both loads have begun", func() error {
		for _, each := range []*workload{spread, near} {
			if report, err := each.report(); err != nil || report.calls() == 0 {
				return fmt.Errorf("%s: %w", each.name, err)
			}
		}
		return nil
	})
	spread.onlyBy(t, "cluster-1", "cluster-2")
	near.onlyBy(t, "cluster-2")

	done("both loads begun")
	failover(t, ip, remote, spread, near)
	done("failed over")
	if r := run(t, config, "renew", "--all"); r.Code != 0 {
		t.Fatal(r)
	}
	done("renewed both CAs")
	changeRoot(t, config, []*side{first, second}, []*workload{local, remote, spread, near}, func() { failover(t, ip, remote, spread, near) })

	done("changed the root")
	const required = 10_000
	cluster.Within(t, 3*time.Minute, "the loads have made enough calls", func() error {
		sum := 0
		for _, each := range []*workload{spread, near} {
			report, err := each.report()
			if err != nil {
				return err
			}
			sum += report.calls()
		}
		if sum < required {
			return fmt.Errorf("%d of %d", sum, required)
		}
		return nil
	})
	for _, each := range []*workload{spread, near} {
		must(t, each.process.Stop(30*time.Second))
		report, err := each.report()
		must(t, err)
		t.Logf("%s %s: %d calls in %d connections, %d renewals of its certificate, answered by %v", each.side.Name, each.name, report.calls(), report.Connections, each.renewals(), report.By)
		if len(report.Failures) > 0 {
			t.Errorf("%s %s: failed calls:\n%s", each.side.Name, each.name, strings.Join(report.Failures, "\n"))
		}
	}
	done("made the calls")
	otherRoot(t, ip, first, second, local, remote)
	done("refused another root")
}

// steps logs how long each step took.
func steps(t *testing.T) (done func(what string)) {
	last := time.Now()
	return func(what string) {
		now := time.Now()
		t.Logf("%6s  %s", now.Sub(last).Round(100*time.Millisecond), what)
		last = now
	}
}

// failover takes the second cluster's endpoint away while both loads run, stops its server, and starts another in its place.
func failover(t *testing.T, ip string, server, spread, near *workload) {
	t.Helper()
	server.withdraw(t)
	near.onlyBy(t, "cluster-1")
	spread.onlyBy(t, "cluster-1")
	server.stop(t)
	*server = *server.side.server(t, server.name+"-next", ip)
	server.publish(t)
	near.onlyBy(t, "cluster-2")
	spread.onlyBy(t, "cluster-1", "cluster-2")
}

// changeRoot changes both clusters to another root in stages, with a failover on the way. Before each stage, all workloads have
// renewed their certificates.
func changeRoot(t *testing.T, config string, sides []*side, workloads []*workload, onTheWay func()) {
	t.Helper()
	newest, err := vaultserver.FastRoot()
	must(t, err)
	file := filepath.Join(t.TempDir(), "new-root.pem")
	must(t, os.WriteFile(file, newest.Certificate, 0o600))
	for _, s := range sides {
		s.Mount(t, "pki2", newest)
	}
	stage := func(arguments ...string) {
		t.Helper()
		if r := run(t, config, append([]string{"rotate-root"}, arguments...)...); r.Code != 0 {
			t.Fatal(r)
		}
	}
	stage("trust-both", "--new-root", file)
	onTheWay()
	renewed(t, workloads...)
	for _, s := range sides {
		s.SignAt(t, "pki2")
	}
	stage("sign-with-new", "--now")
	renewed(t, workloads...)
	stage("drop-old")
	renewed(t, workloads...)
	stage("none")
}

// otherRoot gives the second cluster a root that the first does not trust: calls within each cluster succeed, and between them
// fail for that reason.
func otherRoot(t *testing.T, ip string, first, second *side, local, remote *workload) {
	t.Helper()
	foreign, err := vaultserver.FastRoot()
	must(t, err)
	second.Mount(t, "pki3", foreign)
	second.SignAt(t, "pki3")
	cluster.Eventually(t, "the IssuedCertificate names the new mount", func() error {
		stored, err := second.Issued(t.Context())
		if err == nil && !strings.Contains(fmt.Sprint(stored.Object["spec"]), "pki3/root/sign-intermediate") {
			err = errors.New("it does not")
		}
		return err
	})
	remote.withdraw(t)
	remote.stop(t)
	must(t, second.Sidecar.Stop(10*time.Second))
	must(t, second.Istiod.Stop())
	must(t, second.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: meshcluster.Pod, Namespace: meshcluster.Namespace}}, client.GracePeriodSeconds(0)))
	second.start(t)
	cluster.Within(t, time.Minute, "istiod publishes the other root", func() error {
		root, err := second.Istiod.PublishedRoot(t.Context(), namespace)
		if err == nil && strings.TrimSpace(string(root)) != strings.TrimSpace(string(foreign.Certificate)) {
			err = errors.New("it is not that one yet")
		}
		return err
	})
	remote = second.server(t, "echo-other", ip)

	expect := func(s, server *side, outcome contract.Outcome) {
		t.Helper()
		got := s.reach(t, ip, time.Minute, "anywhere", server)
		if got.Outcome != outcome {
			t.Errorf("from %s: %+v, want %s", s.Name, got, outcome)
		}
		if outcome == contract.OtherRoot && !strings.Contains(got.Detail, "x509: certificate signed by unknown authority") {
			t.Errorf("from %s: the detail is %q", s.Name, got.Detail)
		}
	}
	expect(first, first, contract.Calls)
	expect(second, first, contract.OtherRoot)
	local.withdraw(t)
	remote.publish(t)
	expect(second, second, contract.Calls)
	expect(first, second, contract.OtherRoot)
}
