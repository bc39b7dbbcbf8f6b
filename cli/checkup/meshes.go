// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/vaultside"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

func (d *decision) meshes() {
	found := d.facts.Meshes
	switch {
	case found.Err != nil:
		d.unknown("VirtualMesh", "listing VirtualMeshes", "list", clusters.VirtualMeshes, found.Err)
		return
	case len(found.Value) == 0:
		if d.facts.CRDs[crds[0].name].Value != nil { // else the CRD comes first
			d.add(levelWarn, "VirtualMesh", "there is no VirtualMesh: nothing names the CA that signs istiod's", d.kubectl+" apply -f virtual-mesh.yaml")
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
		d.add(levelWarn, "VirtualMesh", terminal.Names(ignored, maxNames)+": not acted on, since the namespace is not one of "+strings.Join(d.facts.Configuration.Value.VirtualMesh.Namespaces, ", "),
			"leave it to another installation, move it, or add its namespace to the chart's value virtualMesh.namespaces")
	}
}

// ignores reports whether a VirtualMesh is in a namespace that is not allowed: by the configuration or, where it cannot be
// read, by the status.
func (f *clusterFacts) ignores(mesh *unstructured.Unstructured) bool {
	if f.Configuration.Err == nil {
		return !f.Configuration.Value.VirtualMesh.Allows(mesh.GetNamespace())
	}
	conditions, _, _ := unstructured.NestedSlice(mesh.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(item any) bool {
		condition, _ := item.(map[string]any)
		return condition["reason"] == "NamespaceNotAllowed"
	})
}

func (d *decision) mesh(object *unstructured.Unstructured) {
	subject := "VirtualMesh " + object.GetNamespace() + "/" + object.GetName()
	edit := d.kubectl + " edit -n " + object.GetNamespace() + " virtualmesh/" + object.GetName()
	describe := d.kubectl + " describe -n " + object.GetNamespace() + " virtualmesh/" + object.GetName()
	mesh, _, errs := networkingv1.FromObject(object.Object)
	mesh.Spec.SetDefaults()
	_, more := mesh.Validate()
	if errs = append(errs, more...); len(errs) > 0 {
		d.add(levelFail, subject, errs.ToAggregate().Error(), edit)
		return
	}
	if mesh.Spec.IntermediateCA() == nil {
		d.add(levelWarn, subject, "names no intermediateCertificateAuthority, so it has no effect", edit)
		return
	}
	var status networkingv1.VirtualMeshStatus
	if !clusters.DecodeStatus(object, &status) {
		status = networkingv1.VirtualMeshStatus{} // of another program
	}
	problems := strings.Join(status.Errors, "; ")
	switch {
	case strings.Contains(problems, "clusterName"):
		d.add(levelFail, "clusterName", "is not set, so spec.meshes of "+subject+" cannot be matched to this cluster", d.release("--set clusterName=NAME"))
	case status.State == "":
		d.add(levelWarn, subject, "is valid, but the controller has not acted on it yet", d.kubectl+" "+d.pods())
	case status.ObservedGeneration < object.GetGeneration():
		d.add(levelWarn, subject, fmt.Sprintf("is valid, but the controller has not acted on its last change yet (its status is %s)", status.State), d.kubectl+" "+d.pods())
	case status.State == networkingv1.Accepted:
		d.add(levelOK, subject, conditionMessage(status.Conditions, "Ready", "is acted on"), "")
		d.federated(subject, describe, status.Conditions)
	case status.State == networkingv1.Pending:
		d.add(levelWarn, subject, conditionMessage(status.Conditions, "Ready", "is pending"), describe)
	default:
		d.add(levelFail, subject, string(status.State)+": "+problems, describe)
	}
}

// conditionMessage returns the message of a condition, or a default.
func conditionMessage(conditions []metav1.Condition, kind, byDefault string) string {
	if condition := meta.FindStatusCondition(conditions, kind); condition != nil {
		return cmp.Or(condition.Message, byDefault)
	}
	return byDefault
}

// federated adds whether the meshes read each other's services, where the VirtualMesh requests it.
func (d *decision) federated(subject, describe string, conditions []metav1.Condition) {
	condition := meta.FindStatusCondition(conditions, networkingv1.FederatedCondition)
	if condition == nil {
		return
	}
	level, next := levelWarn, describe
	if condition.Status == metav1.ConditionTrue {
		level, next = levelOK, ""
	}
	d.add(level, subject, "Federated: "+condition.Message, next)
}

func (d *decision) certificates() {
	found := d.facts.Certificates
	if found.Err != nil {
		d.unknown("IssuedCertificate", "listing IssuedCertificates", "list", clusters.IssuedCertificates, found.Err)
		return
	}
	for _, istiod := range d.facts.Istiods.Value {
		exists := slices.ContainsFunc(found.Value, func(c unstructured.Unstructured) bool {
			return c.GetNamespace() == istiod.Namespace && isFor(&c, &istiod)
		})
		if !exists && d.labelled(istiod.Namespace) && !exempt(istiod) {
			d.add(levelWarn, "IssuedCertificate", fmt.Sprintf("there is no IssuedCertificate for istiod %s/%s: its agent waits", istiod.Namespace, istiod.Name),
				fmt.Sprintf("name the mesh %s-%s-<cluster> in the VirtualMesh's spec.meshes", istiod.Name, istiod.Namespace))
		}
	}
	served, failed := map[string]int{}, map[string]int{}
	for i := range found.Value {
		source := sourceOf(&found.Value[i])
		s, f := d.certificate(&found.Value[i])
		served[source], failed[source] = served[source]+s, failed[source]+f
	}
	for _, source := range []string{ofVault, ofCertManager} {
		if served[source] > 0 && failed[source] == 0 {
			d.add(levelOK, source, fmt.Sprintf("seen from istiod's Pods: it issued the certificates of %s", counted(served[source], "IssuedCertificate")), "")
		}
	}
}

// The sources of certificates, as the lines call them.
const (
	ofVault       = "Vault"
	ofCertManager = "cert-manager"
)

func sourceOf(certificate *unstructured.Unstructured) string {
	if _, found, _ := unstructured.NestedMap(certificate.Object, "spec", "agentCa", "certManager"); found {
		return ofCertManager
	}
	return ofVault
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// certificate adds the state of an IssuedCertificate, and counts whether its CA served or failed its agents.
func (d *decision) certificate(object *unstructured.Unstructured) (served, failed int) {
	subject := "IssuedCertificate " + object.GetNamespace() + "/" + object.GetName()
	describe := d.kubectl + " describe -n " + object.GetNamespace() + " issuedcertificate/" + object.GetName()
	var status certificatesv1.IssuedCertificateStatus
	if !clusters.DecodeStatus(object, &status) {
		status = certificatesv1.IssuedCertificateStatus{} // of another program
	}
	if bound := meta.FindStatusCondition(status.Conditions, certificatesv1.TokenAudienceBoundCondition); bound != nil && bound.Status == metav1.ConditionFalse {
		d.add(levelWarn, subject, bound.Message, "set audience=vault in Vault's role, then audience: vault below kubernetesAuth in the VirtualMesh; kubectl istiod-agent vault prints the role")
	}
	d.ends(subject, &status)
	var waiting, problems []string
	add := func(problem string) {
		if problem != "" && !slices.Contains(problems, problem) {
			problems = append(problems, problem)
		}
	}
	for _, pod := range status.Certificates {
		for _, problem := range pod.RemoteClusters.Problems() {
			d.add(levelFail, subject, "Pod "+pod.Pod+": "+problem, "kubectl istiod-agent join --renew, for the contexts of both clusters")
		}
		if pod.Waiting() {
			waiting = append(waiting, pod.Error)
			continue
		}
		add(pod.Error)
		if pod.NotAfter != nil && !d.now.Before(pod.NotAfter.Time) {
			add(fmt.Sprintf("the CA certificate of Pod %s expired at %s", pod.Pod, pod.NotAfter.UTC().Format(time.RFC3339)))
		}
	}
	if !slices.Contains(waiting, status.Error) {
		add(status.Error)
	}
	switch {
	case len(problems) > 0:
		d.add(levelFail, subject, strings.Join(problems, "; "), describe)
		for _, problem := range problems {
			if strings.HasPrefix(problem, "asking Vault") {
				next := "kubectl istiod-agent vault NAME -n NAMESPACE --dry-run, with the VirtualMesh's name and namespace, shows the differences"
				if strings.Contains(problem, "token_reviewer_jwt") {
					next += "; if logins worked before, rewrite the login's configuration in Vault's Pod, without token_reviewer_jwt and kubernetes_ca_cert: vault write " + shell.Quote(authPath(object)+"/config") + " kubernetes_host=https://kubernetes.default.svc"
				}
				d.add(levelFail, "Vault", "seen from istiod's Pods: "+problem, next)
				return 0, 1
			}
		}
		return 0, 0
	case len(waiting) > 0:
		d.add(levelWarn, subject, strings.Join(slices.Compact(waiting), "; "), "approve the request with the command in the message, or check its issuer (docs/cert-manager.md)")
	case status.State == certificatesv1.Failed:
		d.add(levelFail, subject, "is FAILED, without a reason", describe)
	case status.State == certificatesv1.Finished:
		d.add(levelOK, subject, "istiod uses its certificate in "+counted(len(status.Certificates), "Pod"), "")
		return 1, 0
	case status.State == "":
		d.add(levelWarn, subject, "no agent has reported yet", d.kubectl+" get pods -n "+object.GetNamespace()+" -l app=istiod")
	default:
		d.add(levelWarn, subject, "is "+string(status.State)+", not FINISHED yet", describe)
	}
	return 0, 0
}

// authPath returns the path of the auth method in Vault that the specification names.
func authPath(object *unstructured.Unstructured) string {
	mountPath, _, _ := unstructured.NestedString(object.Object, "spec", "agentCa", "vault", "kubernetesAuth", "mountPath")
	return vaultside.AuthPath(cmp.Or(mountPath, certificatesv1.DefaultMountPath))
}

// ends warns of a root that expires soon, and of a certificate that limits istiod's CA.
func (d *decision) ends(subject string, status *certificatesv1.IssuedCertificateStatus) {
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
		d.add(levelWarn, subject, fmt.Sprintf("the root of its CA expires at %s, and every certificate below it with it", root.UTC().Format(time.RFC3339)),
			"begin a root change: docs/rotation.md, or kubectl istiod-agent rotate-root")
	}
	if limited != "" {
		d.add(levelWarn, subject, "the lifetime of istiod's CA is shorter than ttlDays: it is limited by "+bounded.Message(limited), "renew that certificate at the CA, or lower ttlDays")
	}
}
