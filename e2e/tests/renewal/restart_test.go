// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// An istiod that crashes during a renewal starts with the published CA, and the agent confirms it.
func TestIstiodCrash(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	sidecar := m.start(t)
	m.confirmed(t, "")
	for i, name := range []string{"down before it is published", "crashes as it is asked for", "crashes as it is published"} {
		before := m.serial(t)
		other := func() error {
			if m.serial(t) == before {
				return errors.New("it is the one before")
			}
			return nil
		}
		renew := func() { must(t, agents.Renew(t.Context(), shared, m.certificate, strconv.Itoa(i))) }
		crash := func() { must(t, m.istiod.Kill()) }
		switch i {
		case 0:
			crash()
			renew()
			cluster.Eventually(t, "another certificate is published", other)
		case 1:
			renew()
			crash()
		case 2:
			renew()
			cluster.Eventually(t, "another certificate is published", other)
			crash()
		}
		must(t, m.istiod.Restart(t.Context()))
		// The longer istiod was away, the longer the agent waits until it asks again: half a minute at most.
		cluster.Within(t, time.Minute, "istiod's CA is confirmed: "+name, func() error {
			if got, err := sidecar.Metric(t.Context(), requested); err != nil || got != float64(i+1) {
				return fmt.Errorf("%v renewals count as done (%w)", got, err)
			}
			return other()
		})
		must(t, m.signs(t.Context()))
	}
	m.confirmed(t, "")
	m.published(t)
}

// After a crash the sidecar continues with the CA that it published: Vault signs no other.
func TestSidecarCrash(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	m.startWithoutSidecar(t)
	first := m.crashing(t)
	m.confirmed(t, "")
	before := m.Files(t)
	must(t, first.Kill())
	second := m.crashing(t)
	metric(t, second, "istiod_agent_istiod_confirmed", 1)
	metric(t, second, "istiod_agent_specification_accepted", 1)
	m.confirmed(t, "")
	if !maps.Equal(before, m.Files(t)) {
		t.Error("istiod's files have changed")
	}
	if strings.Contains(second.Output(), "Requesting a CA certificate") {
		t.Error("a certificate was got from Vault")
	}
	if got, err := second.Metric(t.Context(), requested); err != nil || got != 0 {
		t.Errorf("%v renewals count as done (%v)", got, err)
	}

	// What was specified while no sidecar ran counts in its turn: within ten minutes, and in the status at once.
	must(t, second.Kill())
	old := m.serial(t)
	changed := m.stored(t)
	must(t, unstructured.SetNestedField(changed.Object, "another-organization", "spec", "certOptions", "orgName"))
	must(t, shared.Update(t.Context(), changed))
	third := m.startSidecar(t)
	cluster.Eventually(t, "the status says when the change takes effect", func() error {
		_, entry := m.status(t)
		at, err := time.Parse(time.RFC3339, fmt.Sprint(entry["renewAt"]))
		if generation, _, _ := unstructured.NestedInt64(m.stored(t).Object, "status", "observedGeneration"); generation != changed.GetGeneration() {
			return fmt.Errorf("it is about generation %d, want %d", generation, changed.GetGeneration())
		}
		if err == nil && time.Until(at) > 10*time.Minute && m.serial(t) == old {
			err = fmt.Errorf("it is %s", at)
		}
		return err
	})

	// Asked for, it need not wait.
	must(t, agents.Renew(t.Context(), shared, m.certificate, "now"))
	cluster.Eventually(t, "the certificate is as specified", func() error {
		certificate, _ := m.file(t, "ca-cert.pem")
		if got := certificate.Subject.Organization; len(got) != 1 || got[0] != "another-organization" {
			return fmt.Errorf("it is of %q", got)
		}
		return nil
	})
	metric(t, third, "istiod_agent_istiod_confirmed", 1)
	cluster.Eventually(t, "the next renewal is far away", func() error {
		_, entry := m.status(t)
		at, err := time.Parse(time.RFC3339, fmt.Sprint(entry["renewAt"]))
		if err == nil && time.Until(at) < 24*time.Hour {
			err = fmt.Errorf("it is at %s", at)
		}
		return err
	})
}

// An init container that runs again in the same Pod finds the published CA and needs no Vault.
func TestInitContainerAgain(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	_, err := m.Init(t.Context())
	must(t, err)
	before := m.Files(t)
	again := func() {
		t.Helper()
		output, err := m.Init(t.Context())
		must(t, err)
		must(t, contains(output, "AlreadyPublished"))
		check.NoSecrets(t, output)
		if !maps.Equal(before, m.Files(t)) {
			t.Error("istiod's files have changed")
		}
	}
	again()
	must(t, m.vault.Kill())
	again()
}

// The sidecar publishes deleted files again within about 30 seconds. istiod signs meanwhile.
func TestLostFiles(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	sidecar := m.start(t)
	serial := m.confirmed(t, "")
	_, root := m.file(t, "root-cert.pem")
	for i, name := range []string{"ca-cert.pem", "..data"} {
		must(t, os.Remove(filepath.Join(m.CACerts, name)))
		must(t, m.signs(t.Context()))
		cluster.Within(t, time.Minute, "what is lost is published anew: "+name, func() error {
			got, err := sidecar.Metric(t.Context(), `istiod_agent_renewals_total{outcome="success",reason="FilesLost"}`)
			if err == nil && got != float64(i+1) {
				err = fmt.Errorf("%v renewals count as done", got)
			}
			return err
		})
		serial = m.confirmed(t, serial)
		if _, again := m.file(t, "root-cert.pem"); string(again) != string(root) {
			t.Error("root-cert.pem has changed")
		}
		must(t, m.signs(t.Context()))
	}
}

// startWithoutSidecar runs the init container and istiod.
func (m *mesh) startWithoutSidecar(t *testing.T) {
	t.Helper()
	_, err := m.Init(t.Context())
	must(t, err)
	m.startIstiod(t)
}

// crashing starts a sidecar that the test can kill.
func (m *mesh) crashing(t *testing.T) *agents.Sidecar {
	t.Helper()
	sidecar, err := m.Sidecar(t.Context())
	must(t, err)
	t.Cleanup(func() {
		check.NoSecrets(t, sidecar.Output())
		must(t, sidecar.Kill())
	})
	return sidecar
}
