// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

type result struct {
	Contexts []contextResult `json:"contexts"`
	Notes    []string        `json:"notes,omitempty"`
	Next     string          `json:"next,omitempty"`
	// Proof is the command that shows whether Pods reach each other; absent where it cannot, and unless the clusters are joined.
	Proof string `json:"proof,omitempty"`
}

type contextResult struct {
	Context string `json:"context"`
	// Cluster is the name by istiod's CLUSTER_ID.
	Cluster string `json:"cluster"`
	Network string `json:"network,omitempty"`
	// Reached are what Pods of this context have connected to in the others, before join wrote; absent where join started none.
	Reached []destination `json:"reached,omitempty"`
	// ReachedContexts are the contexts of Reached, and ReachedGateways the Services of the gateways among them.
	ReachedContexts []string       `json:"reachedContexts,omitempty"`
	ReachedGateways []string       `json:"reachedGateways,omitempty"`
	Secrets         []secretResult `json:"remoteSecrets"`
	// Changes are further changes, as text.
	Changes []string `json:"changes,omitempty"`
	// Served is whether every istiod has endpoints of the other clusters; absent where join did not look.
	Served *bool `json:"served,omitempty"`
	// Message is why Served is false or absent.
	Message string `json:"message,omitempty"`
}

type secretResult struct {
	// Cluster is the one that the secret is for.
	Cluster string `json:"cluster"`
	Secret  string `json:"secret"`
	// Action is create, renew, replace or keep; with --dry-run, what join would do.
	Action action `json:"action"`
	Reason string `json:"reason,omitempty"`
	// Expires is the end of the token (RFC 3339); absent in a dry run that would make one, and for a token without an end.
	Expires *time.Time `json:"expires,omitempty"`
	// StillValid is a Secret with another token of the replaced account, which nothing revokes.
	StillValid string `json:"stillValid,omitempty"`
}

func (f *flags) printResult(ctx context.Context, out io.Writer, a *application) error {
	r := &result{Contexts: []contextResult{}, Notes: append(a.plan.Notes, a.notes...)}
	switch {
	case !a.plan.connects():
	case f.dryRun:
		r.Notes = append(r.Notes, "a dry run starts no Pods, so it does not check that the clusters reach each other")
	case !f.probe:
		r.Notes = append(r.Notes, "with --probe=false, join did not check that the clusters reach each other")
	}
	problem, unknown := false, false
	var first time.Time
	for i, t := range a.targets {
		c := contextResult{Context: t.Context, Cluster: t.name(), Network: t.Network, Secrets: []secretResult{}}
		if network := a.request.Networks[t.Context]; network != "" {
			c.Network = network
		}
		if a.reached != nil {
			of := &a.reached[i]
			c.Reached, c.ReachedContexts, c.ReachedGateways = of.kinds, of.contexts, of.services
		}
		if a.plan.Label[i] {
			c.Changes = append(c.Changes, "namespace "+t.Namespace+" labelled with network "+c.Network)
		}
		if a.plan.Expose[i] {
			c.Changes = append(c.Changes, "Gateway "+t.Namespace+"/"+exposeGateway+" created, which passes services through to other networks")
		}
		if a.plan.Restart[i] {
			c.Changes = append(c.Changes, "istiod restarted, because it uses the old token until then")
		}
		for _, g := range a.plan.Grants {
			if g.reader != i {
				continue
			}
			if !f.restart && (g.Action == renewal || g.Action == replace) {
				for _, istiod := range t.Istiods {
					if note := t.Context + ": istiod uses the old token until it restarts: " + t.restartCommand(istiod); !slices.Contains(r.Notes, note) {
						r.Notes = append(r.Notes, note)
					}
				}
			}
			s := secretResult{Cluster: g.Target, Secret: g.Secret.String(), Action: g.Action, Reason: g.Reason}
			if !g.Expires.IsZero() && (g.Action == keep || !f.dryRun) {
				s.Expires = new(g.Expires.UTC())
				if first.IsZero() || g.Expires.Before(first) {
					first = g.Expires
				}
			}
			if g.TokenSecret.Name != "" {
				of := a.targets[g.target]
				if a.holdsToken(ctx, g) {
					s.StillValid = g.TokenSecret.String()
					r.Notes = append(r.Notes, fmt.Sprintf("%s: the token in Secret %s stays valid; if nothing else uses it: %s delete secret -n %s %s",
						of.Context, g.TokenSecret, of.Kubectl, shell.Quote(g.TokenSecret.Namespace), shell.Quote(g.TokenSecret.Name)))
				} else {
					r.Notes = append(r.Notes, fmt.Sprintf("%s: the replaced token may stay valid; look for a Secret with it: %s get secrets -A --field-selector=type=%s",
						of.Context, of.Kubectl, corev1.SecretTypeServiceAccountToken))
				}
			}
			c.Secrets = append(c.Secrets, s)
		}
		if a.served != nil {
			served := a.served[i]
			if c.Message = served.Problem + served.Unknown; served.Unknown == "" {
				c.Served = new(served.Problem == "")
			}
			problem, unknown = problem || served.Problem != "", unknown || served.Unknown != ""
		}
		r.Contexts = append(r.Contexts, c)
	}
	switch {
	case f.dryRun:
		r.Next = "kubectl istiod-agent join" + f.arguments() + f.ownArguments() + f.runArguments()
	case problem:
		r.Next = "search istiod's log for the name of that cluster. If istiod cannot connect to its API server, join again with --api-server. To undo join: kubectl istiod-agent leave" + f.arguments()
	case !first.IsZero():
		r.Next = "before " + first.UTC().Format(time.RFC3339) + ", when the first token expires: kubectl istiod-agent join" + f.arguments() + f.ownArguments()
	}
	if !f.dryRun && !problem && !unknown && oneNetworkOf(a) {
		r.Proof = "kubectl istiod-agent verify --traffic" + f.contexts() + f.Arguments() + f.podArguments()
	}
	err := f.Write(out, r, func(out io.Writer) { r.print(out, f.dryRun) })
	return exit.Result(err, unknown, problem)
}

