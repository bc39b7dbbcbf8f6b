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
	recorder
	kind     patches.Kind
	injector *patches.Injector
	rights   RightsChecker
}

// RightsChecker says, in a sentence, what keeps a service account from running the agent; nothing when nothing does.
type RightsChecker interface {
	Warning(ctx context.Context, namespace, serviceAccount string) string
}

// NewHandler returns the admission handler for one kind. Without a RightsChecker
// nothing is said of rights.
func NewHandler(kind patches.Kind, injector *patches.Injector, rights RightsChecker, log logr.Logger) *Handler {
	return &Handler{recorder: newRecorder(string(kind), log), kind: kind, injector: injector, rights: rights}
}

// Register serves VirtualMeshes, and both kinds of istiods at their paths: after a change of the target the
// API server may ask about the other one for a while, and must get an answer.
func Register(server interface{ Register(string, http.Handler) }, injector *patches.Injector, meshes v1alpha1.VirtualMesh, rights RightsChecker, log logr.Logger) {
	server.Register(VirtualMeshPath, Served(newVirtualMeshes(meshes, log), log))
	for path, kind := range map[string]patches.Kind{DeploymentPath: patches.Deployment, PodPath: patches.Pod} {
		server.Register(path, Served(NewHandler(kind, injector, rights, log), log))
	}
}

// Handle implements admission.Handler.
func (h *Handler) Handle(ctx context.Context, req admission.Request) admission.Response {
	if err := h.checkRequest(req); err != nil {
		return h.record(req, failed, patches.Malformed, admission.Errored(http.StatusBadRequest, err))
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

	outcome, response := allowed, admission.Allowed(result.Message)
	switch {
	case result.Denied():
		outcome, response = denied, admission.Denied("istiod-agent: "+string(result.Reason)+": "+result.Message)
	case len(result.Operations) > 0:
		patch, err := result.Patch()
		if err != nil {
			return h.record(req, failed, result.Reason, admission.Errored(http.StatusInternalServerError, err))
		}
		outcome, response.Patch, response.PatchType = patched, patch, new(admissionv1.PatchTypeJSONPatch)
		if h.rights != nil && result.ServiceAccount != "" {
			if warning := h.rights.Warning(ctx, req.Namespace, result.ServiceAccount); warning != "" {
				result.Warnings = append(result.Warnings, warning)
			}
		}
	}
	for _, warning := range bounded.List(result.Warnings, maxWarnings) {
		response.Warnings = append(response.Warnings, "istiod-agent: "+string(result.Reason)+": "+warning)
	}
	return h.record(req, outcome, result.Reason, response)
}

// checkRequest says what makes a review unanswerable, nil when it can be answered.
func (h *Handler) checkRequest(req admission.Request) error {
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
