// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// replicaStatus is a Pod of istiod with its CA.
type replicaStatus struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Injected is true where the agent is in the Pod.
	Injected bool `json:"injected"`
	// IssuedCertificate is the namespace and name of its IssuedCertificate; empty without one.
	IssuedCertificate string `json:"issuedCertificate,omitempty"`
	// Source is the CA that its IssuedCertificate names.
	Source string       `json:"source,omitempty"`
	State  replicaState `json:"state"`

	// CA is the agent's report; absent without one.
	CA *certificatesv1.CertificateStatus `json:"ca,omitempty"`
}

type replicaState string

const (
	stateReady         replicaState = "Ready"
	stateNotInjected   replicaState = "NotInjected"
	stateNoCertificate replicaState = "NoCertificate"
	stateNoReport      replicaState = "NoReport"
	stateNotConfirmed  replicaState = "NotConfirmed"
	stateExpired       replicaState = "Expired"
	stateWaiting       replicaState = "Waiting"
	stateFailing       replicaState = "Failing"
)

// stateProblems describes the states, with what to do. Waiting and Failing have the agent's message.
var stateProblems = map[replicaState]string{
	stateNotInjected:   "runs without the agent; see kubectl istiod-agent check",
	stateNoCertificate: "there is no IssuedCertificate for its service account; see the VirtualMesh's status",
	stateNoReport:      "its agent has not reported a CA; see the logs of the containers istiod-agent and istiod-agent-init",
	stateNotConfirmed:  "istiod has not loaded its CA certificate yet",
	stateExpired:       "its CA certificate has expired; see the log of container istiod-agent",
}

// readReplicas reads the replicas of istiod in a namespace; "" for all.
func readReplicas(ctx context.Context, cluster *clusters.Cluster, namespace string, now time.Time) ([]replicaStatus, error) {
	var pods corev1.PodList
	if err := cluster.Client.List(ctx, &pods, client.MatchingLabels(istio.IstiodLabels), client.InNamespace(namespace)); err != nil {
		return nil, cluster.Explain("listing istiod's Pods", "list", "pods", err)
	}
	certificates, err := cluster.List(ctx, clusters.IssuedCertificateKind) // an istiod's may be in another namespace
	if apierrors.IsForbidden(err) && namespace != "" {
		certificates, err = cluster.List(ctx, clusters.IssuedCertificateKind, client.InNamespace(namespace))
	}
	if err != nil {
		return nil, cluster.Explain("listing IssuedCertificates", "list", clusters.IssuedCertificates, err)
	}
	var parsed []*certificatesv1.IssuedCertificate
	for i := range certificates {
		parsed = append(parsed, clusters.IssuedCertificate(&certificates[i]))
	}
	return replicas(pods.Items, parsed, now), nil
}

// replicas matches Pods and the CAs that their agents report.
func replicas(pods []corev1.Pod, certificates []*certificatesv1.IssuedCertificate, now time.Time) []replicaStatus {
	hosts := func(c *certificatesv1.IssuedCertificate) []string { return c.Spec.Hosts }
	var all []replicaStatus
	for i := range pods {
		pod := &pods[i]
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil {
			continue
		}
		replica := replicaStatus{Namespace: pod.Namespace, Pod: pod.Name, Injected: patches.RunsAgent(&pod.Spec)}
		if found := istio.For(certificates, hosts, pod.Namespace, istio.ServiceAccountOr(pod.Spec.ServiceAccountName)); len(found) > 0 {
			replica.IssuedCertificate, replica.Source = found[0].Namespace+"/"+found[0].Name, found[0].Spec.AgentCA.String()
			reported := found[0].Status.Certificates
			if k := slices.IndexFunc(reported, func(ca certificatesv1.CertificateStatus) bool { return ca.Pod == pod.Name }); k >= 0 {
				replica.CA = &reported[k]
			}
		}
		replica.State = replica.state(now)
		all = append(all, replica)
	}
	slices.SortFunc(all, func(a, b replicaStatus) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod))
	})
	return all
}

func (r *replicaStatus) state(now time.Time) replicaState {
	switch {
	case !r.Injected:
		return stateNotInjected
	case r.IssuedCertificate == "":
		return stateNoCertificate
	case r.CA == nil, r.CA.SerialNumber == "" && r.CA.Error == "":
		return stateNoReport
	case r.CA.NotAfter != nil && !now.Before(r.CA.NotAfter.Time):
		return stateExpired
	case r.CA.Waiting():
		return stateWaiting
	case r.CA.Error != "":
		return stateFailing
	case !r.CA.Confirmed:
		return stateNotConfirmed
	default:
		return stateReady
	}
}

// problem is empty for a replica that is Ready.
func (r *replicaStatus) problem() string {
	if r.State == stateFailing || r.State == stateWaiting {
		return r.CA.Error
	}
	return stateProblems[r.State]
}
