// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"cmp"
	"errors"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/patches"
)

// admissions counts responses. Its labels have few values: no label names an object.
var admissions = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "istiod_agent_webhook_admissions_total",
	Help: "Admission reviews answered, by kind of object, outcome (allowed, patched, denied, error) and reason.",
}, []string{"kind", "outcome", "reason"})

func init() { metrics.Registry.MustRegister(admissions) }

// The outcomes, as the metric and the log name them.
const (
	allowed = "allowed"
	patched = "patched"
	denied  = "denied"
	failed  = "error"
)

// Log lines per second, and burst: any client that reaches the port can cause a line. The metric counts every response.
const (
	logRate  = 10
	logBurst = 200
)

// recorder counts and logs the responses for one kind of object.
type recorder struct {
	kind   string
	log    logr.Logger
	bucket flowcontrol.PassiveRateLimiter
}

func newRecorder(kind string, log logr.Logger) recorder {
	return recorder{kind: kind, log: log, bucket: flowcontrol.NewTokenBucketPassiveRateLimiter(logRate, logBurst)}
}

// record returns the response with its reason as audit annotation. It logs a refusal as an error, a change as
// information, and for debugging what changes nothing, which GitOps tools request all day.
func (r *recorder) record(req admission.Request, outcome string, reason patches.Reason, response admission.Response) admission.Response {
	admissions.WithLabelValues(r.kind, outcome, string(reason)).Inc()
	response.AuditAnnotations = map[string]string{"reason": string(reason)}

	log := r.log
	dryRun := req.DryRun != nil && *req.DryRun
	if outcome == allowed || dryRun {
		log = log.V(1)
	}
	if !log.Enabled() || !r.bucket.TryAccept() {
		return response
	}
	values := append(claims(req), "outcome", outcome, "reason", reason, "kind", r.kind, "dryRun", dryRun)
	message := bounded.Message(response.Result.Message)
	if response.Allowed || dryRun {
		log.Info("Admission review answered", append(values, "message", message)...)
	} else {
		log.Error(errors.New(message), "Admission review refused", values...)
	}
	return response
}

// claims are what a review states about itself. Without server.clientCA, any client that reaches the port can forge them.
// A ReplicaSet's Pod has only a prefix of a name when it is created.
func claims(req admission.Request) []any {
	return []any{
		"claimedNamespace", bounded.Text(req.Namespace, maxName), "claimedName", bounded.Text(cmp.Or(req.Name, "(name not yet generated)"), maxName),
		"claimedOperation", bounded.Text(string(req.Operation), maxName), "claimedUser", bounded.Message(req.UserInfo.Username),
		"uid", bounded.Text(string(req.UID), maxName),
	}
}
