// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// If Vault's mount allows a shorter lifetime than requested, the agent reports it and uses that of the certificate.
func TestShorterLifetime(t *testing.T) {
	const given = 48 * time.Hour
	s := newSetting(t, vaultserver.Options{})
	must(t, s.vault.Client.Sys().TuneMountAllowNilWithContext(t.Context(), "pki", api.TuneMountConfigInput{
		DefaultLeaseTTL: new(given.String()), MaxLeaseTTL: new(given.String()),
	}))
	s.specify(t, nil)                                 // for 365 days
	s.Env = []string{"DEFAULT_WORKLOAD_CERT_TTL=30h"} // istiod's own
	planned := regexp.MustCompile(`valid until (\S+); its renewal is due at ([^"]+)"`).FindStringSubmatch(s.issues(t))
	if planned == nil {
		t.Fatal("the init container does not say when it would renew")
	}
	until, err := time.Parse(time.RFC3339, planned[1])
	must(t, err)
	if at, err := time.Parse(time.RFC3339, planned[2]); err != nil || at.After(until.Add(-31*time.Hour)) {
		t.Errorf("the init container plans to renew at %s, want 31 hours before %s at least", planned[2], until)
	}
	sidecar := s.runs(t)
	must(t, agents.Renew(t.Context(), shared, s.certificate(), "once"))
	cluster.Eventually(t, "it is renewed", func() error { return s.metric(t, sidecar, renewed, 1) })
	s.well(t, sidecar)

	cluster.Eventually(t, "Vault's remark is an event", func() error {
		return contains(strings.Join(s.events(t, "Normal", "VaultWarning"), "\n"), "Vault warns: TTL ")
	})
	certificate := parse(t, s.Files(t)["ca-cert.pem"])
	end := certificate.NotAfter
	if life := end.Sub(certificate.NotBefore); life < given || life > given+time.Hour {
		t.Fatalf("the certificate lives for %s", life)
	}

	// docs/agent.md: the end of validity less the larger of a tenth of the lifetime and --workload-ttl + 1 hour, less
	// up to a tenth of the lifetime.
	latest := end.Add(-31 * time.Hour)
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
		t.Errorf("two days are enough for certificates of 30 hours: %q", told)
	}
}

// An intermediate that outlives its root (OpenBao and Vault before 1.17 sign such): the root's end counts, and is reported.
func TestRootEndsFirst(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	soon := time.Now().Add(20 * 24 * time.Hour).Truncate(time.Second).UTC()
	bundle := endsFirst(soon)
	must(t, s.vault.Client.Sys().MountWithContext(t.Context(), "ends", &api.MountInput{Type: "pki", Config: api.MountConfigInput{MaxLeaseTTL: "87600h"}}))
	s.write(t, "ends/config/ca", map[string]any{"pem_bundle": bundle})
	rules, err := s.vault.Client.Sys().GetPolicyWithContext(t.Context(), vaultserver.Role)
	must(t, err)
	s.policy(t, vaultserver.Role, rules+"\n"+`path "ends/root/sign-intermediate" { capabilities = ["update"] }`)
	s.specify(t, func(vault map[string]any) { vault["caPath"] = "ends/root/sign-intermediate" })
	sidecar := s.runs(t)

	if end := parse(t, s.Files(t)["ca-cert.pem"]).NotAfter; !end.After(soon) {
		t.Fatalf("the certificate ends at %s, with its root: there is nothing to see", end)
	}
	limited := "O=ends first, which ends at " + soon.Format(time.RFC3339)
	_, entry := s.status(t)
	for field, want := range map[string]string{"notAfter": soon.Format(time.RFC3339), "rootNotAfter": soon.Format(time.RFC3339), "limitedBy": limited} {
		if entry[field] != want {
			t.Errorf("%s is %v, want %s", field, entry[field], want)
		}
	}
	if at, err := time.Parse(time.RFC3339, fmt.Sprint(entry["renewAt"])); err != nil || !at.Before(soon) {
		t.Errorf("it is to be renewed at %s (%v), after the root's end", at, err)
	}
	must(t, s.metric(t, sidecar, "istiod_agent_ca_not_after_seconds", float64(soon.Unix())))
	must(t, s.metric(t, sidecar, "istiod_agent_root_not_after_seconds", float64(soon.Unix())))
	cluster.Eventually(t, "it is an event", func() error {
		return contains(strings.Join(s.events(t, "Warning", "LimitedByIssuer"), "\n"), limited)
	})
}

// endsFirst returns an intermediate CA of five years with its key, and its root, which ends before.
func endsFirst(end time.Time) (bundle string) {
	template := func(name string, end time.Time) x509.Certificate {
		template := testca.Authority(name)
		template.KeyUsage |= x509.KeyUsageCRLSign
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), end
		return template
	}
	root := testca.SelfSign(template("ends first", end), nil)
	intermediate := root.Sign(template("middle", time.Now().AddDate(5, 0, 0)), nil)
	return string(slices.Concat(intermediate.KeyPEM(), intermediate.PEM(), root.PEM()))
}
