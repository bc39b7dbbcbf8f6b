// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// newRoot is a root certificate in PEM, and its fingerprint.
func newRoot(*testing.T) (text, fingerprint string) {
	root := testca.Root("root")
	return string(root.PEM()), pemcerts.Fingerprint(root.Certificate)
}

// A change of the root goes as far as the person says, one stage after another, each once every replica is there.
func TestTheRootChangesInStages(t *testing.T) {
	oldText, oldRoot := newRoot(t)
	newText, newest := newRoot(t)
	_, foreign := newRoot(t)
	both := []string{oldRoot, newest}
	report := func(pod, root string, trusted []string, confirmed bool) certificatesv1.CertificateStatus {
		return certificatesv1.CertificateStatus{Pod: pod, RootFingerprint: root, TrustedRoots: trusted, Confirmed: confirmed}
	}
	before := []certificatesv1.CertificateStatus{report("a", oldRoot, []string{oldRoot}, true), report("b", oldRoot, []string{oldRoot}, true)}
	trusting := []certificatesv1.CertificateStatus{report("a", oldRoot, both, true), report("b", oldRoot, both, true)}
	signing := []certificatesv1.CertificateStatus{report("a", newest, both, true), report("b", newest, both, true)}
	dropped := []certificatesv1.CertificateStatus{report("a", newest, []string{newest}, true), report("b", newest, []string{newest}, true)}
	at := func(stage networkingv1.RootRotationStage, complete bool) *networkingv1.RootRotationStatus {
		return &networkingv1.RootRotationStatus{Stage: stage, Complete: complete, NewRoot: newest}
	}
	const oldCA, newCA = "pki/root/sign-intermediate", "pki2/root/sign-intermediate"
	for name, test := range map[string]struct {
		word    networkingv1.RootRotation // "-": no annotation
		secret  string
		roots   string // both by default
		before  *networkingv1.RootRotationStatus
		reports []certificatesv1.CertificateStatus
		none    bool   // no IssuedCertificate is there yet
		uses    string // the Secret with the CA that the IssuedCertificate names

		stage    networkingv1.RootRotationStage // "" for no change
		complete bool
		says     string
		held     bool // nothing is written
		trusted  bool // the roots are asked for
		ca       string
		adopted  string
	}{
		"nothing said":                  {word: "-", reports: before, ca: newCA},
		"none said":                     {word: networkingv1.RotateNone, reports: before, ca: newCA},
		"begun":                         {word: networkingv1.RotateTrustBoth, reports: before, stage: networkingv1.StageTrustBoth, says: "waiting for istio-system/a: it does not publish all roots yet; istio-system/b", trusted: true, ca: oldCA},
		"begun with the last word":      {word: networkingv1.RotateDropOld, reports: before, stage: networkingv1.StageTrustBoth, says: "waiting for", trusted: true, ca: oldCA},
		"begun before the first istiod": {word: networkingv1.RotateTrustBoth, none: true, stage: networkingv1.StageTrustBoth, says: "2 of 2 replicas of istiod istio-system/istiod to report", trusted: true, ca: newCA},
		"begun from istiod's own CA":    {word: networkingv1.RotateTrustBoth, secret: "istio-ca-secret", none: true, stage: networkingv1.StageTrustBoth, says: "waiting", trusted: true, ca: newCA, adopted: "istio-ca-secret"},
		"one replica is not there": {
			word: networkingv1.RotateSignWithNew, before: at(networkingv1.StageTrustBoth, false), reports: []certificatesv1.CertificateStatus{trusting[0], before[1]},
			stage: networkingv1.StageTrustBoth, says: "waiting for istio-system/b: it does not publish all roots yet", trusted: true, ca: oldCA,
		},
		"one replica has not loaded it": {
			word: networkingv1.RotateSignWithNew, before: at(networkingv1.StageTrustBoth, false), reports: []certificatesv1.CertificateStatus{trusting[0], report("b", oldRoot, both, false)},
			stage: networkingv1.StageTrustBoth, says: "waiting for istio-system/b: it has not been confirmed", trusted: true, ca: oldCA,
		},
		"one replica has not reported": {
			word: networkingv1.RotateSignWithNew, before: at(networkingv1.StageTrustBoth, true), reports: trusting[:1],
			stage: networkingv1.StageTrustBoth, says: "1 of 2 replicas", trusted: true, ca: oldCA,
		},
		"trusted everywhere, and no further word": {
			word: networkingv1.RotateTrustBoth, before: at(networkingv1.StageTrustBoth, false), reports: trusting,
			stage: networkingv1.StageTrustBoth, complete: true, says: "set istiod-agent.io/root-rotation=sign-with-new", trusted: true, ca: oldCA,
		},
		"trusted everywhere, and the word": {
			word: networkingv1.RotateSignWithNew, before: at(networkingv1.StageTrustBoth, true), reports: trusting,
			stage: networkingv1.StageSignWithNew, says: "does not sign under the new root yet", trusted: true, ca: newCA,
		},
		"from istiod's own CA to Vault's": {
			word: networkingv1.RotateSignWithNew, secret: "istio-ca-secret", before: at(networkingv1.StageTrustBoth, true), reports: trusting,
			stage: networkingv1.StageSignWithNew, says: "does not sign", trusted: true, ca: newCA,
		},
		"signed everywhere": {
			word: networkingv1.RotateSignWithNew, before: at(networkingv1.StageSignWithNew, false), reports: signing,
			stage: networkingv1.StageSignWithNew, complete: true, says: "root-rotation=drop-old", trusted: true, ca: newCA,
		},
		"signed everywhere, and the word": {
			word: networkingv1.RotateDropOld, before: at(networkingv1.StageSignWithNew, true), reports: signing,
			stage: networkingv1.StageDropOld, says: "still publishes other roots", ca: newCA,
		},
		"not signed everywhere, in spite of the word": {
			word: networkingv1.RotateDropOld, before: at(networkingv1.StageSignWithNew, true), reports: []certificatesv1.CertificateStatus{signing[0], trusting[1]},
			stage: networkingv1.StageSignWithNew, says: "istio-system/b", trusted: true, ca: newCA,
		},
		"dropped everywhere": {
			word: networkingv1.RotateDropOld, before: at(networkingv1.StageDropOld, false), reports: dropped,
			stage: networkingv1.StageDropOld, complete: true, says: "remove the annotations", ca: newCA,
		},
		"complete, and the annotations are gone": {word: "-", before: at(networkingv1.StageDropOld, true), reports: dropped, ca: newCA},
		"complete, and the next change": {
			word: networkingv1.RotateTrustBoth, before: at(networkingv1.StageDropOld, true), reports: before,
			stage: networkingv1.StageTrustBoth, says: "waiting", trusted: true, ca: oldCA,
		},
		"the annotation is gone too early": {
			word: "-", before: at(networkingv1.StageSignWithNew, true), reports: signing, stage: networkingv1.StageSignWithNew, complete: true, says: "was removed before", held: true,
		},
		"given up in time": {word: networkingv1.RotateNone, before: at(networkingv1.StageTrustBoth, true), reports: trusting, ca: newCA},
		"given up while istiod's own CA is in use": {
			word: networkingv1.RotateNone, uses: "istio-ca-secret", before: at(networkingv1.StageTrustBoth, true), reports: trusting,
			stage: networkingv1.StageTrustBoth, complete: true, says: "none cannot cancel this root change", held: true,
		},
		"the Secret is not named any more": {
			word: networkingv1.RotateTrustBoth, uses: "istio-ca-secret", before: at(networkingv1.StageTrustBoth, true), reports: trusting,
			stage: networkingv1.StageTrustBoth, complete: true, trusted: true, ca: newCA, adopted: "istio-ca-secret",
		},
		"given up too late": {
			word: networkingv1.RotateNone, before: at(networkingv1.StageSignWithNew, true), reports: signing, stage: networkingv1.StageSignWithNew, complete: true, says: "istiods already sign", held: true,
		},
		"back": {
			word: networkingv1.RotateTrustBoth, before: at(networkingv1.StageSignWithNew, true), reports: signing, stage: networkingv1.StageSignWithNew, complete: true, says: "cannot go back", held: true,
		},
		"another new root half-way": {
			word: networkingv1.RotateSignWithNew, roots: newText + oldText, before: at(networkingv1.StageSignWithNew, true), reports: signing,
			stage: networkingv1.StageSignWithNew, complete: true, says: "must be last", held: true,
		},
		"signed under a foreign root": {
			word: networkingv1.RotateDropOld, before: at(networkingv1.StageSignWithNew, false), reports: []certificatesv1.CertificateStatus{report("a", foreign, both, true), signing[1]},
			stage: networkingv1.StageSignWithNew, says: "istio-system/a: it does not sign under the new root", trusted: true, ca: newCA,
		},
	} {
		t.Run(name, func(t *testing.T) {
			source := read(t, strings.Replace(guide, oldCA, newCA, 1), nil)
			source.Annotations = map[string]string{networkingv1.TrustedRootsAnnotation: oldText + newText}
			if test.roots != "" {
				source.Annotations[networkingv1.TrustedRootsAnnotation] = test.roots
			}
			if test.word != "-" {
				source.Annotations[networkingv1.RootRotationAnnotation] = string(test.word)
			}
			if test.secret != "" {
				source.Annotations[networkingv1.RotateFromSecretAnnotation] = test.secret
			}
			given := facts("cluster-1", source)
			two := istiod
			two.Replicas = 2
			given.Istiods[ours] = []deployedIstiod{two}
			key := types.NamespacedName{Namespace: "istio-system", Name: ours}
			if !test.none {
				ca := source.Spec.IntermediateCA().DeepCopy()
				ca.Vault.CAPath = oldCA
				given.Certificates[key] = storedCertificate{Owner: "gloo-mesh/virtual-mesh", AgentCA: ca, FromSecret: test.uses, Replicas: test.reports}
			}
			plan := translate(source, networkingv1.VirtualMeshStatus{RootRotation: test.before}, given)

			var status networkingv1.RootRotationStatus
			if plan.Status.RootRotation != nil {
				status = *plan.Status.RootRotation
			}
			if status.Stage != test.stage || status.Complete != test.complete || !strings.Contains(status.Message, test.says) {
				t.Errorf("status %+v", status)
			}
			if test.held {
				if len(plan.Certificates) > 0 || !plan.Retain[ours] {
					t.Errorf("planned %+v", plan)
				}
				return
			}
			if len(plan.Certificates) != 1 {
				t.Fatalf("planned %+v", plan)
			}
			certificate := plan.Certificates[0]
			wantRoots := ""
			if test.trusted {
				wantRoots = oldText + newText
			}
			if certificate.Annotations[certificatesv1.TrustedRootsAnnotation] != wantRoots || certificate.Annotations[certificatesv1.CAFromSecretAnnotation] != test.adopted {
				t.Errorf("annotations %v", certificate.Annotations)
			}
			if certificate.Spec.AgentCA.Vault.CAPath != test.ca {
				t.Errorf("the CA is %s", certificate.Spec.AgentCA.Vault.CAPath)
			}
		})
	}
}

