// SPDX-License-Identifier: Apache-2.0

// Command floor serves admission reviews on loopback for the benchmark to compare the webhook with. Its arguments are
// one of these servers, and a folder DIR:
//
//	bare    net/http alone: it reads the review and sends one fixed answer
//	floor   controller-runtime's webhook with a handler that does nothing
//	usual   the handler of the framework's examples: a typed decode and a computed patch
//
// It writes its certificate to DIR/tls.crt, then its address to DIR/address, and serves until it is killed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/cert"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: floor bare|floor|usual DIR")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "floor:", serve(os.Args[1], os.Args[2]))
	os.Exit(1)
}

func serve(name, dir string) error {
	ctrllog.SetLogger(logr.Discard())
	handler := map[string]http.Handler{
		"bare":  http.HandlerFunc(bare),
		"floor": &admission.Webhook{Handler: admission.HandlerFunc(nothing)},
		"usual": &admission.Webhook{Handler: admission.HandlerFunc(usual)},
	}[name]
	crt, key, err := cert.GenerateSelfSignedCertKey("localhost", nil, nil)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(in("tls.key"), key, 0o600), os.WriteFile(in("tls.crt"), crt, 0o600),
		os.WriteFile(in("address"), []byte(listener.Addr().String()), 0o600),
	); err != nil {
		return err
	}
	return http.ServeTLS(listener, handler, in("tls.crt"), in("tls.key"))
}

var fixed, _ = json.Marshal(admissionv1.AdmissionReview{
	TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
	Response: &admissionv1.AdmissionResponse{Allowed: true},
})

func bare(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		_, _ = w.Write(fixed)
	}
}

func nothing(context.Context, admission.Request) admission.Response { return admission.Allowed("") }

var decoder = admission.NewDecoder(scheme.Scheme)

// usual makes a patch as long as ours: two containers, and another volume.
func usual(_ context.Context, request admission.Request) admission.Response {
	var deployment appsv1.Deployment
	if err := decoder.Decode(request, &deployment); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	pod := &deployment.Spec.Template.Spec
	agent := *pod.Containers[0].DeepCopy()
	agent.Name, agent.Env = "istiod-agent", agent.Env[:4]
	pod.InitContainers = append([]corev1.Container{agent}, pod.InitContainers...)
	pod.Containers = append(pod.Containers, agent)
	for i := range pod.Volumes {
		if pod.Volumes[i].Name == "cacerts" {
			pod.Volumes[i].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}
		}
	}
	changed, err := json.Marshal(&deployment)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, changed)
}
