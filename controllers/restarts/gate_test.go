// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// newRootCertificate gives a root as a ConfigMap has it, and its fingerprint.
func newRootCertificate(_ *testing.T, name string) (text, fingerprint string) {
	root := testca.Root(name)
	return string(root.PEM()), pemcerts.Fingerprint(root.Certificate)
}

func TestTheGateOfANamespace(t *testing.T) {
	one, first := newRootCertificate(t, "one")
	two, second := newRootCertificate(t, "two")
	holding := func(text string) *corev1.ConfigMap {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				CreationTimestamp: metav1.NewTime(begun.Add(-time.Hour)),
				ManagedFields:     []metav1.ManagedFieldsEntry{{Time: &metav1.Time{Time: begun.Add(-time.Minute)}}, {Time: &begun}, {}},
			},
			Data: map[string]string{istio.RootCertFile: text},
		}
	}
	created := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: begun}, Data: map[string]string{istio.RootCertFile: two}}
	for name, test := range map[string]struct {
		configMap *corev1.ConfigMap
		desired   []string
		at        time.Duration // after its change
		waiting   string        // none: open
	}{
		"it holds the root":                 {holding(two), []string{second}, time.Minute, ""},
		"compared by certificate, not text": {holding("\n" + two + "\n\n"), []string{second}, time.Minute, ""},
		"it holds more":                     {holding(one + two), []string{second}, time.Minute, ""},
		"it holds both":                     {holding(two + one), []string{first, second}, time.Minute, ""},
		"it holds one of both":              {holding(two), []string{first, second}, time.Minute, "ConfigMap a/b to hold root"},
		"it holds the old root":             {holding(one), []string{second}, time.Minute, "ConfigMap a/b to hold root"},
		"it holds no certificate":           {holding("x"), []string{second}, time.Minute, "ConfigMap a/b to hold certificates"},
		"it is empty":                       {&corev1.ConfigMap{}, []string{second}, time.Minute, "ConfigMap a/b to hold certificates"},
		"it is not there":                   {nil, []string{second}, time.Minute, "ConfigMap a/b to exist"},
		"it has just changed":               {holding(two), []string{second}, time.Second, "the kubelets to update ConfigMap a/b"},
		"nobody has changed it":             {created, []string{second}, 2 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := gateOf("a/b", test.configMap, istio.RootCertFile, test.desired, begun.Add(test.at))
			if got.open != (test.waiting == "") || !strings.HasPrefix(got.waiting, test.waiting) {
				t.Errorf("got %+v", got)
			}
			if got.open && !got.since.Equal(begun.Time) {
				t.Errorf("since %s", got.since)
			}
		})
	}
}
