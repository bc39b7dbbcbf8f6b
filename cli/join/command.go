// SPDX-License-Identifier: Apache-2.0

// Package join makes several clusters one mesh, by Istio's own means: in each, a remote secret for every other one, with the token
// of an account that may read no Secrets. It runs on a person's machine and leaves nothing else behind.
package join

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/output"
	"github.com/istiod-agent/istiod-agent/cli/pods"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

type flags struct {
	clusters.Flags
	output.Flag
	namespace     string
	networks      []string
	servers       []string
	ttl           time.Duration
	renew, dryRun bool
	wait, restart bool
	timeout       time.Duration
	probe         bool
	pods          pods.Options
}

const (
	defaultTTL     = 90 * 24 * time.Hour
	defaultTimeout = 5 * time.Minute
	// The limits of the TokenRequest API (pkg/apis/authentication/validation, Kubernetes 1.37).
	minTTL = 10 * time.Minute
	maxTTL = (1 << 32) * time.Second
)

// Command is `join`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Let the istiods of several clusters read each other's services",
		Long: `Joins the clusters of all contexts to one mesh, as Istio does it: istiod's namespace in
each cluster gets a remote secret for each other cluster. The secret contains the token
of an account in that cluster. The account has no other use, and its ClusterRole allows
to list and watch the objects that istiod's discovery needs, and no Secrets. join
replaces a remote secret whose account may read all Secrets, such as that of istioctl
create-remote-secret. A further join changes only differences, and renews tokens with
less than a third of their lifetime left.

Before it writes, join checks each context: the cluster answers; its name is distinct
(CLUSTER_ID of istiod, which must match the VirtualMesh); its root of trust is that of
the others; and its Pod network does not overlap with another one. For addresses that
istiod does not use yet, join then starts a Pod in istiod's namespace of each context.
The Pod connects to the API servers of the others at the addresses of the remote
secrets, and to a second Pod in each of the others, or to their east-west gateways. join
removes these Pods before it writes. --probe=false omits them. If a write fails, join
undoes its changes.

istiod reads services and endpoints with these rights, but it cannot list Secrets. It
therefore reports the cluster's state as timeout, and each start of istiod takes 30
seconds longer (PILOT_REMOTE_CLUSTER_TIMEOUT). istiod also keeps using the old token
when a remote secret changes. join therefore restarts the istiods whose token it renews,
one rollout per cluster, without interrupting traffic, unless --restart=false.

Without --network, Pods of all clusters must reach each other directly. With --network,
join labels istiod's namespaces, and passes services through the east-west gateways,
which must exist. To prove that workloads call each other, run verify --traffic.

Tokens expire, and the API server may shorten --token-ttl. Run join again before they
expire, for example in a scheduled job. leave undoes join.

Exit codes: 0 all clusters are joined, and every istiod has endpoints of the others; 1 a
check fails, or an istiod has no endpoints of another cluster; 2 a request failed, or
the flags are wrong.`,
		Example: `  kubectl istiod-agent join --context cluster-1 --context cluster-2 --dry-run
  kubectl istiod-agent join --context cluster-1 --context cluster-2

  # kind, whose kubeconfigs name 127.0.0.1
  kubectl istiod-agent join --context kind-a --context kind-b \
    --api-server kind-a=https://172.18.0.2:6443 --api-server kind-b=https://172.18.0.3:6443

  # New tokens for all clusters now
  kubectl istiod-agent join --context cluster-1 --context cluster-2 --renew`,
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	f.AddContexts(cmd, "join")
	set := cmd.Flags()
	set.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of istiod in every context (default: the only one with an istiod)")
	set.StringArrayVar(&f.networks, "network", nil, "`CONTEXT=NAME` of the network of a context's Pods; for all contexts, or for none")
	set.StringArrayVar(&f.servers, "api-server", nil, "`CONTEXT=URL` of the API server, at an address that the other clusters' Pods can reach (default: the server in the kubeconfig)")
	set.DurationVar(&f.ttl, "token-ttl", defaultTTL, "`lifetime` of the tokens")
	set.BoolVar(&f.renew, "renew", false, "renew the tokens of all remote secrets of join")
	set.BoolVar(&f.dryRun, "dry-run", false, "check everything and print the changes, without making them")
	set.BoolVar(&f.restart, "restart", true, "restart the istiods whose token is renewed or replaced")
	set.BoolVar(&f.wait, "wait", true, "wait until every istiod has endpoints of the other clusters")
	set.DurationVar(&f.timeout, "timeout", defaultTimeout, "`time` limit of --wait")
	set.BoolVar(&f.probe, "probe", true, "first connect from Pods of each context to the others, and write only if all are reached")
	f.pods.Add(cmd, "--probe")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	exit.Codes(cmd)
	return cmd
}

