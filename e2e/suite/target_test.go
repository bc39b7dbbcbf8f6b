// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// kubectl runs kubectl in the cluster and returns its output.
func (c *target) kubectl(ctx context.Context, t *testing.T, arguments string) string {
	t.Helper()
	output, err := shell(ctx, "kubectl --context="+c.name+" "+arguments)
	must(t, err)
	return output
}

var errNotYet = errors.New("not yet")

// kill kills all processes of a program in the Pods of the cluster's node.
func (c *target) kill(ctx context.Context, t *testing.T, program string) {
	t.Helper()
	c.onNode(ctx, t, "kill", program)
}

// onNode runs the workload command in a Pod that sees all of the node's processes.
func (c *target) onNode(ctx context.Context, t *testing.T, arguments ...string) {
	t.Helper()
	given, err := json.Marshal(arguments)
	must(t, err)
	c.kubectl(ctx, t, "delete pod -n kube-system on-node --ignore-not-found --wait")
	c.kubectl(ctx, t, fmt.Sprintf(`run on-node -n kube-system --image=istiod-agent.test/workload:1 --image-pull-policy=IfNotPresent --restart=Never \
  --overrides='{"spec": {"hostPID": true, "containers": [{"name": "on-node", "image": "istiod-agent.test/workload:1", "args": %s, "securityContext": {"privileged": true, "runAsUser": 0}}]}}'`, given))
	c.kubectl(ctx, t, "wait -n kube-system pod/on-node --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s")
	c.kubectl(ctx, t, "delete pod -n kube-system on-node --wait=false")
}

// installIstio is the page's command for a cluster, without the name of the context.
const installIstio = "istioctl install -y --set profile=minimal --set hub=istiod-agent.test --set tag=1 --context="

// scaleWebhook sets the number of the webhook's replicas and waits until they are ready.
func (c *target) scaleWebhook(ctx context.Context, t *testing.T, replicas int) {
	t.Helper()
	c.kubectl(ctx, t, fmt.Sprintf("scale -n istiod-agent-system deployment/istiod-agent-webhook --replicas=%d", replicas))
	c.kubectl(ctx, t, "rollout status -n istiod-agent-system deployment/istiod-agent-webhook --timeout=120s")
}

// webhookSettled waits until the replicas from before an upgrade have ended: they still answer for some seconds.
func (c *target) webhookSettled(ctx context.Context, t *testing.T) {
	t.Helper()
	eventually(ctx, t, time.Minute, c.name+": the webhook's old Pods are gone", func(ctx context.Context) error {
		list, err := c.client.CoreV1().Pods("istiod-agent-system").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, pod := range list.Items {
			if pod.DeletionTimestamp != nil {
				return fmt.Errorf("Pod %s is still ending", pod.Name)
			}
		}
		return nil
	})
}

// istiods returns istiod's Pods that are not terminating.
func (c *target) istiods(ctx context.Context, t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := c.client.CoreV1().Pods("istio-system").List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	must(t, err)
	var pods []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		t.Fatalf("%s: there is no istiod", c.name)
	}
	return pods
}

// deployWorkload runs a workload in a namespace and waits until it serves.
func (c *target) deployWorkload(ctx context.Context, t *testing.T, namespace string) {
	t.Helper()
	if _, err := c.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err != nil { // TestGuide makes it, unless it was left out
		c.kubectl(ctx, t, "create namespace "+namespace)
	}
	c.kubectl(ctx, t, "apply -n "+namespace+" -f e2e/suite/manifests/workload.yaml")
	c.kubectl(ctx, t, "rollout status -n "+namespace+" deployment/workload --timeout=60s")
}

// wantCall expects a workload of one cluster to call that of another by mutual TLS.
func wantCall(ctx context.Context, t *testing.T, from, to *target, namespace string) {
	t.Helper()
	eventually(ctx, t, 20*time.Second, "a workload of "+from.name+" calls one of "+to.name, func(ctx context.Context) error {
		return call(ctx, from, to, namespace, 0) // its Pod may just be replaced
	})
}

// call makes a call with a clock that is so fast. The server's clock must be equally fast.
func call(ctx context.Context, from, to *target, namespace string, fast time.Duration) error {
	address, err := shell(ctx, "kubectl --context="+to.name+" get pods -n "+namespace+` -l app=workload -o jsonpath='{.items[0].status.podIP}'`)
	if err != nil {
		return err
	}
	output, err := shell(ctx, fmt.Sprintf("kubectl --context=%s exec -n %s deployment/workload -- /workload call %s:8443 %d", from.name, namespace, address, fast/time.Second))
	if err != nil {
		return err
	}
	identity := "spiffe://cluster.local/ns/" + namespace + "/sa/workload"
	if strings.Count(output, identity) != 2 {
		return fmt.Errorf("want both to be %s:\n%s", identity, output)
	}
	return nil
}

// eventually calls ask until it returns no error.
func eventually(ctx context.Context, t *testing.T, timeout time.Duration, what string, ask func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(ctx, 500*time.Millisecond, timeout, true, func(ctx context.Context) (bool, error) {
		last = ask(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s, within %s: %v\n%s", what, timeout, last, describe(ctx))
	}
}
