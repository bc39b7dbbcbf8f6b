// SPDX-License-Identifier: Apache-2.0

package rotate

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

type rotationRequest struct {
	Stage networkingv1.RootRotation
	// NewRoot is nil where the root change in progress names it.
	NewRoot *x509.Certificate
	// FromSecret is the Secret with istiod's own CA, for an istiod without the agent.
	FromSecret string
}

type rotationPlan struct {
	// Roots are the roots to trust, the new root last; empty for RotateNone.
	Roots []*x509.Certificate
	// Annotations to set, by the index of the cluster; nil removes one. A cluster that stays unchanged has no entry.
	Annotations map[int]map[string]any
}

// refusedError is the error of a request that is not possible at the current stage.
type refusedError struct{ reasons []string }

func (e *refusedError) Error() string {
	return "no context was changed:\n  " + strings.Join(e.reasons, "\n  ")
}

func (e *refusedError) add(state *clusterState, format string, args ...any) {
	e.reasons = append(e.reasons, state.Context+": "+fmt.Sprintf(format, args...))
}

// decide plans a request for all clusters, or refuses it for all: workloads of clusters that do not trust each other's roots
// refuse each other.
func decide(request rotationRequest, states []clusterState) (*rotationPlan, error) {
	plan, refused := &rotationPlan{Annotations: map[int]map[string]any{}}, &refusedError{}
	var err error
	switch request.Stage {
	case networkingv1.RotateTrustBoth:
		err = plan.trustBoth(request, states, refused)
	case networkingv1.RotateNone:
		plan.abandon(states, refused)
	default:
		plan.advance(request, states, refused)
	}
	if err == nil && len(refused.reasons) > 0 {
		err = refused
	}
	return plan, err
}

func (p *rotationPlan) trustBoth(request rotationRequest, states []clusterState, refused *refusedError) error {
	newRoot := request.NewRoot
	for i := range states {
		if newRoot == nil && states[i].stage() > 0 {
			newRoot = states[i].newRoot()
		}
	}
	if newRoot == nil {
		return errors.New("expected --new-root FILE or --vault: the root to change to")
	}
	for i := range states {
		state := &states[i]
		switch {
		case len(state.Published) == 0:
			refused.add(state, "no istiod has published a root in its own namespace: has it started?")
		case state.stage() > 1 && state.Rotation.NewRoot != pemcerts.Fingerprint(newRoot):
			refused.add(state, "a change to another root, %.16s…, is at %s: complete it first", state.Rotation.NewRoot, state.Rotation.Stage)
		case state.stage() == 0 && !state.hasAgents() && request.FromSecret == "" && state.FromSecret == "" && !onlyRoot(state.Published, newRoot):
			refused.add(state, "no agent has reported from istiod yet, so istiod uses its own CA: name the Secret with that CA by --from-secret (istio-ca-secret or cacerts)")
		}
	}
	if len(refused.reasons) > 0 {
		return refused
	}
	roots := mergeRoots(newRoot, states)
	if len(roots) < 2 {
		return fmt.Errorf("every istiod publishes only %s: there is no change to make; name the new root by --new-root, or the VirtualMesh with the new Vault by --vault -f FILE", pemcerts.Name(newRoot))
	}
	p.Roots = roots
	for i := range states {
		state := &states[i]
		if state.stage() > 1 {
			if !slices.EqualFunc(state.Roots, roots, (*x509.Certificate).Equal) {
				refused.add(state, "it is past %s, with another list of roots (%s); complete that root change in its contexts, then start again with all contexts", networkingv1.StageTrustBoth, pemcerts.Names(state.Roots))
			}
			continue
		}
		for _, bundle := range state.Published {
			if !containsRun(bundle, roots) {
				refused.add(state, "its istiods publish %s, and load %s only at a restart, since it does not contain the former in the same order; abandon the root change in progress (none), or complete it", pemcerts.Names(bundle), pemcerts.Names(roots))
			}
		}
		set := map[string]any{networkingv1.RootRotationAnnotation: networkingv1.RotateTrustBoth, networkingv1.TrustedRootsAnnotation: string(pemcerts.Encode(roots...))}
		switch {
		case request.FromSecret != "" && !state.hasAgents():
			set[networkingv1.RotateFromSecretAnnotation] = request.FromSecret
		case state.FromSecret != "" && state.stage() == 0 && state.hasAgents():
			set[networkingv1.RotateFromSecretAnnotation] = nil // of an earlier root change, whose CA must not return
		}
		p.Annotations[i] = set
	}
	return nil
}

