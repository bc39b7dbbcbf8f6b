// SPDX-License-Identifier: Apache-2.0

package renew

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

type renewalState string

const (
	// stateRenewed: every replica uses a new CA.
	stateRenewed renewalState = "Renewed"
	// stateAsked: requested, without waiting.
	stateAsked renewalState = "Asked"
	// stateNotRenewed: some replica has no new CA at the end of the timeout.
	stateNotRenewed renewalState = "NotRenewed"
	// stateNotAsked: the request, or reading the status, failed.
	stateNotAsked renewalState = "NotAsked"
)

// renewalOutcome is the result for an IssuedCertificate, or for a context that could not be read.
type renewalOutcome struct {
	Context   string       `json:"context"`
	Namespace string       `json:"namespace,omitempty"`
	Name      string       `json:"name,omitempty"`
	State     renewalState `json:"state"`
	// Message is the result, or the problem and the next step.
	Message string `json:"message,omitempty"`
	// Replicas are the Pods of istiod that use a new CA.
	Replicas []renewedReplica `json:"replicas,omitempty"`
}

type renewedReplica struct {
	Pod          string       `json:"pod"`
	SerialNumber string       `json:"serialNumber"`
	NotAfter     *metav1.Time `json:"notAfter,omitempty"`
}

// Requested is a requested renewal of an IssuedCertificate, with the serial numbers from before the request.
type Requested struct {
	cluster     *clusters.Cluster
	certificate *certificatesv1.IssuedCertificate
	before      map[string]string // by Pod
	remaining   []string          // the last result of pending
}

func newRenewal(cluster *clusters.Cluster, certificate *certificatesv1.IssuedCertificate) Requested {
	r := Requested{cluster: cluster, certificate: certificate, before: map[string]string{}}
	for _, replica := range certificate.Status.Certificates {
		r.before[replica.Pod] = replica.SerialNumber
	}
	return r
}

func (r *Requested) name() string { return r.certificate.Namespace + "/" + r.certificate.Name }

// pending returns the Pods that do not use a new CA yet, and why. It ignores deleted Pods; a Pod that started after the
// request has a new CA anyway.
func (r *Requested) pending(status certificatesv1.IssuedCertificateStatus) []string {
	if len(status.Certificates) == 0 {
		return []string{"the first report of an agent"}
	}
	var pending []string
	for _, replica := range status.Certificates {
		old, known := r.before[replica.Pod]
		renewed := replica.SerialNumber != "" && (!known || replica.SerialNumber != old)
		switch {
		case renewed && replica.Confirmed:
			continue
		case replica.Error != "":
			pending = append(pending, "Pod "+replica.Pod+", which reports: "+terminal.OneLine(replica.Error))
		case renewed:
			pending = append(pending, "Pod "+replica.Pod+", whose istiod has not loaded the new CA certificate yet")
		default:
			pending = append(pending, "Pod "+replica.Pod+", which has no new CA yet")
		}
	}
	return pending
}

// result returns the outcome at the end of the wait; after names what ended it.
func (r *Requested) result(err error, after string) renewalOutcome {
	switch {
	case err != nil:
		return r.outcome(stateNotAsked, err.Error())
	case len(r.remaining) > 0:
		return r.outcome(stateNotRenewed, fmt.Sprintf("not renewed %s; still waiting for %s", after, strings.Join(r.remaining, "; ")))
	}
	outcome := r.outcome(stateRenewed, "")
	for _, replica := range r.certificate.Status.Certificates {
		outcome.Replicas = append(outcome.Replicas, renewedReplica{replica.Pod, replica.SerialNumber, replica.NotAfter})
	}
	slices.SortFunc(outcome.Replicas, func(a, b renewedReplica) int { return cmp.Compare(a.Pod, b.Pod) })
	return outcome
}

func (r *Requested) outcome(state renewalState, message string) renewalOutcome {
	return renewalOutcome{Context: r.cluster.Context, Namespace: r.certificate.Namespace, Name: r.certificate.Name, State: state, Message: terminal.OneLine(message)}
}

func (o *renewalOutcome) print(out io.Writer) {
	subject := o.Context
	switch {
	case o.Name != "":
		subject += ": " + o.Namespace + "/" + o.Name
	case o.Namespace != "":
		subject += ": namespace " + o.Namespace
	}
	if o.Message != "" {
		fmt.Fprintf(out, "%s: %s\n", subject, o.Message)
	}
	for _, replica := range o.Replicas {
		line := fmt.Sprintf("%s: istiod in Pod %s uses CA certificate %s", subject, replica.Pod, terminal.Line(replica.SerialNumber))
		if replica.NotAfter != nil {
			line += ", valid until " + replica.NotAfter.UTC().Format("2006-01-02 15:04 MST")
		}
		fmt.Fprintln(out, line)
	}
}
