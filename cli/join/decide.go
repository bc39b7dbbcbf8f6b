// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// action is what join does with a remote secret.
type action string

const (
	create  action = "create"
	renewal action = "renew"
	replace action = "replace"
	keep    action = "keep"
)

// grant is the access of one cluster's istiod to another cluster.
type grant struct {
	remotes.Use
	// reader and target are positions in the order of the contexts.
	reader, target int
	Action         action
	// Reason is why a secret is renewed, replaced or kept.
	Reason string
	Secret types.NamespacedName
	// Version is the resourceVersion of the Secret that is renewed or replaced.
	Version string
	// Expires is the end of a kept token.
	Expires time.Time
	Address remotes.Address
	// New is true if the reader's istiod does not use the address yet. Then a Pod connects to it first.
	New         bool
	MeshConfigs []string
	// TokenSecret holds another token of the replaced account, which stays valid.
	TokenSecret types.NamespacedName
}

type joinRequest struct {
	// Networks are the values of --network by context; empty without it.
	Networks map[string]string
	// Given are the values of --api-server by context.
	Given          map[string]string
	Renew, Restart bool
}

// joinPlan is what join changes.
type joinPlan struct {
	Grants []*grant
	// Restart are the contexts, by position, whose istiods restart: istiod 1.31 completes the change of a remote secret only once it
	// has listed the cluster's Secrets, and would keep the old token until it expires.
	Restart []bool
	// Label and Expose are the contexts, by position, whose namespace gets its network and that get a Gateway.
	Label, Expose []bool
	Notes         []string
}

// identify returns why the contexts are not different clusters with usable names.
func identify(states []*clusterState) (problems []string) {
	byUID, byName := map[types.UID]*clusterState{}, map[string]*clusterState{}
	for _, s := range states {
		if other := byUID[s.UID]; other != nil {
			problems = append(problems, fmt.Sprintf("%s: is the same cluster as %s (the UID of namespace kube-system is equal); leave one out", s.Context, other.Context))
			continue
		}
		byUID[s.UID] = s
		if problem := s.nameProblem(); problem != "" {
			problems = append(problems, s.Context+": "+problem)
			continue
		}
		if other := byName[s.name()]; other != nil {
			problems = append(problems, fmt.Sprintf("%s: its cluster name is %s, like that of %s; %s", s.Context, s.name(), other.Context, renameCluster))
			continue
		}
		byName[s.name()] = s
	}
	return problems
}

const renameCluster = "set another global.multiCluster.clusterName in the values of chart istiod, which is CLUSTER_ID of its Deployment, and clusterName of chart istiod-agent"

func (s *clusterState) nameProblem() string {
	name := s.name()
	switch {
	case name == "":
		return "its istiods (" + strings.Join(s.istiodNames(), ", ") + ") have no common CLUSTER_ID; " + renameCluster
	case len(validation.IsDNS1123Label(name)) > 0:
		return fmt.Sprintf("its istiod calls the cluster %q, but names of Secrets and labels need lower-case letters, digits and dashes, at most 63; %s", name, renameCluster)
	}
	for _, istiod := range s.Istiods {
		prefix := istio.NormalMeshName(istiod.Name + "-" + s.Namespace + "-")
		for _, mesh := range s.MeshNames {
			if strings.HasPrefix(mesh, prefix) && mesh != istio.MeshName(istiod.Name, s.Namespace, name) {
				return fmt.Sprintf("its istiod calls the cluster %s, but its mesh in the VirtualMesh is %s; make CLUSTER_ID of istiod and clusterName of chart istiod-agent equal", name, mesh)
			}
		}
	}
	return ""
}

func (s *clusterState) istiodNames() (names []string) {
	for _, istiod := range s.Istiods {
		names = append(names, s.Namespace+"/"+istiod.Name)
	}
	return names
}

// maxRevisions is the most revisions of a cluster's istiod: each is a name in a ClusterRole of the other clusters.
const maxRevisions = 20

func (s *clusterState) revisions() (revisions []string) {
	for _, istiod := range s.Istiods {
		revisions = append(revisions, istiod.Revision)
	}
	slices.Sort(revisions)
	return slices.Compact(revisions)
}

// revisionProblems checks what this cluster's API server puts into the roles of the others.
func (s *clusterState) revisionProblems() (problems []string) {
	revisions := s.revisions()
	if len(revisions) > maxRevisions {
		return []string{fmt.Sprintf("%s: namespace %s has istiods of %d revisions, and join gives at most %d access to the other clusters; remove those that no workload uses", s.Context, s.Namespace, len(revisions), maxRevisions)}
	}
	for _, revision := range revisions {
		if len(validation.IsDNS1123Label(revision)) > 0 {
			problems = append(problems, fmt.Sprintf("%s: an istiod of namespace %s has the revision %q (REVISION of its Deployment), but a revision has lower-case letters, digits and dashes, at most 63", s.Context, s.Namespace, revision))
		}
	}
	return problems
}

// is reports whether a remote secret is of this cluster: its token is of an account here, or its address that of the API server.
// An API server can answer with any name, but it does not know the UID of another cluster's account.
func (s *clusterState) is(secret *remotes.Secret) bool {
	uid := s.Accounts[secret.Account]
	return uid != "" && uid == secret.AccountUID || s.Address.Is(secret)
}