// lookupTimeout limits the request of holdsToken.
const lookupTimeout = 10 * time.Second

// holdsToken reports whether the Secret that the replaced token names holds a token of the same account. Nobody has verified
// the token: its author may have named any Secret.
func (a *application) holdsToken(ctx context.Context, g *grant) bool {
	secrets := a.targets[g.reader].Secrets
	replaced := slices.IndexFunc(secrets, func(s remotes.Secret) bool { return s.Key == g.Secret })
	if replaced < 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var stored corev1.Secret
	err := a.targets[g.target].cluster.Client.Get(ctx, g.TokenSecret, &stored)
	return err == nil && stored.Type == corev1.SecretTypeServiceAccountToken &&
		stored.Namespace == secrets[replaced].Account.Namespace && stored.Annotations[corev1.ServiceAccountNameKey] == secrets[replaced].Account.Name
}

// oneNetworkOf reports whether all contexts are on one network. `verify --traffic` tries no calls to another one.
func oneNetworkOf(a *application) bool {
	names := sets.New(slices.Collect(maps.Values(a.request.Networks))...)
	return names.Len() < 2
}

// maxNames is the most names of clusters in a line.
const maxNames = 4

func (r *result) print(out io.Writer, dryRun bool) {
	for _, c := range r.Contexts {
		would := ""
		if dryRun {
			would = "would be "
		}
		if len(c.Reached) > 0 {
			text := fmt.Sprintf("Pods reach the %s of %s", kinds(c.Reached), terminal.Names(c.ReachedContexts, maxNames))
			if len(c.ReachedGateways) > 0 {
				text += " (Service " + terminal.Names(c.ReachedGateways, maxNames) + ")"
			}
			fmt.Fprintf(out, "%s: %s\n", c.Context, terminal.OneLine(text))
		}
		for _, group := range c.groups() {
			fmt.Fprintf(out, "%s: %s\n", c.Context, terminal.OneLine(group.text(would)))
		}
		for _, change := range c.Changes {
			if dryRun {
				change = "would be done: " + change
			}
			fmt.Fprintf(out, "%s: %s\n", c.Context, terminal.OneLine(change))
		}
		switch {
		case c.Served != nil && *c.Served:
			fmt.Fprintf(out, "%s: every istiod has endpoints of the other clusters\n", c.Context)
		case c.Served != nil:
			terminal.Paint(out, terminal.Red, c.Context+": "+terminal.OneLine(c.Message))
			fmt.Fprintln(out)
		case c.Message != "":
			fmt.Fprintf(out, "%s: not known whether istiod has endpoints of the other clusters: %s\n", c.Context, terminal.OneLine(c.Message))
		}
	}
	for _, note := range r.Notes {
		terminal.Paint(out, terminal.Yellow, terminal.OneLine(note))
		fmt.Fprintln(out)
	}
	if r.Next != "" {
		fmt.Fprintf(out, "\nNext: %s\n", r.Next)
	}
	if r.Proof != "" {
		fmt.Fprintf(out, "To prove that workloads call each other: %s\n", r.Proof)
	}
}

func kinds(all []destination) string {
	names := make([]string, len(all))
	for i, kind := range all {
		names[i] = string(kind)
	}
	return strings.Join(names, " and ")
}

// group are remote secrets with the same result.
type group struct {
	secretResult // of the first
	clusters     []string
}

// groups joins new and kept secrets, of which there may be a hundred; renewed and replaced ones are printed one by one.
func (c *contextResult) groups() (groups []*group) {
	for _, s := range c.Secrets {
		same := -1
		for i, g := range groups {
			if g.Action == s.Action && g.Reason == s.Reason && s.Action != replace {
				same = i
			}
		}
		if same < 0 {
			groups = append(groups, &group{s, []string{s.Cluster}})
			continue
		}
		g := groups[same]
		g.clusters = append(g.clusters, s.Cluster)
		if s.Expires != nil && (g.Expires == nil || s.Expires.Before(*g.Expires)) {
			g.Expires = s.Expires
		}
	}
	return groups
}

func (g *group) text(would string) string {
	names := terminal.Names(g.clusters, maxNames)
	text := ""
	switch g.Action {
	case create:
		text = fmt.Sprintf("remote secret for %s %screated", names, would)
	case renewal:
		text = fmt.Sprintf("token for %s %srenewed: %s", names, would, g.Reason)
	case replace:
		text = fmt.Sprintf("Secret %s for %s %sreplaced: %s", g.Secret, names, would, g.Reason)
	case keep:
		text = fmt.Sprintf("remote secret for %s %skept", names, would)
		if g.Reason != "" {
			text += ": " + g.Reason
		}
	}
	if g.Expires != nil {
		text += ", expires " + g.Expires.Format(time.RFC3339)
	}
	return text
}
