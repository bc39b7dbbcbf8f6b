// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/internal/version"
)

// hostile is a message of a Pod's status.
var hostile = "\x1b[2J\nbad " + strings.Repeat("x", 5000)

func TestStates(t *testing.T) {
	t.Parallel()
	container := func(state corev1.ContainerState) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: state}}}
	}
	waiting := func(reason string) corev1.PodStatus {
		return container(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: hostile}})
	}
	terminated := func(code int32) corev1.PodStatus {
		return container(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: hostile}})
	}
	unscheduled := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: hostile}}}
	for name, test := range map[string]struct {
		status         corev1.PodStatus
		server, client string // what it waits for, or the start of the error; "done"
		hostile        bool   // the API server sends no containers
	}{
		"new":             {corev1.PodStatus{}, "its container", "its container", false},
		"no node":         {unscheduled, "a node: ", "a node: ", false},
		"no volume":       {waiting("ContainerCreating"), "its container (ContainerCreating", "its container (ContainerCreating", false},
		"no image":        {waiting("ImagePullBackOff"), "pod ns/x: image example.com/x:1 cannot be pulled (ImagePullBackOff", "pod ns/x: image example.com/x:1 cannot be pulled", false},
		"running":         {container(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}), "its certificate", "the answers of the servers", false},
		"ended with 1":    {terminated(1), "pod ns/x ended with code 1 (Error): ", "pod ns/x ended with code 1 (Error): ", false},
		"ended with 0":    {terminated(0), "pod ns/x ended with code 0", "done", false},
		"evicted":         {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: hostile}, "pod ns/x failed (Evicted)", "pod ns/x failed (Evicted)", false},
		"a ready server":  {corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}, "done", "its container", false},
		"several reasons": {corev1.PodStatus{Conditions: unscheduled.Conditions, ContainerStatuses: waiting("ErrImagePull").ContainerStatuses}, "a node: ", "a node: ", false},
		"no containers":   {waiting("ErrImagePull"), "pod ns/x: image  cannot be pulled (ErrImagePull", "pod ns/x: image  cannot be pulled", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}, Status: test.status,
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "example.com/x:1"}}},
			}
			if test.hostile {
				pod.Spec.Containers = nil
			}
			expect := func(kind, want string, done bool, waiting string, err error) {
				t.Helper()
				got := waiting
				if err != nil {
					got = err.Error()
				}
				if done {
					got = "done"
				}
				if !strings.HasPrefix(got, want) || strings.ContainsAny(got, "\x1b\n") || len(got) > 500 {
					t.Errorf("%s: got %q, want %q", kind, got, want)
				}
			}
			ready, waits, err := Ready("its certificate")(pod)
			expect("server", test.server, ready, waits, err)
			var message string
			ended, waits, err := Ended("the answers of the servers", &message)(pod)
			expect("client", test.client, ended, waits, err)
		})
	}
}

// Only an answer that refuses shows that nothing was created.
func TestRefused(t *testing.T) {
	t.Parallel()
	resource := schema.GroupResource{Resource: "namespaces"}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"forbidden":           {apierrors.NewForbidden(resource, "x", errors.New("no")), true},
		"exists":              {apierrors.NewAlreadyExists(resource, "x"), true},
		"the server's fault":  {apierrors.NewInternalError(errors.New("etcd")), false},
		"no answer":           {errors.New("connection reset by peer"), false},
		"the server is tired": {apierrors.NewServerTimeout(resource, "create", 1), false},
	} {
		if got := Refused(test.err); got != test.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// A Pod whose creation was not answered, and that is stored only later, is removed too.
func TestRemoveLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}}
		deletions := 0
		c := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
			Delete: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.DeleteOption) error {
				if deletions++; deletions == 3 {
					if err := c.Create(ctx, pod.DeepCopy()); err != nil {
						return err
					}
				}
				return c.Delete(ctx, object, options...)
			},
		})
		cluster := &clusters.Cluster{Client: c}
		if left := Remove(t.Context(), cluster, "pod", pod); left != "" || deletions != 4 {
			t.Errorf("%q after %d deletions", left, deletions)
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), &corev1.Pod{}); !apierrors.IsNotFound(err) {
			t.Errorf("the Pod remains: %v", err)
		}
		// It is never stored, or its creation was answered.
		for uid, want := range map[types.UID]int{"": latePolls + 1, "u": 1} {
			pod.UID, deletions = uid, 10
			if left := Remove(t.Context(), cluster, "pod", pod); left != "" || deletions != 10+want {
				t.Errorf("%q after %d deletions, want %d", left, deletions-10, want)
			}
		}
	})
}

