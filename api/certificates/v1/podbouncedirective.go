// SPDX-License-Identifier: Apache-2.0

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A PodBounceDirective names the pods to restart when the root of trust changes: a pod's proxy keeps the root
// that it started with. An IssuedCertificate refers to it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Set",type=string,JSONPath=`.status.set`
// +kubebuilder:printcolumn:name="Remaining",type=integer,JSONPath=`.status.remaining`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.message`
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
	//
	// +kubebuilder:validation:MaxItems=100
	PodsToBounce []PodSelector `json:"podsToBounce,omitempty"`
}

// PodSelector selects a set of pods.
//
// +kubebuilder:pruning:PreserveUnknownFields
type PodSelector struct {
	// Namespace of the pods. Required: no set spans namespaces.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`

	// Labels that each pod of the set has. Default: every pod of the namespace is in the set.
	//
	// +kubebuilder:validation:MaxProperties=100
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
	//
	// +kubebuilder:validation:MaxLength=253
	SecretKey string `json:"secretKey,omitempty"`

	// The ConfigMap from which the pods get the root certificate, such as istio-ca-root-cert.
	ConfigMapRef *BounceRef `json:"configMapRef,omitempty"`

	// Key in the ConfigMap, such as root-cert.pem.
	//
	// +kubebuilder:validation:MaxLength=253
	ConfigMapKey string `json:"configMapKey,omitempty"`
}

// BounceRef names an object that a restart waits for.
type BounceRef struct {
	// Name of the object.
	//
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the object. Default: the pods' own.
	//
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// RestartState is how far restarts are.
type RestartState string

// The states.
const (
	// RestartsIdle has nothing to restart: the roots are those that the pods were started with.
	RestartsIdle RestartState = "IDLE"
	// Restarting is under way; status.message says what is waited for.
	Restarting RestartState = "RESTARTING"
	// Restarted is done for status.roots.
	Restarted RestartState = "FINISHED"
)

// PodBounceDirectiveStatus is which pods have been restarted. Fields of the public API that are not known here
// are kept.
//
// +kubebuilder:pruning:PreserveUnknownFields
type PodBounceDirectiveStatus struct {
	// The pods that have been restarted for status.roots: the first element for the first set of
	// spec.podsToBounce, and so on. It starts anew when the root changes again.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	PodsBounced []BouncedPodSet `json:"podsBounced,omitempty"`

	// How far it is: IDLE (no root has changed since the pods were started), RESTARTING or FINISHED. Not in the
	// public API.
	//
	// +kubebuilder:validation:MaxLength=64
	State RestartState `json:"state,omitempty"`

	// SHA-256 of the root certificates (DER), in hexadecimal, sorted, that the pods are restarted for, or were
	// last; at first those that were trusted when the directive was first seen. Not in the public API.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=128
	Roots []string `json:"roots,omitempty"`

	// The set of pods whose turn it is. Not in the public API.
	//
	// +kubebuilder:validation:MaxLength=32768
	Set string `json:"set,omitempty"`

	// What is waited for, or what became of it. Not in the public API.
	//
	// +kubebuilder:validation:MaxLength=32768
	Message string `json:"message,omitempty"`

	// When restarts for status.roots began. Not in the public API.
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// When they were finished. Not in the public API.
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// The workloads whose pods are being replaced now. Each is written here before it is touched. Not in the
	// public API.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	Restarting []RestartingWorkload `json:"restarting,omitempty"`

	// About how many workloads of the set are still to be restarted, after those. Not in the public API.
	Remaining int32 `json:"remaining,omitempty"`

	// Pods that are left as they are, and why: such as those that nobody would start again. Not in the public API.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	Left []string `json:"left,omitempty"`
}

// BouncedPodSet is the pods of one set that have been restarted.
//
// +kubebuilder:pruning:PreserveUnknownFields
type BouncedPodSet struct {
	// Names of the pods, as they were before the restart; of a set with very many the first ones.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=5000
	// +kubebuilder:validation:items:MaxLength=253
	BouncedPods []string `json:"bouncedPods,omitempty"`

	// What the set is. Not in the public API.
	//
	// +kubebuilder:validation:MaxLength=32768
	Set string `json:"set,omitempty"`

	// How many workloads of the set have been restarted. Not in the public API.
	Workloads int32 `json:"workloads,omitempty"`

	// Whether the set is done with. Not in the public API.
	Complete bool `json:"complete,omitempty"`
}

// RestartingWorkload is what owns pods that are being replaced.
type RestartingWorkload struct {
	// API version of the owner, such as apps/v1.
	//
	// +kubebuilder:validation:MaxLength=317
	APIVersion string `json:"apiVersion,omitempty"`
	// Kind of the owner, such as Deployment.
	//
	// +kubebuilder:validation:MaxLength=253
	Kind string `json:"kind"`
	// Namespace of the owner.
	//
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// Name of the owner.
	//
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// UID of the owner.
	//
	// +kubebuilder:validation:MaxLength=128
	UID string `json:"uid,omitempty"`
	// How the pods are replaced: by a rollout of the owner, or by evicting them one by one.
	Method RestartMethod `json:"method"`
	// Whether the owner was well before, so that it is waited for.
	WaitFor bool `json:"waitFor,omitempty"`
	// Pods that are younger than this are new; of evictions only.
	Since *metav1.Time `json:"since,omitempty"`
}

// RestartMethod is how pods are replaced.
//
// +kubebuilder:validation:Enum=Rollout;Eviction
type RestartMethod string

// The methods.
const (
	Rollout  RestartMethod = "Rollout"
	Eviction RestartMethod = "Eviction"
)
