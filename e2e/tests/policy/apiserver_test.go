// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/policyeval"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/patches"
)

// installed is a configuration on the server: in one namespace as policies, in another as the served webhook, in a third as
// both at once.
type installed struct {
	name   string
	engine *patches.Injector
}

func (i installed) byPolicy() string  { return "policy-" + i.name }
func (i installed) byWebhook() string { return "webhook-" + i.name }
func (i installed) byBoth() string    { return "both-" + i.name }

func (i installed) namespaces() []string {
	return []string{i.byPolicy(), i.byWebhook(), i.byBoth()}
}

// reasonKeys are the keys of the reason in the audit log, by namespace.
func (i installed) reasonKeys() map[string][]string {
	policys, webhooks := i.name+"-decision/reason", strings.ToLower(string(i.engine.Target()))+"s.istiod-agent.io/reason"
	return map[string][]string{i.byPolicy(): {policys}, i.byWebhook(): {webhooks}, i.byBoth(): {policys, webhooks}}
}

func (s *server) installBoth(t *testing.T, name string, config *v1alpha1.InjectionConfiguration) installed {
	t.Helper()
	engine, err := patches.New(config)
	if err != nil {
		t.Fatal(err)
	}
	i := installed{strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(name), engine}
	for _, namespace := range i.namespaces() {
		s.optedIn(t, namespace)
	}
	s.install(t, i.name, config, i.byPolicy(), i.byBoth())
	s.serve(t, i.name, engine, i.byWebhook(), i.byBoth())
	return i
}

// installAll installs all configurations of the kinds.
func (s *server) installAll(t *testing.T, istiod object, kinds ...patches.Kind) []installed {
	t.Helper()
	var all []installed
	for _, name := range slices.Sorted(maps.Keys(configurations)) {
		config := configuration(t, name)
		if engine, err := patches.New(config); err != nil || !slices.Contains(kinds, engine.Target()) {
			continue
		}
		all = append(all, s.installBoth(t, name, config))
	}
	for _, i := range all {
		for _, namespace := range i.namespaces() {
			s.inForce(t, namespace, i.engine.Target(), istiod)
		}
	}
	return all
}

// comparison of all ways in which an istiod can be created.
type comparison struct {
	installed
	difference string // "" for none
	compared   bool   // false where the API server would take no outcome
	documented bool
	repeated   bool // where the engine changes its own result, and a policy has been evaluated again
	engine     patches.Result
	sent       object
}

