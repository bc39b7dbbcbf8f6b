// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// admissions counts answers; reasons and outcomes are few, objects are not named.
var admissions = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "istiod_agent_webhook_admissions_total",
	Help: "Admission reviews answered, by kind of object, outcome (allowed, patched, denied, error) and reason.",
}, []string{"kind", "outcome", "reason"})

func init() { metrics.Registry.MustRegister(admissions) }
