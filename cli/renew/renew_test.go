// SPDX-License-Identifier: Apache-2.0

package renew

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

func reports(all ...certificatesv1.CertificateStatus) certificatesv1.IssuedCertificateStatus {
	return certificatesv1.IssuedCertificateStatus{Certificates: all}
}

func has(pod, serial string, confirmed bool, err string) certificatesv1.CertificateStatus {
	return certificatesv1.CertificateStatus{Pod: pod, SerialNumber: serial, Confirmed: confirmed, Error: err}
}

// Every existing Pod is pending until it uses a CA that it did not have before.
func TestPending(t *testing.T) {
	t.Parallel()
	before := reports(has("a", "1", true, ""), has("b", "2", true, ""))
	for name, test := range map[string]struct {
		before, now certificatesv1.IssuedCertificateStatus
		want        []string
	}{
		"nothing yet":                 {before, before, []string{"Pod a, which has no new CA yet", "Pod b, which has no new CA yet"}},
		"one of two":                  {before, reports(has("a", "3", true, ""), has("b", "2", true, "")), []string{"Pod b, which has no new CA yet"}},
		"not loaded":                  {before, reports(has("a", "3", false, ""), has("b", "4", true, "")), []string{"Pod a, whose istiod has not loaded the new CA certificate yet"}},
		"all":                         {before, reports(has("a", "3", true, ""), has("b", "4", true, "")), nil},
		"one is gone":                 {before, reports(has("a", "3", true, "")), nil},
		"one has come":                {before, reports(has("a", "3", true, ""), has("b", "4", true, ""), has("c", "5", true, "")), nil},
		"one has come, and no CA":     {before, reports(has("a", "3", true, ""), has("b", "4", true, ""), has("c", "", false, "")), []string{"Pod c, which has no new CA yet"}},
		"refused":                     {before, reports(has("a", "1", true, "Vault is sealed."), has("b", "4", true, "")), []string{"Pod a, which reports: Vault is sealed"}},
		"refused before, and now not": {reports(has("a", "1", true, "Vault is sealed")), reports(has("a", "2", true, "")), nil},
		"renewed, with another error": {before, reports(has("a", "3", true, "something else"), has("b", "4", true, "")), nil},
		"nobody has reported":         {reports(), reports(), []string{"the first report of an agent"}},
		"the first report":            {reports(), reports(has("a", "1", true, "")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			renewal := newRenewal(nil, &certificatesv1.IssuedCertificate{Status: test.before})
			if got := renewal.pending(test.now); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestPrinted(t *testing.T) {
	t.Parallel()
	until := metav1.NewTime(time.Date(2027, 1, 1, 12, 0, 0, 0, time.FixedZone("", 3600)))
	certificate := &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: "mesh", Namespace: "istio-system"}}
	certificate.Status = reports(has("b", "2", true, ""), certificatesv1.CertificateStatus{Pod: "a", SerialNumber: "1\x1b[2J", NotAfter: &until})
	renewal := newRenewal(&clusters.Cluster{Context: "one"}, certificate)
	late := renewal
	late.remaining = []string{"Pod a, which has no new CA yet", "Pod b"}
	for want, outcome := range map[string]renewalOutcome{
		"one: istio-system/mesh: istiod in Pod a uses CA certificate 1\\u001b[2J, valid until 2027-01-01 11:00 UTC\none: istio-system/mesh: istiod in Pod b uses CA certificate 2\n": renewal.result(nil, "after 5m"),
		"one: istio-system/mesh: not renewed after 5m; still waiting for Pod a, which has no new CA yet; Pod b\n":                                                                    late.result(nil, "after 5m"),
		"one: istio-system/mesh: no answer\n":        late.result(errors.New("no  answer"), "after 5m"),
		"two: no answer\n":                           {Context: "two", State: stateNotAsked, Message: "no answer"},
		"two: namespace x: there is none\n":          {Context: "two", Namespace: "x", State: stateNotAsked, Message: "there is none"},
		"one: istio-system/mesh: it was asked for\n": renewal.outcome(stateAsked, "it was asked for"),
	} {
		var got bytes.Buffer
		if outcome.print(terminal.NewWriter(&got)); got.String() != want {
			t.Errorf("got %q\nwant %q", &got, want)
		}
	}
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	for want, arguments := range map[string][]string{
		"expected the names of IssuedCertificates":  {},
		"--all cannot be combined with names":       {"--all", "name"},
		"--timeout: expected a positive duration":   {"--all", "--timeout=0s"},
		`--output "wide": expected json or yaml`:    {"--all", "-o=wide"},
		"unknown flag: --everything":                {"--everything"},
		`invalid argument "x" for "--timeout" flag`: {"--timeout=x"},
	} {
		cmd := Command()
		cmd.SetArgs(append(arguments, "--kubeconfig=/dev/null"))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		err := cmd.ExecuteContext(context.Background())
		coded, ok := errors.AsType[*exit.Error](err)
		if !ok || coded.Code != 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", arguments, err, want)
		}
	}
}
