// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"errors"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/verify/traffic"
	contract "github.com/istiod-agent/istiod-agent/internal/traffic"
)

func TestTrafficFindings(t *testing.T) {
	t.Parallel()
	taking := func(networks ...string) (all []traffic.Cluster) {
		for i, network := range networks {
			all = append(all, traffic.Cluster{Cluster: &clusters.Cluster{Context: []string{"one", "two's"}[i]}, Istiod: traffic.Istiod{Network: network}})
		}
		return all
	}
	matrix := func(outcome contract.Outcome, detail string) *traffic.Matrix {
		within := contract.Result{Target: "0", Outcome: contract.Calls}
		across := contract.Result{Target: "1", Outcome: outcome, Detail: detail}
		return &traffic.Matrix{Calls: [][]contract.Result{{within, across}, {across, within}}, Errors: make([]error, 2), Left: make([]string, 2)}
	}
	for name, test := range map[string]struct {
		taking  []traffic.Cluster
		matrix  *traffic.Matrix
		unknown bool
		want    string // of the line from one to two
	}{
		"all call":       {taking("", ""), matrix(contract.Calls, ""), false, "calls"},
		"another root":   {taking("", ""), matrix(contract.OtherRoot, "x509:\nno"), false, "is refused: other root: x509: no"},
		"same addresses": {taking("", ""), matrix(contract.Another, `server "0" answered`), false, `reaches another server: server "0" answered; the Pods of both clusters have the same addresses`},
		"not joined":     {taking("", ""), matrix(contract.Unknown, "x"), false, `run kubectl istiod-agent join --context=one --context='two'\''s'`},
		"no route":       {taking("", ""), matrix(contract.Unreachable, "timeout"), false, "does not reach: istiod sends an endpoint, and no connection to it succeeds: timeout; check routes"},
		"no mutual TLS":  {taking("", ""), matrix(contract.Plaintext, "no TLS"), false, "is refused: no TLS"},
		"something":      {taking("", ""), matrix(contract.Failed, "odd"), false, "does not reach: odd"},
		"other networks": {taking("a", "b"), matrix("", ""), true, `is not tried: the networks "a" and "b"`},
		"same network":   {taking("a", "a"), matrix(contract.Calls, ""), false, "calls"},
		"something lasts": {taking("", ""), func() *traffic.Matrix {
			m := matrix(contract.Calls, "")
			m.Left[0] = "namespace x is not removed"
			return m
		}(), true, "calls"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines, unknown := trafficFindings(test.taking, test.matrix)
			if unknown != test.unknown {
				t.Errorf("unknown is %v", unknown)
			}
			found := false
			for _, line := range lines {
				if line.Context == "one" && line.What == "traffic to two's" {
					found = true
					if !strings.Contains(line.Detail, test.want) || line.OK != (test.want == "calls") {
						t.Errorf("got %+v", line)
					}
				}
			}
			if !found {
				t.Errorf("no line: %+v", lines)
			}
			if left := test.matrix.Left[0]; left != "" && lines[len(lines)-1].Detail != left {
				t.Errorf("got %+v", lines)
			}
		})
	}
	failing := matrix("", "")
	failing.Errors[1] = errors.New("no image")
	lines, unknown := trafficFindings(taking("", ""), failing)
	if !unknown || len(lines) != 3 || lines[1].Detail != "no image" && lines[2].Detail != "no image" {
		t.Errorf("got %+v", lines)
	}
}
