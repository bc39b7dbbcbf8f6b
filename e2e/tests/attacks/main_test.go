// SPDX-License-Identifier: Apache-2.0

// Package attacks plays those who may write a specification and nothing else, against the real API server and the
// agent as it is shipped: what can they have sent, and where to?
package attacks

import (
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }
