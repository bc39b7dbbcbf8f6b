// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/agentrights"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

const certificateRequests = "certificaterequests.cert-manager.io"

// approving is the right that cert-manager's webhook requires of an approver, for the name of a signer (cert-manager
// internal/webhook/admission/certificaterequest/approval).
var approving = right{action: "approve requests", group: "cert-manager.io", resources: []string{"signers"}, verbs: []string{"approve"}}

// certManagerState is the state of cert-manager, for the issuers that specifications name.
type certManagerState struct {
	CRD     fact[*crdState]
	Issuers []issuerState
	// Lacking are the missing rights of istiods' service accounts, by namespace/name.
	Lacking map[string]fact[[]string]
}

// issuerState is an issuer that the agents of a namespace ask.
type issuerState struct {
	Ref certificatesv1.IssuerRef
	// Namespace is istiod's, empty for an issuer without a namespace.
	Namespace string
	// Resource is the plural of its kind; empty where the API server does not serve the kind.
	Resource string
	// Object is nil where there is none.
	Object fact[*unstructured.Unstructured]
}

func (i *issuerState) subject() string {
	name := i.Ref.Name
	if i.Namespace != "" {
		name = i.Namespace + "/" + name
	}
	return "cert-manager's " + i.Ref.Kind + " " + name
}

// signer is the issuer's name in the right to approve.
func (i *issuerState) signer(wildcard bool) string {
	signer := i.Resource + "." + i.Ref.Group + "/"
	switch {
	case wildcard:
		return signer + "*"
	case i.Namespace != "":
		return signer + i.Namespace + "." + i.Ref.Name
	default:
		return signer + i.Ref.Name
	}
}

// issuerUse is an issuer that a specification names, and an istiod that will ask it.
type issuerUse struct {
	ref    certificatesv1.IssuerRef
	istiod istiodState
}

// readCertManager returns nil where no specification names an issuer.
func readCertManager(ctx context.Context, c client.Client, facts *clusterFacts) *certManagerState {
	uses := issuerUses(facts)
	if len(uses) == 0 {
		return nil
	}
	state := &certManagerState{CRD: factOf(readCRD(ctx, c, certificateRequests, nil)), Lacking: map[string]fact[[]string]{}}
	for _, use := range uses {
		issuer := readIssuer(ctx, c, use)
		if !slices.ContainsFunc(state.Issuers, func(other issuerState) bool { return other.Ref == issuer.Ref && other.Namespace == issuer.Namespace }) {
			state.Issuers = append(state.Issuers, issuer)
		}
		if account := use.istiod.Namespace + "/" + use.istiod.ServiceAccount; use.istiod.ServiceAccount != "" {
			if _, done := state.Lacking[account]; !done {
				state.Lacking[account] = factOf(agentrights.LackingForCertManager(ctx, c, use.istiod.Namespace, use.istiod.ServiceAccount))
			}
		}
	}
	return state
}

// issuerUses are the issuers that VirtualMeshes and IssuedCertificates name, each with its istiods.
func issuerUses(facts *clusterFacts) (uses []issuerUse) {
	add := func(ca *certificatesv1.IntermediateCertificateAuthority, of func(*istiodState) bool) {
		for i := range facts.Istiods.Value {
			if istiod := &facts.Istiods.Value[i]; !exempt(*istiod) && of(istiod) {
				uses = append(uses, issuerUse{*ca.CertManager.IssuerRef, *istiod})
			}
		}
	}
	for i := range facts.Meshes.Value {
		mesh, _, errs := networkingv1.FromObject(facts.Meshes.Value[i].Object)
		mesh.Spec.SetDefaults()
		_, more := mesh.Validate()
		ca := mesh.Spec.IntermediateCA()
		if len(errs)+len(more) > 0 || ca == nil || ca.CertManager == nil || facts.ignores(&facts.Meshes.Value[i]) {
			continue
		}
		before := len(uses)
		add(ca, func(istiod *istiodState) bool { return names(mesh, istiod, facts.Configuration.Value.ClusterName) })
		if len(uses) == before { // istiod is not installed yet
			for _, namespace := range facts.Namespaces.Value {
				if namespace.Labelled {
					uses = append(uses, issuerUse{*ca.CertManager.IssuerRef, istiodState{Namespace: namespace.Name}})
				}
			}
		}
	}
	for i := range facts.Certificates.Value {
		certificate := &facts.Certificates.Value[i]
		content, _, _ := unstructured.NestedMap(certificate.Object, "spec", "agentCa")
		var ca certificatesv1.IntermediateCertificateAuthority
		if runtime.DefaultUnstructuredConverter.FromUnstructured(content, &ca) != nil || ca.CertManager == nil {
			continue
		}
		ca.SetDefaults()
		if _, errs := ca.CertManager.Validate(field.NewPath("spec")); len(errs) > 0 {
			continue // its agents report it
		}
		add(&ca, func(istiod *istiodState) bool {
			return certificate.GetNamespace() == istiod.Namespace && isFor(certificate, istiod)
		})
	}
	return uses
}

