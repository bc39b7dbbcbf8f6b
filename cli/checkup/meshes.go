// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

func (d *decision) meshes() {
	found := d.facts.Meshes
	switch {
	case found.Err != nil:
		d.unknown("VirtualMesh", "listing VirtualMeshes", "list", "virtualmeshes.networking.mesh.gloo.solo.io", found.Err)
		return
	case len(found.Value) == 0:
		if d.facts.CRDs[crds[0].name].Value != nil { // else that is what to begin with
			d.add(Warn, "VirtualMesh", "there is none: nothing says which Vault signs istiod's CA", d.kubectl+" apply -f virtual-mesh.yaml")
		}
		return
	}
	var ignored []string
	for i := range found.Value {
		if d.facts.ignores(&found.Value[i]) {
			ignored = append(ignored, found.Value[i].GetNamespace()+"/"+found.Value[i].GetName())
			continue
		}
		d.mesh(&found.Value[i])
	}
	if len(ignored) > 0 {
		d.add(Warn, "VirtualMesh", listed(ignored)+": not acted on, since the namespace is not one of "+strings.Join(d.facts.Configuration.Value.VirtualMesh.Namespaces, ", "),
			"leave it to others, move it, or add its namespace to the chart's value virtualMesh.namespaces")
	}
}

// ignores reports whether a VirtualMesh is in a namespace that is not allowed. Where the configuration cannot be read,
// the status says so.
func (f *Facts) ignores(mesh *unstructured.Unstructured) bool {
	if f.Configuration.Err == nil {
		return !f.Configuration.Value.VirtualMesh.Allows(mesh.GetNamespace())
	}
	conditions, _, _ := unstructured.NestedSlice(mesh.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(each any) bool {
		condition, _ := each.(map[string]any)
		return condition["reason"] == "NamespaceNotAllowed"
	})
}

func (d *decision) mesh(object *unstructured.Unstructured) {
	what := "VirtualMesh " + object.GetNamespace() + "/" + object.GetName()
	edit := d.kubectl + " edit -n " + object.GetNamespace() + " virtualmesh/" + object.GetName()
	describe := d.kubectl + " describe -n " + object.GetNamespace() + " virtualmesh/" + object.GetName()
	mesh, _, errs := networkingv1.FromObject(object.Object)
	mesh.Spec.SetDefaults()
	_, more := mesh.Validate()
	if errs = append(errs, more...); len(errs) > 0 {
		d.add(Fail, what, errs.ToAggregate().Error(), edit)
		return
	}
	if mesh.Spec.IntermediateCA() == nil {
		d.add(Warn, what, "names no intermediateCertificateAuthority, so that nothing is done", edit)
		return
	}
	var status networkingv1.VirtualMeshStatus
	stored, _, _ := unstructured.NestedMap(object.Object, "status")
	if runtime.DefaultUnstructuredConverter.FromUnstructured(stored, &status) != nil {
		status = networkingv1.VirtualMeshStatus{} // another's
	}
	problems := strings.Join(status.Errors, "; ")
	switch {
	case strings.Contains(problems, "clusterName"):
		d.add(Fail, "clusterName", "is not set, so spec.meshes of "+what+" cannot be matched to this cluster", d.release("--set clusterName=NAME"))
	case status.State == "":
		d.add(Warn, what, "is valid, and nothing has acted on it yet", d.kubectl+" "+d.pods())
	case status.ObservedGeneration < object.GetGeneration():
		d.add(Warn, what, fmt.Sprintf("is valid; its last change is not acted on yet (its status is %s)", status.State), d.kubectl+" "+d.pods())
	case status.State == networkingv1.Accepted:
		detail := "is acted on"
		if condition := status.Conditions; len(condition) > 0 && condition[0].Message != "" {
			detail = condition[0].Message
		}
		d.add(OK, what, detail, "")
	case status.State == networkingv1.Pending:
		detail := "is waited for"
		if condition := status.Conditions; len(condition) > 0 && condition[0].Message != "" {
			detail = condition[0].Message
		}
		d.add(Warn, what, detail, describe)
	default:
		d.add(Fail, what, string(status.State)+": "+problems, describe)
	}
}

