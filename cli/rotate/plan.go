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
type Wish struct {
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

func (e *RefusedError) add(place *Place, format string, args ...any) {
	e.reasons = append(e.reasons, place.Context+": "+fmt.Sprintf(format, args...))
}

// decide what a wish comes to in all places. Either it can be done in all of them, or it is refused: clusters that do not
// know of each other's roots refuse each other's workloads.
func decide(wish Wish, places []Place) (*Plan, error) {
	switch wish.Stage {
	case networkingv1.RotateTrustBoth:
		return trustBoth(wish, places)
	case networkingv1.RotateNone:
		return none(places)
	default:
		return goOn(wish, places)
	}
}

func trustBoth(wish Wish, places []Place) (*Plan, error) {
	newest := wish.NewRoot
	for i := range places {
		if newest == nil && places[i].at() > 0 {
			newest = places[i].newest()
		}
	}
	if newest == nil {
		return nil, errors.New("expected --new-root FILE or --vault: the root to change to")
	}
	refused := &RefusedError{}
	for i := range places {
		place := &places[i]
		switch {
		case len(place.Published) == 0:
			refused.add(place, "no istiod has published a root where it runs: has it started?")
		case place.at() > 1 && place.Rotation.NewRoot != pemcerts.Fingerprint(newest):
			refused.add(place, "a change to another root, %.16s…, is at %s: complete that one first", place.Rotation.NewRoot, place.Rotation.Stage)
		case place.at() == 0 && !place.hasAgents() && wish.FromSecret == "" && place.Secret == "" && !alone(place.Published, newest):
			refused.add(place, "no agent has reported from istiod yet, which runs with a CA of its own: name the Secret that holds it by --from-secret, istio-ca-secret or cacerts")
		}
	}
	if len(refused.reasons) > 0 {
		return nil, refused
	}
	roots := together(newest, places)
	if len(roots) < 2 {
		return nil, fmt.Errorf("every istiod publishes %s alone: there is no change to make; name the new root by --new-root, or the VirtualMesh with the new Vault by --vault -f FILE", pemcerts.Name(newest))
	}
	plan := &Plan{Roots: roots, Annotations: map[int]map[string]string{}}
	text := encode(roots)
	for i := range places {
		place := &places[i]
		if place.at() > 1 {
			if !slices.EqualFunc(place.Roots, roots, (*x509.Certificate).Equal) {
				refused.add(place, "it is past %s, with another list of roots (%s); complete the change in all contexts that are in it, then begin anew with all", networkingv1.StageTrustBoth, pemcerts.Names(place.Roots))
			}
			continue
		}
		for _, bundle := range place.Published {
			if !runOf(bundle, roots) {
				refused.add(place, "its istiods publish %s, and do not take %s while they run, since those do not hold the former in their order; give up the change that is going on (none), or complete it", pemcerts.Names(bundle), pemcerts.Names(roots))
			}
		}
		set := map[string]string{networkingv1.RootRotationAnnotation: string(networkingv1.RotateTrustBoth), networkingv1.TrustedRootsAnnotation: text}
		switch {
		case wish.FromSecret != "" && !place.hasAgents():
			set[networkingv1.RotateFromSecretAnnotation] = wish.FromSecret
		case place.Secret != "" && place.at() == 0 && place.hasAgents():
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
func goOn(wish Wish, places []Place) (*Plan, error) {
	wanted := wish.Stage.Allowed()
	before := networkingv1.RootRotationStages[wanted-2]
	plan := &Plan{Annotations: map[int]map[string]string{}}
	refused := &RefusedError{}
	for i := range places {
		place := &places[i]
		switch {
		case place.Rotation == nil || place.Word == "" || len(place.Roots) < 2:
			refused.add(place, "no change of the root has begun; begin it in all contexts by rotate-root %s", networkingv1.RotateTrustBoth)
			continue
		case wish.NewRoot != nil && !wish.NewRoot.Equal(place.newest()):
			refused.add(place, "the change that is going on leads to %s, not to %s", pemcerts.Name(place.newest()), pemcerts.Name(wish.NewRoot))
			continue
		case plan.Roots == nil:
			plan.Roots = place.Roots
		case !slices.EqualFunc(plan.Roots, place.Roots, (*x509.Certificate).Equal):
			refused.add(place, "it trusts other roots, %s, than %s, which trusts %s; set them alike by rotate-root %s in all contexts", pemcerts.Names(place.Roots), places[0].Context, pemcerts.Names(plan.Roots), networkingv1.RotateTrustBoth)
			continue
		}
		if at := place.Rotation.Stage; at.Number() < before.Number() {
			refused.add(place, "it is at %s only; go on to %s first, in all contexts", at, networkingv1.RootRotationWords[at.Number()])
			continue
		}
		if lacking := place.lacking(before, place.Roots); lacking != "" {
			refused.add(place, "%s is not complete; waiting for %s", before, lacking)
			continue
		}
		if place.Word.Allowed() < wanted {
			plan.Annotations[i] = map[string]string{networkingv1.RootRotationAnnotation: string(wish.Stage)}
		}
	}
	if len(refused.reasons) > 0 {
		return nil, refused
	}
	return plan, nil
}

// none gives a change up before istiods sign under the new root, or takes away what is left of one that is over.
func none(places []Place) (*Plan, error) {
	plan := &Plan{Annotations: map[int]map[string]string{}}
	refused := &RefusedError{}
	going := slices.ContainsFunc(places, func(p Place) bool { return p.at() > 0 })
	for i := range places {
		place := &places[i]
		switch {
		case place.at() > 1:
			refused.add(place, "it is at %s, and there is no way back; go on to %s", place.Rotation.Stage, networkingv1.RotateDropOld)
		case place.ended() && going:
			refused.add(place, "it has dropped the old root already: the others must not give the new one up")
		case place.Word != "" || place.Rotation != nil:
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
func together(newest *x509.Certificate, places []Place) []*x509.Certificate {
	var bundles [][]*x509.Certificate
	for i := range places {
		if places[i].at() > 0 && newest.Equal(places[i].newest()) {
			bundles = append(bundles, places[i].Roots)
		}
		bundles = append(bundles, places[i].Published...)
	}
	slices.SortStableFunc(bundles, func(a, b []*x509.Certificate) int { return len(a) - len(b) })
	var all []*x509.Certificate
	for _, bundle := range bundles {
		all = slices.DeleteFunc(all, func(c *x509.Certificate) bool { return slices.ContainsFunc(bundle, c.Equal) })
		all = append(all, bundle...)
	}
	all = slices.DeleteFunc(all, newest.Equal)
	return append(all, newest)
}

// runOf says whether a bundle stands in roots as it is.
func runOf(bundle, roots []*x509.Certificate) bool {
	for i := 0; i+len(bundle) <= len(roots); i++ {
		if slices.EqualFunc(bundle, roots[i:i+len(bundle)], (*x509.Certificate).Equal) {
			return true
		}
	}
	return false
}

func alone(bundles [][]*x509.Certificate, root *x509.Certificate) bool {
	return !slices.ContainsFunc(bundles, func(b []*x509.Certificate) bool { return len(b) != 1 || !b[0].Equal(root) })
}
