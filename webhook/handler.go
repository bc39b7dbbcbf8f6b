// SPDX-License-Identifier: Apache-2.0

// Package webhook answers admission reviews of istiod's Deployments and Pods with the decisions of package patches, and
// counts and logs each response. A decision depends on the request alone; missing rights of the agent only cause a warning.
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

// Reasons besides those of package patches.
//
//reasons:page injection
const (
	// podIsImmutable: Allowed, unchanged: a change of an existing Pod, which cannot get new containers and volumes.
	// The chart does not send such changes to the webhook, so a user added `UPDATE` to the webhook configuration.
	//
	// Remedy: remove it there.
	podIsImmutable patches.Reason = "PodIsImmutable"
)

// Handler answers the admission reviews of one kind.
type Handler struct {
	recorder
	kind     patches.Kind
	injector *patches.Injector
	warn     warnFunc
}

// warnFunc returns a warning about the rights that the agent lacks as a service account, "" if it lacks none.
type warnFunc func(ctx context.Context, namespace, serviceAccount string) string

// NewHandler returns the admission handler for one kind. Without warn, responses contain no warnings about rights.
func NewHandler(kind patches.Kind, injector *patches.Injector, warn warnFunc, log logr.Logger) *Handler {
	return &Handler{recorder: newRecorder(string(kind), log), kind: kind, injector: injector, warn: warn}
}

// Register serves VirtualMeshes and both kinds of istiods at their paths: after a change of the target, the API server may
// still send reviews of the other kind, which need a response.
func Register(server interface{ Register(string, http.Handler) }, injector *patches.Injector, meshes v1alpha1.VirtualMesh, warn warnFunc, log logr.Logger) {
	server.Register(VirtualMeshPath, served(newVirtualMeshes(meshes, log), log))
	for path, kind := range map[string]patches.Kind{DeploymentPath: patches.Deployment, PodPath: patches.Pod} {
		server.Register(path, served(NewHandler(kind, injector, warn, log), log))
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
		result.Report = patches.Report{Reason: podIsImmutable, Message: "a Pod is injected only when it is created"}
	default:
		result = h.injector.Inject(h.kind, req.Object.Raw)
	}
	result.Message = bounded.Message(result.Message) // it may contain names from the object

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
		if h.warn != nil && result.ServiceAccount != "" {
			if warning := h.warn(ctx, req.Namespace, result.ServiceAccount); warning != "" {
				result.Warnings = append(result.Warnings, warning)
			}
		}
	}
	for _, warning := range bounded.List(result.Warnings, maxWarnings) {
		response.Warnings = append(response.Warnings, "istiod-agent: "+string(result.Reason)+": "+warning)
	}
	return h.record(req, outcome, result.Reason, response)
}

// checkRequest explains why a review is not for this handler, nil if it is.
func (h *Handler) checkRequest(req admission.Request) error {
	switch {
	case req.Kind.Kind != string(h.kind):
		return errors.New("this webhook handles kind " + string(h.kind) + ", not kind " + quoted(req.Kind.Kind))
	case req.SubResource != "":
		return errors.New("this webhook handles whole objects, not subresource " + quoted(req.SubResource))
	case req.Operation != admissionv1.Create && req.Operation != admissionv1.Update:
		return errors.New("this webhook handles CREATE and UPDATE, not " + quoted(string(req.Operation)))
	case len(req.Object.Raw) == 0:
		return errors.New("the admission review contains no object")
	}
	return nil
}

// quoted quotes text from a request, on one line and shortened.
func quoted(s string) string {
	const most = 64
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}