// The image is that beside the agent's, and nothing that a hostile Pod could make a text of another meaning.
func TestImageFor(t *testing.T) {
	t.Parallel()
	own := "ghcr.io/istiod-agent/istiod-agent-traffic:" + strings.TrimPrefix(version.Version, "v")
	tag := strings.TrimPrefix(version.Version, "v")
	digest := "@sha256:" + strings.Repeat("a", 64)
	for name, test := range map[string]struct{ container, image, want string }{
		"the chart's":            {"istiod-agent", "ghcr.io/istiod-agent/istiod-agent:0.1.0", "ghcr.io/istiod-agent/istiod-agent-traffic:0.1.0"},
		"the init container's":   {"istiod-agent-init", "registry.example:5000/a/b/istiod-agent:1", "registry.example:5000/a/b/istiod-agent-traffic:1"},
		"one without a registry": {"istiod-agent", "istiod-agent:1", "istiod-agent-traffic:1"},
		"a tag and a digest":     {"istiod-agent", "registry.example/istiod-agent:1" + digest, "registry.example/istiod-agent-traffic:1"},
		"a digest":               {"istiod-agent", "registry.example/istiod-agent" + digest, "registry.example/istiod-agent-traffic:" + tag},
		"istiod's":               {"discovery", "registry.example/istiod-agent:1", own},
		"another name":           {"istiod-agent", "registry.example/agent:1", own},
		"an escape":              {"istiod-agent", "registry.example/\x1b[2J/istiod-agent:1", own},
		"several lines":          {"istiod-agent", "x\nregistry.example/istiod-agent:1", own},
		"too long":               {"istiod-agent", strings.Repeat("a/", 200) + "istiod-agent:1", own},
		"nothing":                {"istiod-agent", "", own},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			container := corev1.Container{Name: test.container, Image: test.image}
			for _, spec := range []corev1.PodSpec{{Containers: []corev1.Container{{Name: "discovery"}, container}}, {InitContainers: []corev1.Container{container}}} {
				if got := new(Options).ImageFor(&corev1.Pod{Spec: spec}); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			}
		})
	}
	if got := (&Options{Image: "given"}).ImageFor(&corev1.Pod{}); got != "given" {
		t.Errorf("got %q", got)
	}
	if got := new(Options).ImageFor(nil); got != own {
		t.Errorf("got %q", got)
	}
}

// The Pods have no rights, end by themselves, and pass the Pod Security Standard restricted
// (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
func TestNew(t *testing.T) {
	t.Parallel()
	spec := New(metav1.ObjectMeta{}, "x", nil, 90*time.Second).Spec
	container, pod := spec.Containers[0].SecurityContext, spec.SecurityContext
	if *spec.AutomountServiceAccountToken || *spec.ActiveDeadlineSeconds != 90 || len(spec.Volumes) > 0 || spec.HostNetwork {
		t.Errorf("got %+v", spec)
	}
	if !*pod.RunAsNonRoot || pod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || *container.AllowPrivilegeEscalation || container.Capabilities.Drop[0] != "ALL" {
		t.Errorf("got %+v, %+v", pod, container)
	}
}

// The plugin of a release names the image by its digest, unless another release or registry is installed in the cluster.
func TestReleasedImage(t *testing.T) {
	released = "registry.test/istiod-agent-traffic:0.2.0@sha256:0123"
	defer func() { released = "" }()
	for installed, want := range map[string]string{
		"":                                 released,
		"registry.test/istiod-agent:0.2.0": released,
		"registry.test/istiod-agent:0.1.0": "registry.test/istiod-agent-traffic:0.1.0",
		"other.test/istiod-agent:0.2.0":    "other.test/istiod-agent-traffic:0.2.0",
	} {
		istiod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: agentName, Image: installed}}}}
		if got := new(Options).ImageFor(istiod); got != want {
			t.Errorf("beside the agent %q: the image is %s, want %s", installed, got, want)
		}
	}
	// docs/verify-release.md compares it with images.txt.
	cmd := &cobra.Command{}
	new(Options).Add(cmd, "--traffic")
	if help := cmd.Flags().FlagUsages(); !strings.Contains(help, released) {
		t.Errorf("the help does not name the image: %s", help)
	}
}
