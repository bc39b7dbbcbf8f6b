// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/pods"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/internal/probe"
)

// probeNode reports the Pods of join as a kubelet does, until the test ends. The suite has a real one.
type probeNode struct {
	// address of the Pod that listens.
	address string
	// message is the termination message of the Pod that connects to the endpoints.
	message func(endpoints []probe.Endpoint) string
}

func (n probeNode) run(t *testing.T, s *side) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			var list corev1.PodList
			if err := s.List(ctx, &list, client.HasLabels{pods.Label}); err != nil {
				return false, nil //nolint:nilerr // again
			}
			for i := range list.Items {
				if pod := &list.Items[i]; len(pod.Status.ContainerStatuses) == 0 {
					n.report(pod)
					_ = s.Status().Update(ctx, pod) // again, unless it is deleted
				}
			}
			return false, nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func (n probeNode) report(pod *corev1.Pod) {
	container, arguments := corev1.ContainerStatus{Name: pod.Spec.Containers[0].Name}, pod.Spec.Containers[0].Args
	if arguments[0] == "listen" {
		container.State.Running = &corev1.ContainerStateRunning{}
		pod.Status.PodIP, pod.Status.PodIPs = n.address, []corev1.PodIP{{IP: n.address}}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	} else {
		var endpoints []probe.Endpoint
		for _, argument := range arguments {
			if text, found := strings.CutPrefix(argument, "--endpoint="); found {
				var endpoint probe.Endpoint
				if err := json.Unmarshal([]byte(text), &endpoint); err != nil {
					panic(err)
				}
				endpoints = append(endpoints, endpoint)
			}
		}
		container.State.Terminated = &corev1.ContainerStateTerminated{Message: n.message(endpoints)}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{container}
}

// outcomes is a result with an outcome for each endpoint.
func outcomes(of func(probe.Endpoint) probe.Outcome) func([]probe.Endpoint) string {
	return func(endpoints []probe.Endpoint) string {
		results := make([]probe.Result, len(endpoints))
		for i, endpoint := range endpoints {
			results[i].Outcome = of(endpoint)
		}
		text, err := probe.Encode(results)
		if err != nil {
			panic(err)
		}
		return string(text)
	}
}

// Pods connect to the addresses that the remote secrets get, and are gone before join writes. What they do not reach, and what a
// hostile cluster reports, changes nothing.
func TestProbe(t *testing.T) {
	root := newRoot()
	first, second := newSide(t, one, "cluster-1", root, nil), newSide(t, two, "cluster-2", root, nil)
	for _, s := range []*side{first, second} {
		must(t, serviceaccount.Ensure(t.Context(), s.clients, namespace, "default"))
	}
	config := contexts(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two})
	reached := outcomes(func(probe.Endpoint) probe.Outcome { return probe.Reached })
	fails := func(fails func(probe.Endpoint) bool, how probe.Outcome) func([]probe.Endpoint) string {
		return outcomes(func(e probe.Endpoint) probe.Outcome {
			if fails(e) {
				return how
			}
			return probe.Reached
		})
	}
	const without = "To join without this check: kubectl istiod-agent join --context=cluster-1 --context=cluster-2 --api-server=cluster-1=https://127.0.0.1:"
	for name, test := range map[string]struct {
		second    probeNode // the first one is honest
		arguments []string
		code      int
		want      []string
	}{
		"Pods without a route": {
			probeNode{"10.2.0.1", fails(func(e probe.Endpoint) bool { return e.Address == "10.1.0.1:8080" }, probe.Timeout)},
			nil, 1,
			[]string{"no context was changed:", "cluster-2: Pods do not reach those of cluster-1 at 10.1.0.1:8080: no answer in time; connect the Pod networks"},
		},
		"an API server with another certificate": {
			probeNode{"10.2.0.1", fails(func(e probe.Endpoint) bool { return e.Server == one.Plane.Config.Host }, probe.BadCertificate)},
			nil, 1,
			[]string{"no context was changed:", "cluster-2: Pods do not reach the API server of cluster-1 at https://127.0.0.1:", "give context cluster-1 the CA of this address"},
		},
		"a hostile address":       {probeNode{"169.254.169.254", reached}, nil, 2, []string{"could not check that the clusters reach each other", `cluster-2: the API server reports "169.254.169.254" as the address of a Pod`, without}},
		"a hostile result":        {probeNode{"10.2.0.1", func([]probe.Endpoint) string { return "\x1b[2J[]" }}, nil, 2, []string{"cluster-2: pod istio-system/istiod-agent-probe-", "its result is not of this program: [2J[]", without}},
		"another image":           {probeNode{"10.2.0.1", func([]probe.Endpoint) string { return "" }}, nil, 2, []string{"it ended without a result", without}},
		"results of other Pods":   {probeNode{"10.2.0.1", func([]probe.Endpoint) string { return `[{"o":"reached"}]` }}, nil, 2, []string{"its result holds 1 outcomes; expected 2", without}},
		"a dry run":               {probeNode{"10.2.0.1", nil}, []string{"--dry-run"}, 0, []string{"a dry run starts no Pods, so it does not check that the clusters reach each other"}},
		"flags that do not fit":   {probeNode{"10.2.0.1", nil}, []string{"--probe=false", "--traffic-image=x"}, 2, []string{"--traffic-image and --traffic-timeout require --probe"}},
		"a timeout of no meaning": {probeNode{"10.2.0.1", nil}, []string{"--traffic-timeout=0s"}, 2, []string{"--traffic-timeout: expected a positive duration"}},
	} {
		t.Run(name, func(t *testing.T) {
			probeNode{"10.1.0.1", reached}.run(t, first)
			test.second.run(t, second)
			run(t, config, probeBoth(test.arguments...)...).Wants(t, test.code, test.want...)
			nothingLeft(t, first, second)
		})
	}
	t.Run("a gateway", func(t *testing.T) {
		first.gateway(t, "n1")
		second.gateway(t, "n2")
		probeNode{"", fails(func(e probe.Endpoint) bool { return e.Address == "192.0.2.22:15021" }, probe.Refused)}.run(t, first)
		probeNode{"", reached}.run(t, second)
		run(t, config, probeBoth("--network=cluster-1=n1", "--network=cluster-2=n2")...).Wants(t, 1, "no context was changed:\n  cluster-1: Pods do not reach the east-west gateway of cluster-2 (Service istio-system/istio-eastwestgateway) at 192.0.2.22:15021: connection refused; allow the connection")
		nothingLeft(t, first, second)
		// No Pod starts: no connection could tell both gateways apart.
		same := client.RawPatch(types.MergePatchType, []byte(`{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.21"}]}}}`))
		must(t, second.Status().Patch(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istio-eastwestgateway"}}, same))
		run(t, config, probeBoth("--network=cluster-1=n1", "--network=cluster-2=n2", "--traffic-timeout=1s")...).Wants(t, 1,
			"no context was changed:\n", "cluster-2: its east-west gateway (Service istio-system/istio-eastwestgateway) has the address 192.0.2.21, and so has that of cluster-1 in network n1")
		nothingLeft(t, first, second)
	})
	t.Run("no node", func(t *testing.T) {
		probeNode{"10.1.0.1", reached}.run(t, first)
		run(t, config, probeBoth("--traffic-timeout=1s")...).Wants(t, 2, "cluster-2: pod istio-system/istiod-agent-listener-", " was not ready after 1s: it waited for its container", without)
		nothingLeft(t, first, second)
	})
	t.Run("all reached", func(t *testing.T) {
		asked := make(chan []probe.Endpoint, 2)
		node := func(address string) probeNode {
			return probeNode{address, func(endpoints []probe.Endpoint) string {
				select {
				case asked <- endpoints:
				default: // the Pod is reported again
				}
				return reached(endpoints)
			}}
		}
		node("10.1.0.1").run(t, first)
		node("10.2.0.1").run(t, second)
		removedFirst := []func(int){first.watchRemovals(t), second.watchRemovals(t)}
		// Without --traffic-image, it is that of the plugin's release: this istiod has no agent.
		run(t, config, probeBoth("--wait=false")...).Wants(t, 0, "cluster-1: Pods reach the API servers and Pods of cluster-2", "cluster-2: Pods reach the API servers and Pods of cluster-1")
		noPods(t, first, second)
		var addresses []string
		for range 2 {
			for _, endpoint := range <-asked {
				addresses = append(addresses, endpoint.Server+endpoint.Address)
				for _, s := range []*side{first, second} {
					if endpoint.Server == s.Plane.Config.Host && !slices.Equal(endpoint.CA, remotes.Parse(other(s, first, second).secret(t, "istio-remote-secret-"+s.name)).CA) {
						t.Errorf("the CA of %s is not that of the remote secret", s.name)
					}
				}
			}
		}
		slices.Sort(addresses)
		if want := slices.Sorted(slices.Values([]string{one.Plane.Config.Host, two.Plane.Config.Host, "10.1.0.1:8080", "10.2.0.1:8080"})); !slices.Equal(addresses, want) {
			t.Errorf("Pods connect to %q, want %q", addresses, want)
		}
		for _, expect := range removedFirst {
			expect(2)
		}
		// The istiods use these addresses now: a renewal starts no Pods, which no node would run.
		run(t, config, probeBoth("--wait=false", "--renew", "--traffic-timeout=1s")...).Wants(t, 0, "cluster-1: token for cluster-2 renewed")
		run(t, config, both("leave")...).Wants(t, 0)
	})
}

func other(s, first, second *side) *side {
	if s == first {
		return second
	}
	return first
}

// watchRemovals returns a function that expects the deletion of n Pods of join before the first object of join was written. Both
// have revisions of one etcd.
func (s *side) watchRemovals(t *testing.T) (expect func(n int)) {
	t.Helper()
	watching, err := s.clients.CoreV1().Pods(namespace).Watch(t.Context(), metav1.ListOptions{LabelSelector: pods.Label})
	must(t, err)
	return func(n int) {
		t.Helper()
		defer watching.Stop()
		revision := func(object metav1.Object) uint64 {
			number, err := strconv.ParseUint(object.GetResourceVersion(), 10, 64)
			must(t, err)
			return number
		}
		var accounts corev1.ServiceAccountList
		must(t, s.List(t.Context(), &accounts, client.HasLabels{remotes.PartnerLabel}))
		if len(accounts.Items) != 1 {
			t.Fatalf("%s has %d accounts", s.name, len(accounts.Items))
		}
		for event := range watching.ResultChan() { // ends with the test
			if event.Type != watch.Deleted {
				continue
			}
			if pod, ok := event.Object.(*corev1.Pod); !ok || revision(pod) > revision(&accounts.Items[0]) {
				t.Errorf("%s: a Pod was deleted after the account was created", s.name)
			}
			if n--; n == 0 {
				return
			}
		}
	}
}

// Without a right, join names it and the flag that omits the Pods. A Pod that it may not delete is named.
func TestProbeRights(t *testing.T) {
	root := newRoot()
	first, second := newSide(t, one, "cluster-1", root, nil), newSide(t, two, "cluster-2", root, nil)
	for _, s := range []*side{first, second} {
		must(t, serviceaccount.Ensure(t.Context(), s.clients, namespace, "default"))
	}
	admin, err := one.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	for name, test := range map[string]struct {
		pods []string
		want []string
		left int
	}{
		"no creation": {[]string{"get", "list"}, []string{"cluster-2: creating Pod istio-system/istiod-agent-listener-", "get the right to create pods (kubectl --context=cluster-2 auth can-i create pods -A)", "To join without this check: "}, 0},
		"no deletion": {[]string{"get", "list", "create"}, []string{"cluster-2: pod istio-system/istiod-agent-listener-", "remove it: kubectl --context=cluster-2 delete pod -n istio-system istiod-agent-listener-"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			labelled := metav1.ObjectMeta{Name: "prober"}
			role := &rbacv1.ClusterRole{ObjectMeta: labelled, Rules: append(remotes.Rules([]string{"istio"}), []rbacv1.PolicyRule{
				{APIGroups: []string{"", "apps"}, Resources: []string{"namespaces", "nodes", "services", "secrets", "configmaps", "deployments"}, Verbs: []string{"get", "list"}},
				{APIGroups: []string{"networking.mesh.gloo.solo.io"}, Resources: []string{"virtualmeshes"}, Verbs: []string{"list"}},
				{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: test.pods},
				{APIGroups: []string{""}, Resources: []string{"secrets", "serviceaccounts"}, Verbs: []string{"*"}},
				{APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"clusterroles", "clusterrolebindings"}, Verbs: []string{"*"}},
			}...)}
			binding := &rbacv1.ClusterRoleBinding{
				ObjectMeta: labelled, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "prober"},
				Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "prober"}},
			}
			must(t, two.Create(t.Context(), role))
			must(t, two.Create(t.Context(), binding))
			t.Cleanup(func() {
				ctx := context.WithoutCancel(t.Context())
				must(t, two.Delete(ctx, role))
				must(t, two.Delete(ctx, binding))
				must(t, two.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace), client.HasLabels{pods.Label}))
			})
			limited, err := two.Plane.Kubeconfig("prober")
			must(t, err)
			config := filepath.Join(t.TempDir(), "config")
			must(t, plugin.Kubeconfig(config, map[string]string{"cluster-1": admin, "cluster-2": limited}))
			run(t, config, probeBoth("--traffic-timeout=2s")...).Wants(t, 2, append(test.want, "no context was changed, because join could not check")...)
			if left := first.objects(t) + second.objects(t); left != "" {
				t.Errorf("there is %s", left)
			}
			if left := second.pods(t); len(left) != test.left {
				t.Errorf("Pods remain: %v", left)
			}
			noPods(t, first)
		})
	}
}

// pods are the Pods of join.
func (s *side) pods(t *testing.T) (names []string) {
	t.Helper()
	var list corev1.PodList
	must(t, s.List(t.Context(), &list, client.HasLabels{pods.Label}))
	for _, pod := range list.Items {
		names = append(names, fmt.Sprintf("%s/%s", pod.Namespace, pod.Name))
	}
	return names
}

func noPods(t *testing.T, sides ...*side) {
	t.Helper()
	for _, s := range sides {
		if left := s.pods(t); len(left) > 0 {
			t.Errorf("%s: Pods remain: %v", s.name, left)
		}
	}
}

func nothingLeft(t *testing.T, sides ...*side) {
	t.Helper()
	noPods(t, sides...)
	for _, s := range sides {
		if left := s.objects(t); left != "" {
			t.Errorf("%s has %s", s.name, left)
		}
	}
}
