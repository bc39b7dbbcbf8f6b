// SPDX-License-Identifier: Apache-2.0

package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A PodBounceDirective names the Pods to restart when the root of trust changes: a proxy trusts the root that it
// started with. An IssuedCertificate refers to it.
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

	// The Pods to restart.
	Spec PodBounceDirectiveSpec `json:"spec,omitzero"`
	// The progress of the restarts. The controller writes it.
	Status PodBounceDirectiveStatus `json:"status,omitzero"`
}

// PodBounceDirectiveList is a list of PodBounceDirectives.
// +kubebuilder:object:root=true
type PodBounceDirectiveList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty,omitzero"`

	Items []PodBounceDirective `json:"items"`
}

// PodBounceDirectiveSpec names the Pods to restart. Unknown fields of the public API are preserved.
// +kubebuilder:pruning:PreserveUnknownFields
type PodBounceDirectiveSpec struct {
	// Sets of Pods, restarted one after another in this order.
	// +kubebuilder:validation:MaxItems=100
	PodsToBounce []PodSelector `json:"podsToBounce,omitempty"`
}

// PodSelector selects a set of Pods.
// +kubebuilder:pruning:PreserveUnknownFields
type PodSelector struct {
	// Namespace of the Pods. Required: a set cannot span namespaces.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`

	// Labels of the Pods. Default: all Pods of the namespace.
	// +kubebuilder:validation:MaxProperties=100
	Labels map[string]string `json:"labels,omitempty"`

	// The number of Pods of the set that must be ready again before the next set restarts. Default: 0, no wait.
	// +kubebuilder:validation:Minimum=0
	WaitForReplicas uint32 `json:"waitForReplicas,omitempty"`

	// Two places that must hold the same root certificate before the Pods restart: Pods that restart earlier would
	// start with the old root. Default: no wait.
	RootCertSync *RootCertSync `json:"rootCertSync,omitempty"`
}

// RootCertSync names a key of a Secret and one of a ConfigMap whose values must be equal.
// +kubebuilder:pruning:PreserveUnknownFields
type RootCertSync struct {
	// The Secret with the new root certificate. With a CA in Vault there is no such Secret: the root that agents report
	// in the status of the IssuedCertificate replaces it.
	SecretRef *BounceRef `json:"secretRef,omitempty"`

	// Key in the Secret, such as root-cert.pem.
	// +kubebuilder:validation:MaxLength=253
	SecretKey string `json:"secretKey,omitempty"`

	// The ConfigMap from which the Pods get the root certificate, such as istio-ca-root-cert.
	ConfigMapRef *BounceRef `json:"configMapRef,omitempty"`

	// Key in the ConfigMap, such as root-cert.pem.
	// +kubebuilder:validation:MaxLength=253
	ConfigMapKey string `json:"configMapKey,omitempty"`
}

// BounceRef names an object that a restart waits for.
type BounceRef struct {
	// Name of the object.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the object. Default: that of the Pods.
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// RestartState is the progress of restarts.
type RestartState string

// The states.
const (
	// RestartsIdle: the roots are those that the Pods started with.
	RestartsIdle RestartState = "IDLE"
	// Restarting: in progress; status.message names the cause of a wait.
	Restarting RestartState = "RESTARTING"
	// Restarted: done for status.roots.
	Restarted RestartState = "FINISHED"
)

// PodBounceDirectiveStatus is the progress of the restarts. Unknown fields of the public API are preserved.
// +kubebuilder:pruning:PreserveUnknownFields
type PodBounceDirectiveStatus struct {
	// The Pods that were restarted for status.roots, one element for each set of spec.podsToBounce. It is cleared when
	// the root changes again.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	PodsBounced []BouncedPodSet `json:"podsBounced,omitempty"`

	// The state: IDLE (no root change since the Pods started), RESTARTING or FINISHED. Not in the public API.
	// +kubebuilder:validation:MaxLength=64
	State RestartState `json:"state,omitempty"`

	// SHA-256 of the root certificates (DER), in hexadecimal, sorted, of the current or last restarts; initially those
	// that were trusted when the controller first saw the directive. Not in the public API.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=128
	Roots []string `json:"roots,omitempty"`

	// The set that restarts now. Not in the public API.
	// +kubebuilder:validation:MaxLength=32768
	Set string `json:"set,omitempty"`

	// What the restarts wait for, or their result. Not in the public API.
	// +kubebuilder:validation:MaxLength=32768
	Message string `json:"message,omitempty"`

	// When the restarts for status.roots began. Not in the public API.
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// When they finished. Not in the public API.
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// The workloads that restart now. Each is recorded here before it is changed. Not in the public API.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	Restarting []RestartingWorkload `json:"restarting,omitempty"`

	// The approximate number of workloads of the set that restart after those. Not in the public API.
	Remaining int32 `json:"remaining,omitempty"`

	// The Pods that are skipped, and why, such as Pods without an owner that would recreate them. Not in the public
	// API.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	Left []string `json:"left,omitempty"`
}

// BouncedPodSet is the progress of one set.
// +kubebuilder:pruning:PreserveUnknownFields
type BouncedPodSet struct {
	// Names of the old Pods, for a very large set only the first ones.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=5000
	// +kubebuilder:validation:items:MaxLength=253
	BouncedPods []string `json:"bouncedPods,omitempty"`

	// Name of the set. Not in the public API.
	// +kubebuilder:validation:MaxLength=32768
	Set string `json:"set,omitempty"`

	// The number of restarted workloads of the set. Not in the public API.
	Workloads int32 `json:"workloads,omitempty"`

	// Whether the set is complete. Not in the public API.
	Complete bool `json:"complete,omitempty"`
}

// RestartingWorkload is the owner of restarting Pods.
type RestartingWorkload struct {
	// API version of the owner, such as apps/v1.
	// +kubebuilder:validation:MaxLength=317
	APIVersion string `json:"apiVersion,omitempty"`
	// Kind of the owner, such as Deployment.
	// +kubebuilder:validation:MaxLength=253
	Kind string `json:"kind"`
	// Namespace of the owner.
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// Name of the owner.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// UID of the owner.
	// +kubebuilder:validation:MaxLength=128
	UID string `json:"uid,omitempty"`
	// How the Pods are replaced: by a rollout of the owner, or by evicting them one by one.
	Method RestartMethod `json:"method"`
	// Whether the rollout waits for the owner, because it was available before.
	WaitFor bool `json:"waitFor,omitempty"`
	// The creation time after which a Pod is new; for evictions only.
	Since *metav1.Time `json:"since,omitempty"`
}

// RestartMethod is how Pods are replaced.
// +kubebuilder:validation:Enum=Rollout;Eviction
type RestartMethod string

// The methods.
const (
	Rollout  RestartMethod = "Rollout"
	Eviction RestartMethod = "Eviction"
)