// compare what engine, policies, served webhook, and the last two at once make of an object, as the API server admits it.
func (s *server) compare(t *testing.T, i installed, o object) comparison {
	t.Helper()
	ctx, c := t.Context(), comparison{installed: i}
	before := s.create(ctx, plain, o)
	if before.err != nil {
		return c
	}
	sent, err := policyeval.Typed(i.engine.Target(), must(json.Marshal(before.object)))
	if err != nil {
		t.Fatal(err)
	}
	c.sent = tree(sent).(object)
	p := &pair{engine: i.engine}
	want, result, err := p.byEngine(sent)
	if err != nil {
		return c
	}
	c.compared, c.engine = true, result
	got := map[string]admitted{}
	for _, namespace := range i.namespaces() {
		got[namespace] = s.create(ctx, namespace, before.object)
	}
	if got[i.byPolicy()].reason() == policyCannot && want.reason == "" && (recordsNested(c.sent) || recordsNested(want.object)) {
		delete(got, i.byPolicy()) // and the webhook does it, alone or beside the policy
		c.documented = true
	}
	expected := admitted{}
	if want.reason == "" {
		expected = s.create(ctx, plain, want.object.(object))
		if expected.err != nil {
			c.compared = false
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(got)) {
		c.difference += s.differenceOf(t, &c, p, namespace, expected, want.reason, got[namespace])
	}
	return c
}

func (s *server) differenceOf(t *testing.T, c *comparison, p *pair, namespace string, expected admitted, reason string, got admitted) string {
	t.Helper()
	switch {
	case reason != "" || expected.err != nil:
		if got.err == nil || got.reason() != reason && reason != "" {
			return fmt.Sprintf("%s: engine %s: %s, %v, got %v\n", namespace, c.engine.Reason, c.engine.Message, expected.err, got.err)
		}
		if reason == "" {
			return ""
		}
	case got.err != nil:
		return fmt.Sprintf("%s: engine %s, got %v\n", namespace, c.engine.Reason, got.err)
	case reflect.DeepEqual(expected.object, got.object):
	case s.isInjectedAgain(t, p, expected.object, got.object):
		c.repeated = true
	default:
		return fmt.Sprintf("%s: engine %s: %s\n(-engine +%s)\n%s", namespace, c.engine.Reason, c.engine.Message, namespace, cmp.Diff(expected.object, got.object))
	}
	if namespace == c.byBoth() { // the words of both
		return ""
	}
	heard := answer{reason: string(c.engine.Reason), warnings: got.warnings}
	if got.err != nil {
		heard.refusal = "istiod-agent: " + got.refusal()
	}
	engines := answerOf(c.engine)
	engines.refusal = bounded.Text(engines.refusal, len("istiod-agent: "+reason+": ")+bounded.MaxMessage)
	if namespace == c.byPolicy() {
		return differentWords(engines.created(c.sent), heard.created(c.sent))
	}
	slices.Sort(heard.warnings)
	slices.Sort(engines.warnings)
	return differentWords(engines.printable(), heard.printable())
}

// isInjectedAgain reports whether an object is what the engine makes of its own result, where it changes that: the API
// server evaluates a policy again that has changed the object, and asks a webhook again after another change. The engine
// changes its result where the API server derives a pod's own requests from the injected containers, to which the injection
// is fitted, and where istiod's variables have duplicates of one that an earlier injection set.
func (s *server) isInjectedAgain(t *testing.T, p *pair, first, got object) bool {
	t.Helper()
	again := p.injected(first)
	if again == nil {
		return false
	}
	expected := s.create(t.Context(), plain, again)
	return expected.err == nil && reflect.DeepEqual(expected.object, got)
}

// inputs are the istiods that people have, by name: every golden input, Istio's charts and other distributions.
func inputs(t *testing.T) (all map[string]object, names []string) {
	t.Helper()
	all = documents(t)
	istiods, err := istio.Inputs(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	for name, u := range istiods {
		all[name] = copied(u.Object)
	}
	return all, slices.Sorted(maps.Keys(all))
}

const chart = "chart: default"

// all reports whether to compare everything, which takes long.
func all() bool { return os.Getenv("PARITY_ALL") != "" }

// A real API server stores what the engine would have it store, whoever injects: of every istiod that people have, of every
// golden input, and of such as somebody has edited. The reasons and warnings are the same.
func TestParityOnAnAPIServer(t *testing.T) {
	s := startServer(t)
	inputs, names := inputs(t)
	configurations := s.installAll(t, inputs[chart], patches.Deployment, patches.Pod)

	compared, documented, warned, failures := 0, 0, 0, 0
	made := map[string]comparison{}
	compare := func(i installed, what string, o object) {
		name := fmt.Sprint("istiod-", len(made)) // by which the audit log has it
		o["metadata"].(object)["name"] = name
		c := s.compare(t, i, o)
		made[name] = c
		if c.difference != "" {
			t.Errorf("%s, %s:\n%s", i.name, what, c.difference)
			failures++
		}
		if c.compared {
			compared++
			warned += len(c.engine.Warnings)
		}
		if c.documented {
			documented++
		}
	}
	for n, name := range names {
		for m, i := range configurations {
			if all() || (n+m)%4 == 0 {
				compare(i, name, as(i.engine.Target(), inputs[name]))
			}
		}
	}
	seeds := 300
	switch {
	case all():
		seeds = 5000
	case testing.Short():
		seeds = 30
	}
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 37))
		i := configurations[r.IntN(len(configurations))]
		o := stored(as(i.engine.Target(), inputs[names[r.IntN(len(names))]]))
		if r.IntN(3) > 0 {
			by := configurations[r.IntN(len(configurations))]
			if by.engine.Target() == i.engine.Target() {
				if injected := (&pair{engine: by.engine}).injected(o); injected != nil {
					o = copied(injected)
				}
			}
		}
		compare(i, fmt.Sprint("seed ", seed, ", ", mutate(r, o)), o)
		if failures > 5 {
			t.FailNow()
		}
	}
	t.Logf("%d objects compared, %d of them documented differences, %d warnings", compared, documented, warned)
	if compared < seeds/2 || warned == 0 {
		t.Errorf("the test compares too little: %d objects", compared)
	}
	s.compareReasons(t, configurations, made)
}

// reason expected in the audit log; "" for any. An event of an object that the API server refuses itself may have none.
func (c *comparison) reason(namespace, key string) string {
	both, reason := namespace == c.byBoth(), c.engine.Reason
	switch policys := strings.HasSuffix(key, "-decision/reason"); {
	case both && (c.documented || c.repeated || c.engine.Denied()): // by one of them before the other
		return ""
	case policys && c.documented:
		return policyCannot
	case policys && reason == patches.AlreadyInjected:
		return string(patches.Injected)
	case !policys && both && reason == patches.Injected: // the policy comes first
		return string(patches.AlreadyInjected)
	}
	return string(reason)
}

// compareReasons compares the reasons in the audit log.
func (s *server) compareReasons(t *testing.T, configurations []installed, made map[string]comparison) {
	t.Helper()
	found := map[patches.Reason]int{}
	for _, i := range configurations {
		for namespace, keys := range i.reasonKeys() {
			events, err := s.plane.AuditEvents(namespace)
			if err != nil {
				t.Fatal(err)
			}
			for _, event := range events {
				c, ok := made[event.ObjectRef.Name]
				if !ok || !c.compared {
					continue
				}
				for _, key := range keys {
					got := event.Annotations[key]
					if want := c.reason(namespace, key); want != "" && got != want && (got != "" || event.ResponseStatus.Code < 300) {
						t.Errorf("%s, %s: reason %q in the audit log, want %q", namespace, event.ObjectRef.Name, got, want)
					}
					found[patches.Reason(got)]++
				}
			}
		}
	}
	t.Logf("reasons in the audit log: %v", found)
	for _, reason := range []patches.Reason{patches.Injected, patches.AlreadyInjected, patches.OptedOut, patches.NoBuiltInCA, patches.NoIstiodContainer, patches.CACertsElsewhere} {
		if found[reason] == 0 && !testing.Short() {
			t.Errorf("no %s in the audit log", reason)
		}
	}
}
