// SPDX-License-Identifier: Apache-2.0

package clusters

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// IssuedCertificates is their resource, as rights name it.
var IssuedCertificates = certificatesv1.IssuedCertificates.GroupResource().String()

// IssuedCertificate takes what can be read of one, of what the commands look at: another program may have written it.
func IssuedCertificate(object *unstructured.Unstructured) *certificatesv1.IssuedCertificate {
	certificate := &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{
		Name: object.GetName(), Namespace: object.GetNamespace(), CreationTimestamp: object.GetCreationTimestamp(),
	}}
	certificate.Spec.Hosts, _, _ = unstructured.NestedStringSlice(object.Object, "spec", "hosts")
	status, _, _ := unstructured.NestedMap(object.Object, "status")
	_ = runtime.DefaultUnstructuredConverter.FromUnstructured(status, &certificate.Status) // what is unreadable stays empty
	return certificate
}
