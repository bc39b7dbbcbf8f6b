// SPDX-License-Identifier: Apache-2.0

package join

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/probe"
)

// line is a connection as the cases expect it.
func (c *connection) line(states []*clusterState) string {
	return fmt.Sprintf("%s to %s of %s %s%s%s", states[c.reader].Context, c.to, states[c.target].Context, c.endpoint.Server, c.endpoint.Address, c.endpoint.Answer)
}

func TestConnections(t *testing.T) {
	t.Parallel()
	gateway := func(hosts ...string) func(*clusterState) {
		return func(s *clusterState) {
			s.Gateways, s.Exposed = append(s.Gateways, gatewayService{"net-" + s.Context, hosts, false}, gatewayService{"other", []string{"198.51.100.9"}, true}), true
		}
	}
	unexposed := func(status bool) func(*clusterState) {
		return func(s *clusterState) {
			s.Gateways = append(s.Gateways, gatewayService{"net-" + s.Context, []string{"192.0.2.3"}, status})
		}
	}
	both := joinRequest{Networks: map[string]string{"one": "net-one", "two": "net-two"}}
	server := func(of string) string { return " to API servers of " + of + " https://" + of + ".example:6443" }
	for name, test := range map[string]struct {
		one, two    *clusterState
		request     joinRequest
		want, notes []string
	}{
		"one network": {state("one"), state("two"), joinRequest{}, []string{
			"one" + server("two"), "one to Pods of two istiod-agent-run-1", "two" + server("one"), "two to Pods of one istiod-agent-run-0",
		}, nil},
		"one network by name": {state("one", gateway()), state("two", gateway()), joinRequest{Networks: map[string]string{"one": "other", "two": "other"}}, []string{
			"one" + server("two"), "one to Pods of two istiod-agent-run-1", "two" + server("one"), "two to Pods of one istiod-agent-run-0",
		}, nil},
		"gateways": {state("one", gateway("192.0.2.1", "192.0.2.2")), state("two", gateway("gateway.example")), both, []string{
			"one" + server("two"), "one to east-west gateways of two gateway.example:15443", "two" + server("one"), "two to east-west gateways of one 192.0.2.1:15443",
		}, nil},
		"a gateway by IPv6, one without an address": {state("one", gateway("2001:db8::1")), state("two", gateway()), both, []string{
			"one" + server("two"), "two" + server("one"), "two to east-west gateways of one [2001:db8::1]:15443",
		}, []string{"two: the east-west gateway of network net-two has no external address, or no port 15443, so join did not check"}},
		// Port 15443 is closed until join has created its Gateway.
		"gateways before the first join": {state("one", unexposed(true)), state("two", unexposed(false)), both, []string{
			"one" + server("two"), "two" + server("one"), "two to east-west gateways of one 192.0.2.3:15021",
		}, []string{"two: the east-west gateway of network net-two has no external address, or no port 15021"}},
		"hostile gateways": {state("one", gateway("169.254.169.254", "127.0.0.1", "::ffff:127.0.0.1", "a b", "\x1b[2J", "a:1", "-")), state("two", gateway("fe80::1%eth0", "192.0.2.2")), both, []string{
			"one" + server("two"), "one to east-west gateways of two 192.0.2.2:15443", "two" + server("one"),
		}, []string{"one: the east-west gateway of network net-one"}},
		// Its istiod uses the address already, and a renewal must not depend on Pods.
		"a kept secret":     {state("one", with(joined())), state("two"), joinRequest{}, []string{"two" + server("one"), "two to Pods of one istiod-agent-run-0"}, nil},
		"a renewed token":   {state("one", with(joined())), state("two"), joinRequest{Renew: true}, []string{"two" + server("one"), "two to Pods of one istiod-agent-run-0"}, nil},
		"a changed address": {state("one", with(joined(func(s *remotes.Secret) { s.Server = "https://old.example" }))), state("two"), joinRequest{}, []string{"one" + server("two"), "one to Pods of two istiod-agent-run-1", "two" + server("one"), "two to Pods of one istiod-agent-run-0"}, nil},
		"another's, limited, at another address": {
			state("one", with(joined(foreign, func(s *remotes.Secret) { s.Server, s.AccountUID = "https://old.example", "u-reader" }))),
			state("two", func(s *clusterState) { s.Accounts[named("istio-reader-service-account")] = "u-reader" }),
			joinRequest{},
			[]string{"two" + server("one"), "two to Pods of one istiod-agent-run-0"},
			nil,
		},
		"a public CA": {state("one"), state("two", func(s *clusterState) { s.Address.CA = nil }), joinRequest{}, []string{
			"one" + server("two"), "one to Pods of two istiod-agent-run-1", "two" + server("one"), "two to Pods of one istiod-agent-run-0",
		}, []string{"two: the kubeconfig has no CA, so join did not verify the API server's certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			states := []*clusterState{test.one, test.two}
			plan, problems := decide(test.request, states, now)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			all, notes := plan.connections(test.request, states, "run")
			var got []string
			for _, c := range all {
				got = append(got, c.line(states))
			}
			if !slices.Equal(got, test.want) || plan.connects() != (len(got) > 0) {
				t.Errorf("got %q\nwant %q", got, test.want)
			}
			wantProblems(t, notes, test.notes)
		})
	}
}