// names reports whether a VirtualMesh names an istiod's mesh. Without the cluster's name, it names all.
func names(mesh *networkingv1.VirtualMesh, istiod *istiodState, cluster string) bool {
	return cluster == "" || slices.ContainsFunc(mesh.Spec.Meshes, func(ref networkingv1.MeshRef) bool {
		name := istio.MeshName(istiod.Name, istiod.Namespace, cluster)
		prefix, suffix, pattern := ref.Pattern()
		if !pattern {
			return istio.NormalMeshName(ref.Name) == name
		}
		return strings.HasPrefix(name, istio.NormalMeshName(prefix)) && strings.HasSuffix(name, istio.NormalMeshName(suffix))
	})
}

func readIssuer(ctx context.Context, c client.Client, use issuerUse) issuerState {
	issuer := issuerState{Ref: use.ref}
	mapping, err := c.RESTMapper().RESTMapping(schema.GroupKind{Group: use.ref.Group, Kind: use.ref.Kind})
	if err != nil {
		if !meta.IsNoMatchError(err) {
			issuer.Object.Err = err
		}
		return issuer
	}
	issuer.Resource = mapping.Resource.Resource
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		issuer.Namespace = use.istiod.Namespace
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(mapping.GroupVersionKind)
	switch err := c.Get(ctx, client.ObjectKey{Namespace: issuer.Namespace, Name: use.ref.Name}, object); {
	case err == nil:
		issuer.Object.Value = object
	case !apierrors.IsNotFound(err):
		issuer.Object.Err = err
	}
	return issuer
}

// certManager adds whether the issuers can sign istiod's CA, before istiod asks them.
func (d *decision) certManager() {
	state := d.facts.CertManager
	if state == nil {
		return
	}
	switch {
	case state.CRD.Err != nil:
		d.unknown("CRD "+certificateRequests, "reading it", "get", "customresourcedefinitions", state.CRD.Err)
	case state.CRD.Value == nil:
		d.add(levelFail, "CRD "+certificateRequests, "is not installed, and a specification names an issuer of cert-manager: istiod waits in Init", "install cert-manager (docs/cert-manager.md)")
		return
	}
	for i := range state.Issuers {
		d.issuer(&state.Issuers[i])
	}
	for i := range d.facts.Istiods.Value {
		istiod := &d.facts.Istiods.Value[i]
		account := istiod.Namespace + "/" + istiod.ServiceAccount
		lacking, used := state.Lacking[account]
		if !used || slices.ContainsFunc(d.facts.Istiods.Value[:i], func(o istiodState) bool { return o.Namespace+"/"+o.ServiceAccount == account }) {
			continue
		}
		subject := "rights of service account " + account + " for cert-manager"
		switch {
		case lacking.Err != nil:
			d.unknown(subject, "checking its permissions", "create", "subjectaccessreviews.authorization.k8s.io", lacking.Err)
		case len(lacking.Value) > 0:
			d.add(levelFail, subject, "it may not "+strings.Join(lacking.Value, ", nor ")+"; no certificate is issued until it has this permission", d.release("--set istiodSidecar.certManager=true"))
		default:
			d.add(levelOK, subject, "may request certificates", "")
		}
	}
}

// cannotSign are the fields of cert-manager's own issuers that sign no intermediate CA, and why.
var cannotSign = []struct{ field, why string }{
	{"acme", "is an ACME issuer, which signs server certificates only"},
	{"selfSigned", "is a self-signed issuer: it signs only with the key that it certifies, and istiod's key never leaves its Pod"},
}