func (f *flags) check() (request joinRequest, err error) {
	if contexts := sets.New(f.Contexts...); contexts.Len() < 2 {
		return request, errors.New("--context: expected at least two, one for each cluster to join")
	}
	if request.Networks, err = parsePairs("network", "NAME", f.networks, f.Contexts); err != nil {
		return request, err
	}
	if request.Given, err = parsePairs("api-server", "https://HOST:PORT", f.servers, f.Contexts); err != nil {
		return request, err
	}
	for name, server := range request.Given {
		if err := checkServer(server); err != nil {
			return request, fmt.Errorf("--api-server of context %s: %w", name, err)
		}
	}
	switch {
	case f.ttl < minTTL || f.ttl > maxTTL:
		err = fmt.Errorf("--token-ttl: expected %s to %s, got %s", minTTL, maxTTL, f.ttl)
	case f.timeout <= 0:
		err = fmt.Errorf("--timeout: expected a positive duration, got %s", f.timeout)
	case f.pods != pods.Defaults() && !f.probe:
		err = errors.New("--traffic-image and --traffic-timeout require --probe")
	case f.pods.Timeout <= 0:
		err = fmt.Errorf("--traffic-timeout: expected a positive duration, got %s", f.pods.Timeout)
	}
	request.Renew, request.Restart = f.renew, f.restart
	return request, err
}

// target is a context of a command.
type target struct {
	*clusterState
	cluster *clusters.Cluster
	err     error
}

func (f *flags) run(cmd *cobra.Command, _ []string) error {
	request, err := f.check()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	defer progress.Done()
	targets := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) *target {
		return f.readTarget(ctx, cluster, err, &request, progress)
	})
	states, err := statesOf(targets)
	if err != nil {
		return err
	}
	if problems := identify(states); len(problems) > 0 {
		return refuse(problems)
	}
	if err := readAccess(ctx, targets); err != nil {
		return err
	}
	plan, problems := decide(request, states, time.Now())
	if len(problems) > 0 {
		return refuse(problems)
	}
	a := &application{targets: targets, plan: plan, request: request, ttl: f.ttl, progress: progress}
	if !f.dryRun {
		if err := a.rehearse(ctx); err != nil {
			return err
		}
		if f.probe {
			if err := f.reach(ctx, a); err != nil {
				return err
			}
		}
		if err := a.apply(ctx); err != nil {
			return err
		}
		for i := range targets {
			if plan.Restart[i] {
				a.restart(ctx, i)
			}
		}
		if f.wait {
			a.await(ctx, f.timeout)
		}
	}
	progress.Done()
	return f.printResult(ctx, cmd.OutOrStdout(), a)
}

func refuse(problems []string) error {
	return exit.With(exit.Problem, errors.New("no context was changed:\n  "+strings.Join(lines(problems), "\n  ")))
}

func lines(texts []string) []string {
	cleaned := make([]string, len(texts))
	for i, text := range texts {
		cleaned[i] = terminal.OneLine(text)
	}
	return cleaned
}