// Nothing connects where nothing is written.
func TestNoConnections(t *testing.T) {
	t.Parallel()
	same := func(of, reader string) remotes.Secret {
		return joined(func(s *remotes.Secret) {
			s.Key.Name, s.Clusters, s.Server = "istio-remote-secret-"+of, []string{of}, "https://"+of+".example:6443"
			s.Account.Name, s.AccountUID = "istiod-agent-remote-"+reader, s.AccountUID[:2]
		})
	}
	states := []*clusterState{state("one", with(same("two", "one"))), state("two", with(same("one", "two")))}
	plan, problems := decide(joinRequest{Renew: true}, states, now)
	if all, _ := plan.connections(joinRequest{}, states, "run"); len(problems) > 0 || len(all) > 0 || plan.connects() {
		t.Errorf("got %v, %v", problems, all)
	}
}

// A Pod of one of a hundred clusters makes all its connections, and reports them in a termination message.
func TestHundredProbes(t *testing.T) {
	t.Parallel()
	var states []*clusterState
	for i := range 100 {
		states = append(states, state(fmt.Sprintf("cluster-%d", i)))
	}
	plan, problems := decide(joinRequest{}, states, now)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	all, _ := plan.connections(joinRequest{}, states, "run")
	first := 0
	for _, c := range all {
		if c.reader == 0 {
			first++
		}
	}
	if first != 2*99 || first > probe.MaxEndpoints || len(all) != 100*first {
		t.Errorf("%d connections, %d of the first Pod", len(all), first)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	states := []*clusterState{state("one"), state("it's two")}
	server, podsOf, gateway := connection{0, 1, apiServers, probe.Endpoint{Server: "https://two.example:6443"}}, connection{0, 1, podNetwork, probe.Endpoint{Address: "10.2.0.1:8080"}},
		connection{0, 1, gateways, probe.Endpoint{Address: "192.0.2.1:15443"}}
	for name, test := range map[string]struct {
		connection connection
		result     probe.Result
		want       string
	}{
		"an API server that does not answer": {server, probe.Result{Outcome: probe.Timeout}, `one: Pods do not reach the API server of it's two at https://two.example:6443: no answer in time; allow the connection (routes, firewalls, DNS), or pass an address that Pods of the other clusters can reach, with --api-server 'it'\''s two'=https://HOST:PORT`},
		"a name":                             {server, probe.Result{Outcome: probe.NoName, Detail: "no such host"}, "the name does not resolve (no such host)"},
		"a certificate":                      {server, probe.Result{Outcome: probe.BadCertificate, Detail: "x509: unknown"}, "its certificate is not valid for the CA and the name in the kubeconfig (x509: unknown); give context it's two the CA of this address (certificate-authority-data in the kubeconfig), or pass an address"},
		"a loopback address":                 {server, probe.Result{Outcome: probe.Barred}, "the address leads to the Pod itself or its node"},
		"Pods without a route":               {podsOf, probe.Result{Outcome: probe.NoRoute}, "one: Pods do not reach those of it's two at 10.2.0.1:8080: no route to the host; connect the Pod networks (routes, firewalls, network policies), or name the network of each context by --network CONTEXT=NAME"},
		"Pods with the same addresses":       {podsOf, probe.Result{Outcome: probe.Another}, "another program answers there, so the clusters use the same addresses"},
		"a gateway":                          {gateway, probe.Result{Outcome: probe.Refused}, "one: Pods do not reach the east-west gateway of it's two at 192.0.2.1:15443: connection refused; allow the connection (load balancer, firewalls)"},
		"anything else":                      {gateway, probe.Result{Outcome: probe.Failed, Detail: "the connection was closed"}, "the connection failed (the connection was closed); "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := test.connection.describe(states, test.result); !strings.Contains(got, test.want) {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestPodAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"10.2.0.1": true, "2001:db8::1": true, "127.0.0.1": false, "169.254.169.254": false, "::ffff:127.0.0.1": false, "fe80::1%eth0": false, "2001:db8::1%eth0": false,
		"": false, "metadata.internal": false, "10.2.0.1:80": false, "\x1b[2J": false, strings.Repeat("1", 1000): false,
	} {
		_, err := podAddress(text)
		if (err == nil) != want || err != nil && (len(err.Error()) > 300 || strings.Contains(err.Error(), "\x1b")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestExternalHosts(t *testing.T) {
	t.Parallel()
	service := &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: []string{"192.0.2.3"}}}
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{}, {IP: "192.0.2.1"}, {Hostname: "gateway.example"}}
	if got := externalHosts(service); !slices.Equal(got, []string{"192.0.2.1", "gateway.example", "192.0.2.3"}) {
		t.Errorf("got %q", got)
	}
}

// The Pods have no token, are of no mesh, and are selected by no Service of istiod.
func TestProbePod(t *testing.T) {
	t.Parallel()
	a := planned(t, joinRequest{}, state("one"), state("two"))
	a.progress = terminal.NewProgress(io.Discard)
	p := &probing{application: a, suffix: "abcde"}
	pod := p.pod(1, "istiod-agent-listener-", "x", nil)
	if pod.Namespace != "istio-system" || pod.Name != "istiod-agent-listener-abcde" || *pod.Spec.AutomountServiceAccountToken || pod.Labels["app"] != "" ||
		pod.Labels["sidecar.istio.io/inject"] != "false" || pod.Labels["istio.io/dataplane-mode"] != "none" || pod.Labels["istiod-agent.io/traffic"] != "true" {
		t.Errorf("got %+v", pod)
	}
	if text := terminal.OneLine(strings.Join(texts(a.each("", func(i int) error { return fmt.Errorf("error %d", i) })), "|")); text != "one: error 0|two: error 1" {
		t.Errorf("got %s", text)
	}
}
