// SPDX-License-Identifier: Apache-2.0

// Package webhook answers admission reviews of istiod's Deployments and Pods
// with what package patches decides, and counts and logs each answer. A decision
// depends on the request alone; that the agent will lack rights is only a warning.
package webhook

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/patches"
)

// Paths of the two webhooks, as controller-runtime names them.
const (
	DeploymentPath = "/mutate-apps-v1-deployment"
	PodPath        = "/mutate--v1-pod"
)

// PodIsImmutable is the reason for leaving an updated Pod alone: what would be
// injected cannot be added to a Pod that exists.
const PodIsImmutable patches.Reason = "PodIsImmutable"

// Handler answers the admission reviews of one kind.
type Handler struct {
	kind     patches.Kind
	injector *patches.Injector
	rights   RightsChecker
	log      logr.Logger
	lines    flowcontrol.PassiveRateLimiter
}

// Log lines of answers per second, and how many at once: anybody who reaches the port can cause one. The metric counts all.
const (
	linesRate  = 10
	linesBurst = 200
)

func newLines() flowcontrol.PassiveRateLimiter {
	return flowcontrol.NewTokenBucketPassiveRateLimiter(linesRate, linesBurst)
}

// RightsChecker says, in a sentence, what keeps a service account from running the agent; nothing when nothing does.
type RightsChecker interface {
	Warning(ctx context.Context, namespace, serviceAccount string) string
}

// NewHandler returns the admission handler for one kind. Without a RightsChecker
// nothing is said of rights.
func NewHandler(kind patches.Kind, injector *patches.Injector, rights RightsChecker, log logr.Logger) *Handler {
	return &Handler{kind: kind, injector: injector, rights: rights, log: log, lines: newLines()}
}

// Register serves VirtualMeshes, and both kinds of istiods at their paths: after a change of the target the
// API server may ask about the other one for a while, and must get an answer.
func Register(server interface{ Register(string, http.Handler) }, injector *patches.Injector, allowed v1alpha1.VirtualMesh, rights RightsChecker, log logr.Logger) {
	server.Register(VirtualMeshPath, Served(&VirtualMeshes{Log: log, Allowed: allowed, lines: newLines()}, log))
	for path, kind := range map[string]patches.Kind{DeploymentPath: patches.Deployment, PodPath: patches.Pod} {
		server.Register(path, Served(NewHandler(kind, injector, rights, log), log))
	}
}

// Handle implements admission.Handler.
func (h *Handler) Handle(ctx context.Context, req admission.Request) admission.Response {
	if problem := h.misdirected(req); problem != nil {
		result := patches.Result{Report: patches.Report{Reason: patches.Malformed, Message: problem.Error()}}
		h.record(req, result, "error")
		response := admission.Errored(http.StatusBadRequest, problem)
		response.AuditAnnotations = map[string]string{"reason": string(patches.Malformed)}
		return response
	}

	var result patches.Result
	switch {
	case req.Operation == admissionv1.Create:
		result = h.injector.InjectNew(h.kind, req.Object.Raw)
	case h.kind == patches.Pod:
		result.Report = patches.Report{Reason: PodIsImmutable, Message: "a Pod is injected when it is created, and not changed later"}
	default:
		result = h.injector.Inject(h.kind, req.Object.Raw)
	}
	result.Message = bounded.Message(result.Message) // it may name what is in the object

	var response admission.Response
	switch {
	case result.Denied():
		response = admission.Denied("istiod-agent: " + string(result.Reason) + ": " + result.Message)
		h.record(req, result, "denied")
	case len(result.Operations) > 0:
		patch, err := result.Patch()
		if err != nil {
			h.record(req, result, "error")
			return admission.Errored(http.StatusInternalServerError, err)
		}
		response = admission.Allowed(result.Message)
		response.Patch, response.PatchType = patch, new(admissionv1.PatchTypeJSONPatch)
		if h.rights != nil && result.ServiceAccount != "" {
			if warning := h.rights.Warning(ctx, req.Namespace, result.ServiceAccount); warning != "" {
				result.Warnings = append(result.Warnings, warning)
			}
		}
		h.record(req, result, "patched")
	default:
		response = admission.Allowed(result.Message)
		h.record(req, result, "allowed")
	}
	response.AuditAnnotations = map[string]string{"reason": string(result.Reason)}
	for _, warning := range bounded.List(result.Warnings, maxWarnings) {
		response.Warnings = append(response.Warnings, "istiod-agent: "+string(result.Reason)+": "+warning)
	}
	return response
}

// misdirected says what makes a review unanswerable, nil when it can be answered.
func (h *Handler) misdirected(req admission.Request) error {
	switch {
	case req.Kind.Kind != string(h.kind):
		return errors.New("this webhook answers for kind " + string(h.kind) + ", and was asked about kind " + quoted(req.Kind.Kind))
	case req.SubResource != "":
		return errors.New("this webhook answers for whole objects, and was asked about subresource " + quoted(req.SubResource))
	case req.Operation != admissionv1.Create && req.Operation != admissionv1.Update:
		return errors.New("this webhook answers for CREATE and UPDATE, and was asked about " + quoted(string(req.Operation)))
	case len(req.Object.Raw) == 0:
		return errors.New("the admission review holds no object")
	}
	return nil
}

// quoted keeps what a stranger sent short and on one line.
func quoted(s string) string {
	const most = 64
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}

// record counts and logs one answer.
func (h *Handler) record(req admission.Request, result patches.Result, outcome string) {
	admissions.WithLabelValues(string(h.kind), outcome, string(result.Reason)).Inc()

	log := h.log
	dryRun := req.DryRun != nil && *req.DryRun
	if outcome == "allowed" || dryRun {
		log = log.V(1) // nothing happens, and GitOps tools ask all day
	}
	if !log.Enabled() || !h.lines.TryAccept() {
		return
	}
	log.Info(result.Message, append(claims(req), "outcome", outcome, "reason", result.Reason, "kind", h.kind, "dryRun", dryRun)...)
}

// claims are what a review says of itself. Without server.clientCA anybody who reaches the port may have written it.
func claims(req admission.Request) []any {
	const most = 253 // of a Kubernetes name
	return []any{
		"claimedNamespace", bounded.Text(req.Namespace, most), "claimedName", bounded.Text(name(req), most), "claimedOperation", bounded.Text(string(req.Operation), most),
		"claimedUser", bounded.Text(req.UserInfo.Username, bounded.MaxMessage), "uid", bounded.Text(string(req.UID), most),
	}
}

// name of the object; a Pod of a ReplicaSet has only a prefix when it is created.
func name(req admission.Request) string {
	if req.Name != "" {
		return req.Name
	}
	return "(name not yet generated)"
}
