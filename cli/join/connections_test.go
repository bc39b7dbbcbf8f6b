// SPDX-License-Identifier: Apache-2.0

package join

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/internal/probe"
)

// line is a connection as the cases expect it.
func (c *connection) line(states []*clusterState) string {
	return strings.TrimSpace(fmt.Sprintf("%s to %s of %s %s%s%s %s", states[c.reader].Context, c.to, states[c.target].Context, c.endpoint.Server, c.endpoint.Address, c.endpoint.Answer, c.service))
}

func TestConnections(t *testing.T) {
	t.Parallel()
	of := func(network, name string, exposed bool, hosts ...string) func(*clusterState) {
		return func(s *clusterState) {
			s.Gateways = append(s.Gateways, gatewayService{Network: network, Name: name, Hosts: hosts, Exposed: exposed})
		}
	}
	gateway := func(hosts ...string) func(*clusterState) {
		return func(s *clusterState) {
			of("net-"+s.Context, "istio-system/gateway", true, hosts...)(s)
			of("other", "istio-system/other", true, "198.51.100.9")(s)
		}
	}
	unexposed := func(status bool, host string) func(*clusterState) {
		return func(s *clusterState) {
			s.Gateways = append(s.Gateways, gatewayService{"net-" + s.Context, "istio-system/gateway", []string{host}, status, false})
		}
	}
	many := func(s *clusterState) {
		for i := range 3 {
			of("net-two", fmt.Sprintf("aaa/gateway-%d", i), true, fmt.Sprintf("192.0.2.1%d", i))(s)
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
			"one" + server("two"), "one to east-west gateways of two gateway.example:15443 istio-system/gateway", "two" + server("one"), "two to east-west gateways of one 192.0.2.1:15443 istio-system/gateway",
		}, nil},
		"a gateway by IPv6, one without an address": {state("one", gateway("2001:db8::1")), state("two", gateway()), both, []string{
			"one" + server("two"), "two" + server("one"), "two to east-west gateways of one [2001:db8::1]:15443 istio-system/gateway",
		}, []string{"two: join did not check that the other networks reach the east-west gateway of network net-two (Service istio-system/gateway): it has no external address, or neither a Gateway for port 15443 nor the port 15021"}},
		// A Service of a tenant neither replaces istiod's gateway nor decides about its port.
		"a tenant's Service": {state("one", gateway("192.0.2.1")), state("two", of("net-two", "aaa/gateway", true, "198.51.100.1"), unexposed(true, "192.0.2.3")), both, []string{
			"one" + server("two"), "one to east-west gateways of two 192.0.2.3:15021 istio-system/gateway", "one to east-west gateways of two 198.51.100.1:15443 aaa/gateway",
			"two" + server("one"), "two to east-west gateways of one 192.0.2.1:15443 istio-system/gateway",
		}, nil},
		"many gateways": {state("one", gateway()), state("two", many, many, gateway("192.0.2.3")), both, []string{
			"one" + server("two"), "one to east-west gateways of two 192.0.2.3:15443 istio-system/gateway", "one to east-west gateways of two 192.0.2.10:15443 aaa/gateway-0",
			"one to east-west gateways of two 192.0.2.11:15443 aaa/gateway-1", "one to east-west gateways of two 192.0.2.12:15443 aaa/gateway-2", "two" + server("one"),
		}, []string{"two: join connected only to the first 4 gateways of network net-two", "one: join did not check"}},
		// Port 15443 is closed until join has created its Gateway.
		"gateways before the first join": {state("one", unexposed(true, "192.0.2.3")), state("two", unexposed(false, "192.0.2.4")), both, []string{
			"one" + server("two"), "two" + server("one"), "two to east-west gateways of one 192.0.2.3:15021 istio-system/gateway",
		}, []string{"two: join did not check that the other networks reach the east-west gateway of network net-two"}},
		"hostile gateways": {state("one", gateway("169.254.169.254", "127.0.0.1", "::ffff:127.0.0.1", "a b", "\x1b[2J", "a:1", "-", "2001:db8::1%\x1b[2J")), state("two", gateway("fe80::1%eth0", "192.0.2.2")), both, []string{
			"one" + server("two"), "one to east-west gateways of two 192.0.2.2:15443 istio-system/gateway", "two" + server("one"),
		}, []string{"one: join did not check that the other networks reach the east-west gateway of network net-one"}},
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
			all, notes, problems := plan.connections(test.request, states, "run")
			wantProblems(t, problems, nil)
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
	if all, _, _ := plan.connections(joinRequest{}, states, "run"); len(problems) > 0 || len(all) > 0 || plan.connects() {
		t.Errorf("got %v, %v", problems, all)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	states := []*clusterState{state("one"), state("it's two")}
	server, podsOf, gateway := connection{0, 1, apiServers, "", probe.Endpoint{Server: "https://two.example:6443"}}, connection{0, 1, podNetwork, "", probe.Endpoint{Address: "10.2.0.1:8080"}},
		connection{0, 1, gateways, "istio-system/gateway", probe.Endpoint{Address: "192.0.2.1:15443"}}
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
		"a gateway":                          {gateway, probe.Result{Outcome: probe.Refused}, "one: Pods do not reach the east-west gateway of it's two (Service istio-system/gateway) at 192.0.2.1:15443: connection refused; allow the connection (load balancer, firewalls), or correct the address of the Service; if it is no gateway, remove its label topology.istio.io/network"},
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

// A connection proves nothing where another network's gateway has the same address: kube-proxy answers the reader's own.
func TestSharedAddress(t *testing.T) {
	t.Parallel()
	gateway := func(network, name string, hosts ...string) func(*clusterState) {
		return func(s *clusterState) {
			s.Gateways = append(s.Gateways, gatewayService{network, name, hosts, true, true})
		}
	}
	own := func(hosts ...string) func(*clusterState) {
		return func(s *clusterState) { gateway("net-"+s.Context, "istio-system/gateway", hosts...)(s) }
	}
	shares := func(one, address, other, service string) string {
		return fmt.Sprintf("%[1]s: its east-west gateway (Service istio-system/gateway) has the address %[2]s, and so has that of %[3]s in network net-%[3]s (Service %[4]s): traffic for one would reach the other; give the load balancers", one, address, other, service)
	}
	for name, test := range map[string]struct {
		one, two, three *clusterState
		want            []string
	}{
		"distinct": {state("one", own("192.0.2.1")), state("two", own("192.0.2.2")), state("three", own("192.0.2.3")), nil},
		"the reader's": {
			state("one", own("172.18.255.200")), state("two", own("172.18.255.200")), state("three", own("192.0.2.3")),
			[]string{shares("two", "172.18.255.200", "one", "istio-system/gateway"), shares("one", "172.18.255.200", "two", "istio-system/gateway")},
		},
		"a second host, of a second Service": {
			state("one", own("192.0.2.1")), state("two", own("192.0.2.2", "192.0.2.9")), state("three", own("192.0.2.3"), gateway("net-three", "aaa/x", "::ffff:192.0.2.9")),
			[]string{shares("two", "192.0.2.9", "three", "aaa/x"), "three: its east-west gateway (Service aaa/x) has the address 192.0.2.9"},
		},
		"a name": {
			state("one", own("gateway.example")), state("two", own("Gateway.Example.")), state("three"),
			[]string{shares("two", "gateway.example", "one", "istio-system/gateway"), shares("one", "gateway.example", "two", "istio-system/gateway")},
		},
		"the target's address by hand": {state("one", own("192.0.2.1"), gateway("net-two", "istio-system/of-two", "192.0.2.2")), state("two", own("192.0.2.2")), state("three"), nil},
		"of no use":                    {state("one", own("127.0.0.1", "")), state("two", own("127.0.0.1", "")), state("three"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := joinRequest{Networks: map[string]string{"one": "net-one", "two": "net-two", "three": "net-three"}}
			states := []*clusterState{test.one, test.two, test.three}
			plan, _ := decide(request, states, now)
			_, _, problems := plan.connections(request, states, "run")
			wantProblems(t, problems, test.want)
		})
	}
}
