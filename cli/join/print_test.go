// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/pods"
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

// replaced replaces a secret with a foreign token, which names Secret reader-token of the other cluster. found are the objects there.
func replaced(t *testing.T, found ...client.Object) *application {
	t.Helper()
	two, s := state("two"), joined(foreign)
	two.ReadSecrets.Insert(s.Account)
	a := planned(t, joinRequest{Restart: true}, state("one", with(s)), two)
	a.targets[1].cluster = &clusters.Cluster{Client: fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(found...).Build()}
	return a
}

func tokenSecret(account string, kind corev1.SecretType) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "reader-token", Annotations: map[string]string{corev1.ServiceAccountNameKey: account}}, Type: kind,
	}
}

// Nobody has verified the replaced token, whose writer chose the names in it: join advises to delete no other Secret.
func TestReplacedTokenOfNobody(t *testing.T) {
	t.Parallel()
	for name, found := range map[string][]client.Object{
		"no Secret":              nil,
		"another account's":      {tokenSecret("backup", corev1.SecretTypeServiceAccountToken)},
		"another type of Secret": {tokenSecret("istio-reader-service-account", corev1.SecretTypeOpaque)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := flags{restart: true, ttl: defaultTTL, probe: true}
			var out bytes.Buffer
			if err := f.printResult(t.Context(), &out, written(replaced(t, found...), servedResult{}, servedResult{})); err != nil {
				t.Fatal(err)
			}
			const look = "two: the replaced token may stay valid; look for a Secret with it: kubectl --context=two get secrets -A --field-selector=type=kubernetes.io/service-account-token\n"
			if got := out.String(); !strings.Contains(got, look) || strings.Contains(got, "delete secret") || strings.Contains(got, "reader-token") {
				t.Errorf("got\n%s", got)
			}
		})
	}
}

func TestOutput(t *testing.T) {
	t.Parallel()
	hundred := func() (states []*clusterState) {
		for i := range 100 {
			states = append(states, state(fmt.Sprintf("cluster-%d", i)))
		}
		return states[:100:100]
	}
	withGateways := func(s *clusterState) { s.Gateways = []gatewayService{{Network: "n1"}, {Network: "n2"}} }
	connected := func(a *application, to destination) *application {
		a.reached = make([]reached, len(a.targets))
		for i, other := range []string{"two", "one"} {
			for _, c := range []connection{{to: apiServers}, {to: to}} {
				if c.to == gateways {
					c.service = "istio-system/istio-eastwestgateway"
				}
				a.reached[i].add(&c, other)
			}
		}
		return a
	}
	for name, test := range map[string]struct {
		flags flags
		of    *application
		code  int
	}{
		"dry run":         {flags{dryRun: true, restart: true}, planned(t, joinRequest{}, state("one"), state("two"), state("three")), 0},
		"dry run, once":   {flags{dryRun: true, renew: true}, planned(t, joinRequest{Renew: true}, state("one", with(joined())), state("two")), 0},
		"hundred":         {flags{dryRun: true, restart: true}, planned(t, joinRequest{}, hundred()...), 0},
		"joined":          {flags{restart: true}, connected(written(planned(t, joinRequest{}, state("one"), state("two")), servedResult{}, servedResult{}), podNetwork), 0},
		"without probe":   {flags{restart: true}, written(planned(t, joinRequest{}, state("one"), state("two"))), 0},
		"kept":            {flags{restart: true}, written(planned(t, joinRequest{}, state("one", with(joined())), state("two")), servedResult{}, servedResult{}), 0},
		"replaced":        {flags{restart: true}, written(replaced(t, tokenSecret("istio-reader-service-account", corev1.SecretTypeServiceAccountToken)), servedResult{}, servedResult{}), 0},
		"without restart": {flags{pods: pods.Options{Image: "registry.example/traffic:1", Timeout: 5 * time.Minute}}, written(planned(t, joinRequest{Renew: true}, state("one", with(joined())), state("two"))), 0},
		"not served":      {flags{restart: true}, written(planned(t, joinRequest{}, state("one"), state("two")), servedResult{Problem: "istiod istio-system/istiod-0 has no endpoints of two after 5m"}, servedResult{Unknown: "forwarding a port: forbidden"}), 2},
		"networks": {
			flags{restart: true, networks: []string{"one=n1", "two=n2"}},
			connected(written(planned(t, joinRequest{Networks: map[string]string{"one": "n1", "two": "n2"}}, state("one", withGateways), state("two", withGateways))), gateways), 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.flags.ttl, test.flags.probe = defaultTTL, name != "without probe"
			test.flags.wait, test.flags.timeout = true, defaultTimeout
			test.flags.pods.Timeout = cmp.Or(test.flags.pods.Timeout, pods.Defaults().Timeout)
			for _, s := range test.of.targets {
				test.flags.Contexts = append(test.flags.Contexts, s.Context)
			}
			var out bytes.Buffer
			err := test.flags.printResult(t.Context(), &out, test.of)
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
				t.Errorf("%s is not what is printed (go test ./cli/join -update accepts it): got\n%s\nwant\n%s", file, out.String(), want)
			}
		})
	}
}
