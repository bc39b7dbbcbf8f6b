// SPDX-License-Identifier: Apache-2.0

package rotate

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

type roots = []*x509.Certificate

func newRoot(_ *testing.T, name string) *x509.Certificate { return testca.Root(name).Certificate }

// running is a cluster whose agents sign under a root and publish some.
func running(context string, signs *x509.Certificate, published ...*x509.Certificate) clusterState {
	return clusterState{Context: context, State: networkingv1.Accepted, Published: []roots{published}, Replicas: []certificatesv1.CertificateStatus{{
		Pod: "istiod-0", SerialNumber: "1", RootFingerprint: pemcerts.Fingerprint(signs), TrustedRoots: pemcerts.Fingerprints(published), Confirmed: true,
	}}}
}

// in is a cluster in a stage of a change, as far as it was told to go.
func in(state clusterState, word networkingv1.RootRotation, stage networkingv1.RootRotationStage, complete bool, trusted ...*x509.Certificate) clusterState {
	state.Requested, state.Roots = word, trusted
	state.Rotation = &networkingv1.RootRotationStatus{Stage: stage, Complete: complete, NewRoot: pemcerts.Fingerprint(trusted[len(trusted)-1]), Message: "waiting for something"}
	return state
}

const (
	trust, sign, drop, giveUp = networkingv1.RotateTrustBoth, networkingv1.RotateSignWithNew, networkingv1.RotateDropOld, networkingv1.RotateNone
	atTrust, atSign, atDrop   = networkingv1.StageTrustBoth, networkingv1.StageSignWithNew, networkingv1.StageDropOld
)

