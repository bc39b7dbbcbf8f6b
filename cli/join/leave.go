// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/output"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

type leaveFlags struct {
	clusters.Flags
	output.Flag
	namespace string
	dryRun    bool
}

// LeaveCommand is `leave`.
func LeaveCommand() *cobra.Command {
	var f leaveFlags
	cmd := &cobra.Command{
		Use:   "leave [CLUSTER...]",
		Short: "Undo join",
		Long: `Undoes join. In the cluster of each context, it removes the remote secrets for the named
clusters, and the accounts and roles that these clusters' istiods use. The tokens of a
deleted account are invalid at once. If a context's own cluster is named, all objects of
join there are removed.

Name each cluster by the CLUSTER_ID of its istiod: a cluster that is deleted or does not
answer can then leave too. Without a name, the clusters of all contexts leave each
other; the access of another cluster with such a name remains.

Remote secrets that join did not create, and network labels of namespaces, remain. You
can run it again at any time.

Exit codes: 0 no object of join for these clusters remains; 1 one remains, because a
context may be of another cluster with the same name; 2 a request failed, or the flags
are wrong.`,
		Example: `  # cluster-3 leaves the mesh of three clusters
  kubectl istiod-agent leave cluster-3 --context cluster-1 --context cluster-2 --context cluster-3

  # The same, if cluster-3 is gone
  kubectl istiod-agent leave cluster-3 --context cluster-1 --context cluster-2`,
		RunE: f.run,
	}
	f.AddContexts(cmd, "change")
	set := cmd.Flags()
	set.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of istiod in every context (default: the only one with an istiod)")
	set.BoolVar(&f.dryRun, "dry-run", false, "print what would be removed, without removing it")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	exit.Codes(cmd)
	return cmd
}

type leaveResult struct {
	Context string `json:"context"`
	Cluster string `json:"cluster,omitempty"`
	// Removed are kinds and names; with --dry-run, what would be removed.
	Removed []string `json:"removed"`
	// Remaining are remote secrets for the clusters, which join did not make or which hold others too.
	Remaining []string `json:"remaining,omitempty"`
	Error     string   `json:"error,omitempty"`

	// partners are the clusters whose access is removed; nil for all. strangers are others with the names of contexts.
	partners, strangers sets.Set[string]
	// remaining are why each of Remaining stays, and the command that removes it.
	remaining []string
	// unclear is whether one of join is among them.
	unclear bool
	kubectl string
	state   *clusterState
	cluster *clusters.Cluster
	err     error
}

func (f *leaveFlags) run(cmd *cobra.Command, leaving []string) error {
	for _, name := range leaving {
		if len(validation.IsDNS1123Label(name)) > 0 {
			return fmt.Errorf("%q is not a valid cluster name: expected the CLUSTER_ID of its istiod, in lower-case letters, digits and dashes", name)
		}
	}
	ctx := cmd.Context()
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	defer progress.Done()
	all := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) *leaveResult {
		r := &leaveResult{Context: cluster.Context, Removed: []string{}, cluster: cluster, kubectl: cluster.Kubectl(), err: err}
		if err == nil {
			progress.Update(cluster.Context, "reading")
			r.state, r.err = readIdentity(ctx, cluster, f.namespace, true)
			if r.err == nil && len(leaving) == 0 {
				r.err = errors.Join(r.state.readAccounts(ctx, cluster), r.state.readAddress(ctx, cluster))
			}
			progress.Remove(cluster.Context)
		}
		if r.err == nil {
			r.Cluster = r.state.name()
		}
		return r
	})
	for _, r := range all {
		switch {
		case r.err != nil:
		case len(leaving) == 0:
			r.meet(all)
		case !slices.Contains(leaving, r.Cluster):
			r.partners = sets.New(leaving...)
		}
	}
	// Remote secrets first, so that no istiod meets an account that is gone.
	for _, step := range []func(context.Context, *leaveResult) error{f.removeSecrets, f.removeAccounts} {
		for _, r := range all {
			if r.err != nil {
				continue
			}
			progress.Update(r.Context, "removing")
			r.err = step(ctx, r)
			progress.Remove(r.Context)
		}
	}
	progress.Done()
	return f.report(cmd.OutOrStdout(), all)
}

// report prints the results, and returns the exit code.
func (f *leaveFlags) report(out io.Writer, all []*leaveResult) error {
	failed, unclear := false, false
	for _, r := range all {
		unclear = unclear || r.unclear
		if r.err != nil {
			failed, r.Error = true, terminal.OneLine(r.err.Error())
		}
	}
	err := f.Write(out, map[string]any{"contexts": all}, func(out io.Writer) {
		for _, r := range all {
			r.print(out, f.dryRun)
		}
	})
	return exit.Result(err, failed, unclear)
}

// meet sets the partners to the clusters of all contexts. Their names are what their API servers answer: one with the name of a
// cluster that this one has joined before must be that cluster.
func (r *leaveResult) meet(all []*leaveResult) {
	r.partners, r.strangers = sets.New[string](), sets.New[string]()
	for _, other := range all {
		if other.err != nil || other.Cluster == "" {
			continue
		}
		stranger := other != r && slices.ContainsFunc(r.state.Secrets, func(s remotes.Secret) bool {
			return s.Joined && s.Clusters[0] == other.Cluster && !other.state.is(&s)
		})
		if stranger {
			r.strangers.Insert(other.Cluster)
		} else {
			r.partners.Insert(other.Cluster)
		}
	}
	r.strangers = r.strangers.Difference(r.partners)
}