// An istiod that nothing can be planned for keeps the change where it is.
func TestTheRootWaitsForAnIstiodThatIsNotUnderstood(t *testing.T) {
	oldText, _ := newRoot(t)
	newText, newest := newRoot(t)
	source := read(t, guide, nil)
	source.Annotations = map[string]string{
		networkingv1.TrustedRootsAnnotation: oldText + newText, networkingv1.RootRotationAnnotation: string(networkingv1.RotateSignWithNew),
	}
	given := facts("cluster-1", source)
	unknown := istiod
	unknown.Problem = "waiting for its ConfigMap"
	given.Istiods[ours] = []deployedIstiod{unknown}
	before := networkingv1.RootRotationStatus{Stage: networkingv1.StageTrustBoth, NewRoot: newest}
	plan := translate(source, networkingv1.VirtualMeshStatus{RootRotation: &before}, given)
	if got := plan.Status.RootRotation; got.Stage != networkingv1.StageTrustBoth || got.Complete || !strings.Contains(got.Message, "waiting for its ConfigMap") {
		t.Errorf("status %+v", got)
	}
}

// What replicas report is written by others; the CRD takes a message of 32 KiB.
func TestWhatReplicasReportIsAnsweredBriefly(t *testing.T) {
	oldText, oldRoot := newRoot(t)
	newText, _ := newRoot(t)
	source := read(t, guide, nil)
	source.Annotations = map[string]string{
		networkingv1.TrustedRootsAnnotation: oldText + newText, networkingv1.RootRotationAnnotation: string(networkingv1.RotateTrustBoth),
	}
	given := facts("cluster-1", source)
	given.Istiods[ours] = []deployedIstiod{istiod}
	var reports []certificatesv1.CertificateStatus
	for range 100 {
		reports = append(reports, certificatesv1.CertificateStatus{Pod: "a", RootFingerprint: oldRoot, Error: strings.Repeat("long ", 1000)})
	}
	given.Certificates[types.NamespacedName{Namespace: "istio-system", Name: ours}] = storedCertificate{Owner: "gloo-mesh/virtual-mesh", Replicas: reports}
	plan := translate(source, networkingv1.VirtualMeshStatus{}, given)
	if message := plan.Status.RootRotation.Message; !strings.HasPrefix(message, "waiting for istio-system/a") || len(message) > certificatesv1.MaxStatusText {
		t.Errorf("a message of %d bytes: %.200s", len(message), message)
	}
}