// Either all clusters go on together, or none does.
func TestDecisions(t *testing.T) {
	t.Parallel()
	a, b, c, n, m := newRoot(t, "a"), newRoot(t, "b"), newRoot(t, "c"), newRoot(t, "n"), newRoot(t, "m")
	own := clusterState{Context: "own", State: networkingv1.Accepted, Published: []roots{{b}}}
	adopting := in(own, trust, atTrust, false, b, n)
	adopting.FromSecret = "istio-ca-secret"
	trusting := in(running("one", a, a, n), trust, atTrust, true, a, n)
	signing := in(running("one", n, a, n), sign, atSign, true, a, n)
	dropped := in(running("one", n, n), drop, atDrop, true, a, n)
	stale := in(running("one", a, a), trust, atTrust, true, a, n) // complete in the status, not by the agents
	unfinished := in(running("two", a, a, n), trust, atTrust, false, a, n)
	remaining := dropped // with what names a Secret still there
	remaining.FromSecret = "istio-ca-secret"
	broken := trusting
	broken.State, broken.Errors = networkingv1.Invalid, []string{"spec.x: wrong"}
	incomplete := in(running("one", n, a, n), sign, atSign, true, a, n)
	incomplete.Replicas = append(incomplete.Replicas, running("", a, a, n).Replicas[0])
	allowedAll := in(running("one", a, a, n), drop, atTrust, false, a, n) // annotated by hand, to the end
	for name, test := range map[string]struct {
		request rotationRequest
		states  []clusterState

		roots   roots
		changed []int    // the places that are annotated
		refused []string // what is said instead
		err     string
	}{
		"begun":                              {request: rotationRequest{Stage: trust, NewRoot: n}, states: []clusterState{running("one", a, a)}, roots: roots{a, n}, changed: []int{0}},
		"begun in two with one root":         {request: rotationRequest{Stage: trust, NewRoot: n}, states: []clusterState{running("one", a, a), running("two", a, a)}, roots: roots{a, n}, changed: []int{0, 1}},
		"begun in two with a root each":      {request: rotationRequest{Stage: trust, NewRoot: n}, states: []clusterState{running("one", a, a), running("two", b, b)}, roots: roots{a, b, n}, changed: []int{0, 1}},
		"to the root of one of them":         {request: rotationRequest{Stage: trust, NewRoot: a}, states: []clusterState{running("one", a, a), running("two", b, b)}, roots: roots{b, a}, changed: []int{0, 1}},
		"two istiods with a root each":       {request: rotationRequest{Stage: trust, NewRoot: n}, states: []clusterState{{Context: "one", Replicas: running("", a, a).Replicas, Published: []roots{{a}, {b}}}}, roots: roots{a, b, n}, changed: []int{0}},
		"again":                              {request: rotationRequest{Stage: trust}, states: []clusterState{unfinished}, roots: roots{a, n}, changed: []int{0}},
		"with another cluster, half-way":     {request: rotationRequest{Stage: trust}, states: []clusterState{trusting, running("two", c, c)}, roots: roots{c, a, n}, changed: []int{0, 1}},
		"one is past it":                     {request: rotationRequest{Stage: trust}, states: []clusterState{signing, unfinished}, roots: roots{a, n}, changed: []int{1}},
		"one is past it, without another's":  {request: rotationRequest{Stage: trust}, states: []clusterState{signing, running("two", c, c)}, refused: []string{"one: it is past TrustBoth, with another list of roots"}},
		"another new root in between":        {request: rotationRequest{Stage: trust, NewRoot: m}, states: []clusterState{trusting}, roots: roots{a, n, m}, changed: []int{0}},
		"another new root, too late":         {request: rotationRequest{Stage: trust, NewRoot: m}, states: []clusterState{signing}, refused: []string{"one: a change to another root, " + pemcerts.Fingerprint(n)[:16] + "…, is at SignWithNew"}},
		"the next change":                    {request: rotationRequest{Stage: trust, NewRoot: m}, states: []clusterState{dropped}, roots: roots{n, m}, changed: []int{0}},
		"the next change, a Secret is left":  {request: rotationRequest{Stage: trust, NewRoot: m}, states: []clusterState{remaining}, roots: roots{n, m}, changed: []int{0}},
		"no new root":                        {request: rotationRequest{Stage: trust}, states: []clusterState{running("one", a, a)}, err: "expected --new-root FILE or --vault"},
		"everybody has it":                   {request: rotationRequest{Stage: trust, NewRoot: a}, states: []clusterState{running("one", a, a)}, err: "there is no change to make"},
		"nothing published":                  {request: rotationRequest{Stage: trust, NewRoot: n}, states: []clusterState{{Context: "one"}, running("two", a, a)}, refused: []string{"one: no istiod has published a root"}},
		"istiod's own CA":                    {request: rotationRequest{Stage: trust, NewRoot: n, FromSecret: "istio-ca-secret"}, states: []clusterState{own, running("two", a, a)}, roots: roots{b, a, n}, changed: []int{0, 1}},
		"istiod's own CA, not named":         {request: rotationRequest{Stage: trust, NewRoot: n}, states: []clusterState{own, running("two", a, a)}, refused: []string{"own: no agent has reported from istiod yet, so istiod uses its own CA: name the Secret"}},
		"istiod's own CA, named before":      {request: rotationRequest{Stage: trust}, states: []clusterState{adopting}, roots: roots{b, n}, changed: []int{0}},
		"orders that exclude each other":     {request: rotationRequest{Stage: trust, NewRoot: n}, states: []clusterState{running("one", a, a, b), running("two", b, b, a)}, refused: []string{"one: its istiods publish O=a"}},
		"going on":                           {request: rotationRequest{Stage: sign}, states: []clusterState{trusting}, roots: roots{a, n}, changed: []int{0}},
		"going on, said already":             {request: rotationRequest{Stage: sign}, states: []clusterState{signing, trusting}, roots: roots{a, n}, changed: []int{1}},
		"going on, the root named":           {request: rotationRequest{Stage: sign, NewRoot: n}, states: []clusterState{trusting}, roots: roots{a, n}, changed: []int{0}},
		"going on, another root named":       {request: rotationRequest{Stage: sign, NewRoot: m}, states: []clusterState{trusting}, refused: []string{"one: the root change in progress leads to O=n"}},
		"going on before it has begun":       {request: rotationRequest{Stage: sign}, states: []clusterState{running("one", a, a), trusting}, refused: []string{"one: no root change has begun"}},
		"going on, one is not complete":      {request: rotationRequest{Stage: sign}, states: []clusterState{trusting, unfinished}, refused: []string{"two: TrustBoth is not complete; waiting for something"}},
		"going on, the status is of before":  {request: rotationRequest{Stage: sign}, states: []clusterState{stale}, refused: []string{"one: TrustBoth is not complete; waiting for Pod istiod-0, which does not publish exactly the requested roots"}},
		"going on, the mesh is broken":       {request: rotationRequest{Stage: sign}, states: []clusterState{broken}, refused: []string{"one: TrustBoth is not complete; waiting for its VirtualMesh to be corrected, which is INVALID: spec.x: wrong"}},
		"going on, with other roots":         {request: rotationRequest{Stage: sign}, states: []clusterState{trusting, in(running("two", c, c, n), trust, atTrust, true, c, n)}, refused: []string{"two: it trusts O=c"}},
		"going on, a stage left out":         {request: rotationRequest{Stage: drop}, states: []clusterState{trusting, signing}, refused: []string{"one: it is only at TrustBoth; continue to sign-with-new first"}},
		"dropping":                           {request: rotationRequest{Stage: drop}, states: []clusterState{signing}, roots: roots{a, n}, changed: []int{0}},
		"dropping, one has":                  {request: rotationRequest{Stage: drop}, states: []clusterState{dropped, signing}, roots: roots{a, n}, changed: []int{1}},
		"dropping, a replica is late":        {request: rotationRequest{Stage: drop}, states: []clusterState{incomplete}, refused: []string{"one: SignWithNew is not complete; waiting for Pod istiod-0, which does not sign under the new root yet"}},
		"dropping, told by hand to go on":    {request: rotationRequest{Stage: drop}, states: []clusterState{allowedAll}, refused: []string{"one: it is only at TrustBoth"}},
		"given up":                           {request: rotationRequest{Stage: giveUp}, states: []clusterState{trusting, running("two", a, a)}, changed: []int{0}},
		"given up too late":                  {request: rotationRequest{Stage: giveUp}, states: []clusterState{signing, trusting}, refused: []string{"one: it is at SignWithNew and cannot go back; continue to drop-old"}},
		"given up where another has dropped": {request: rotationRequest{Stage: giveUp}, states: []clusterState{dropped, trusting}, refused: []string{"one: it has already dropped the old root"}},
		"cleared up":                         {request: rotationRequest{Stage: giveUp}, states: []clusterState{dropped, running("two", n, n)}, changed: []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, err := decide(test.request, test.states)
			if refused, is := errors.AsType[*refusedError](err); is != (test.refused != nil) {
				t.Fatalf("got %v", err)
			} else if is {
				if len(refused.reasons) != len(test.refused) && name != "orders that exclude each other" {
					t.Errorf("got %q", refused.reasons)
				}
				for i, want := range test.refused {
					if !strings.HasPrefix(refused.reasons[i], want) {
						t.Errorf("got %s, want %s", refused.reasons[i], want)
					}
				}
				return
			}
			if test.err != "" || err != nil {
				if err == nil || test.err == "" || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if !slices.Equal(pemcerts.Fingerprints(plan.Roots), pemcerts.Fingerprints(test.roots)) {
				t.Errorf("the roots are %s", pemcerts.Names(plan.Roots))
			}
			for i := range test.states {
				set := plan.Annotations[i]
				if (set != nil) != slices.Contains(test.changed, i) {
					t.Errorf("place %d: %v", i, set)
				}
				if set == nil {
					continue
				}
				if set[networkingv1.RootRotationAnnotation] != test.request.Stage {
					t.Errorf("it is told %s", set[networkingv1.RootRotationAnnotation])
				}
				if test.request.Stage == trust && set[networkingv1.TrustedRootsAnnotation] != string(pemcerts.Encode(test.roots...)) {
					t.Error("other roots are set")
				}
				secret, given := set[networkingv1.RotateFromSecretAnnotation]
				if adopts := test.request.FromSecret != "" && !test.states[i].hasAgents(); (secret != nil) != adopts {
					t.Errorf("place %d takes the CA of Secret %q over", i, secret)
				}
				if removes := strings.HasSuffix(name, "a Secret is left"); removes != (given && secret == nil) {
					t.Errorf("place %d: that a Secret is no longer named is %t", i, !removes)
				}
			}
		})
	}
}

