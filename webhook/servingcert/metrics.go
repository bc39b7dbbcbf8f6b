// SPDX-License-Identifier: Apache-2.0

package servingcert

import "github.com/prometheus/client_golang/prometheus"

// NotAfter is the gauge of the certificate's expiry in seconds since the epoch; 0 without a certificate.
func NotAfter(source Source) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "istiod_agent_webhook_serving_certificate_not_after_seconds",
		Help: "When the webhook's serving certificate expires, in seconds since the epoch; 0 while there is none.",
	}, func() float64 {
		certificate, err := source.GetCertificate(nil)
		if err != nil {
			return 0
		}
		return float64(certificate.Leaf.NotAfter.Unix())
	})
}
