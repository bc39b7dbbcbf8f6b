// SPDX-License-Identifier: Apache-2.0

package join

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/probe"
)

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
	all, _, _ := plan.connections(joinRequest{}, states, "run")
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

// A tenant's Service or Gateway decides nothing about another's gateway.
func TestSetGateways(t *testing.T) {
	t.Parallel()
	service := func(namespace, app string, ports ...int32) corev1.Service {
		s := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "x", Labels: map[string]string{istio.NetworkLabel: "n1"}}}
		s.Spec.Selector = map[string]string{"istio": app, "app": app}
		for _, port := range ports {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: port})
		}
		return s
	}
	passes := func(namespace string) unstructured.Unstructured { return *gateway(namespace) }
	usual, infra, tenant := service("istio-system", "eastwestgateway", 15021, 15443), service("infra", "eastwestgateway", 15443), service("aaa", "web", 15443)
	matching := service("aaa", "eastwestgateway", 15443)
	for name, test := range map[string]struct {
		services []corev1.Service
		gateways []unstructured.Unstructured
		each     []bool // Exposed of each Service
		want     bool   // join creates no Gateway
	}{
		"none":                               {[]corev1.Service{usual}, nil, []bool{false}, false},
		"join's":                             {[]corev1.Service{usual}, []unstructured.Unstructured{passes("istio-system")}, []bool{true}, true},
		"join's, beside a tenant's Service":  {[]corev1.Service{tenant, usual}, []unstructured.Unstructured{passes("istio-system")}, []bool{false, true}, true},
		"a tenant's":                         {[]corev1.Service{usual}, []unstructured.Unstructured{passes("aaa")}, []bool{false}, false},
		"a tenant's, with a Service":         {[]corev1.Service{matching, usual}, []unstructured.Unstructured{passes("aaa")}, []bool{true, false}, false},
		"of the gateway's own namespace":     {[]corev1.Service{infra}, []unstructured.Unstructured{passes("infra")}, []bool{true}, true},
		"of istiod's, for another namespace": {[]corev1.Service{infra}, []unstructured.Unstructured{passes("istio-system")}, []bool{true}, true},
		"a Service of another port":          {[]corev1.Service{service("istio-system", "eastwestgateway", 443), usual}, nil, []bool{false}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := state("one")
			s.setGateways(test.services, test.gateways)
			var each []bool
			for _, g := range s.Gateways {
				each = append(each, g.Exposed)
			}
			if got := s.exposed("n1"); got != test.want || !slices.Equal(each, test.each) {
				t.Errorf("got %v, %v", got, each)
			}
		})
	}
}

// A hostile cluster does not fill the terminal.
func TestUnreached(t *testing.T) {
	t.Parallel()
	problems := slices.Repeat([]string{"one: Pods do not reach two"}, 19800)
	f := flags{ttl: defaultTTL, probe: true, renew: true, timeout: time.Minute}
	f.Contexts = []string{"one", "two"}
	for name, test := range map[string]struct {
		failed []string
		want   string
		coded  bool // exit.Problem
	}{
		"refused":     {nil, "and 19780 more", true},
		"not checked": {[]string{"two: no node"}, "and 19780 more\nTo join without this check: kubectl istiod-agent join --context=one --context=two --probe=false --renew --restart=false --wait=false --timeout=1m0s", false},
	} {
		err := f.unreached(test.failed, problems)
		_, coded := errors.AsType[*exit.Error](err)
		if lines := strings.Count(err.Error(), "\n"); !strings.HasSuffix(err.Error(), test.want) || lines > maxProblems+4 || coded != test.coded {
			t.Errorf("%s: %d lines, %v", name, lines, err)
		}
	}
	if err := f.unreached(nil, nil); err != nil {
		t.Error(err)
	}
}

func TestServerAddresses(t *testing.T) {
	t.Parallel()
	slice := &discoveryv1.EndpointSlice{Ports: slices.Repeat([]discoveryv1.EndpointPort{{Port: new(int32(6443))}}, 100)}
	slice.Endpoints = slices.Repeat([]discoveryv1.Endpoint{{Addresses: []string{"x", "fe80::1%eth0", "172.18.0.2", "2001:db8::1"}}}, 1000)
	if got := serverAddresses(slice); len(got) != 8 || got[0] != "https://172.18.0.2:6443" || got[1] != "https://[2001:db8::1]:6443" {
		t.Errorf("got %q", got)
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
