// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/verify"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// servedResult is what the istiods of a context serve of the other clusters.
type servedResult struct {
	// Problem is what is missing, Unknown why that could not be read; both empty when every istiod has endpoints of all.
	Problem, Unknown string
}

const (
	pollInterval = time.Second
	// maxPage is the most bytes of istiod's debug page that are read; every endpoint has some hundred.
	maxPage = 512 << 20
)

// await waits until every istiod has endpoints of the clusters that it reads.
func (a *application) await(ctx context.Context, limit time.Duration) {
	a.served = make([]servedResult, len(a.targets))
	waitCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var pending sync.WaitGroup
	for i, t := range a.targets {
		var names []string
		for _, g := range a.plan.Grants {
			if g.reader == i {
				names = append(names, g.Target)
			}
		}
		pending.Go(func() {
			defer a.progress.Remove(t.Context)
			r := servedResult{Problem: "istiod has not answered"}
			_ = wait.PollUntilContextCancel(waitCtx, pollInterval, true, func(ctx context.Context) (bool, error) {
				missing, err := "", error(nil)
				if a.plan.Restart[i] {
					missing, err = t.restarting(ctx)
				}
				if missing == "" && err == nil {
					missing, err = t.unserved(ctx, names)
				}
				switch {
				case err != nil && ctx.Err() == nil:
					r = servedResult{Unknown: terminal.OneLine(err.Error())}
				case err == nil:
					r = servedResult{Problem: missing}
				}
				if r == (servedResult{}) {
					return true, nil
				}
				a.progress.Update(t.Context, "waiting: %s%s", r.Problem, r.Unknown)
				return false, nil
			})
			if r.Problem != "" {
				r.Problem += " " + terminal.WaitEnd(waitCtx, limit)
			}
			a.served[i] = r
		})
	}
	pending.Wait()
}

// unserved returns which of the clusters an istiod has no endpoints of; empty for none.
func (t *target) unserved(ctx context.Context, names []string) (string, error) {
	var pods corev1.PodList
	if err := t.cluster.Client.List(ctx, &pods, client.InNamespace(t.Namespace), client.MatchingLabels(istio.IstiodLabels)); err != nil {
		return "", t.cluster.Explain("listing istiod's Pods", "list", "pods", err)
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	})
	if len(pods.Items) == 0 {
		return "no Pod of istiod runs", nil
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		missing, err := t.readShards(ctx, pod, names)
		if err != nil {
			return "", err
		}
		if len(missing) > 0 {
			return fmt.Sprintf("istiod %s/%s has no endpoints of %s", pod.Namespace, pod.Name, terminal.Names(missing, maxNames)), nil
		}
	}
	return "", nil
}

// readShards returns the clusters that an istiod has no endpoints of, by its debug page. Its metric
// istiod_remote_cluster_sync_status would not tell: without the right to list Secrets, it ends with timeout although istiod reads
// all else (pkg/kube/multicluster/cluster.go, Run). The connection arrives on istiod's loopback, where it needs no token.
func (t *target) readShards(ctx context.Context, pod *corev1.Pod, names []string) (missing []string, err error) {
	address, stop, err := verify.Forward(ctx, t.cluster, pod, istio.MonitoringPort)
	if err != nil {
		return nil, err
	}
	defer stop()
	subject := fmt.Sprintf("reading the endpoints of istiod %s/%s", pod.Namespace, pod.Name)
	ctx, cancel := t.cluster.Limit(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+istio.EndpointsPath, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true} // no proxy: the address is this machine's
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, errors.New(subject + ": istiod serves no debug pages (ENABLE_DEBUG_ON_HTTP=false); search its log for the names of the other clusters")
	default:
		return nil, fmt.Errorf("%s: status %d", subject, response.StatusCode)
	}
	missing, err = istio.WithoutEndpoints(io.LimitReader(response.Body, maxPage), names)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	return missing, nil
}