// A stage is complete only when the status and the agents say so.
func TestLeft(t *testing.T) {
	t.Parallel()
	a, n, m := newRoot(t, "a"), newRoot(t, "n"), newRoot(t, "m")
	plan := &rotationPlan{Roots: roots{a, n}}
	const begins = "istiod-agent-webhook to act"
	ended := in(running("one", n, n), trust, atDrop, true, a, n) // told to begin anew
	for name, test := range map[string]struct {
		stage networkingv1.RootRotation
		state clusterState
		want  string
	}{
		"not begun":              {trust, running("one", a, a), begins},
		"begun":                  {trust, in(running("one", a, a), trust, atTrust, false, a, n), "something"},
		"complete":               {trust, in(running("one", a, a, n), trust, atTrust, true, a, n), ""},
		"complete by the status": {trust, in(running("one", a, a), trust, atTrust, true, a, n), "Pod istiod-0"},
		"to another root before": {trust, in(running("one", a, a, m), trust, atTrust, true, a, m), begins},
		"to another root, later": {sign, in(running("one", m, a, m), sign, atSign, true, a, m), "another root change"},
		"of the change before":   {trust, ended, begins},
		"past it":                {trust, in(running("one", n, a, n), sign, atSign, false, a, n), ""},
		"not gone on yet":        {sign, in(running("one", a, a, n), sign, atTrust, true, a, n), "istiod-agent-webhook to continue from TrustBoth"},
		"signing":                {sign, in(running("one", n, a, n), sign, atSign, true, a, n), ""},
		"signing by the status":  {sign, in(running("one", a, a, n), sign, atSign, true, a, n), "Pod istiod-0, which does not sign"},
		"dropping":               {drop, in(running("one", n, a, n), drop, atDrop, false, a, n), "something"},
		"dropped by the status":  {drop, in(running("one", n, a, n), drop, atDrop, true, a, n), "Pod istiod-0"},
		"dropped":                {drop, in(running("one", n, n), drop, atDrop, true, a, n), ""},
		"given up, not noticed":  {giveUp, in(running("one", a, a, n), giveUp, atTrust, true, a, n), begins},
		"given up":               {giveUp, running("one", a, a), ""},
	} {
		if got := test.state.remaining(test.stage, plan); got != test.want && (test.want == "" || !strings.HasPrefix(got, test.want)) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	f := flags{}
	f.Contexts, f.Mesh = []string{"one", "it's two"}, "gloo-mesh/virtual-mesh"
	for stage, want := range map[networkingv1.RootRotation]string{
		trust:  "rotate-root sign-with-new --virtual-mesh=gloo-mesh/virtual-mesh --context=one --context='it'\\''s two'",
		sign:   "rotate-root drop-old --virtual-mesh",
		drop:   "rotate-root none --virtual-mesh",
		giveUp: "",
	} {
		if got := f.next(stage); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: got %q", stage, got)
		}
	}
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	for want, arguments := range map[string][]string{
		`invalid argument "drop" for`:                       {"drop"},
		"accepts at most 1 arg(s)":                          {"trust-both", "none"},
		"require the stage trust-both":                      {"drop-old", "--vault"},
		"--filename requires --vault":                       {"trust-both", "-f=x"},
		"--now requires the stage sign-with-new":            {"trust-both", "--now"},
		"--timeout: expected a positive duration":           {"none", "--timeout=-1s"},
		"[new-root vault] were all set":                     {"trust-both", "--vault", "--new-root=x"},
		`--output "wide": expected json or yaml`:            {"-o=wide"},
		"no context was changed, since not all of them can": {"drop-old"},
	} {
		cmd := Command()
		cmd.SetArgs(append(arguments, "--kubeconfig=/dev/null"))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		err := cmd.ExecuteContext(t.Context())
		coded, ok := errors.AsType[*exit.Error](err)
		if !ok || coded.Code != 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", arguments, err, want)
		}
	}
}
