// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

const (
	timeout = 10 * time.Second
	// maxClusterz is the bytes of an answer with thousands of clusters.
	maxClusterz = 1 << 20
	// maxMetrics is several times the bytes of a large mesh's metrics. They are read as a stream.
	maxMetrics = 64 << 20
	// maxEndpoints is several times the bytes of a large mesh's endpoints. They are read as a stream.
	maxEndpoints = 512 << 20
	maxHeaders   = 16 << 10
	// maxNames is the bytes of all names that are reported: every replica of an istiod reports them in the same status, which
	// etcd limits to 1.5 MiB.
	maxNames = 16 << 10
)

// istiod is the monitoring port of an istiod.
type istiod struct {
	address string
	client  *http.Client
}

func newIstiod(address string) istiod {
	return istiod{address, &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeaders},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// read returns istiod's remote clusters, and the errors that it has counted for each.
func (i istiod) read(ctx context.Context) (clusters *certificatesv1.RemoteClusters, failures map[string]float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = i.get(ctx, "/debug/clusterz", func(body io.Reader) (err error) {
		clusters, err = decodeClusters(io.LimitReader(body, maxClusterz))
		return err
	})
	if err != nil || len(clusters.Clusters) == 0 {
		return clusters, nil, err
	}
	failures = make(map[string]float64, len(clusters.Clusters))
	for _, cluster := range clusters.Clusters {
		failures[cluster.Name] = 0
	}
	err = i.get(ctx, "/metrics", func(body io.Reader) error {
		return countErrors(io.LimitReader(body, maxMetrics), failures)
	})
	return clusters, failures, err
}

// withoutEndpoints returns which of the clusters istiod serves no endpoints of.
func (i istiod) withoutEndpoints(ctx context.Context, names []string) (missing []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = i.get(ctx, istio.EndpointsPath, func(body io.Reader) (err error) {
		missing, err = istio.WithoutEndpoints(io.LimitReader(body, maxEndpoints), names)
		return err
	})
	return missing, err
}

// get reads the answer of a path. No error contains a part of the answer, or differs between two attempts.
func (i istiod) get(ctx context.Context, path string, read func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.address+path, nil)
	if err != nil {
		return fmt.Errorf("istiod's monitoring port %s is not HOST:PORT", i.address)
	}
	response, err := i.client.Do(request)
	if err != nil {
		return fmt.Errorf("istiod does not answer on its monitoring port %s: %w", i.address, withoutPorts(err))
	}
	defer func() { _ = response.Body.Close() }()
	switch {
	case response.StatusCode == http.StatusNotFound && path != "/metrics":
		return fmt.Errorf("istiod does not serve %s on port %s, as with ENABLE_DEBUG_ON_HTTP=false", path, i.address)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("istiod answers %s on port %s with status %d", path, i.address, response.StatusCode)
	}
	if err := read(response.Body); err != nil {
		if ctx.Err() != nil {
			err = context.DeadlineExceeded
		}
		return fmt.Errorf("reading %s on istiod's port %s: %w", path, i.address, withoutPorts(err))
	}
	return nil
}

// withoutPorts returns the cause of a network error: the operation has a port that differs each time.
func withoutPorts(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", timeout)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err
	}
	if errors.Is(err, errNotReadable) {
		return err
	}
	return errors.New("the answer is not HTTP, or incomplete")
}

// errNotReadable is the kind of an answer that is not as expected.
var errNotReadable = errors.New("not as expected")

// clusterName is what a key of a Secret may be, as the name of a remote cluster is (Kubernetes validation.IsConfigMapKey).
var clusterName = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)

var states = map[string]certificatesv1.RemoteClusterState{
	"synced": certificatesv1.RemoteSynced, "syncing": certificatesv1.RemoteSyncing,
	"timeout": certificatesv1.RemoteTimedOut, "closed": certificatesv1.RemoteClosed,
}

// decodeClusters reads an answer of /debug/clusterz: a list of clusters (Istio pkg/cluster, DebugInfo). istiod's own cluster
// has no Secret. Istio 1.20 does not list it, and answers null without any other.
func decodeClusters(from io.Reader) (*certificatesv1.RemoteClusters, error) {
	list, result := json.NewDecoder(from), &certificatesv1.RemoteClusters{}
	switch start, err := list.Token(); {
	case err == nil && start == nil: // null
		return result, nil
	case err != nil || start != json.Delim('['):
		return nil, fmt.Errorf("the list of clusters is %w", errNotReadable)
	}
	for list.More() { // one at a time: an answer of small elements would take many times its size
		var cluster struct {
			ID         string `json:"id"`
			SecretName string `json:"secretName"`
			SyncStatus string `json:"syncStatus"`
		}
		if err := list.Decode(&cluster); err != nil {
			return nil, fmt.Errorf("the list of clusters is %w", errNotReadable)
		}
		switch {
		case cluster.SecretName == "":
		case !clusterName.MatchString(cluster.ID):
			result.Count++ // its name is not reported
		default:
			state := cmp.Or(states[cluster.SyncStatus], certificatesv1.RemoteUnknown)
			result.Clusters = append(result.Clusters, certificatesv1.RemoteCluster{Name: cluster.ID, State: state})
		}
	}
	if _, err := list.Token(); err != nil {
		return nil, fmt.Errorf("the list of clusters is %w", errNotReadable)
	}
	slices.SortFunc(result.Clusters, func(a, b certificatesv1.RemoteCluster) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.State, b.State))
	})
	result.Clusters = slices.CompactFunc(result.Clusters, func(a, b certificatesv1.RemoteCluster) bool { return a.Name == b.Name })
	result.Count += len(result.Clusters)
	listed, size := 0, 0
	for _, cluster := range result.Clusters {
		if size += len(cluster.Name); size > maxNames || listed == certificatesv1.MaxRemoteClusters {
			result.Clusters = slices.Clone(result.Clusters[:listed])
			break
		}
		listed++
	}
	return result, nil
}
