// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// A given bundle is written as it is; CAs of replicas from before stay for their handover, and no CA for good.
func TestStaticBundle(t *testing.T) {
	t.Parallel()
	configured := newCA(t, "given", start.Add(-time.Hour), start.Add(year))
	before := newCA(t, "before", start.Add(-time.Hour), start.Add(year))
	expired := newCA(t, "expired", start.Add(-year), start)
	text := append([]byte("# ours\n"), pemOf(configured)...)
	var many []testCA
	for range maxCAs + 3 {
		many = append(many, newCA(t, "many", start.Add(-time.Hour), start.Add(year)))
	}

	for name, test := range map[string]struct {
		existing, atOnce, later []byte
		next                    time.Duration
	}{
		"nothing there":             {nil, text, text, 0},
		"the same there":            {text, text, text, 0},
		"written another way":       {pemOf(configured), text, text, 0},
		"a CA of before":            {pemOf(before), append(bytes.Clone(text), pemOf(before)...), text, handover},
		"one that stands twice":     {pemOf(before, before), append(bytes.Clone(text), pemOf(before)...), text, handover},
		"one that has ended":        {pemOf(expired), text, text, 0},
		"nonsense":                  {[]byte("nonsense"), text, text, 0},
		"more than a bundle may be": {pemOf(many...), append(bytes.Clone(text), pemOf(many[:maxCAs]...)...), text, handover},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := testingclock.NewFakePassiveClock(start)
			g := newGiven(t, text, clock, test.existing, nil)
			wait := g.reconcile(t)
			if wait != test.next {
				t.Errorf("looks again after %s, want %s", wait, test.next)
			}
			g.want(t, "at once", 0, test.atOnce)
			g.want(t, "where nothing was", 1, text)
			clock.SetTime(start.Add(handover))
			g.reconcile(t)
			g.want(t, "later", 0, test.later)
		})
	}
}

// A replica of before that adds its CA again is not written against more than once in a handover.
func TestStaticBundleHandover(t *testing.T) {
	t.Parallel()
	configured := newCA(t, "given", start.Add(-time.Hour), start.Add(year))
	before := newCA(t, "before", start.Add(-time.Hour), start.Add(year))
	both := append(pemOf(configured), pemOf(before)...)
	clock := testingclock.NewFakePassiveClock(start)
	g := newGiven(t, pemOf(configured), clock, both)
	g.reconcile(t)
	clock.SetTime(start.Add(handover))
	g.reconcile(t)
	g.want(t, "after the handover", 0, pemOf(configured))

	g.store(t, both)
	if wait := g.reconcile(t); wait != handover {
		t.Errorf("looks again after %s, want %s", wait, handover)
	}
	g.want(t, "added again", 0, both)
}

func TestStaticBundleReady(t *testing.T) {
	t.Parallel()
	configured := newCA(t, "given", start.Add(-time.Hour), start.Add(year))
	for name, test := range map[string]struct {
		existing               [][]byte
		first, second, settled string
	}{
		"trusted already":          {[][]byte{pemOf(configured), pemOf(configured)}, "", "", ""},
		"one webhook does not yet": {[][]byte{pemOf(configured), nil}, "does not yet contain", "only seconds ago", ""},
		"no webhook configuration": {nil, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := testingclock.NewFakePassiveClock(start)
			g := newGiven(t, pemOf(configured), clock, test.existing...)
			if test.existing == nil {
				if err := g.client.Delete(t.Context(), g.stored(t)); err != nil {
					t.Fatal(err)
				}
			}
			g.Source = &SelfManaged{issue: &issuer{newest: configured.leaf(t, start.Add(year))}, clock: clock, bundle: bundle{observed: true, absent: true}}
			g.wantReady(t, "before the first look", "not been read")
			g.reconcile(t)
			g.wantReady(t, "after the first look", test.first)
			g.reconcile(t)
			g.wantReady(t, "after the second look", test.second)
			clock.SetTime(start.Add(propagationDelay))
			g.wantReady(t, "when API servers have seen it", test.settled)
		})
	}
}

func TestNewStaticBundle(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ca-bundle.crt")
	for content, want := range map[string]string{
		"nonsense":                         "contains no PEM certificate",
		strings.Repeat("x", maxCABundle+1): "",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := NewStaticBundle(nil, nil, "istiod-agent", file)
		if err == nil || !strings.HasPrefix(err.Error(), "server.servingCertificate.caBundle: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v", len(content), err)
		}
	}
}

type givenKeeper struct{ *StaticBundle }

func newGiven(t *testing.T, configured []byte, clock *testingclock.FakePassiveClock, existing ...[]byte) givenKeeper {
	t.Helper()
	keeper := newKeeper(t, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent"}, Webhooks: webhooks(existing...),
	})
	return givenKeeper{&StaticBundle{
		client: keeper.Client, configuration: "istiod-agent", configured: configured, trusted: certificates(configured), clock: clock,
	}}
}

func (g givenKeeper) reconcile(t *testing.T) time.Duration {
	t.Helper()
	result, err := g.Reconcile(t.Context(), reconcile.Request{})
	if err != nil {
		t.Fatal(err)
	}
	return result.RequeueAfter
}

func (g givenKeeper) stored(t *testing.T) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	var stored admissionregistrationv1.MutatingWebhookConfiguration
	if err := g.client.Get(t.Context(), types.NamespacedName{Name: "istiod-agent"}, &stored); err != nil {
		t.Fatal(err)
	}
	return &stored
}

func (g givenKeeper) store(t *testing.T, bundle []byte) {
	t.Helper()
	stored := g.stored(t)
	stored.Webhooks[0].ClientConfig.CABundle = bundle
	if err := g.client.Update(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
}

func (g givenKeeper) want(t *testing.T, when string, webhook int, want []byte) {
	t.Helper()
	if got := g.stored(t).Webhooks[webhook].ClientConfig.CABundle; !bytes.Equal(got, want) {
		t.Errorf("%s: %q, want %q", when, got, want)
	}
}

func (g givenKeeper) wantReady(t *testing.T, when, want string) {
	t.Helper()
	err := g.Ready()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", when, err, want)
	}
}
