// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
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
other.

Remote secrets that join did not create, and network labels of namespaces, remain. You
can run it again at any time.

Exit codes: 0 no object of join remains; 2 a request failed, or the flags are wrong.`,
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
	// Remaining are remote secrets for the clusters that join did not make.
	Remaining []string `json:"remaining,omitempty"`
	Error     string   `json:"error,omitempty"`

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
			progress.Remove(cluster.Context)
		}
		if r.err == nil {
			r.Cluster = r.state.name()
		}
		return r
	})
	partners := sets.New(leaving...)
	for _, r := range all {
		if len(leaving) == 0 && r.Cluster != "" {
			partners.Insert(r.Cluster)
		}
	}
	// Remote secrets first, so that no istiod meets an account that is gone.
	for _, step := range []func(context.Context, *leaveResult, sets.Set[string]) error{f.removeSecrets, f.removeAccounts} {
		for _, r := range all {
			if r.err != nil {
				continue
			}
			of := partners
			if len(leaving) > 0 && partners.Has(r.Cluster) {
				of = nil // of every cluster
			}
			progress.Update(r.Context, "removing")
			r.err = step(ctx, r, of)
			progress.Remove(r.Context)
		}
	}
	progress.Done()
	failed := false
	for _, r := range all {
		if r.err != nil {
			failed, r.Error = true, terminal.OneLine(r.err.Error())
		}
	}
	err := f.Write(cmd.OutOrStdout(), map[string]any{"contexts": all}, func(out io.Writer) {
		for _, r := range all {
			r.print(out, f.dryRun)
		}
	})
	return exit.Result(err, failed, false)
}

// among reports whether an object of join is for one of the partners; nil are all.
func among(partners sets.Set[string], object client.Object) bool {
	partner := object.GetLabels()[remotes.PartnerLabel]
	return partner != "" && (partners == nil || partners.Has(partner))
}

func (f *leaveFlags) removeSecrets(ctx context.Context, r *leaveResult, partners sets.Set[string]) error {
	left := 0
	for _, secret := range r.state.Secrets {
		object := &corev1.Secret{}
		object.Namespace, object.Name = secret.Key.Namespace, secret.Key.Name
		concerned := slices.ContainsFunc(secret.Clusters, func(name string) bool { return partners == nil || partners.Has(name) })
		switch {
		case concerned && secret.Joined:
			if err := f.remove(ctx, r, "Secret", "secrets", object); err != nil {
				return err
			}
		case concerned:
			r.Remaining = append(r.Remaining, secret.Key.String())
			left++
		default:
			left++
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
		if err := f.remove(ctx, r, "Gateway", "gateways.networking.istio.io", &gateways[i]); err != nil {
			return err
		}
	}
	return nil
}

func (f *leaveFlags) removeAccounts(ctx context.Context, r *leaveResult, partners sets.Set[string]) error {
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
			if !ok || !among(partners, object) || l.namespace == "" && object.GetName() != r.roleName(object) {
				continue
			}
			if err := f.remove(ctx, r, l.kind, l.resource, object); err != nil {
				return err
			}
		}
	}
	return nil
}

// roleName returns the name of a role for this mesh: others of the cluster have their own.
func (r *leaveResult) roleName(object client.Object) string {
	return remotes.Use{Reader: object.GetLabels()[remotes.PartnerLabel], TargetNamespace: r.state.Namespace}.RoleName()
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
		fmt.Fprintf(out, "%s: %s %s\n", r.Context, removed, verb)
	}
	for _, remaining := range r.Remaining {
		fmt.Fprintf(out, "%s: Secret %s remains, because join did not create it; to remove it: %s delete secret -n %s %s\n", r.Context, remaining, r.kubectl, shell.Quote(r.state.Namespace), shell.Quote(remaining[len(r.state.Namespace)+1:]))
	}
	switch {
	case r.Error != "":
		terminal.Paint(out, terminal.Red, r.Context+": "+r.Error)
		fmt.Fprintln(out)
	case len(r.Removed)+len(r.Remaining) == 0:
		fmt.Fprintf(out, "%s: no object of join remains\n", r.Context)
	}
}
