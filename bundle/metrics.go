// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"crypto/tls"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	rootsDesc = prometheus.NewDesc("istiod_agent_webhook_bundle_roots",
		"The number of roots in the served SPIFFE bundle; 0 while none is served.", nil, nil)
	currentDesc = prometheus.NewDesc("istiod_agent_webhook_bundle_current",
		"1 if the served SPIFFE bundle is what istiod publishes, 0 if that cannot be read or is not valid; the log contains the cause.", nil, nil)
	sequenceDesc = prometheus.NewDesc("istiod_agent_webhook_bundle_sequence",
		"The sequence number of the served SPIFFE bundle; 0 if it has none.", nil, nil)
	notAfterDesc = prometheus.NewDesc("istiod_agent_webhook_bundle_certificate_not_after_seconds",
		"When the certificate of the bundle endpoint expires, in seconds since the epoch; 0 while there is none.", nil, nil)
)

// Metrics are those of the endpoint and of its TLS certificate.
func Metrics(endpoint *Endpoint, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) prometheus.Collector {
	return &collector{endpoint, certificate}
}

type collector struct {
	*Endpoint
	certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Describe implements prometheus.Collector.
func (*collector) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{rootsDesc, currentDesc, sequenceDesc, notAfterDesc} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
	}
	var roots, sequence, current, notAfter float64
	if served := c.served.Load(); served != nil {
		roots, sequence = float64(len(served.roots)), float64(served.sequence)
	}
	if c.current.Load() {
		current = 1
	}
	if certificate, err := c.certificate(nil); err == nil {
		notAfter = float64(certificate.Leaf.NotAfter.Unix())
	}
	gauge(rootsDesc, roots)
	gauge(currentDesc, current)
	gauge(sequenceDesc, sequence)
	gauge(notAfterDesc, notAfter)
}
