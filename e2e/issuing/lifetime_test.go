// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/e2e/agents"
	"github.com/istiod-agent/istiod-agent/e2e/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/vaultserver"
)

// Where Vault's mount allows less than was asked, that is told, and all goes by the certificate that Vault gave.
func TestVaultGivesLessTimeThanWasAsked(t *testing.T) {
	const given = 48 * time.Hour
	s := newSetting(t, vaultserver.Options{})
	must(t, s.vault.Client.Sys().TuneMountAllowNilWithContext(t.Context(), "pki", api.TuneMountConfigInput{
		DefaultLeaseTTL: new(given.String()), MaxLeaseTTL: new(given.String()),
	}))
	s.specify(t, nil) // for 365 days
	sidecar := s.runs(t)
	must(t, agents.Renew(t.Context(), shared, s.certificate(), "once"))
	cluster.Eventually(t, "it is renewed", func() error { return s.metric(t, sidecar, renewed, 1) })
	s.well(t, sidecar)

	cluster.Eventually(t, "Vault's remark is an event", func() error {
		return contains(strings.Join(s.events(t, "Normal", "VaultWarning"), "\n"), "Vault says: TTL ")
	})
	certificate := parse(t, s.files(t)["ca-cert.pem"])
	end := certificate.NotAfter
	if life := end.Sub(certificate.NotBefore); life < given || life > given+time.Hour {
		t.Fatalf("the certificate lives for %s", life)
	}

	// docs/agent.md: the end of validity less the larger of a tenth of the lifetime and --workload-ttl + 1 hour, less
	// up to a tenth of the lifetime.
	latest := end.Add(-25 * time.Hour)
	earliest := latest.Add(-end.Sub(certificate.NotBefore) / 10)
	_, entry := s.status(t)
	renewAt, err := time.Parse(time.RFC3339, fmt.Sprint(entry["renewAt"]))
	must(t, err)
	if renewAt.Before(earliest.Truncate(time.Second)) || renewAt.After(latest) {
		t.Errorf("it is to be renewed at %s, want one from %s to %s", renewAt, earliest, latest)
	}
	if got := fmt.Sprint(entry["notAfter"]); got != end.UTC().Format(time.RFC3339) {
		t.Errorf("the status says %s, the certificate %s", got, end)
	}
	for name, want := range map[string]time.Time{
		"not_before": certificate.NotBefore, "not_after": end, "renew_at": renewAt,
	} {
		cluster.Eventually(t, "the metric is the certificate's: "+name, func() error {
			return s.metric(t, sidecar, "istiod_agent_ca_"+name+"_seconds", float64(want.Unix()))
		})
	}
	if told := s.events(t, "Warning", "LifetimeTooShort"); len(told) > 0 {
		t.Errorf("two days are enough for certificates of a day: %q", told)
	}
}