func (d *decision) certificates() {
	found := d.facts.Certificates
	if found.Err != nil {
		d.unknown("IssuedCertificate", "listing IssuedCertificates", "list", "issuedcertificates.certificates.mesh.gloo.solo.io", found.Err)
		return
	}
	for _, istiod := range d.facts.Istiods.Value {
		there := slices.ContainsFunc(found.Value, func(c unstructured.Unstructured) bool {
			return c.GetNamespace() == istiod.Namespace && isFor(&c, &istiod)
		})
		if !there && d.labelled(istiod.Namespace) && !exempt(istiod) {
			d.add(Warn, "IssuedCertificate", fmt.Sprintf("there is none for istiod %s/%s: its agent waits", istiod.Namespace, istiod.Name),
				fmt.Sprintf("name the mesh %s-%s-<cluster> in the VirtualMesh's spec.meshes", istiod.Name, istiod.Namespace))
		}
	}
	reached, failed := 0, 0
	for i := range found.Value {
		a, b := d.certificate(&found.Value[i])
		reached, failed = reached+a, failed+b
	}
	if reached > 0 && failed == 0 {
		d.add(OK, "Vault", fmt.Sprintf("seen from istiod's Pods: the agents of %s have their certificates from it", counted(reached, "IssuedCertificate")), "")
	}
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// certificate says how far one is, and whether Vault served its agents or failed them.
func (d *decision) certificate(object *unstructured.Unstructured) (reached, failed int) {
	what := "IssuedCertificate " + object.GetNamespace() + "/" + object.GetName()
	describe := d.kubectl + " describe -n " + object.GetNamespace() + " issuedcertificate/" + object.GetName()
	var status certificatesv1.IssuedCertificateStatus
	stored, _, _ := unstructured.NestedMap(object.Object, "status")
	if runtime.DefaultUnstructuredConverter.FromUnstructured(stored, &status) != nil {
		status = certificatesv1.IssuedCertificateStatus{} // another's
	}
	if exposed := meta.FindStatusCondition(status.Conditions, certificatesv1.TokenAudienceBoundCondition); exposed != nil && exposed.Status == metav1.ConditionFalse {
		d.add(Warn, what, exposed.Message, "set audience=vault in Vault's role, then audience: vault below kubernetesAuth in the VirtualMesh; kubectl istiod-agent vault prints the role")
	}
	d.ends(what, &status)
	mistakes := []string{}
	add := func(mistake string) {
		if mistake != "" && !slices.Contains(mistakes, mistake) {
			mistakes = append(mistakes, mistake)
		}
	}
	add(status.Error)
	for _, pod := range status.Certificates {
		add(pod.Error)
		if pod.NotAfter != nil && !d.now.Before(pod.NotAfter.Time) {
			add(fmt.Sprintf("the CA certificate of Pod %s expired at %s", pod.Pod, pod.NotAfter.UTC().Format(time.RFC3339)))
		}
	}
	switch {
	case len(mistakes) > 0:
		d.add(Fail, what, strings.Join(mistakes, "; "), describe)
		for _, mistake := range mistakes {
			if strings.HasPrefix(mistake, "asking Vault") {
				next := "kubectl istiod-agent vault NAME -n NAMESPACE --dry-run, with the VirtualMesh's name and namespace, compares what is there"
				if strings.Contains(mistake, "token_reviewer_jwt") {
					next += "; if logins worked before, write the login's config anew in Vault's Pod, without token_reviewer_jwt and kubernetes_ca_cert, such as: vault write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc"
				}
				d.add(Fail, "Vault", "seen from istiod's Pods: "+mistake, next)
				return 0, 1
			}
		}
		return 0, 0
	case status.State == certificatesv1.Failed:
		d.add(Fail, what, "FAILED, without a reason", describe)
	case status.State == certificatesv1.Finished:
		d.add(OK, what, "istiod uses its certificate in "+counted(len(status.Certificates), "Pod"), "")
		return 1, 0
	case status.State == "":
		d.add(Warn, what, "no agent has reported yet", d.kubectl+" get pods -n "+object.GetNamespace()+" -l app=istiod")
	default:
		d.add(Warn, what, "is "+string(status.State)+", and not yet FINISHED", describe)
	}
	return 0, 0
}

// ends warns of a root that ends soon, and of what cuts istiod's CA short.
func (d *decision) ends(what string, status *certificatesv1.IssuedCertificateStatus) {
	var root *metav1.Time
	limited := ""
	for i := range status.Certificates {
		pod := &status.Certificates[i]
		if end := pod.RootNotAfter; end != nil && (root == nil || end.Before(root)) {
			root = end
		}
		if limited == "" {
			limited = pod.LimitedBy
		}
	}
	if root != nil && root.Sub(d.now) < certificatesv1.RootEndsSoon {
		d.add(Warn, what, fmt.Sprintf("the root of its CA ends at %s: no certificate below it is accepted after that", root.UTC().Format(time.RFC3339)),
			"begin to change the root of trust: docs/rotation.md, or kubectl istiod-agent rotate-root")
	}
	if limited != "" {
		d.add(Warn, what, "istiod's CA does not last for ttlDays: it is limited by "+bounded.Message(limited), "renew that certificate in Vault, or lower ttlDays")
	}
}