// leaveCommand removes what join made in this context for another cluster.
func (s *clusterState) leaveCommand(name string) string {
	return "kubectl istiod-agent leave " + shell.Quote(name) + strings.TrimPrefix(s.Kubectl, "kubectl") + " --namespace=" + shell.Quote(s.Namespace)
}

// decide returns the changes, or all problems, each with its remedy.
func decide(request joinRequest, states []*clusterState, now time.Time) (plan *joinPlan, problems []string) {
	plan = &joinPlan{Restart: make([]bool, len(states)), Label: make([]bool, len(states)), Expose: make([]bool, len(states))}
	for _, s := range states {
		if err := s.usable(request.Given[s.Context] != ""); err != nil {
			problems = append(problems, s.Context+": "+err.Error())
		}
		for _, istiod := range s.Istiods {
			if istiod.Crashes {
				problems = append(problems, fmt.Sprintf("%s: istiod %s/%s has %s=false, with which Istio 1.31 crashes on the first remote secret; remove it: %s set env -n %s deployment/%s %s-",
					s.Context, s.Namespace, istiod.Name, istio.RemoteCredentialsVariable, s.Kubectl, shell.Quote(s.Namespace), shell.Quote(istiod.Name), istio.RemoteCredentialsVariable))
			}
		}
		problems = append(problems, s.revisionProblems()...)
		if s.OtherCA {
			plan.Notes = append(plan.Notes, fmt.Sprintf("%s: the CA in the kubeconfig, which the remote secrets get, differs from that in ConfigMap %s/%s; if istiod does not trust the address of --api-server, give the kubeconfig the CA of that address (certificate-authority-data)",
				s.Context, s.Namespace, rootCAConfigMap))
		}
	}
	problems = append(problems, rootProblems(states)...)
	problems = append(problems, plan.networks(request, states)...)
	for r, reader := range states {
		for t, target := range states {
			if r == t {
				continue
			}
			g := &grant{
				Use:    remotes.Use{Reader: reader.name(), Target: target.name(), ReaderNamespace: reader.Namespace, TargetNamespace: target.Namespace},
				reader: r, target: t, Address: target.Address,
			}
			for _, revision := range reader.revisions() {
				g.MeshConfigs = append(g.MeshConfigs, istio.MeshConfigMap(revision))
			}
			if problem := g.decide(reader, target, request.Renew, now); problem != "" {
				problems = append(problems, reader.Context+": "+problem)
			}
			plan.Grants = append(plan.Grants, g)
			plan.Restart[r] = plan.Restart[r] || request.Restart && (g.Action == renewal || g.Action == replace)
		}
	}
	return plan, problems
}

// rootProblems compares the sets of roots.
func rootProblems(states []*clusterState) []string {
	sorted := func(s *clusterState) []string {
		prints := pemcerts.Fingerprints(s.Roots)
		slices.Sort(prints)
		return prints
	}
	first, differ := sorted(states[0]), false
	shared := sets.New(first...)
	var lines []string
	for _, s := range states {
		prints := sorted(s)
		differ, shared = differ || !slices.Equal(prints, first), shared.Intersection(sets.New(prints...))
		for i, fingerprint := range prints {
			prints[i] = fingerprint[:min(12, len(fingerprint))]
		}
		lines = append(lines, s.Context+" trusts "+strings.Join(prints, ", "))
	}
	if !differ {
		return nil
	}
	next := "workloads would refuse each other; change to one root by kubectl istiod-agent rotate-root, or correct the CA in the VirtualMesh"
	if shared.Len() > 0 {
		next = "a root change is in progress; complete it (kubectl istiod-agent rotate-root)"
	}
	return []string{"the roots of trust differ: " + strings.Join(lines, "; ") + "; " + next}
}

// networks checks that Pods of all contexts can reach each other, directly or by gateways.
func (p *joinPlan) networks(request joinRequest, states []*clusterState) (problems []string) {
	if len(request.Networks) == 0 {
		return oneNetwork(states)
	}
	for i, s := range states {
		network := request.Networks[s.Context]
		switch {
		case network == "":
			problems = append(problems, fmt.Sprintf("%s: --network is missing; name the network of every context, even if two are equal: --network %s=NAME", s.Context, shell.Quote(s.Context)))
		case s.Network != "" && s.Network != network:
			problems = append(problems, fmt.Sprintf("%s: namespace %s has network %s, not %s; join does not change a network, because running proxies keep theirs: pass --network %s",
				s.Context, s.Namespace, s.Network, network, shell.Quote(s.Context+"="+s.Network)))
		case len(validation.IsValidLabelValue(network)) > 0:
			problems = append(problems, fmt.Sprintf("%s: --network %q is not a valid label value: expected letters, digits, '-', '_' and '.', at most 63", s.Context, network))
		case !s.hasGateway(network):
			problems = append(problems, fmt.Sprintf("%s: network %s has no east-west gateway: no Service with label %s=%s has a port %d; install one (Istio's samples/multicluster/gen-eastwest-gateway.sh --network %s)",
				s.Context, network, istio.NetworkLabel, network, istio.EastWestPort, shell.Quote(network)))
		}
		p.Label[i], p.Expose[i] = s.Network == "", !s.exposed(network)
	}
	return problems
}