// advance plans sign-with-new or drop-old, once every cluster has completed the stage before.
func (p *rotationPlan) advance(request rotationRequest, states []clusterState, refused *refusedError) {
	wanted := request.Stage.Allowed()
	before := networkingv1.RootRotationStages[wanted-2]
	for i := range states {
		state := &states[i]
		switch {
		case state.Rotation == nil || state.Requested == "" || len(state.Roots) < 2:
			refused.add(state, "no root change has begun; begin it in all contexts by rotate-root %s", networkingv1.RotateTrustBoth)
			continue
		case request.NewRoot != nil && !request.NewRoot.Equal(state.newRoot()):
			refused.add(state, "the root change in progress leads to %s, not to %s", pemcerts.Name(state.newRoot()), pemcerts.Name(request.NewRoot))
			continue
		case p.Roots == nil:
			p.Roots = state.Roots
		case !slices.EqualFunc(p.Roots, state.Roots, (*x509.Certificate).Equal):
			refused.add(state, "it trusts %s, but %s trusts %s; set the same roots by rotate-root %s in all contexts", pemcerts.Names(state.Roots), states[0].Context, pemcerts.Names(p.Roots), networkingv1.RotateTrustBoth)
			continue
		}
		if at := state.Rotation.Stage; at.Number() < before.Number() {
			refused.add(state, "it is only at %s; continue to %s first, in all contexts", at, networkingv1.RootRotationWords[at.Number()])
			continue
		}
		if waitingFor := state.waitingFor(before, state.Roots); waitingFor != "" {
			refused.add(state, "%s is not complete; waiting for %s", before, waitingFor)
			continue
		}
		if state.Requested.Allowed() < wanted {
			p.Annotations[i] = map[string]any{networkingv1.RootRotationAnnotation: request.Stage}
		}
	}
}

// abandon plans the end of a root change before istiods sign under the new root, or removes the annotations of a complete one.
func (p *rotationPlan) abandon(states []clusterState, refused *refusedError) {
	inProgress := slices.ContainsFunc(states, func(s clusterState) bool { return s.stage() > 0 })
	for i := range states {
		state := &states[i]
		switch {
		case state.stage() > 1:
			refused.add(state, "it is at %s and cannot go back; continue to %s", state.Rotation.Stage, networkingv1.RotateDropOld)
		case state.finished() && inProgress:
			refused.add(state, "it has already dropped the old root: the others must not abandon the new root")
		case state.Requested != "" || state.Rotation != nil:
			p.Annotations[i] = map[string]any{networkingv1.RootRotationAnnotation: networkingv1.RotateNone}
		}
	}
}

// mergeRoots returns all published roots, and the new root last. The roots of a root change in progress stay together, at
// the end: a running istiod loads a list of roots only if it contains the current list in the same order (agent/cacerts,
// Takes).
func mergeRoots(newRoot *x509.Certificate, states []clusterState) []*x509.Certificate {
	var bundles [][]*x509.Certificate
	for i := range states {
		if states[i].stage() > 0 && newRoot.Equal(states[i].newRoot()) {
			bundles = append(bundles, states[i].Roots)
		}
		bundles = append(bundles, states[i].Published...)
	}
	slices.SortStableFunc(bundles, func(a, b []*x509.Certificate) int { return len(a) - len(b) })
	var targets []*x509.Certificate
	for _, bundle := range bundles {
		targets = slices.DeleteFunc(targets, func(c *x509.Certificate) bool { return slices.ContainsFunc(bundle, c.Equal) })
		targets = append(targets, bundle...)
	}
	targets = slices.DeleteFunc(targets, newRoot.Equal)
	return append(targets, newRoot)
}

// containsRun reports whether roots contains the bundle as it is, without gaps.
func containsRun(bundle, roots []*x509.Certificate) bool {
	for i := 0; i+len(bundle) <= len(roots); i++ {
		if slices.EqualFunc(bundle, roots[i:i+len(bundle)], (*x509.Certificate).Equal) {
			return true
		}
	}
	return false
}

func onlyRoot(bundles [][]*x509.Certificate, root *x509.Certificate) bool {
	return !slices.ContainsFunc(bundles, func(b []*x509.Certificate) bool { return len(b) != 1 || !b[0].Equal(root) })
}