func (f *flags) readTarget(ctx context.Context, cluster *clusters.Cluster, err error, request *joinRequest, progress *terminal.Progress) *target {
	t := &target{clusterState: &clusterState{Context: cluster.Context}, cluster: cluster, err: err}
	if err != nil {
		return t
	}
	progress.Update(cluster.Context, "reading")
	defer progress.Remove(cluster.Context)
	if t.clusterState, t.err = readIdentity(ctx, cluster, f.namespace, false); t.err != nil {
		return t
	}
	if t.err = t.readState(ctx, cluster, len(request.Networks) > 0); t.err != nil {
		return t
	}
	if given := request.Given[cluster.Context]; given != "" {
		t.err = t.override(ctx, cluster, given)
	}
	return t
}

// statesOf returns the states, or an error with all contexts that cannot be read.
func statesOf(targets []*target) ([]*clusterState, error) {
	var failed []string
	states := make([]*clusterState, len(targets))
	for i, t := range targets {
		if states[i] = t.clusterState; t.err != nil {
			failed = append(failed, t.Context+": "+t.err.Error())
		}
	}
	if len(failed) > 0 {
		return nil, errors.New("no context was changed, because not all of them can be read:\n  " + strings.Join(lines(failed), "\n  "))
	}
	return states, nil
}

// readAccess looks up the rights of all accounts in remote secrets, in the clusters of these accounts.
func readAccess(ctx context.Context, targets []*target) error {
	accounts := make([]sets.Set[types.NamespacedName], len(targets))
	at := map[string]int{}
	for i, t := range targets {
		accounts[i], at[t.name()] = sets.New[types.NamespacedName](), i
	}
	for _, t := range targets {
		for _, secret := range t.Secrets {
			if secret.Unclear == "" && !secret.Joined {
				if i, found := at[secret.Clusters[0]]; found {
					accounts[i].Insert(secret.Account)
				}
			}
		}
	}
	var pending sync.WaitGroup
	for i, t := range targets {
		pending.Go(func() { t.err = t.readAccess(ctx, t.cluster, accounts[i]) })
	}
	pending.Wait()
	_, err := statesOf(targets)
	return err
}

// arguments returns the flags of a command about the same contexts.
func (f *flags) arguments() string {
	namespace := ""
	if f.namespace != "" {
		namespace = " --namespace=" + shell.Quote(f.namespace)
	}
	return f.contexts() + namespace + f.Arguments()
}

func (f *flags) contexts() string {
	var out strings.Builder
	for _, name := range f.Contexts {
		out.WriteString(" --context=" + shell.Quote(name))
	}
	return out.String()
}

// ownArguments returns the flags of join that a further join needs too.
func (f *flags) ownArguments() string {
	var out strings.Builder
	for _, value := range f.networks {
		out.WriteString(" --network=" + shell.Quote(value))
	}
	for _, value := range f.servers {
		out.WriteString(" --api-server=" + shell.Quote(value))
	}
	if f.ttl != defaultTTL {
		out.WriteString(" --token-ttl=" + f.ttl.String())
	}
	if !f.probe {
		out.WriteString(" --probe=false")
	}
	return out.String() + f.podArguments()
}

// runArguments returns the flags of join that only the next run needs, which does what this one would have done.
func (f *flags) runArguments() string {
	var out strings.Builder
	if f.renew {
		out.WriteString(" --renew")
	}
	if !f.restart {
		out.WriteString(" --restart=false")
	}
	if !f.wait {
		out.WriteString(" --wait=false")
	}
	if f.timeout != defaultTimeout {
		out.WriteString(" --timeout=" + f.timeout.String())
	}
	return out.String()
}

// podArguments returns the flags about Pods that differ from the defaults.
func (f *flags) podArguments() string {
	var out strings.Builder
	if f.pods.Image != "" {
		out.WriteString(" --traffic-image=" + shell.Quote(f.pods.Image))
	}
	if f.pods.Timeout != pods.Defaults().Timeout {
		out.WriteString(" --traffic-timeout=" + f.pods.Timeout.String())
	}
	return out.String()
}
