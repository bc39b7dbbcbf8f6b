// SPDX-License-Identifier: Apache-2.0

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A PodBounceDirective names the pods to restart when the root of trust changes: a pod's proxy keeps the root
// that it started with. An IssuedCertificate refers to it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type PodBounceDirective struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// Which pods are to be restarted.
	Spec PodBounceDirectiveSpec `json:"spec,omitzero"`
	// Which pods have been. Whoever restarts them writes it, nobody else needs to.
	Status PodBounceDirectiveStatus `json:"status,omitzero"`
}

// PodBounceDirectiveList is a list of them.
//
// +kubebuilder:object:root=true
type PodBounceDirectiveList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty,omitzero"`

	Items []PodBounceDirective `json:"items"`
}

// PodBounceDirectiveSpec says which pods are to be restarted. Fields of the public API that are not known here
// are kept.
//
// +kubebuilder:pruning:PreserveUnknownFields
type PodBounceDirectiveSpec struct {
	// Sets of pods, restarted one set after another in this order.
	PodsToBounce []PodSelector `json:"podsToBounce,omitempty"`
}

// PodSelector selects a set of pods.
//
// +kubebuilder:pruning:PreserveUnknownFields
type PodSelector struct {
	// Namespace of the pods. Required: no set spans namespaces.
	//
	// +kubebuilder:validation:MinLength=1
	Namespace string `json:"namespace"`

	// Labels that each pod of the set has. Default: every pod of the namespace is in the set.
	Labels map[string]string `json:"labels,omitempty"`

	// How many pods of the set must be ready again before the next set's turn. Default: 0, nobody waits.
	//
	// +kubebuilder:validation:Minimum=0
	WaitForReplicas uint32 `json:"waitForReplicas,omitempty"`

	// Two places that must hold the same root certificate before the pods are restarted; pods restarted
	// earlier would start with the old root. Default: nobody waits.
	RootCertSync *RootCertSync `json:"rootCertSync,omitempty"`
}

// RootCertSync names a key of a Secret and one of a ConfigMap whose values must be equal.
//
// +kubebuilder:pruning:PreserveUnknownFields
type RootCertSync struct {
	// The Secret with the new root certificate. A CA that comes from Vault is in no Secret: the root that the
	// agents report in the IssuedCertificate's status takes its place.
	SecretRef *BounceRef `json:"secretRef,omitempty"`

	// Key in the Secret, such as root-cert.pem.
	SecretKey string `json:"secretKey,omitempty"`

	// The ConfigMap from which the pods get the root certificate, such as istio-ca-root-cert.
	ConfigMapRef *BounceRef `json:"configMapRef,omitempty"`

	// Key in the ConfigMap, such as root-cert.pem.
	ConfigMapKey string `json:"configMapKey,omitempty"`
}

// BounceRef names an object that a restart waits for.
type BounceRef struct {
	// Name of the object.
	Name string `json:"name,omitempty"`
	// Namespace of the object. Default: the pods' own.
	Namespace string `json:"namespace,omitempty"`
}

// PodBounceDirectiveStatus is which pods have been restarted. Fields of the public API that are not known here
// are kept.
//
// +kubebuilder:pruning:PreserveUnknownFields
type PodBounceDirectiveStatus struct {
	// The pods that have been restarted: the first element for the first set of spec.podsToBounce, and so on.
	PodsBounced []BouncedPodSet `json:"podsBounced,omitempty"`
}

// BouncedPodSet is the pods of one set that have been restarted.
//
// +kubebuilder:pruning:PreserveUnknownFields
type BouncedPodSet struct {
	// Names of the pods, as they were before the restart.
	BouncedPods []string `json:"bouncedPods,omitempty"`
}
