// SPDX-License-Identifier: Apache-2.0

// Package pods runs short-lived Pods of the image istiod-agent-traffic in clusters, with the person's own rights. The Pods have no
// rights, and run as the Pod Security Standard restricted requires.
package pods

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

const (
	// Label marks the Pods, or their namespace, for a person who looks for what a killed command has left.
	Label = "istiod-agent.io/traffic"
	// pollInterval is how often a Pod or a deletion is read.
	pollInterval = 500 * time.Millisecond
	// removalLimit is the time in which deleted objects must be gone.
	removalLimit = time.Minute
	// latePolls are those in which an object appears whose creation was never answered.
	latePolls = 10
)

// NotInMesh are labels that keep istiod and ztunnel from a Pod (Istio pkg/kube/inject, cni/pkg/util/podutil.go).
func NotInMesh() map[string]string {
	return map[string]string{"sidecar.istio.io/inject": "false", "istio.io/dataplane-mode": "none"}
}

// New returns a Pod of one container, which gets no token of its service account. lifetime ends it also when the command cannot.
func New(meta metav1.ObjectMeta, image string, arguments []string, lifetime time.Duration) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false),
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(2)),
		ActiveDeadlineSeconds: new(int64(lifetime / time.Second)),
		SecurityContext:       &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name: "traffic", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Args: arguments,
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
			},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}},
	}}
}

// Refused reports whether the API server has answered that it did not do what it was asked; without an answer it may have.
func Refused(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && status.ErrStatus.Code >= http.StatusBadRequest && status.ErrStatus.Code < http.StatusInternalServerError
}

// Await reads a Pod until its state is done or has an error, or ctx ends, of which limit is the timeout.
func Await(ctx context.Context, cluster *clusters.Cluster, key client.ObjectKey, limit time.Duration, progress *terminal.Progress, state State) error {
	var pod corev1.Pod
	waiting := "its first state"
	for {
		if err := cluster.Client.Get(ctx, key, &pod); err == nil {
			var done bool
			if done, waiting, err = state(&pod); done || err != nil {
				return err
			}
		} else if !ends(ctx) {
			return cluster.Explain("reading Pod "+key.Name, "get", "pods", err)
		}
		progress.Update(cluster.Context, "Pod %s waits for %s", key.Name, waiting)
		select {
		case <-ctx.Done():
			return fmt.Errorf("pod %s was not ready %s: it waited for %s", key, terminal.WaitEnd(ctx, limit), waiting)
		case <-time.After(pollInterval):
		}
	}
}

// ends reports whether ctx has ended, or ends so soon that the client sends no request any more (golang.org/x/time/rate, Limiter.Wait).
func ends(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && time.Until(deadline) < pollInterval
}

// Remove deletes an object and waits until it is gone, for at most removalLimit, also when ctx has ended. The result is empty
// then; else it has the command that removes the object. kind is a resource of kubectl, as "pod". An object without a UID may
// still be created: that it is not found counts only after latePolls.
func Remove(ctx context.Context, cluster *clusters.Cluster, kind string, object client.Object) (left string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removalLimit)
	defer cancel()
	reason := "it is still being deleted"
	created := object.GetUID() != ""
	for polls := 0; ; polls++ {
		err := cluster.Client.Delete(ctx, object)
		switch {
		case apierrors.IsNotFound(err) && (created || polls >= latePolls):
			return ""
		case apierrors.IsNotFound(err): // it may appear
		case err == nil || apierrors.IsConflict(err): // it is being deleted
			created = true
		case !ends(ctx):
			reason = err.Error()
		}
		over := apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
		if !over {
			select {
			case <-ctx.Done():
				over = true
			case <-time.After(pollInterval):
			}
		}
		if over {
			name, arguments := object.GetName(), shell.Quote(object.GetName())
			if namespace := object.GetNamespace(); namespace != "" {
				name, arguments = namespace+"/"+name, "-n "+shell.Quote(namespace)+" "+arguments
			}
			return fmt.Sprintf("%s %s is not removed (%s); remove it: %s delete %s %s", kind, name, terminal.OneLine(reason), cluster.Kubectl(), kind, arguments)
		}
	}
}
