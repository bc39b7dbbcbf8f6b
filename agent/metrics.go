// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
)

// Metrics are what the sidecar tells Prometheus. Times are in seconds since 1970, as is the custom.
type Metrics struct {
	notBefore, notAfter, renewAt     prometheus.Gauge
	confirmed, rootChanged, accepted prometheus.Gauge
	renewals                         *prometheus.CounterVec
	steps                            *prometheus.HistogramVec
}

// NewMetrics registers the metrics, each with its first value where it has one.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "istiod_agent_" + name, Help: help})
		registry.MustRegister(g)
		return g
	}
	m := &Metrics{
		notBefore: gauge("ca_not_before_seconds", "Start of the published CA certificate's validity, 0 while there is none."),
		notAfter:  gauge("ca_not_after_seconds", "End of the published CA certificate's validity, 0 while there is none."),
		renewAt:   gauge("ca_renew_at_seconds", "When the published CA certificate is to be replaced, 0 while there is none."),
		confirmed: gauge("istiod_confirmed", "1 when istiod was seen to sign under the published CA certificate."),
		rootChanged: gauge("root_changed",
			"1 when Vault answers with a root that istiod was not started with; the published certificate stays until istiod is restarted."),
		accepted: gauge("specification_accepted", "1 when there is an IssuedCertificate for this istiod that can be acted on."),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istiod_agent_renewals_total",
			Help: "Attempts to issue a CA certificate. With outcome=success, which istiod has confirmed, the reason is why it was issued; with outcome=failure, what failed.",
		}, []string{"outcome", "reason"}),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "istiod_agent_issue_duration_seconds",
			Help:    "Time of each step of issuing: login, generate (the key, here or in Vault), sign, roots, verify, publish.",
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 2.5, 10, 30},
		}, []string{"step"}),
	}
	registry.MustRegister(m.renewals, m.steps)
	return m
}

// Observe counts a step of issuing.
func (m *Metrics) Observe(step string, took time.Duration) {
	m.steps.WithLabelValues(step).Observe(took.Seconds())
}

func (m *Metrics) published(set *cacerts.Set, renewAt time.Time) {
	m.notBefore.Set(float64(set.Certificate.NotBefore.Unix()))
	m.notAfter.Set(float64(set.Certificate.NotAfter.Unix()))
	m.renewAt.Set(float64(renewAt.Unix()))
}

func flag(g prometheus.Gauge, on bool) {
	if on {
		g.Set(1)
	} else {
		g.Set(0)
	}
}
