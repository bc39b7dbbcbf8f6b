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

// Wish is what a person asks for.
type Request struct {
	Stage networkingv1.RootRotation
	// NewRoot is nil where the change that is going on says it.
	NewRoot *x509.Certificate
	// FromSecret is the Secret with istiod's own CA, where no agent is yet.
	FromSecret string
}

// Plan is what is to be done about it.
type Plan struct {
	// Roots are those to trust, the new one last; none for RotateNone.
	Roots []*x509.Certificate
	// Annotations are to be set, by the place's number, empty ones to be removed; a place that is left alone has none.
	Annotations map[int]map[string]string
}

// RefusedError is for what is not to be done yet, or not any more.
type RefusedError struct{ reasons []string }

func (e *RefusedError) Error() string {
	return "nothing was changed, in any context:\n  " + strings.Join(e.reasons, "\n  ")
}

func (e *RefusedError) add(state *ClusterState, format string, args ...any) {
	e.reasons = append(e.reasons, state.Context+": "+fmt.Sprintf(format, args...))
}

// decide what a wish comes to in all places. Either it can be done in all of them, or it is refused: clusters that do not
// know of each other's roots refuse each other's workloads.
func decide(request Request, states []ClusterState) (*Plan, error) {
	switch request.Stage {
	case networkingv1.RotateTrustBoth:
		return trustBoth(request, states)
	case networkingv1.RotateNone:
		return abandon(states)
	default:
		return advance(request, states)
	}
}

func trustBoth(request Request, states []ClusterState) (*Plan, error) {
	newRoot := request.NewRoot
	for i := range states {
		if newRoot == nil && states[i].stage() > 0 {
			newRoot = states[i].newRoot()
		}
	}
	if newRoot == nil {
		return nil, errors.New("expected --new-root FILE or --vault: the root to change to")
	}
	refused := &RefusedError{}
	for i := range states {
		state := &states[i]
		switch {
		case len(state.Published) == 0:
			refused.add(state, "no istiod has published a root where it runs: has it started?")
		case state.stage() > 1 && state.Rotation.NewRoot != pemcerts.Fingerprint(newRoot):
			refused.add(state, "a change to another root, %.16s…, is at %s: complete that one first", state.Rotation.NewRoot, state.Rotation.Stage)
		case state.stage() == 0 && !state.hasAgents() && request.FromSecret == "" && state.FromSecret == "" && !onlyRoot(state.Published, newRoot):
			refused.add(state, "no agent has reported from istiod yet, which runs with a CA of its own: name the Secret that holds it by --from-secret, istio-ca-secret or cacerts")
		}
	}
	if len(refused.reasons) > 0 {
		return nil, refused
	}
	roots := mergeRoots(newRoot, states)
	if len(roots) < 2 {
		return nil, fmt.Errorf("every istiod publishes %s alone: there is no change to make; name the new root by --new-root, or the VirtualMesh with the new Vault by --vault -f FILE", pemcerts.Name(newRoot))
	}
	plan := &Plan{Roots: roots, Annotations: map[int]map[string]string{}}
	text := encodePEM(roots)
	for i := range states {
		state := &states[i]
		if state.stage() > 1 {
			if !slices.EqualFunc(state.Roots, roots, (*x509.Certificate).Equal) {
				refused.add(state, "it is past %s, with another list of roots (%s); complete the change in all contexts that are in it, then begin anew with all", networkingv1.StageTrustBoth, pemcerts.Names(state.Roots))
			}
			continue
		}
		for _, bundle := range state.Published {
			if !containsRun(bundle, roots) {
				refused.add(state, "its istiods publish %s, and do not take %s while they run, since those do not hold the former in their order; give up the change that is going on (none), or complete it", pemcerts.Names(bundle), pemcerts.Names(roots))
			}
		}
		set := map[string]string{networkingv1.RootRotationAnnotation: string(networkingv1.RotateTrustBoth), networkingv1.TrustedRootsAnnotation: text}
		switch {
		case request.FromSecret != "" && !state.hasAgents():
			set[networkingv1.RotateFromSecretAnnotation] = request.FromSecret
		case state.FromSecret != "" && state.stage() == 0 && state.hasAgents():
			set[networkingv1.RotateFromSecretAnnotation] = "" // left of an earlier change: that CA is not to come back
		}
		plan.Annotations[i] = set
	}
	if len(refused.reasons) > 0 {
		return nil, refused
	}
	return plan, nil
}

