// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/probe"
)

// destination is a kind of endpoints in another cluster.
type destination string

const (
	apiServers destination = "API servers"
	podNetwork destination = "Pods"
	gateways   destination = "east-west gateways"
)

// connection is one that a Pod of the reader's cluster must be able to make, since the reader's istiod, or proxies that it
// configures, will make it.
type connection struct {
	reader, target int // as in grant
	to             destination
	// service is the Service of a gateway.
	service string
	// endpoint of another cluster's Pods has no address until they run.
	endpoint probe.Endpoint
}

// maxGateways is the most gateways of a cluster that a Pod connects to.
const maxGateways = 4

// connections returns what Pods must connect to before the plan is carried out, what they cannot check, and why connections would
// prove nothing. run distinguishes the answers of this run's Pods.
func (p *joinPlan) connections(request joinRequest, states []*clusterState, run string) (all []connection, notes, problems []string) {
	noted := map[string]bool{}
	add := func(to *[]string, text string) {
		if text != "" && !noted[text] {
			noted[text], *to = true, append(*to, text)
		}
	}
	for _, g := range p.Grants {
		if g.Action == keep || !g.New {
			continue
		}
		target := states[g.target]
		server := probe.Endpoint{Server: g.Address.Server, ServerName: g.Address.TLSServerName, CA: g.Address.CA}
		if len(server.CA) == 0 {
			add(&notes, target.Context+": the kubeconfig has no CA, so join did not verify the API server's certificate")
		}
		all = append(all, connection{g.reader, g.target, apiServers, "", server})
		network := request.Networks[target.Context]
		if request.Networks[states[g.reader].Context] == network {
			all = append(all, connection{g.reader, g.target, podNetwork, "", probe.Endpoint{Answer: answer(run, g.target)}})
			continue
		}
		add(&problems, target.sharedAddress(states, request.Networks))
		var closed []string
		connected := 0
		for _, gateway := range target.gatewaysOf(network) {
			switch address := gateway.address(); {
			case address == "":
				closed = append(closed, gateway.Name)
			case connected == maxGateways:
				add(&notes, fmt.Sprintf("%s: join connected only to the first %d gateways of network %s", target.Context, maxGateways, network))
			default:
				all = append(all, connection{g.reader, g.target, gateways, gateway.Name, probe.Endpoint{Address: address}})
				connected++
			}
		}
		if len(closed) > 0 {
			add(&notes, fmt.Sprintf("%s: join did not check that the other networks reach the east-west gateway of network %s (Service %s): it has no external address, or neither a Gateway for port %d nor the port %d",
				target.Context, network, terminal.Names(closed, maxNames), istio.EastWestPort, istio.GatewayStatusPort))
		}
	}
	return all, notes, problems
}

// answer is what the Pod of a context sends. Two Pods of a run can have one address, in clusters with the same Pod network.
func answer(run string, target int) string {
	return "istiod-agent-" + run + "-" + strconv.Itoa(target)
}

// gatewaysOf returns the gateways of a network. Those in istiod's namespace are first: Services elsewhere, perhaps of another person,
// do not displace them.
func (s *clusterState) gatewaysOf(network string) (all []gatewayService) {
	prefix := s.Namespace + "/"
	for _, own := range []bool{true, false} {
		for _, gateway := range s.Gateways {
			if gateway.Network == network && strings.HasPrefix(gateway.Name, prefix) == own {
				all = append(all, gateway)
			}
		}
	}
	return all
}

// address returns where (HOST:PORT) the gateway listens, at its first valid host; empty for nowhere. It listens at
// istio.EastWestPort only once a Gateway exposes services.
func (g *gatewayService) address() string {
	port := istio.EastWestPort
	switch {
	case g.Exposed:
	case g.Status:
		port = istio.GatewayStatusPort
	default:
		return ""
	}
	for _, host := range g.Hosts {
		if host = plainHost(host); host != "" {
			return net.JoinHostPort(host, strconv.Itoa(port))
		}
	}
	return ""
}

// plainHost returns the one spelling of a host that Pods may connect to; empty for another one.
func plainHost(host string) string {
	if address, err := netip.ParseAddr(host); err == nil {
		if address.Zone() != "" || probe.IsBarred(address) {
			return ""
		}
		return address.Unmap().String()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if len(validation.IsDNS1123Subdomain(host)) > 0 {
		return ""
	}
	return host
}

// sharedAddress returns that a gateway of this cluster has an address of another network's gateway; empty if none has. A connection
// to it proves nothing: it may end at the other gateway, as where each cluster's load balancer has the same pool of addresses.
func (s *clusterState) sharedAddress(states []*clusterState, networks map[string]string) string {
	own := map[string]string{}
	for _, gateway := range s.gatewaysOf(networks[s.Context]) {
		for _, host := range gateway.Hosts {
			own[plainHost(host)] = gateway.Name
		}
	}
	delete(own, "")
	for _, other := range states {
		network := networks[other.Context]
		if network == networks[s.Context] {
			continue
		}
		for _, gateway := range other.gatewaysOf(network) {
			for _, host := range gateway.Hosts {
				if name := own[plainHost(host)]; name != "" {
					return fmt.Sprintf("%s: its east-west gateway (Service %s) has the address %s, and so has that of %s in network %s (Service %s): traffic for one would reach the other; give the load balancers of both clusters different addresses, such as separate ranges of MetalLB, or correct the Service",
						s.Context, name, plainHost(host), other.Context, network, gateway.Name)
				}
			}
		}
	}
	return ""
}

// connects reports whether the plan needs any connection.
func (p *joinPlan) connects() bool {
	return slices.ContainsFunc(p.Grants, func(g *grant) bool { return g.Action != keep && g.New })
}

// describe returns why a connection failed, with the next step.
func (c *connection) describe(states []*clusterState, result probe.Result) string {
	reader, target := states[c.reader].Context, states[c.target]
	advice := target.addressAdvice()
	at, next := c.endpoint.Address, ""
	what := map[destination]string{
		apiServers: "the API server of " + target.Context, podNetwork: "those of " + target.Context, gateways: "the east-west gateway of " + target.Context + " (Service " + c.service + ")",
	}[c.to]
	switch c.to {
	case apiServers:
		at, next = c.endpoint.Server, "allow the connection (routes, firewalls, DNS), or "+advice
		if result.Outcome == probe.BadCertificate {
			next = fmt.Sprintf("give context %s the CA of this address (certificate-authority-data in the kubeconfig), or %s", target.Context, advice)
		}
	case podNetwork:
		next = "connect the Pod networks (routes, firewalls, network policies), or " + severalNetworks
	case gateways:
		next = "allow the connection (load balancer, firewalls), or correct the address of the Service; if it is no gateway, remove its label " + istio.NetworkLabel + ", because istiod uses it as one"
	}
	return fmt.Sprintf("%s: Pods do not reach %s at %s: %s; %s", reader, what, at, cause(result), next)
}

func cause(result probe.Result) string {
	text := map[probe.Outcome]string{
		probe.NoName: "the name does not resolve", probe.Timeout: "no answer in time", probe.Refused: "connection refused",
		probe.NoRoute: "no route to the host", probe.BadCertificate: "its certificate is not valid for the CA and the name in the kubeconfig",
		probe.Another: "another program answers there, so the clusters use the same addresses", probe.Barred: "the address leads to the Pod itself or its node",
	}[result.Outcome]
	text = cmp.Or(text, "the connection failed")
	if result.Detail != "" {
		text += " (" + result.Detail + ")"
	}
	return text
}
