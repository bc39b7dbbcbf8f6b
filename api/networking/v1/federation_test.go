// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// Of spec.federation, what Istio's own federation cannot express is named with its path.
func TestFederation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		federation string
		requested  bool
		notActedOn []string
	}{
		"absent":                       {},
		"null":                         {federation: `null`},
		"the guide's":                  {federation: `{"selectors":[{}]}`, requested: true},
		"written out":                  {federation: `{"selectors":[{"destinationSelectors":[],"meshes":null}],"flatNetwork":false,"hostnameSuffix":"","eastWestIngressGatewaySelectors":[],"tcpKeepalive":null}`, requested: true},
		"all among others":             {federation: `{"selectors":[{"meshes":[{"name":"a"}]},{}]}`, requested: true},
		"permissive, of Gloo Mesh 1.0": {federation: `{"permissive":{}}`, requested: true},
		"nothing":                      {federation: `{}`, notActedOn: []string{"spec.federation: is not acted on: it has no selectors"}},
		"no selector":                  {federation: `{"selectors":[]}`, notActedOn: []string{"spec.federation: is not acted on: it has no selectors"}},
		"some services": {
			federation: `{"selectors":[{"destinationSelectors":[{"kubeServiceMatcher":{"namespaces":["a"]}}]}]}`, requested: true,
			notActedOn: []string{"spec.federation.selectors[0].destinationSelectors: is not acted on: istiod reads every service of a joined cluster"},
		},
		"an empty selector of services, whose meaning is Gloo Mesh's": {
			federation: `{"selectors":[{"destinationSelectors":[{}]}]}`, requested: true,
			notActedOn: []string{"spec.federation.selectors[0].destinationSelectors: is not acted on"},
		},
		"some meshes": {
			federation: `{"selectors":[{"meshes":[{"name":"a"}]},{"meshes":[{"name":"b"}],"mesh":"c"}]}`, requested: true,
			notActedOn: []string{
				"spec.federation.selectors[0].meshes: is not acted on: which clusters an istiod reads is decided by its remote secrets",
				"spec.federation.selectors[1].mesh: is not acted on: there is no such field", "spec.federation.selectors[1].meshes: is not acted on",
			},
		},
		"restrictive, of Gloo Mesh 1.0": {
			federation: `{"restrictive":{"federatedServices":[]}}`, requested: true, notActedOn: []string{"spec.federation.restrictive: is not acted on"},
		},
		"gateways, a suffix, a flat network and keepalive": {
			federation: `{"selectors":[{}],"hostnameSuffix":"global","flatNetwork":true,"eastWestIngressGatewaySelectors":[{"portName":"tls"}],"tcpKeepalive":{"probes":3}}`, requested: true,
			notActedOn: []string{
				"spec.federation.eastWestIngressGatewaySelectors: is not acted on: istiod finds the gateways of another network by their label topology.istio.io/network",
				"spec.federation.flatNetwork: is not acted on", "spec.federation.hostnameSuffix: is not acted on: a service has its own name in every cluster", "spec.federation.tcpKeepalive: is not acted on",
			},
		},
		"misspelt":                  {federation: `{"selector":[{}]}`, notActedOn: []string{"spec.federation.selector: is not acted on: there is no such field"}},
		"selectors of another type": {federation: `{"selectors":{}}`, notActedOn: []string{"spec.federation.selectors: is not acted on: expected a list of selectors"}},
		"a selector of another type": {
			federation: `{"selectors":["all"]}`, requested: true, notActedOn: []string{"spec.federation.selectors[0]: is not acted on: expected a selector, such as {}"},
		},
		"another type": {federation: `"all"`},
		"a name for a terminal": {
			federation: `{"\u001b[2J` + strings.Repeat("x", 1000) + `":1}`, notActedOn: []string{"spec.federation."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mesh := valid()
			if test.federation != "" {
				mesh.Spec.Federation = &runtime.RawExtension{Raw: []byte(test.federation)}
			}
			if got := mesh.Spec.RequestsFederation(); got != test.requested {
				t.Errorf("requested: %t", got)
			}
			mesh.Spec.SetDefaults()
			warnings, errs := mesh.Validate()
			wantAll(t, said(errs))
			wantAll(t, warnings, test.notActedOn...)
			for _, warning := range warnings {
				if len(warning) > 400 || strings.Contains(warning, "\x1b") {
					t.Errorf("got %q", warning)
				}
			}
		})
	}
}

// A specification of any size is named in a few lines.
func TestLargeFederation(t *testing.T) {
	t.Parallel()
	fields, selectors := make([]string, 10_000), make([]string, 10_000)
	for i := range fields {
		fields[i], selectors[i] = fmt.Sprintf(`"f%d":1`, i), `{"meshes":[1],"destinationSelectors":[1],"x":1}`
	}
	for _, federation := range []string{
		"{" + strings.Join(fields, ",") + "}", `{"selectors":[` + strings.Join(selectors, ",") + "]}", `{"selectors":[{` + strings.Join(fields, ",") + "}]}",
	} {
		mesh := valid()
		mesh.Spec.Federation = &runtime.RawExtension{Raw: []byte(federation)}
		if parts := mesh.Spec.NotActedOn(); len(parts) < 10 || len(parts) > 15 {
			t.Errorf("%.40s…: %d lines", federation, len(parts))
		}
	}
	var none networkingv1.VirtualMeshSpec
	if parts := none.NotActedOn(); len(parts) > 0 {
		t.Errorf("got %q", parts)
	}
}