const severalNetworks = "name the network of each context by --network CONTEXT=NAME, with an east-west gateway in each"

func oneNetwork(states []*clusterState) (problems []string) {
	for i, s := range states {
		if s.Network != states[0].Network {
			return []string{fmt.Sprintf("the networks differ: %s is in %s, %s in %s; %s", states[0].Context, cmp.Or(states[0].Network, "none"), s.Context, cmp.Or(s.Network, "none"), severalNetworks)}
		}
		for _, other := range states[:i] {
			if a, b, found := overlap(s.PodRanges, other.PodRanges); found {
				problems = append(problems, fmt.Sprintf("%s: Pods have addresses in %s, and Pods of %s in %s: no network routes them between the clusters; %s", s.Context, a, other.Context, b, severalNetworks))
				break
			}
		}
	}
	return problems
}

func overlap(a, b []netip.Prefix) (one, other netip.Prefix, found bool) {
	for _, one := range a {
		for _, other := range b {
			if one.Overlaps(other) {
				return one, other, true
			}
		}
	}
	return one, other, false
}

// decide sets what happens with the remote secret, or returns a problem of it.
func (g *grant) decide(reader, target *clusterState, renew bool, now time.Time) (problem string) {
	g.Action, g.Secret = create, types.NamespacedName{Namespace: reader.Namespace, Name: g.SecretName()}
	var found []remotes.Secret
	for _, secret := range reader.Secrets {
		if slices.Contains(secret.Clusters, g.Target) || secret.Key == g.Secret {
			found = append(found, secret)
		}
	}
	if g.New = len(found) == 0; g.New {
		return ""
	}
	remove := func(s remotes.Secret) string {
		return fmt.Sprintf("%s delete secret -n %s %s", reader.Kubectl, shell.Quote(s.Key.Namespace), shell.Quote(s.Key.Name))
	}
	if len(found) > 1 {
		return fmt.Sprintf("the Secrets %s and %s both name cluster %s, and istiod uses the first one that it reads; delete one: %s", found[0].Key, found[1].Key, g.Target, remove(superfluous(found[0], found[1], g.Secret)))
	}
	s := found[0]
	if s.Unclear == "" && s.Clusters[0] != g.Target {
		s.Unclear = "it is for another cluster"
	}
	if s.Unclear != "" {
		return fmt.Sprintf("Secret %s is not changed, because it is not a remote secret for cluster %s alone with the token of a service account: %s; move its content, then %s", s.Key, g.Target, s.Unclear, remove(s))
	}
	if !target.is(&s) {
		command := reader.leaveCommand(g.Target)
		if !s.Joined {
			command = remove(s)
		}
		return fmt.Sprintf("Secret %s is of another cluster that is named %s too: neither the account of its token nor its address is of context %s; if %s was made anew, remove its old access, and join again: %s; else one of both needs another name: %s",
			s.Key, g.Target, target.Context, g.Target, command, renameCluster)
	}
	g.Secret, g.Version, g.Action, g.Expires, g.New = s.Key, s.ResourceVersion, keep, s.Expires, !target.Address.Is(&s)
	if s.Account != (types.NamespacedName{Namespace: target.Namespace, Name: g.AccountName()}) {
		g.foreign(&s, target, now)
		return ""
	}
	switch {
	case s.Expired(now):
		g.Action, g.Reason = renewal, "its token has expired"
	case s.AccountUID != target.Accounts[s.Account]:
		g.Action, g.Reason = renewal, "the account of its token was deleted"
	case !target.Address.Is(&s):
		g.Action, g.Reason = renewal, "the address of the API server differs"
	case renew:
		g.Action, g.Reason = renewal, "requested by --renew"
	case s.EndsSoon(now):
		g.Action, g.Reason = renewal, "less than a third of its token's lifetime remains"
	}
	return ""
}

// superfluous returns which of two Secrets for a cluster to delete: the one that join did not make, or else the one without the
// name that join gives.
func superfluous(a, b remotes.Secret, name types.NamespacedName) remotes.Secret {
	if a.Joined != b.Joined && b.Joined || a.Joined == b.Joined && b.Key == name {
		return a
	}
	return b
}

// foreign decides about a remote secret with another account's token.
func (g *grant) foreign(s *remotes.Secret, target *clusterState, now time.Time) {
	account := fmt.Sprintf("it uses account %s", s.Account)
	switch {
	case target.ReadSecrets.Has(s.Account):
		g.Action, g.Reason = replace, account+", which may read every Secret of "+target.Context
	case s.Expired(now):
		g.Action, g.Reason = replace, account+", and its token has expired"
	default:
		g.Reason = account + ", which may not read the Secrets of all namespaces"
		return
	}
	if s.TokenSecret != "" {
		g.TokenSecret = types.NamespacedName{Namespace: s.Account.Namespace, Name: s.TokenSecret}
	}
}
