// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

func handlerNamed(name string) (http.Handler, error) {
	switch name {
	case "floor":
		return &admission.Webhook{Handler: admission.HandlerFunc(floor)}, nil
	case "usual":
		decoder := admission.NewDecoder(scheme.Scheme)
		return &admission.Webhook{Handler: admission.HandlerFunc(func(_ context.Context, request admission.Request) admission.Response {
			return usual(decoder, request)
		})}, nil
	case "ours":
		injector, err := patches.New(v1alpha1.Default())
		if err != nil {
			return nil, err
		}
		nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		log := logr.FromSlogHandler(slog.NewJSONHandler(nowhere, nil)) // as the program logs
		return webhook.Served(webhook.NewHandler(patches.Deployment, injector, nil, log), log), nil
	default:
		return nil, fmt.Errorf("no handler %q", name)
	}
}

// floor is what no handler can be faster than.
func floor(context.Context, admission.Request) admission.Response { return admission.Allowed("") }

// usual is the handler that the frameworks' examples show: decode into the API
// type, change that, and have the patch worked out by comparison.
func usual(decoder admission.Decoder, request admission.Request) admission.Response {
	var deployment appsv1.Deployment
	if err := decoder.Decode(request, &deployment); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	pod := &deployment.Spec.Template.Spec
	pod.InitContainers = append([]corev1.Container{agentContainer("istiod-agent-init", "init-container")}, pod.InitContainers...)
	pod.Containers = append(pod.Containers, agentContainer("istiod-agent", "sidecar"))
	limit := resource.MustParse("1Mi")
	for i := range pod.Volumes {
		if pod.Volumes[i].Name == "cacerts" {
			pod.Volumes[i].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}
		}
	}
	changed, err := json.Marshal(&deployment)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, changed)
}

func agentContainer(name, command string) corev1.Container {
	fromField := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	return corev1.Container{
		Name:            name,
		Image:           "ghcr.io/istiod-agent/istiod-agent:0.1.0",
		ImagePullPolicy: corev1.PullIfNotPresent,
		Args:            []string{command},
		Env: []corev1.EnvVar{
			{Name: "PILOT_CERT_PROVIDER", Value: "istiod"},
			fromField("POD_NAME", "metadata.name"),
			fromField("POD_NAMESPACE", "metadata.namespace"),
			fromField("SERVICE_ACCOUNT", "spec.serviceAccountName"),
		},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi"),
		}},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			ReadOnlyRootFilesystem:   new(true),
			RunAsNonRoot:             new(true),
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		VolumeMounts: []corev1.VolumeMount{{Name: "cacerts", MountPath: "/etc/cacerts"}},
	}
}
