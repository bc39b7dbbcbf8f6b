// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const (
	// failingAfter is how long errors must have been counted for a cluster to be Failing: the restart of an API server is
	// shorter.
	failingAfter = 30 * time.Second
	// quiet is how long no error may be counted for a cluster to be Synced again. It exceeds client-go's longest pause between
	// two attempts of one watch, 30 s and as much jitter (tools/cache/reflector.go), and longestPause.
	quiet = 90 * time.Second
)

// readings are what earlier readings have shown.
type readings struct {
	started time.Time
	// succeeded is the time of the last reading without an error, zero before the first.
	succeeded time.Time
	errors    map[string]errorCount
	latest    *certificatesv1.RemoteClusters
}

// errorCount is istiod's counter of a cluster, and when it was seen to have grown: first and last in one episode of errors.
type errorCount struct {
	count       float64
	first, last time.Time
}

// add returns the result after a reading at a time: the former result while readings have failed only for a short time, nil
// before the first result.
func (r *readings) add(clusters *certificatesv1.RemoteClusters, errors map[string]float64, err error, now time.Time) *certificatesv1.RemoteClusters {
	if err != nil {
		since := r.succeeded
		if since.IsZero() {
			since = r.started
		}
		if now.Sub(since) >= patience {
			r.latest = &certificatesv1.RemoteClusters{Error: err.Error()}
		}
		return r.latest
	}
	r.succeeded = now
	counts := make(map[string]errorCount, len(clusters.Clusters))
	for i := range clusters.Clusters {
		cluster := &clusters.Clusters[i]
		before, known := r.errors[cluster.Name]
		counts[cluster.Name] = before.next(errors[cluster.Name], known, now)
		if cluster.State == certificatesv1.RemoteSynced && counts[cluster.Name].failing(now) {
			cluster.State = certificatesv1.RemoteFailing
		}
	}
	r.errors, r.latest = counts, clusters
	return clusters
}

func (c errorCount) next(count float64, known bool, now time.Time) errorCount {
	switch {
	case !known, count < c.count: // istiod has restarted
		return errorCount{count: count}
	case count > c.count && (c.last.IsZero() || now.Sub(c.last) >= quiet):
		return errorCount{count: count, first: now, last: now}
	case count > c.count:
		c.count, c.last = count, now
	}
	return c
}

func (c errorCount) failing(now time.Time) bool {
	return c.last.Sub(c.first) >= failingAfter && now.Sub(c.last) < quiet
}