// What a VirtualMesh says of the change is looked at before it is acted on; what is there stays as it is.
func TestAChangeOfTheRootThatCannotBeActedOn(t *testing.T) {
	text, _ := newRoot(t)
	other, _ := newRoot(t)
	for name, test := range map[string]struct {
		annotations map[string]string
		want        string
	}{
		"an unknown word": {
			map[string]string{networkingv1.RootRotationAnnotation: "go", networkingv1.TrustedRootsAnnotation: text + other},
			`metadata.annotations[istiod-agent.io/root-rotation]: Unsupported value: "go": supported values: "trust-both", "sign-with-new", "drop-old", "none"`,
		},
		"no roots": {map[string]string{networkingv1.RootRotationAnnotation: "trust-both"}, "metadata.annotations[istiod-agent.io/trusted-roots]: Required value: expected PEM"},
		"one root": {map[string]string{networkingv1.RootRotationAnnotation: "trust-both", networkingv1.TrustedRootsAnnotation: text}, "found 1"},
		"no PEM":   {map[string]string{networkingv1.RootRotationAnnotation: "trust-both", networkingv1.TrustedRootsAnnotation: "roots"}, "something that is not a certificate"},
		"no name of a Secret": {
			map[string]string{networkingv1.RootRotationAnnotation: "trust-both", networkingv1.TrustedRootsAnnotation: text + other, networkingv1.RotateFromSecretAnnotation: "A B"},
			"metadata.annotations[istiod-agent.io/rotate-from-secret]: Invalid value",
		},
	} {
		t.Run(name, func(t *testing.T) {
			source := read(t, guide, nil)
			source.Annotations = test.annotations
			before := &networkingv1.RootRotationStatus{Stage: networkingv1.StageTrustBoth}
			plan := translate(source, networkingv1.VirtualMeshStatus{RootRotation: before}, facts("cluster-1", source))
			if !plan.RetainAll || len(plan.Certificates) > 0 || plan.Status.RootRotation != before || plan.Status.State != networkingv1.Invalid {
				t.Errorf("planned %+v", plan)
			}
			if !slices.ContainsFunc(plan.Status.Errors, func(said string) bool { return strings.Contains(said, test.want) }) {
				t.Errorf("said %q", plan.Status.Errors)
			}
		})
	}
}
