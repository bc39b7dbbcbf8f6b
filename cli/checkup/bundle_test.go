// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

func TestBundle(t *testing.T) {
	t.Parallel()
	root := string(testca.Root("mesh").PEM())
	evil := testca.Authority("\x1b[2Jevil")
	evil.IsCA = false
	for name, test := range map[string]struct {
		port      int32
		published map[string]string // by namespace
		level     level
		want      []string // none without a line
	}{
		"not enabled":      {0, nil, levelOK, nil},
		"served":           {8443, map[string]string{"istio-system": root, "mesh": root}, levelOK, []string{"1 from istio-system/istio-ca-root-cert, 1 from mesh/"}},
		"no ConfigMap":     {8443, map[string]string{"istio-system": root}, levelFail, []string{"has not published its roots in ConfigMap mesh/", "get pods -n mesh"}},
		"not PEM":          {8443, map[string]string{"istio-system": "x", "mesh": root}, levelFail, []string{"root-cert.pem in ConfigMap istio-system/", "not a certificate"}},
		"empty":            {8443, map[string]string{"istio-system": "", "mesh": root}, levelFail, []string{"it is empty"}},
		"for the terminal": {8443, map[string]string{"istio-system": string(testca.SelfSign(evil, nil).PEM()), "mesh": root}, levelFail, []string{"is not a root"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts := healthy(t)
			facts.Configuration.Value = v1alpha1.Default()
			facts.Configuration.Value.Server.BundleEndpoint = v1alpha1.BundleEndpoint{Port: test.port, Namespaces: []string{"istio-system", "mesh"}}
			builder := fake.NewClientBuilder().WithScheme(scheme.Scheme)
			for namespace, text := range test.published {
				builder.WithObjects(&corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istio-ca-root-cert"}, Data: map[string]string{"root-cert.pem": text},
				})
			}
			facts.Bundle = readBundle(t.Context(), builder.Build(), facts)
			d := &decision{facts: facts, kubectl: "kubectl", now: time.Now()}
			d.bundle()
			if len(test.want) == 0 {
				if len(d.lines) > 0 {
					t.Errorf("got %+v", d.lines)
				}
				return
			}
			if len(d.lines) != 1 {
				t.Fatalf("got %+v", d.lines)
			}
			line := d.lines[0]
			text := line.Detail + line.Next
			for _, want := range test.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q does not contain %q", text, want)
				}
			}
			if line.Status != test.level || strings.Contains(text, "\x1b") {
				t.Errorf("got %s: %q", line.Status, text)
			}
		})
	}
}
