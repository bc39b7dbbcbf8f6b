// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// remoteState is what istiods know of other clusters, and other istiods of this one.
type remoteState struct {
	Secrets fact[[]remotes.Secret]
	// Accounts are those of join that may list all Secrets.
	Accounts fact[[]client.ObjectKey]
}

// maxAccounts is the most accounts whose rights are checked.
const maxAccounts = 200

// readRemotes reads the namespaces whose istiods are injected: a tenant may create an istiod and Secrets in its own. In a cluster
// without such a namespace, it reads those of all istiods.
func readRemotes(ctx context.Context, c client.Client, istiods []istiodState, all []namespaceState) (found remoteState) {
	var namespaces []string
	labelled := func(n namespaceState) bool { return n.Labelled }
	anyLabelled := slices.ContainsFunc(all, labelled)
	for _, istiod := range istiods {
		injected := slices.ContainsFunc(all, func(n namespaceState) bool { return n.Name == istiod.Namespace && n.Labelled })
		if (injected || !anyLabelled) && !slices.Contains(namespaces, istiod.Namespace) {
			namespaces = append(namespaces, istiod.Namespace)
		}
	}
	for _, namespace := range namespaces {
		secrets, err := remotes.List(ctx, c, namespace)
		if found.Secrets.Value = append(found.Secrets.Value, secrets...); err != nil {
			found.Secrets.Err = err
		}
		accounts, err := readAccounts(ctx, c, namespace)
		if found.Accounts.Value = append(found.Accounts.Value, accounts...); err != nil {
			found.Accounts.Err = err
		}
	}
	return found
}

// readAccounts returns the accounts of join that may list all Secrets.
func readAccounts(ctx context.Context, c client.Client, namespace string) (reading []client.ObjectKey, err error) {
	var accounts corev1.ServiceAccountList
	if err := c.List(ctx, &accounts, client.InNamespace(namespace), client.HasLabels{remotes.PartnerLabel}, client.Limit(maxAccounts)); err != nil {
		return nil, err
	}
	for i := range accounts.Items {
		key := client.ObjectKeyFromObject(&accounts.Items[i])
		reads, err := remotes.ReadsSecrets(ctx, c, key)
		if err != nil {
			return reading, err
		}
		if reads {
			reading = append(reading, key)
		}
	}
	return reading, nil
}

// remotes adds the access of this cluster's istiods to others, and of others' to this one.
func (d *decision) remotes() {
	const subject = "remote secrets"
	found := d.facts.Remotes
	switch err := found.Secrets.Err; {
	case apierrors.IsForbidden(err) && slices.ContainsFunc(d.facts.Meshes.Value, severalMeshes):
		// A person without rights on Secrets can still check all else.
		d.add(levelWarn, subject, "are not checked: you may not list Secrets in istiod's namespace, where the tokens for other clusters are", "run check with that right, or look for expired tokens in istiod's log")
	case err != nil && !apierrors.IsForbidden(err):
		d.unknown(subject, "listing remote secrets", "list", "secrets", err)
	}
	var good []string
	for i := range found.Secrets.Value {
		if name := d.remote(&found.Secrets.Value[i]); name != "" {
			good = append(good, name)
		}
	}
	if len(good) > 0 {
		d.add(levelOK, subject, "for "+terminal.Names(good, maxNames)+": their accounts are named as those of kubectl istiod-agent join, and their tokens have not expired", "")
	}
	for _, account := range found.Accounts.Value {
		d.add(levelFail, "account "+account.String(), "is for another cluster's istiod, and may read every Secret of this cluster: a role besides that of join grants it",
			d.kubectl+" get clusterrolebindings -o wide | grep "+shell.Quote(account.Name)+", and delete the binding that join did not make")
	}
}

func severalMeshes(mesh unstructured.Unstructured) bool {
	meshes, _, _ := unstructured.NestedSlice(mesh.Object, "spec", "meshes")
	return len(meshes) > 1
}

const joinAgain = "kubectl istiod-agent join, with --context for every cluster of the mesh"

// remote adds what is wrong with a remote secret, or returns the name of its cluster.
func (d *decision) remote(s *remotes.Secret) (good string) {
	subject := "remote secret " + s.Key.String()
	if s.Unclear != "" {
		d.add(levelWarn, subject, "cannot be checked: "+s.Unclear, "see that its login can read no Secrets of the other cluster, or delete it and join again (docs/multicluster.md)")
		return ""
	}
	cluster := terminal.Line(s.Clusters[0])
	switch {
	case s.Unsafe != "":
		d.add(levelFail, subject, fmt.Sprintf("is not a safe connection to cluster %s: %s", cluster, s.Unsafe),
			fmt.Sprintf("%s delete secret -n %s %s, and then %s", d.kubectl, shell.Quote(s.Key.Namespace), shell.Quote(s.Key.Name), joinAgain))
		return ""
	case s.Expired(d.now):
		d.add(levelFail, subject, fmt.Sprintf("its token expired at %s: istiod sees no changes of cluster %s", s.Expires.UTC().Format(time.RFC3339), cluster), joinAgain)
		return ""
	case s.Account.Name == istio.ReaderServiceAccount:
		d.add(levelWarn, subject, fmt.Sprintf("uses account %s of cluster %s, which may read every Secret there, so an attacker who takes over this istiod can read them too", s.Account, cluster), joinAgain+": it replaces the secret")
		return ""
	case !strings.HasPrefix(s.Account.Name, remotes.AccountPrefix):
		user := "system:serviceaccount:" + s.Account.Namespace + ":" + s.Account.Name
		d.add(levelWarn, subject, fmt.Sprintf("uses account %s of cluster %s, which join did not make", s.Account, cluster), "see in that cluster that it may not read Secrets: kubectl auth can-i list secrets -A --as="+shell.Quote(user))
		return ""
	case s.EndsSoon(d.now):
		d.add(levelWarn, subject, fmt.Sprintf("its token for cluster %s expires at %s", cluster, s.Expires.UTC().Format(time.RFC3339)), joinAgain)
		return ""
	}
	return cluster
}
