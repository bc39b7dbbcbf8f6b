// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"maps"
	"slices"
	"testing"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// During a change from one root of Vault to another no handshake fails, neither between workloads nor with istiod. The person
// follows the appendix of docs/rotation.md; the controller is killed in each stage, and an agent in the first.
func TestRotateVaultRoot(t *testing.T) {
	m := newMesh(t)
	m.apply(t)
	p := newPage(t, m, "rotation.md")
	first, sidecar := m.replica(t, "istiod-0")
	m.replica(t, "istiod-1")
	workloads, done := m.talk(t)
	m.published(t, m.root.Certificate)
	stale := workloads.at(0)

	p.run(t, "A new root in Vault 1")
	p.run(t, "A new root in Vault 2")
	newest := p.read(t, "new-root.pem")
	p.run(t, "Begin 1")
	const begin, wait = "Begin 2", "Each stage by hand 1"
	p.interrupted(t, networkingv1.RotateTrustBoth, begin)
	must(t, sidecar.Kill())
	m.sidecar(t, first)
	p.run(t, wait)
	m.reached(t, networkingv1.StageTrustBoth)
	m.published(t, m.root.Certificate, newest)
	p.run(t, "When a stage waits 1")

	// Second thoughts, and third ones.
	p.run(t, "Abandon it by hand 1")
	m.published(t, m.root.Certificate)
	p.run(t, begin)
	p.run(t, wait)
	m.published(t, m.root.Certificate, newest)
	p.run(t, "Check that workloads trust the new root 1")
	workloads.renewed(t)

	p.run(t, "Sign with the new one 1")
	p.interrupted(t, networkingv1.RotateSignWithNew, "Each stage by hand 2")
	p.run(t, "Each stage by hand 3")
	p.run(t, "Each stage by hand 4")
	m.reached(t, networkingv1.StageSignWithNew)
	m.published(t, m.root.Certificate, newest)
	workloads.renewed(t)

	// A Pod that starts half-way is like the others.
	m.replica(t, "istiod-2")
	workloads.renewed(t)

	p.interrupted(t, networkingv1.RotateDropOld, "Each stage by hand 5")
	m.reached(t, networkingv1.StageDropOld)
	m.published(t, newest)
	workloads.renewed(t)
	p.run(t, "Each stage by hand 6")
	p.run(t, "vault secrets disable pki")
	workloads.renewed(t)
	done()
	workloads.trustAlone(t, newest, m.root.Certificate)
	if handshake(stale, workloads.workloads[1]) == nil || handshake(workloads.workloads[1], stale) == nil {
		t.Error("a workload that has slept through the change is trusted")
	}
	p.run(t, "Check that workloads trust the new root 3")
	ways++
}

// The same procedure leads from istiod's self-signed root to Vault's. In its first stage the injected istiods continue with
// their own CA.
func TestRotateIstiodRoot(t *testing.T) {
	m, p, workloads, done, own := fromOwnRoot(t)
	m.published(t, own)

	p.run(t, "From istiod's own root 1")
	p.run(t, "Begin 3")
	m.inject(t)
	p.run(t, "Each stage by hand 1")
	m.published(t, own, m.root.Certificate)
	p.run(t, "Trust both 3")
	workloads.renewed(t)

	p.interrupted(t, networkingv1.RotateSignWithNew, "Each stage by hand 2")
	p.run(t, "Each stage by hand 3")
	p.run(t, "Each stage by hand 4")
	workloads.renewed(t)

	p.interrupted(t, networkingv1.RotateDropOld, "Each stage by hand 5")
	m.published(t, m.root.Certificate)
	p.run(t, "Drop the old one 2")
	p.run(t, "Each stage by hand 6")
	workloads.renewed(t)
	done()
	workloads.trustAlone(t, m.root.Certificate, own)
	ways++
}

// fromOwnRoot is a mesh whose istiod has a root of its own yet, with workloads that talk until done.
func fromOwnRoot(t *testing.T) (m *mesh, p *page, workloads *fleet, done func(), own []byte) {
	t.Helper()
	m = newMesh(t)
	m.istiodsRole(t)
	m.start(t, "istiod-before", "")
	workloads, done = m.talk(t)
	p = newPage(t, m, "rotation.md")
	p.run(t, "Begin 1")
	return m, p, workloads, done, p.read(t, "old-root.pem")
}

// inject is the rollout that the injection is: two replicas with the agent in place of those before.
func (m *mesh) inject(t *testing.T) {
	t.Helper()
	m.replica(t, "istiod-0")
	m.replica(t, "istiod-1")
	m.stop(t, m.serving()[1:]...)
}

// trustAlone expects that the workloads trust the one root and not the other.
func (f *fleet) trustAlone(t *testing.T, root, other []byte) {
	t.Helper()
	for _, each := range f.workloads {
		if !each.trusts(root) || each.trusts(other) {
			t.Errorf("%s does not trust the new root alone", each.name)
		}
	}
}

// The command that the page leads with does the same: from istiod's own root to Vault's, and from there to another root of
// Vault's, with an abandoned change in between. No handshake fails.
func TestRotateRootCommand(t *testing.T) {
	m, p, workloads, done, own := fromOwnRoot(t)
	p.run(t, "From istiod's own root 1")
	p.run(t, "Trust both 2")
	m.inject(t)
	p.run(t, "Trust both 1")
	m.published(t, own, m.root.Certificate)
	p.run(t, "Trust both 3")
	workloads.renewed(t)
	p.run(t, "Sign with the new one 2")
	workloads.renewed(t)
	p.run(t, "Drop the old one 1")
	m.published(t, m.root.Certificate)
	p.run(t, "Drop the old one 2")
	p.run(t, "Clean up 1")
	p.run(t, "Clean up 2")
	workloads.renewed(t)

	p.run(t, "A new root in Vault 1")
	p.run(t, "A new root in Vault 2")
	newest := p.read(t, "new-root.pem")
	p.run(t, "Trust both 1")
	m.published(t, m.root.Certificate, newest)
	p.run(t, "Abandon the change 1")
	m.published(t, m.root.Certificate)
	p.run(t, "Trust both 1")
	m.published(t, m.root.Certificate, newest)
	workloads.renewed(t)
	p.run(t, "Sign with the new one 1")
	p.run(t, "Sign with the new one 2")
	m.published(t, m.root.Certificate, newest)
	workloads.renewed(t)
	p.run(t, "Drop the old one 1")
	m.published(t, newest)
	p.run(t, "Clean up 1")
	workloads.renewed(t)
	done()
	workloads.trustAlone(t, newest, m.root.Certificate)
	ways++
}

// The tests above have run all commands of the page.
func TestPageCommands(t *testing.T) {
	if ways < 3 {
		t.Skip("-run has left out tests, or one has failed")
	}
	for _, name := range slices.Sorted(maps.Keys(pageBlocks(t, "rotation.md"))) {
		_, excepted := exceptions[name]
		if !ran[name] && !excepted {
			t.Errorf("docs/rotation.md, %s: no test runs it", name)
		}
		if ran[name] && excepted {
			t.Errorf("docs/rotation.md, %s runs, and is listed as an exception", name)
		}
		delete(exceptions, name)
	}
	for name := range exceptions {
		t.Errorf("docs/rotation.md has no block %q any more", name)
	}
}
