// SPDX-License-Identifier: Apache-2.0

package traffic_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/istiod-agent/istiod-agent/internal/traffic"
)

func TestEncode(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x509: <unknown> authority\n", 100)
	for name, test := range map[string]struct {
		targets int
		err     string
	}{
		"one":            {1, ""},
		"a few":          {10, ""},
		"one hundred":    {100, ""},
		"more than fits": {400, "do not fit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var results []traffic.Result
			var targets []string
			for i := range test.targets {
				targets = append(targets, fmt.Sprint(i))
				results = append(results, traffic.Result{Target: targets[i], Outcome: traffic.OtherRoot, Detail: long})
			}
			text, err := traffic.Encode(results)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || len(text) > 4096 {
				t.Fatalf("%d bytes, %v", len(text), err)
			}
			decoded, err := traffic.Decode(string(text), targets)
			if err != nil {
				t.Fatal(err)
			}
			for i, result := range decoded {
				if result.Target != targets[i] || result.Outcome != traffic.OtherRoot {
					t.Errorf("got %+v", result)
				}
			}
		})
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	targets := []string{"0", "1"}
	for name, test := range map[string]struct{ message, want, err string }{
		"both":             {message: `[{"t":"1","o":"other-root","d":"x"},{"t":"0","o":"calls"}]`, want: "0 calls , 1 other-root x"},
		"an escape":        {message: `[{"t":"0","o":"calls"},{"t":"1","o":"failed","d":"a\u001b[2Jb\nc"}]`, want: "0 calls , 1 failed a [2Jb c"},
		"nothing":          {message: "", err: "without a result"},
		"no JSON":          {message: "panic: \x1b[31mno", err: "not of this program: panic:  [31mno"},
		"too long":         {message: strings.Repeat("a", 5000), err: "5000 bytes; expected at most 4096"},
		"a missing target": {message: `[{"t":"0","o":"calls"}]`, err: "no outcome for 1"},
		"a third target":   {message: `[{"t":"0","o":"calls"},{"t":"1","o":"calls"},{"t":"2","o":"calls"}]`, err: "3 outcomes; expected 2"},
		"a target twice":   {message: `[{"t":"0","o":"calls"},{"t":"0","o":"failed"},{"t":"1","o":"calls"}]`, err: "3 outcomes"},
		"another outcome":  {message: `[{"t":"0","o":"calls"},{"t":"1","o":"great"}]`, err: "no outcome for 1"},
		"another field":    {message: `[{"t":"0","o":"calls","x":1},{"t":"1","o":"calls"}]`, err: "not of this program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			results, err := traffic.Decode(test.message, targets)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			var got []string
			for _, result := range results {
				got = append(got, fmt.Sprintf("%s %s %s", result.Target, result.Outcome, result.Detail))
			}
			if err != nil || strings.Join(got, ", ") != test.want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// Whatever a Pod writes, the result is one line for each target, or an error of bounded length.
func FuzzDecode(f *testing.F) {
	f.Add(`[{"t":"0","o":"calls"}]`)
	f.Add("\x1b]8;;x\x07")
	f.Fuzz(func(t *testing.T, message string) {
		results, err := traffic.Decode(message, []string{"0"})
		if err != nil {
			if len(err.Error()) > 1024 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if len(results) != 1 || results[0].Target != "0" || slices.ContainsFunc([]rune(results[0].Detail), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("got %+v", results)
		}
	})
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	var got struct {
		Servers []struct {
			URI   string `json:"server_uri"`
			Creds []struct{ Type string }
		} `json:"xds_servers"`
		Node struct {
			ID       string
			Metadata map[string]any
		}
	}
	text := traffic.Bootstrap("istiod.istio-system.svc:15012", traffic.Node{
		Name: "client", Namespace: "ns", IP: "$(POD_IP)", ServiceAccount: "traffic", Cluster: `cluster"-1`, Domain: "cluster.local",
		Labels: map[string]string{"app": "client"},
	})
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if got.Servers[0].URI != "istiod.istio-system.svc:15012" || got.Node.ID != "sidecar~$(POD_IP)~client.ns~ns.svc.cluster.local" ||
		got.Node.Metadata["CLUSTER_ID"] != `cluster"-1` || got.Node.Metadata["GENERATOR"] != "grpc" {
		t.Errorf("got %s", text)
	}
	if _, found := got.Node.Metadata["NETWORK"]; found {
		t.Error("a flat network has a name")
	}
}
