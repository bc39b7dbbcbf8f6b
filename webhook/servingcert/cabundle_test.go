// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const year = 365 * 24 * time.Hour

func TestMerge(t *testing.T) {
	t.Parallel()
	older := newCA(t, "older", start.Add(-2*time.Hour), start.Add(time.Hour))
	old := newCA(t, "old", start.Add(-time.Hour), start.Add(year))
	current := newCA(t, "current", start, start.Add(2*year))
	expired := newCA(t, "expired", start.Add(-year), start)
	var newer []testCA
	for i := range maxCAs {
		newer = append(newer, newCA(t, fmt.Sprint("newer ", i), start.Add(time.Duration(i+1)*time.Second), start.Add(year)))
	}
	slices.Reverse(newer)

	tests := map[string]struct {
		existing []byte
		want     []testCA
		expires  time.Time
	}{
		"nothing there":                     {nil, []testCA{current}, current.NotAfter},
		"the current one is there":          {pemOf(current), []testCA{current}, current.NotAfter},
		"the old one stays, the new first":  {pemOf(old), []testCA{current, old}, old.NotAfter},
		"all that have not expired stay":    {pemOf(older, current, old), []testCA{current, old, older}, older.NotAfter},
		"whatever their order was":          {pemOf(old, older, current), []testCA{current, old, older}, older.NotAfter},
		"the expired one goes":              {pemOf(expired, old), []testCA{current, old}, old.NotAfter},
		"one that stands twice stands once": {pemOf(old, old, current, old), []testCA{current, old}, old.NotAfter},
		"what is no certificate goes":       {append([]byte("# by hand\n-----BEGIN CERTIFICATE-----\nCg==\n-----END CERTIFICATE-----\n"), pemOf(old)...), []testCA{current, old}, old.NotAfter},
		"a bundle of nonsense":              {[]byte("nonsense"), []testCA{current}, current.NotAfter},
		"the oldest of too many go":         {pemOf(append(newer[1:], old, older)...), append(slices.Clone(newer[1:]), current), newer[1].NotAfter},
		"but never the current one":         {pemOf(newer...), append(slices.Clone(newer[:maxCAs-1]), current), newer[0].NotAfter},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, expires := merge(certificates(pemOf(current)), certificates(test.existing), start)
			if want := pemOf(test.want...); !bytes.Equal(got, want) {
				t.Errorf("got %v, want %v", names(got), names(want))
			}
			if !expires.Equal(test.expires) {
				t.Errorf("the next expires %s, want %s", expires, test.expires)
			}
			if again, _ := merge(certificates(pemOf(current)), certificates(got), start); !bytes.Equal(again, got) {
				t.Errorf("merged again it is %v, was %v", names(again), names(got))
			}
		})
	}
}

func names(bundle []byte) []string {
	var found []string
	for _, ca := range certificates(bundle) {
		found = append(found, ca.Subject.CommonName)
	}
	return found
}

func TestTrustedByAll(t *testing.T) {
	t.Parallel()
	a, b := newCA(t, "a", start, start.Add(year)), newCA(t, "b", start, start.Add(year))
	for name, test := range map[string]struct {
		bundles [][]byte
		want    []string
	}{
		"no webhook":                  {nil, nil},
		"one webhook":                 {[][]byte{pemOf(a, b)}, []string{"a", "b"}},
		"two that agree on one":       {[][]byte{pemOf(a, b), pemOf(b)}, []string{"b"}},
		"one of them is not told yet": {[][]byte{pemOf(a, b), nil}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, ca := range trustedByAll(webhooks(test.bundles...)) {
				got = append(got, ca.Subject.CommonName)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func webhooks(bundles ...[]byte) []admissionregistrationv1.MutatingWebhook {
	var all []admissionregistrationv1.MutatingWebhook
	for i, bundle := range bundles {
		all = append(all, admissionregistrationv1.MutatingWebhook{
			Name:         fmt.Sprintf("%d.istiod-agent.io", i),
			ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: bundle},
		})
	}
	return all
}

func TestBundleKeeper(t *testing.T) {
	t.Parallel()
	old := newCA(t, "old", start.Add(-time.Hour), start.Add(time.Hour))
	current := newCA(t, "current", start, start.Add(year))
	tests := map[string]struct {
		configuration, secret bool
		bundles               [][]byte
		want                  [][]byte
		next                  time.Duration
	}{
		"empty bundles":            {true, true, [][]byte{nil, nil}, [][]byte{pemOf(current), pemOf(current)}, year},
		"one is right already":     {true, true, [][]byte{pemOf(current, old), nil}, [][]byte{pemOf(current, old), pemOf(current)}, time.Hour},
		"all are right already":    {true, true, [][]byte{pemOf(current), pemOf(current)}, [][]byte{pemOf(current), pemOf(current)}, year},
		"no Secret yet":            {true, false, [][]byte{nil, pemOf(old)}, [][]byte{nil, pemOf(old)}, 0},
		"no webhook configuration": {false, true, nil, nil, 0},
		"neither":                  {false, false, nil, nil, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var objects []client.Object
			if test.configuration {
				objects = append(objects, &admissionregistrationv1.MutatingWebhookConfiguration{
					ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent"}, Webhooks: webhooks(test.bundles...),
				})
			}
			if test.secret {
				objects = append(objects, &corev1.Secret{
					ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "ca"}, Data: map[string][]byte{"ca.crt": pemOf(current)},
				})
			}
			keeper := newKeeper(t, objects...)
			result, err := keeper.Reconcile(t.Context(), reconcile.Request{})
			if err != nil {
				t.Fatal(err)
			}
			if result.RequeueAfter != test.next {
				t.Errorf("looks again after %s, want %s", result.RequeueAfter, test.next)
			}
			if !test.configuration {
				return
			}
			var got admissionregistrationv1.MutatingWebhookConfiguration
			if err := keeper.Client.Get(t.Context(), types.NamespacedName{Name: "istiod-agent"}, &got); err != nil {
				t.Fatal(err)
			}
			for i, want := range test.want {
				if have := got.Webhooks[i].ClientConfig.CABundle; !bytes.Equal(have, want) {
					t.Errorf("webhook %d trusts %v, want %v", i, names(have), names(want))
				}
			}
		})
	}
}

func newKeeper(t *testing.T, objects ...client.Object) *BundleKeeper {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, admissionregistrationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return &BundleKeeper{
		Client:               fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(),
		WebhookConfiguration: "istiod-agent",
		Secret:               types.NamespacedName{Namespace: "system", Name: "ca"},
		Source:               &SelfManaged{clock: testingclock.NewFakePassiveClock(start)},
	}
}
