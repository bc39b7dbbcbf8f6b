// SPDX-License-Identifier: Apache-2.0

package certmanager

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

func newSource() *source {
	return &source{
		spec:    &certificatesv1.CertManagerCA{IssuerRef: &certificatesv1.IssuerRef{Name: "istio-ca", Kind: "ClusterIssuer"}},
		pending: &pending{name: "istiod-agent-1", uid: "1"},
	}
}

// object is a CertificateRequest with a status as the API server returns it.
func object(t testing.TB, status string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(`{"apiVersion":"cert-manager.io/v1","kind":"CertificateRequest","metadata":{"name":"istiod-agent-1","uid":"1"},"status":`+status+`}`), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func condition(kind, status, reason, message string) string {
	text, err := json.Marshal(map[string]string{"type": kind, "status": status, "reason": reason, "message": message})
	if err != nil {
		panic(err)
	}
	return string(text)
}

func conditions(all ...string) string { return `{"conditions":[` + strings.Join(all, ",") + `]}` }

func TestDecided(t *testing.T) {
	t.Parallel()
	approved := condition("Approved", "True", "cert-manager.io", "approved")
	ready := condition("Ready", "True", "Issued", "signed")
	for name, test := range map[string]struct {
		status  string
		waits   string // the reason of a request without a decision
		refused string // that of a refused one; a signed one has none
		says    string
	}{
		"nothing":                     {`{}`, unapproved, "", "waits for an approval"},
		"approved":                    {conditions(approved), undecided, "", "it has not answered yet"},
		"an issuer that is not there": {conditions(approved, condition("Ready", "False", "Pending", "Referenced \"Issuer\" not found")), undecided, "", "not found"},
		"not approved, and pending":   {conditions(condition("Ready", "False", "Pending", "waiting")), unapproved, "", "waits for an approval"},
		"an approval of no status":    {conditions(condition("Approved", "Unknown", "", "")), unapproved, "", ""},
		"denied":                      {conditions(condition("Denied", "True", "policy", "too long")), "", denied, "too long"},
		"denied, and signed":          {conditions(condition("Denied", "True", "policy", "no"), ready), "", denied, "no"},
		"invalid":                     {conditions(approved, condition("InvalidRequest", "True", "x", "no CAs")), "", invalid, "no CAs"},
		"failed":                      {conditions(approved, condition("Ready", "False", "Failed", "no key")), "", failed, "no key"},
		"failed some time ago":        {`{"failureTime":"2026-01-01T00:00:00Z"}`, "", failed, ""},
		"signed":                      {conditions(approved, ready), "", "", ""},
		"signed without approval":     {conditions(ready), "", "", ""},
		"too much":                    {`{"certificate":"` + strings.Repeat("AAAA", maxAnswer/3+1) + `","conditions":[` + ready + `]}`, "", badAnswer, "more than"},
		"conditions of another form":  {`{"conditions":"all"}`, "", badAnswer, "has another form than expected"},
		"a certificate of another":    {`{"certificate":5}`, "", badAnswer, ""},
		"a status of another":         {`[]`, "", badAnswer, ""},
		"a hostile message":           {conditions(condition("Denied", "True", "", "\x1b[2J\n"+strings.Repeat("a", 1<<20))), "", denied, "aaa"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, waits, err := newSource().decided(object(t, test.status))
			var said string
			if waits != nil {
				said = waits.Error()
			}
			if err != nil {
				said = err.Error()
			}
			if (waits == nil) != (test.waits == "") || waits != nil && waits.Reason != test.waits || ca.ReasonOf(err) != test.refused || (found != nil) != (test.waits+test.refused == "") {
				t.Errorf("got %v, %v and %v, want %q and %q", found, waits, err, test.waits, test.refused)
			}
			if !strings.Contains(said, test.says) || len(said) > 2000 || strings.ContainsFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("want %q in %d bytes: %.300q", test.says, len(said), said)
			}
		})
	}
	replaced := object(t, `{}`)
	replaced.SetUID("2")
	if _, _, err := newSource().decided(replaced); ca.ReasonOf(err) != deleted {
		t.Errorf("another request of the same name: %v", err)
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	root := testca.Root("root")
	issuer := root.Sign(testca.Authority("issuer"), nil)
	own := issuer.Sign(testca.Authority("istiod"), nil)
	all := func(of ...*testca.Certificate) (text []byte) {
		for _, each := range of {
			text = append(text, each.PEM()...)
		}
		return text
	}
	for name, test := range map[string]struct {
		status status
		others int // below 0 for an error
	}{
		"alone":                      {status{Certificate: all(own)}, 0},
		"with its root":              {status{Certificate: all(own), CA: all(root)}, 1},
		"with all, twice":            {status{Certificate: all(own, issuer, root, own), CA: all(issuer, root)}, 2},
		"without a final line end":   {status{Certificate: []byte(strings.TrimSpace(string(all(own)))), CA: all(root)}, 1},
		"nothing":                    {status{}, -1},
		"no certificate, but its CA": {status{CA: all(root)}, -1},
		"no PEM":                     {status{Certificate: []byte("certificate")}, -1},
		"something behind it":        {status{Certificate: append(all(own), "more"...)}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate, others, err := test.status.chain()
			switch {
			case test.others < 0:
				if ca.ReasonOf(err) != badAnswer || certificate != nil {
					t.Errorf("got %v", err)
				}
			case err != nil || string(certificate) != string(all(own)) || len(others) != test.others:
				t.Errorf("got %d others, %v", len(others), err)
			}
		})
	}
}

func TestLabel(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("istiod-", 30) + "0"
	if got := label("istiod-0"); got != "istiod-0" {
		t.Error(got)
	}
	if got := label(long); len(got) > 63 || got == label(long+"1") {
		t.Error(got)
	}
}

// Whatever an issuer writes, the agent returns an answer or an error of bounded length.
func FuzzAnswer(f *testing.F) {
	f.Add(conditions(condition("Ready", "True", "Issued", "")), testca.Root("root").PEM())
	f.Add(`{"conditions":[{"type":"Denied","status":"True"}],"failureTime":"x"}`, []byte("-----BEGIN "))
	f.Fuzz(func(t *testing.T, text string, certificate []byte) {
		o := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "istiod-agent-1", "uid": "1"}}}
		var of any
		if json.Unmarshal([]byte(text), &of) != nil {
			return
		}
		if fields, ok := of.(map[string]any); ok && len(certificate) > 0 {
			fields["certificate"] = base64.StdEncoding.EncodeToString(certificate)
		}
		o.Object["status"] = of
		found, waits, err := newSource().decided(o)
		if found != nil {
			_, _, _ = found.chain()
		}
		if results := []bool{found != nil, waits != nil, err != nil}; slices.Index(results, true) < 0 || found != nil && (waits != nil || err != nil) {
			t.Errorf("none, or several, of answer, wait and error: %v", results)
		}
		if err != nil && len(err.Error()) > 4<<10 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