func (d *decision) issuer(issuer *issuerState) {
	subject := issuer.subject()
	get := d.kubectl + " get " + issuer.Resource + "." + issuer.Ref.Group + " " + issuer.Ref.Name + " -o yaml"
	if issuer.Namespace != "" {
		get = strings.Replace(get, "get ", "get -n "+issuer.Namespace+" ", 1)
	}
	switch {
	case issuer.Object.Err != nil:
		d.unknown(subject, "reading it", "get", issuer.Resource+"."+issuer.Ref.Group, issuer.Object.Err)
		return
	case issuer.Resource == "":
		d.add(levelFail, subject, fmt.Sprintf("the API server has no kind %s in group %s: istiod waits in Init", issuer.Ref.Kind, issuer.Ref.Group), "install the issuer's CRDs and controller, or correct issuerRef.kind and issuerRef.group")
		return
	case issuer.Object.Value == nil:
		d.add(levelFail, subject, "does not exist: istiod waits in Init", "create it, or correct issuerRef.name")
		return
	}
	spec, _, _ := unstructured.NestedMap(issuer.Object.Value.Object, "spec")
	if issuer.Ref.Group == certificatesv1.DefaultIssuerGroup {
		for _, kind := range cannotSign {
			if _, found := spec[kind.field]; found {
				d.add(levelFail, subject, kind.why, "name an issuer that signs intermediate CAs, such as a CA issuer (docs/cert-manager.md)")
				return
			}
		}
		if _, found := spec["vault"]; found {
			why := "is a Vault issuer: it requests no organization, so the agent refuses its certificates (WrongOrganization)"
			if path, _, _ := unstructured.NestedString(spec, "vault", "path"); signsLeaves(path) {
				why = "signs at Vault's path " + bounded.Message(path) + ", which signs leaf certificates"
			}
			d.add(levelFail, subject, why, "set vault instead of certManager in the VirtualMesh")
			return
		}
	}
	switch ready, message := readyCondition(issuer.Object.Value); {
	case ready == "True":
		d.add(levelOK, subject, "is Ready", "")
	case ready == "" && issuer.Ref.Group != certificatesv1.DefaultIssuerGroup:
		d.add(levelWarn, subject, "reports no condition Ready, so its state is not known", get)
	case ready == "":
		d.add(levelFail, subject, "is not Ready: cert-manager has not reported on it", get)
		return
	default:
		d.add(levelFail, subject, "is not Ready: "+bounded.Message(bounded.Plain(message)), get)
		return
	}
	d.approvers(issuer)
}

// signsLeaves reports whether a path of Vault is <mount>/sign/<role> or one of its variants.
func signsLeaves(path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	return slices.ContainsFunc(parts[1:], func(part string) bool { return part == "sign" || part == "sign-verbatim" || part == "issue" })
}

// readyCondition returns the status of an issuer's condition Ready, empty without one, and its message.
func readyCondition(issuer *unstructured.Unstructured) (status, message string) {
	conditions, _, _ := unstructured.NestedSlice(issuer.Object, "status", "conditions")
	for _, item := range conditions {
		if condition, _ := item.(map[string]any); condition["type"] == "Ready" {
			status, _ = condition["status"].(string)
			message, _ = condition["message"].(string)
		}
	}
	return status, message
}

// approvers warns where only cluster administrators may approve requests: cert-manager's own approver may do so for its own
// issuers, and for others only when they are given to it.
func (d *decision) approvers(issuer *issuerState) {
	if d.facts.Grants.Err != nil {
		return // who decides about the CA has its line
	}
	for _, grant := range d.facts.Grants.Value {
		if slices.ContainsFunc(grant.rules, func(rule rbacv1.PolicyRule) bool {
			return approving.grantedBy(rule) && (len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, issuer.signer(false)) ||
				slices.Contains(rule.ResourceNames, issuer.signer(true)))
		}) && len(grant.subjects) > 0 {
			return
		}
	}
	d.add(levelWarn, issuer.subject(), "no approver may approve its requests: istiod waits until an administrator approves each",
		"give cert-manager's approver (its chart's approveSignerNames) or approver-policy the right to approve "+issuer.signer(true)+" (docs/cert-manager.md)")
}
