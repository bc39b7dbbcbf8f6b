// SPDX-License-Identifier: Apache-2.0

// Package metrics holds what the sidecar exposes to Prometheus.
package metrics

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/sys/unix"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// Metrics are the sidecar's. Times are in seconds since 1970.
//
// They use a small library: Prometheus' own, with protocol buffers behind it, takes a tenth of the sidecar's memory.
type Metrics struct {
	set                              *metrics.Set
	notBefore, notAfter, renewAt     *metrics.Gauge
	rootNotAfter, issuerNotAfter     *metrics.Gauge
	confirmed, rootChanged, accepted *metrics.Gauge
	requestPending                   *metrics.Gauge
	tokenNotAfter, tokenProblem      *metrics.Gauge
	root                             string                    // name of the gauge that names the root, with its label
	remote                           map[string]*metrics.Gauge // by name, with its label
}

// stepBuckets are of istiod_agent_issue_duration_seconds.
var stepBuckets = []float64{.001, .005, .025, .1, .5, 1, 2.5, 10, 30}

// New returns metrics of which all gauges are 0.
func New() *Metrics {
	metrics.ExposeMetadata(true) // without types, Prometheus' rule checker warns
	m := &Metrics{set: metrics.NewSet(), remote: map[string]*metrics.Gauge{}}
	gauge := func(name string) *metrics.Gauge { return m.set.NewGauge("istiod_agent_"+name, nil) }
	// The validity of the published CA certificate, and its renewal time; 0 while there is none.
	m.notBefore, m.notAfter, m.renewAt = gauge("ca_not_before_seconds"), gauge("ca_not_after_seconds"), gauge("ca_renew_at_seconds")
	// When its root expires, and the first of the certificates above it; 0 while there is none.
	m.rootNotAfter, m.issuerNotAfter = gauge("root_not_after_seconds"), gauge("issuer_not_after_seconds")
	// 1 when istiod serves a certificate of the published CA.
	m.confirmed = gauge("istiod_confirmed")
	// 1 when the CA's root is not one that istiod was started with; the published certificate stays until istiod restarts.
	m.rootChanged = gauge("root_changed")
	// 1 when there is a valid IssuedCertificate for this istiod.
	m.accepted = gauge("specification_accepted")
	// 1 while a request waits for an approval or for its issuer.
	m.requestPending = gauge("request_pending")
	// The end of Vault's token in a Secret (tokenSecretRef); 0 for none, and for one without an end.
	m.tokenNotAfter = gauge("vault_token_not_after_seconds")
	// 1 when a person must replace that token, since it has ended, or ends soon and cannot be renewed.
	m.tokenProblem = gauge("vault_token_problem")
	return m
}

// Write writes all metrics, and those of the process, in Prometheus' text format.
func (m *Metrics) Write(w io.Writer) {
	m.set.WritePrometheus(w)
	metrics.WriteGoMetrics(w)
	writeProcess(w)
}

// writeProcess writes the memory and processor time of the process. The library's function also reads /proc/self/io, which is
// forbidden to a process that cannot be dumped.
func writeProcess(w io.Writer) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err == nil {
		seconds := time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
		metrics.WriteCounterFloat64(w, "process_cpu_seconds_total", seconds)
	}
	if text, err := os.ReadFile("/proc/self/statm"); err == nil { // size and resident, in pages
		var size, resident uint64
		if _, err := fmt.Sscan(string(text), &size, &resident); err == nil {
			metrics.WriteGaugeFloat64(w, "process_resident_memory_bytes", float64(resident)*float64(os.Getpagesize()))
		}
	}
	metrics.WriteGaugeFloat64(w, "process_start_time_seconds", float64(started.Unix()))
}

var started = time.Now()

// Observe records the duration of a step: login, generate (the key, here or in Vault), sign, roots, verify, publish.
func (m *Metrics) Observe(step string, took time.Duration) {
	name := fmt.Sprintf(`%s{step=%q}`, "istiod_agent_issue_duration_seconds", step)
	m.set.GetOrCreatePrometheusHistogramExt(name, stepBuckets).Update(took.Seconds())
}

// Renewal counts an attempt to issue a CA certificate. The reason of a "success", which istiod has confirmed, is why it was
// issued; that of a "failure" is what failed.
func (m *Metrics) Renewal(outcome, reason string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`%s{outcome=%q,reason=%q}`, "istiod_agent_renewals_total", outcome, reason)).Inc()
}

// Published describes the published set and its renewal time.
func (m *Metrics) Published(set *cacerts.Set, renewAt time.Time, confirmed bool) {
	m.confirmed.Set(flag(confirmed))
	m.notBefore.Set(float64(set.Certificate().NotBefore.Unix()))
	m.notAfter.Set(float64(set.NotAfter().Unix()))
	m.renewAt.Set(float64(renewAt.Unix()))
	m.rootNotAfter.Set(float64(set.Root().NotAfter.Unix()))
	m.issuerNotAfter.Set(float64(set.Issuer().NotAfter.Unix()))
	root := fmt.Sprintf(`%s{sha256=%q}`, "istiod_agent_root_info", set.RootFingerprint())
	if root != m.root {
		m.set.UnregisterMetric(m.root)
		m.set.NewGauge(root, nil).Set(1)
		m.root = root
	}
}

// RemoteClusters sets 1 for each remote cluster that istiod reads and 0 for one that it cannot read, up to
// certificatesv1.MaxRemoteClusters; nil removes all.
func (m *Metrics) RemoteClusters(remote *certificatesv1.RemoteClusters) {
	current := map[string]float64{}
	if remote != nil {
		for _, cluster := range remote.Clusters {
			name := fmt.Sprintf(`%s{cluster=%q}`, "istiod_agent_remote_cluster_synced", cluster.Name)
			current[name] = flag(cluster.State == certificatesv1.RemoteSynced)
		}
	}
	for name := range m.remote {
		if _, listed := current[name]; !listed {
			m.set.UnregisterMetric(name)
			delete(m.remote, name)
		}
	}
	for name, value := range current {
		if m.remote[name] == nil {
			m.remote[name] = m.set.NewGauge(name, nil)
		}
		m.remote[name].Set(value)
	}
}

// State describes the specification and the last answer of the CA.
func (m *Metrics) State(accepted, rootChanged bool) {
	m.accepted.Set(flag(accepted))
	m.rootChanged.Set(flag(rootChanged))
}

// Token sets the end of the CA's token, zero for none.
func (m *Metrics) Token(notAfter time.Time) {
	m.tokenNotAfter.Set(float64(max(0, notAfter.Unix()))) // the zero time is in the year 1
}

// TokenProblem reports whether a person must replace the CA's token.
func (m *Metrics) TokenProblem(is bool) { m.tokenProblem.Set(flag(is)) }

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// Pending records whether a request waits for the CA's decision.
func (m *Metrics) Pending(pending bool) {
	value := 0.0
	if pending {
		value = 1
	}
	m.requestPending.Set(value)
}
