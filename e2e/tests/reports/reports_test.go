// SPDX-License-Identifier: Apache-2.0

// Package reports tests the removal of status entries of deleted Pods.
package reports

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, &webhookserver.Options{Replicas: 2}) }

// A Pod's entry in the status exists as long as the Pod runs. Conditions, state and error are those of the existing Pods.
func TestReportsOfDeletedPods(t *testing.T) {
	certificate := newCertificate(t)
	for _, name := range []string{"a", "b", "c"} {
		must(t, shared.Create(t.Context(), pod(certificate, name)))
		report(t, certificate, certificatesv1.CertificateStatus{Pod: name, SerialNumber: "01", Confirmed: true})
	}
	report(t, certificate, certificatesv1.CertificateStatus{Pod: "gone", Confirmed: true})
	wantEntries(t, certificate, "a", "b", "c")
	conditions, _, _ := unstructured.NestedSlice(certificate.Object, "status", "conditions")
	if ready := conditions[0].(map[string]any); ready["type"] != "Ready" || ready["status"] != "True" || ready["message"] != "Every reporting istiod has a valid CA certificate (Pods: 3)." {
		t.Errorf("the conditions are %v", conditions)
	}

	evicted := client.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Failed","reason":"Evicted"}}`))
	must(t, shared.Status().Patch(t.Context(), pod(certificate, "c"), evicted)) // the object stays
	wantEntries(t, certificate, "a", "b")

	report(t, certificate, certificatesv1.CertificateStatus{Pod: "a", SerialNumber: "01", Confirmed: true, Error: "Vault is sealed"})
	must(t, shared.Delete(t.Context(), pod(certificate, "a"), client.GracePeriodSeconds(0)))
	wantEntries(t, certificate, "b")
}

// However many Pods have come and gone, managedFields has the managers of the existing ones.
func TestManagersOfDeletedPods(t *testing.T) {
	const pods = 50
	certificate := newCertificate(t)
	var last string
	for i := range pods {
		name := fmt.Sprintf("istiod-%d", i)
		must(t, shared.Create(t.Context(), pod(certificate, name)))
		report(t, certificate, certificatesv1.CertificateStatus{Pod: name, SerialNumber: "01", Confirmed: true})
		if last != "" {
			must(t, shared.Delete(t.Context(), pod(certificate, last), client.GracePeriodSeconds(0)))
		}
		last = name
	}
	wantEntries(t, certificate, last)
	cluster.Eventually(t, "managedFields names one Pod", func() error {
		if err := shared.Get(t.Context(), client.ObjectKeyFromObject(certificate), certificate); err != nil {
			return err
		}
		var managers []string
		for _, entry := range certificate.GetManagedFields() {
			if strings.HasPrefix(entry.Manager, certificatesv1.FieldManagerPrefix) {
				managers = append(managers, entry.Manager)
			}
		}
		if !slices.Equal(managers, []string{certificatesv1.FieldManager(last)}) {
			return fmt.Errorf("it has %q", managers)
		}
		return nil
	})
}

// newCertificate creates an IssuedCertificate in a namespace where Pods can be created.
func newCertificate(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	namespace := shared.Namespace(t, false)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: namespace}}
	must(t, client.IgnoreAlreadyExists(shared.Create(t.Context(), account)))
	certificate := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
		"metadata": map[string]any{"name": "istiod", "namespace": namespace},
		"spec":     map[string]any{"hosts": []any{"spiffe://cluster.local/ns/" + namespace + "/sa/istiod"}},
	}}
	must(t, shared.Create(t.Context(), certificate))
	return certificate
}

// pod returns a Pod of a certificate's istiod.
func pod(certificate *unstructured.Unstructured, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: certificate.GetNamespace(), Labels: map[string]string{"app": "istiod"}},
		Spec:       corev1.PodSpec{AutomountServiceAccountToken: new(false), Containers: []corev1.Container{{Name: "discovery", Image: "registry.example/pilot"}}},
	}
}

// report writes a Pod's entry, and its state and error as those of all.
func report(t *testing.T, certificate *unstructured.Unstructured, entry certificatesv1.CertificateStatus) {
	t.Helper()
	must(t, agents.Report(t.Context(), shared, client.ObjectKeyFromObject(certificate), entry.Pod, certificatesv1.IssuedCertificateStatus{
		State: entry.State(), Error: entry.Error, Certificates: []certificatesv1.CertificateStatus{entry},
	}))
}

func wantEntries(t *testing.T, certificate *unstructured.Unstructured, want ...string) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("only %q report", want), func() error {
		if err := shared.Get(t.Context(), client.ObjectKeyFromObject(certificate), certificate); err != nil {
			return err
		}
		entries, _, _ := unstructured.NestedSlice(certificate.Object, "status", "certificates")
		var got []string
		for _, entry := range entries {
			got = append(got, fmt.Sprint(entry.(map[string]any)["pod"]))
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%q do", got)
		}
		return nil
	})
	if state, _, _ := unstructured.NestedString(certificate.Object, "status", "state"); state != "FINISHED" {
		t.Errorf("the state is %q", state)
	}
	if text, _, _ := unstructured.NestedString(certificate.Object, "status", "error"); text != "" {
		t.Errorf("the error is %q", text)
	}
}
