// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/verify"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// syncResult is what the istiods of a context report about the other clusters.
type syncResult struct {
	// Problem is what is missing, Unknown why that could not be read; both empty when every Pod of istiod has synced all.
	Problem, Unknown string
}

const (
	pollInterval = time.Second
	// maxMetrics is the most bytes of istiod's metrics that are read; a large mesh has some megabytes.
	maxMetrics = 64 << 20
	maxLine    = 64 << 10
)

// await waits until every istiod has synced the clusters that it reads.
func (a *application) await(ctx context.Context, limit time.Duration) {
	a.synced = make([]syncResult, len(a.targets))
	waitCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var pending sync.WaitGroup
	for i, t := range a.targets {
		var clusters []string
		for _, g := range a.plan.Grants {
			if g.reader == i {
				clusters = append(clusters, g.Target)
			}
		}
		pending.Go(func() {
			defer a.progress.Remove(t.Context)
			r := syncResult{Problem: "istiod has not answered"}
			_ = wait.PollUntilContextCancel(waitCtx, pollInterval, true, func(context.Context) (bool, error) {
				found, err := t.unsynced(waitCtx, clusters)
				switch {
				case err != nil && waitCtx.Err() == nil:
					r = syncResult{Unknown: terminal.OneLine(err.Error())}
				case err == nil && found == "":
					r = syncResult{}
					return true, nil
				case err == nil:
					r = syncResult{Problem: found}
				}
				a.progress.Update(t.Context, "waiting for istiod: %s%s", r.Problem, r.Unknown)
				return false, nil
			})
			if r.Problem != "" {
				r.Problem += " " + terminal.WaitEnd(waitCtx, limit)
			}
			a.synced[i] = r
		})
	}
	pending.Wait()
}

// unsynced returns which of the clusters a Pod of istiod has not synced; empty for none.
func (t *target) unsynced(ctx context.Context, clusters []string) (string, error) {
	var pods corev1.PodList
	if err := t.cluster.Client.List(ctx, &pods, client.InNamespace(t.Namespace), client.MatchingLabels(istio.IstiodLabels)); err != nil {
		return "", t.cluster.Explain("listing istiod's Pods", "list", "pods", err)
	}
	asked := 0
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		asked++
		states, err := t.readSync(ctx, pod)
		if err != nil {
			return "", err
		}
		var missing []string
		for _, cluster := range clusters {
			if state := states[cluster]; state != "synced" {
				missing = append(missing, fmt.Sprintf("%s (%s)", cluster, stateText(state)))
			}
		}
		if len(missing) > 0 {
			return fmt.Sprintf("istiod %s/%s has not synced %s", pod.Namespace, pod.Name, terminal.Names(missing, 4)), nil
		}
	}
	if asked == 0 {
		return "no Pod of istiod runs", nil
	}
	return "", nil
}

func stateText(state string) string {
	switch state {
	case "syncing", "timeout", "closed":
		return state
	default:
		return "not seen"
	}
}

func (t *target) readSync(ctx context.Context, pod *corev1.Pod) (map[string]string, error) {
	address, stop, err := verify.Forward(ctx, t.cluster, pod, istio.MonitoringPort)
	if err != nil {
		return nil, err
	}
	defer stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true} // no proxy: the address is this machine's
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("reading the metrics of istiod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading the metrics of istiod %s/%s: status %d", pod.Namespace, pod.Name, response.StatusCode)
	}
	return syncStates(io.LimitReader(response.Body, maxMetrics)), nil
}

var (
	// syncSample is a sample of the state of a remote cluster (pkg/kube/multicluster/secretcontroller.go).
	syncSample = regexp.MustCompile(`^istiod_remote_cluster_sync_status\{(.*)\} 1(?:\.0*)?(?: .*)?$`)
	sampleName = regexp.MustCompile(`(?:^|,)(cluster|status)="([^"\\]*)"`)
)

// syncStates returns the state of each remote cluster in istiod's metrics (Prometheus text format). It reads no line above
// maxLine, which a name of a cluster cannot reach.
func syncStates(metrics io.Reader) map[string]string {
	states := map[string]string{}
	lines := bufio.NewScanner(metrics)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "istiod_remote_cluster_sync_status{") {
			continue
		}
		match := syncSample.FindStringSubmatch(lines.Text())
		if match == nil {
			continue
		}
		labels := map[string]string{}
		for _, label := range sampleName.FindAllStringSubmatch(match[1], -1) {
			labels[label[1]] = label[2]
		}
		states[labels["cluster"]] = labels["status"]
	}
	return states
}