// goOn to sign-with-new or drop-old, once every place has completed the stage before.
func advance(request Request, states []ClusterState) (*Plan, error) {
	wanted := request.Stage.Allowed()
	before := networkingv1.RootRotationStages[wanted-2]
	plan := &Plan{Annotations: map[int]map[string]string{}}
	refused := &RefusedError{}
	for i := range states {
		state := &states[i]
		switch {
		case state.Rotation == nil || state.Requested == "" || len(state.Roots) < 2:
			refused.add(state, "no change of the root has begun; begin it in all contexts by rotate-root %s", networkingv1.RotateTrustBoth)
			continue
		case request.NewRoot != nil && !request.NewRoot.Equal(state.newRoot()):
			refused.add(state, "the change that is going on leads to %s, not to %s", pemcerts.Name(state.newRoot()), pemcerts.Name(request.NewRoot))
			continue
		case plan.Roots == nil:
			plan.Roots = state.Roots
		case !slices.EqualFunc(plan.Roots, state.Roots, (*x509.Certificate).Equal):
			refused.add(state, "it trusts other roots, %s, than %s, which trusts %s; set them alike by rotate-root %s in all contexts", pemcerts.Names(state.Roots), states[0].Context, pemcerts.Names(plan.Roots), networkingv1.RotateTrustBoth)
			continue
		}
		if at := state.Rotation.Stage; at.Number() < before.Number() {
			refused.add(state, "it is at %s only; go on to %s first, in all contexts", at, networkingv1.RootRotationWords[at.Number()])
			continue
		}
		if waitingFor := state.waitingFor(before, state.Roots); waitingFor != "" {
			refused.add(state, "%s is not complete; waiting for %s", before, waitingFor)
			continue
		}
		if state.Requested.Allowed() < wanted {
			plan.Annotations[i] = map[string]string{networkingv1.RootRotationAnnotation: string(request.Stage)}
		}
	}
	if len(refused.reasons) > 0 {
		return nil, refused
	}
	return plan, nil
}

// none gives a change up before istiods sign under the new root, or takes away what is left of one that is over.
func abandon(states []ClusterState) (*Plan, error) {
	plan := &Plan{Annotations: map[int]map[string]string{}}
	refused := &RefusedError{}
	inProgress := slices.ContainsFunc(states, func(p ClusterState) bool { return p.stage() > 0 })
	for i := range states {
		state := &states[i]
		switch {
		case state.stage() > 1:
			refused.add(state, "it is at %s, and there is no way back; go on to %s", state.Rotation.Stage, networkingv1.RotateDropOld)
		case state.finished() && inProgress:
			refused.add(state, "it has dropped the old root already: the others must not give the new one up")
		case state.Requested != "" || state.Rotation != nil:
			plan.Annotations[i] = map[string]string{networkingv1.RootRotationAnnotation: string(networkingv1.RotateNone)}
		}
	}
	if len(refused.reasons) > 0 {
		return nil, refused
	}
	return plan, nil
}

// together are all roots that are published anywhere, and the new one, last. Those of a change that is going on come
// together and last: an istiod that runs takes a list of roots only if it holds the old one in its order (agent/cacerts,
// Takes).
func mergeRoots(newRoot *x509.Certificate, states []ClusterState) []*x509.Certificate {
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

// runOf says whether a bundle stands in roots as it is.
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
