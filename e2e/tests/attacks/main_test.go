// SPDX-License-Identifier: Apache-2.0

// Package attacks tests what a user who may only write a specification can make the agent send, and to which servers.
package attacks

import (
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }
