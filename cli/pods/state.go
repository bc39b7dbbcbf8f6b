// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// State reports whether a Pod is as expected, or what it waits for. An error is one that waiting does not end.
type State func(pod *corev1.Pod) (done bool, waiting string, err error)

// Ready is the State of a Pod that serves. running is what it waits for while its container runs.
func Ready(running string) State {
	return func(pod *corev1.Pod) (ready bool, waiting string, err error) {
		if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			return true, "", nil
		}
		status, waiting, err := containerState(pod)
		if err != nil || waiting != "" {
			return false, waiting, err
		}
		if terminated := status.State.Terminated; terminated != nil {
			return false, "", ended(pod, terminated)
		}
		return false, running, nil
	}
}

// Ended is the State of a Pod that ends with code 0, whose termination message it stores. The message is not cleaned.
func Ended(running string, message *string) State {
	return func(pod *corev1.Pod) (done bool, waiting string, err error) {
		status, waiting, err := containerState(pod)
		if err != nil || waiting != "" {
			return false, waiting, err
		}
		switch terminated := status.State.Terminated; {
		case terminated == nil:
			return false, running, nil
		case terminated.ExitCode != 0:
			return false, "", ended(pod, terminated)
		default:
			*message = terminated.Message
			return true, "", nil
		}
	}
}

// ended is the error of a container that should not have ended.
func ended(pod *corev1.Pod, state *corev1.ContainerStateTerminated) error {
	return fmt.Errorf("pod %s/%s ended with code %d (%s): %s", pod.Namespace, pod.Name, state.ExitCode, plain(state.Reason),
		cmp.Or(plain(state.Message), "without a message"))
}

// imageFailures are the kubelet's reasons for an image that it cannot get (Kubernetes pkg/kubelet/images/types.go).
var imageFailures = []string{"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}

// containerState returns the status of the Pod's container once it has started, or what it waits for.
func containerState(pod *corev1.Pod) (status corev1.ContainerStatus, waiting string, err error) {
	if pod.Status.Phase == corev1.PodFailed && len(pod.Status.ContainerStatuses) == 0 {
		return status, "", fmt.Errorf("pod %s/%s failed (%s): %s", pod.Namespace, pod.Name, plain(pod.Status.Reason), plain(pod.Status.Message))
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return status, "a node: " + plain(condition.Message), nil
		}
	}
	if len(pod.Status.ContainerStatuses) == 0 {
		return status, "its container", nil
	}
	status = pod.Status.ContainerStatuses[0]
	if state := status.State.Waiting; state != nil {
		if slices.Contains(imageFailures, state.Reason) {
			image := status.Image
			if len(pod.Spec.Containers) > 0 { // unless the API server is hostile
				image = pod.Spec.Containers[0].Image
			}
			return status, "", fmt.Errorf("pod %s/%s: image %s cannot be pulled (%s: %s); name another by --traffic-image",
				pod.Namespace, pod.Name, plain(image), state.Reason, plain(state.Message))
		}
		return status, "its container (" + plain(state.Reason+" "+state.Message) + ")", nil
	}
	return status, "", nil
}

// plain is text of a Pod's status, on one line of bounded length.
func plain(text string) string {
	return terminal.OneLine(bounded.Text(bounded.Plain(text), 300))
}