// concerns reports whether the access of a cluster is removed.
func (r *leaveResult) concerns(cluster string) bool {
	return r.partners == nil || r.partners.Has(cluster)
}

// stays notes a remote secret that is not removed. instead is the command that removes it.
func (r *leaveResult) stays(key types.NamespacedName, why, instead string) {
	r.Remaining = append(r.Remaining, key.String())
	r.remaining = append(r.remaining, fmt.Sprintf("Secret %s remains, because %s; to remove it: %s", key, why, instead))
}

func (f *leaveFlags) removeSecrets(ctx context.Context, r *leaveResult) error {
	left := 0
	for _, secret := range r.state.Secrets {
		object := &corev1.Secret{}
		object.Namespace, object.Name = secret.Key.Namespace, secret.Key.Name
		concerned := slices.ContainsFunc(secret.Clusters, r.concerns)
		deletion := fmt.Sprintf("%s delete secret -n %s %s", r.kubectl, shell.Quote(secret.Key.Namespace), shell.Quote(secret.Key.Name))
		left++
		switch {
		case concerned && secret.Joined:
			if err := f.remove(ctx, r, "Secret", "secrets", object); err != nil {
				return err
			}
			left--
		case concerned && len(secret.Clusters) > 1:
			r.stays(secret.Key, secret.Unclear+"; move those that stay to another Secret", deletion)
		case concerned:
			r.stays(secret.Key, "join did not create it", deletion)
		case secret.Joined && r.strangers.Has(secret.Clusters[0]):
			name := secret.Clusters[0]
			r.unclear = true
			r.stays(secret.Key, "the context whose istiod is named "+name+" has neither the account of its token nor its address: it may be of another cluster", r.state.leaveCommand(name))
		}
	}
	if left > 0 {
		return nil
	}
	// Without a remote cluster, nothing needs the Gateway of join.
	gateways, err := r.cluster.List(ctx, gatewayKind, client.InNamespace(r.state.Namespace), client.MatchingLabels{remotes.PartnerLabel: everyPartner})
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return r.cluster.Explain("listing Gateways", "list", "gateways.networking.istio.io", err)
	}
	for i := range gateways {
		if gateways[i].GetName() != exposeGateway {
			continue
		}
		if err := f.remove(ctx, r, "Gateway", "gateways.networking.istio.io", &gateways[i]); err != nil {
			return err
		}
	}
	return nil
}

func (f *leaveFlags) removeAccounts(ctx context.Context, r *leaveResult) error {
	lists := []struct {
		kind, resource string
		list           client.ObjectList
		namespace      string
	}{
		{"ClusterRoleBinding", resources["ClusterRoleBinding"], &rbacv1.ClusterRoleBindingList{}, ""},
		{"ClusterRole", resources["ClusterRole"], &rbacv1.ClusterRoleList{}, ""},
		{"ServiceAccount", resources["ServiceAccount"], &corev1.ServiceAccountList{}, r.state.Namespace},
	}
	for _, l := range lists {
		if err := r.cluster.Client.List(ctx, l.list, client.InNamespace(l.namespace), client.HasLabels{remotes.PartnerLabel}); err != nil {
			return r.cluster.Explain("listing "+l.kind+"s of join", "list", l.resource, err)
		}
		objects, err := meta.ExtractList(l.list)
		if err != nil {
			return err
		}
		for _, item := range objects {
			object, ok := item.(client.Object)
			if !ok || !r.made(object, l.namespace) {
				continue
			}
			if err := f.remove(ctx, r, l.kind, l.resource, object); err != nil {
				return err
			}
		}
	}
	return nil
}

// made reports whether join made an object for this mesh and for a cluster whose access is removed: it has the label, and the name
// that join gives. A label alone can be on anything, and other meshes of the cluster have their own roles.
func (r *leaveResult) made(object client.Object, namespace string) bool {
	partner := object.GetLabels()[remotes.PartnerLabel]
	use := remotes.Use{Reader: partner, TargetNamespace: r.state.Namespace}
	name := use.AccountName()
	if namespace == "" {
		name = use.RoleName()
	}
	return partner != "" && r.concerns(partner) && object.GetNamespace() == namespace && object.GetName() == name
}

func (f *leaveFlags) remove(ctx context.Context, r *leaveResult, kind, resource string, object client.Object) error {
	name := object.GetName()
	if object.GetNamespace() != "" {
		name = object.GetNamespace() + "/" + name
	}
	if !f.dryRun {
		if err := client.IgnoreNotFound(r.cluster.Client.Delete(ctx, object)); err != nil {
			return r.cluster.Explain("deleting "+kind+" "+name, "delete", resource, err)
		}
	}
	r.Removed = append(r.Removed, kind+" "+name)
	return nil
}

func (r *leaveResult) print(out io.Writer, dryRun bool) {
	verb := "removed"
	if dryRun {
		verb = "would be removed"
	}
	for _, removed := range r.Removed {
		fmt.Fprintf(out, "%s: %s %s\n", r.Context, terminal.Line(removed), verb)
	}
	for _, remaining := range r.remaining {
		fmt.Fprintf(out, "%s: %s\n", r.Context, terminal.Line(remaining))
	}
	switch {
	case r.Error != "":
		terminal.Paint(out, terminal.Red, r.Context+": "+r.Error)
		fmt.Fprintln(out)
	case len(r.Removed)+len(r.Remaining) == 0:
		fmt.Fprintf(out, "%s: no object of join remains\n", r.Context)
	}
}
