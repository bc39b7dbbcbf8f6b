// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/cli/exit"
)

var update = flag.Bool("update", false, "accept what is printed as the golden files")

func planned(t *testing.T, request joinRequest, states ...*clusterState) *application {
	t.Helper()
	plan, problems := decide(request, states, now)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	a := &application{plan: plan, request: request}
	for _, s := range states {
		a.targets = append(a.targets, &target{clusterState: s})
	}
	return a
}

// written sets what a run without --dry-run would.
func written(a *application, served ...servedResult) *application {
	for _, g := range a.plan.Grants {
		if g.Action != keep {
			g.Expires = now.Add(90 * 24 * time.Hour)
		}
	}
	a.served = served
	return a
}

func TestOutput(t *testing.T) {
	t.Parallel()
	hundred := func() (states []*clusterState) {
		for i := range 100 {
			states = append(states, state(fmt.Sprintf("cluster-%d", i)))
		}
		return states[:100:100]
	}
	replaced := func() *application {
		two := state("two")
		s := joined(foreign)
		two.ReadSecrets.Insert(s.Account)
		return planned(t, joinRequest{Restart: true}, state("one", with(s)), two)
	}
	gateways := func(s *clusterState) { s.Gateways = []string{"n1", "n2"} }
	for name, test := range map[string]struct {
		flags flags
		of    *application
		code  int
	}{
		"dry run":         {flags{dryRun: true, restart: true}, planned(t, joinRequest{}, state("one"), state("two"), state("three")), 0},
		"hundred":         {flags{dryRun: true, restart: true}, planned(t, joinRequest{}, hundred()...), 0},
		"joined":          {flags{restart: true}, written(planned(t, joinRequest{}, state("one"), state("two")), servedResult{}, servedResult{}), 0},
		"kept":            {flags{restart: true}, written(planned(t, joinRequest{}, state("one", with(joined())), state("two")), servedResult{}, servedResult{}), 0},
		"replaced":        {flags{restart: true}, written(replaced(), servedResult{}, servedResult{}), 0},
		"without restart": {flags{}, written(planned(t, joinRequest{Renew: true}, state("one", with(joined())), state("two"))), 0},
		"not served":      {flags{restart: true}, written(planned(t, joinRequest{}, state("one"), state("two")), servedResult{Problem: "istiod istio-system/istiod-0 has no endpoints of two after 5m"}, servedResult{Unknown: "forwarding a port: forbidden"}), 2},
		"networks": {
			flags{restart: true, networks: []string{"one=n1", "two=n2"}},
			written(planned(t, joinRequest{Networks: map[string]string{"one": "n1", "two": "n2"}}, state("one", gateways), state("two", gateways))), 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.flags.ttl = defaultTTL
			for _, s := range test.of.targets {
				test.flags.Contexts = append(test.flags.Contexts, s.Context)
			}
			var out bytes.Buffer
			err := test.flags.printResult(&out, test.of)
			code := 0
			if coded, ok := err.(*exit.Error); ok { //nolint:errorlint // printResult returns it as it is
				code = coded.Code
			}
			if code != test.code {
				t.Errorf("%v, want code %d", err, test.code)
			}
			file := filepath.Join("testdata", name+".golden.txt")
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(filepath.Clean(file))
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", out.String(), want)
			}
		})
	}
}
