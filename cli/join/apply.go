// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/pods"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// application makes the changes of a plan. It records each, so that it can take all of them back.
type application struct {
	targets  []*target
	plan     *joinPlan
	request  joinRequest
	ttl      time.Duration
	progress *terminal.Progress

	mu      sync.Mutex
	changes []change
	notes   []string
	// reached are what Pods of each context have connected to, by position; nil where no Pod was started.
	reached []reached
	// served are the results of await, by context.
	served []servedResult
}

// change is a change of one object.
type change struct {
	target int
	// unanswered is a change that the API server may still make.
	unanswered bool
	// undo undoes it, and reports whether it has found it.
	undo func(context.Context) (found bool, err error)
	// command undoes it by hand.
	command string
}

// token is one that the API server issued.
type token struct {
	text    string
	expires time.Time
}

const (
	owner = client.FieldOwner("kubectl-istiod_agent")
	// undoTimeout limits the undoing of all changes, also after Ctrl-C.
	undoTimeout = time.Minute
	// latePolls are those in which a change appears that was never answered.
	latePolls = 5
)

// rehearse finds what an API server refuses, in a server-side dry run.
func (a *application) rehearse(ctx context.Context) error {
	defer a.endProgress()
	if err := a.write(ctx, true); err != nil {
		return fmt.Errorf("no context was changed: %w", err)
	}
	return nil
}

func (a *application) endProgress() {
	for _, t := range a.targets {
		a.progress.Remove(t.Context)
	}
}

// apply makes all changes or none.
func (a *application) apply(ctx context.Context) error {
	defer a.endProgress()
	err := a.write(ctx, false)
	if err == nil {
		return nil
	}
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if remaining := a.undo(undoCtx); len(remaining) > 0 {
		return fmt.Errorf("%w; some changes could not be undone; undo them with:\n  %s", err, strings.Join(remaining, "\n  "))
	}
	return fmt.Errorf("%w; all changes were undone", err)
}

// undo undoes the changes of each context backwards, and returns the commands for those that remain. All contexts at the same
// time: an API server that does not answer must not use up the time of the others.
func (a *application) undo(ctx context.Context) []string {
	remaining := make([][]string, len(a.targets))
	_ = a.each("undoing the changes", func(i int) error {
		for _, c := range slices.Backward(a.changes) {
			if c.target == i && c.takeBack(ctx) != nil {
				remaining[i] = append(remaining[i], c.command)
			}
		}
		return nil
	})
	return slices.Concat(remaining...)
}

// takeBack undoes a change. It waits for one that was not answered: a deletion that finds nothing could come too early.
func (c *change) takeBack(ctx context.Context) (err error) {
	for range latePolls {
		var found bool
		if found, err = c.undo(ctx); found || !c.unanswered {
			return err
		}
		select {
		case <-ctx.Done():
			return cmp.Or(err, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
	return err
}

// write makes the changes in three steps, each in all contexts at the same time: accounts, tokens and networks, remote secrets.
// A dry run has no tokens, since it makes no accounts.
func (a *application) write(ctx context.Context, dryRun bool) error {
	tokens := make([]token, len(a.plan.Grants))
	doing := func(what string) string {
		if dryRun {
			return "asking the API server for " + what + ", in a dry run"
		}
		return "writing " + what
	}
	if err := a.each(doing("accounts"), func(i int) error { return a.writeAccounts(ctx, i, dryRun) }); err != nil {
		return err
	}
	if !dryRun {
		if err := a.each("requesting tokens", func(i int) error { return a.requestTokens(ctx, i, tokens) }); err != nil {
			return err
		}
	}
	if err := a.each(doing("networks"), func(i int) error { return a.writeNetwork(ctx, i, dryRun) }); err != nil {
		return err
	}
	return a.each(doing("remote secrets"), func(i int) error { return a.writeSecrets(ctx, i, tokens, dryRun) })
}

// each calls step for every context, and returns the errors. doing is its progress.
func (a *application) each(doing string, step func(i int) error) error {
	errs := make([]error, len(a.targets))
	var pending sync.WaitGroup
	for i, t := range a.targets {
		pending.Go(func() {
			a.progress.Update(t.Context, "%s", doing)
			if err := step(i); err != nil {
				errs[i] = fmt.Errorf("%s: %w", t.Context, err)
			}
		})
	}
	pending.Wait()
	return errors.Join(errs...)
}

func (a *application) writeAccounts(ctx context.Context, i int, dryRun bool) error {
	for _, g := range a.plan.Grants {
		if g.target != i || g.Action == keep && g.Reason != "" { // another's account
			continue
		}
		account, role, binding := g.Account(g.MeshConfigs)
		for _, object := range []client.Object{account, role, binding} {
			if err := a.put(ctx, i, object, "", dryRun); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *application) requestTokens(ctx context.Context, i int, tokens []token) error {
	for n, g := range a.plan.Grants {
		if g.target != i || g.Action == keep {
			continue
		}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(a.ttl / time.Second))}}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: g.TargetNamespace, Name: g.AccountName()}}
		t := a.targets[i]
		if err := t.cluster.Client.SubResource("token").Create(ctx, account, request); err != nil {
			return t.cluster.Explain(fmt.Sprintf("requesting a token of account %s/%s", account.Namespace, account.Name), "create", "serviceaccounts/token", err)
		}
		tokens[n] = token{request.Status.Token, request.Status.ExpirationTimestamp.Time}
		if limit := time.Until(tokens[n].expires); limit < a.ttl*9/10 {
			a.note(fmt.Sprintf("%s: the API server shortened the lifetime of tokens from %s to %s; run join again before they expire", t.Context, a.ttl, limit.Round(time.Minute)))
		}
	}
	return nil
}

func (a *application) note(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.notes, text) {
		a.notes = append(a.notes, text)
	}
}

func (a *application) writeSecrets(ctx context.Context, i int, tokens []token, dryRun bool) error {
	for n, g := range a.plan.Grants {
		if g.reader != i || g.Action == keep {
			continue
		}
		issued := tokens[n] //nolint:gosec // there is one for each grant
		secret, err := g.Use.Secret(g.Secret.Name, g.Address, issued.text, issued.expires)
		if err != nil {
			return fmt.Errorf("the remote secret for %s: %w", g.Target, err)
		}
		if !dryRun {
			// The answer of another cluster's API server goes into this one.
			want := types.NamespacedName{Namespace: g.TargetNamespace, Name: g.AccountName()}
			if parsed := remotes.Parse(secret); parsed.Unclear != "" || parsed.Account != want || !parsed.Expires.After(time.Now()) {
				return fmt.Errorf("the API server of cluster %s issued no valid token of account %s", g.Target, want)
			}
			g.Expires = issued.expires
		}
		if err := a.put(ctx, i, secret, g.Version, dryRun); err != nil {
			return withoutToken(err, issued.text)
		}
	}
	return nil
}

// put creates an object, or corrects it. Without a version, an existing one must be of join. With one, which is a resourceVersion, it
// corrects that object alone, of join or not.
func (a *application) put(ctx context.Context, i int, desired client.Object, version string, dryRun bool) error {
	c := a.targets[i].cluster
	gvk, err := apiutil.GVKForObject(desired, c.Client.Scheme())
	if err != nil {
		return err
	}
	object, err := c.Client.Scheme().New(gvk)
	if err != nil {
		return err
	}
	stored, _ := object.(client.Object) // as the desired one
	key := client.ObjectKeyFromObject(desired)
	plural, name := resources[gvk.Kind], gvk.Kind+" "+key.String()
	if key.Namespace == "" {
		name = gvk.Kind + " " + key.Name
	}
	removal := c.Kubectl() + " delete " + plural + " " + shell.Quote(key.Name)
	if key.Namespace != "" {
		removal += " -n " + shell.Quote(key.Namespace)
	}
	changed := fmt.Errorf("another client changed %s meanwhile; run join again", name)
	switch err := c.Client.Get(ctx, key, stored); {
	case err == nil && version != "" && stored.GetResourceVersion() != version || version != "" && apierrors.IsNotFound(err):
		return changed
	case apierrors.IsNotFound(err):
		created, _ := desired.DeepCopyObject().(client.Object)
		err := c.Client.Create(ctx, created, a.createOptions(dryRun)...)
		a.record(dryRun, i, err, removal, deletion(c, created))
		if dryRun && gvk.Kind == "ClusterRoleBinding" && apierrors.IsNotFound(err) {
			return nil // for a person without all rights, the API server looks up the role, which a dry run does not make
		}
		return c.Explain("creating "+name, "create", plural, err)
	case err != nil:
		return c.Explain("reading "+name, "get", plural, err)
	case version == "" && stored.GetLabels()[remotes.PartnerLabel] != desired.GetLabels()[remotes.PartnerLabel]:
		return fmt.Errorf("%s exists, and join did not make it; if nothing uses it: %s", name, removal)
	}
	before, _ := stored.DeepCopyObject().(client.Object)
	if !correct(stored, desired) {
		return fmt.Errorf("%s has been changed in a field that cannot be corrected; %s, and run join again", name, removal)
	}
	if equality.Semantic.DeepEqual(before, stored) {
		return nil
	}
	err = c.Client.Update(ctx, stored, a.updateOptions(dryRun)...)
	a.record(dryRun, i, err, removal+", and join again", func(ctx context.Context) (bool, error) {
		if err := c.Client.Get(ctx, key, stored); err != nil {
			return false, err
		}
		if stored.GetResourceVersion() == before.GetResourceVersion() {
			return false, nil // not updated yet
		}
		before.SetResourceVersion(stored.GetResourceVersion())
		return true, c.Client.Update(ctx, before, owner)
	})
	if apierrors.IsConflict(err) {
		return changed
	}
	return c.Explain("updating "+name, "update", plural, err)
}

// deletion undoes the creation of an object.
func deletion(c *clusters.Cluster, object client.Object) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		err := c.Client.Delete(ctx, object)
		return err == nil, client.IgnoreNotFound(err)
	}
}

// resources are the resources of the kinds that join writes.
var resources = map[string]string{
	"ServiceAccount": "serviceaccounts", "ClusterRole": "clusterroles.rbac.authorization.k8s.io",
	"ClusterRoleBinding": "clusterrolebindings.rbac.authorization.k8s.io", "Secret": "secrets",
}

func (a *application) createOptions(dryRun bool) []client.CreateOption {
	if dryRun {
		return []client.CreateOption{owner, client.DryRunAll}
	}
	return []client.CreateOption{owner}
}

func (a *application) updateOptions(dryRun bool) []client.UpdateOption {
	if dryRun {
		return []client.UpdateOption{owner, client.DryRunAll}
	}
	return []client.UpdateOption{owner}
}

// record records a change, for which the API server has answered err, unless it has refused to make it.
func (a *application) record(dryRun bool, i int, err error, command string, undo func(context.Context) (bool, error)) {
	if dryRun || pods.Refused(err) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changes = append(a.changes, change{i, err != nil, undo, command})
}

// correct makes a stored object as desired, and keeps the labels, annotations and fields of others. It returns false where a
// field cannot change.
func correct(stored, desired client.Object) bool {
	labels, annotations := maps.Clone(stored.GetLabels()), maps.Clone(stored.GetAnnotations())
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, desired.GetLabels())
	stored.SetLabels(labels)
	if len(desired.GetAnnotations()) > 0 {
		if annotations == nil {
			annotations = map[string]string{}
		}
		maps.Copy(annotations, desired.GetAnnotations())
		stored.SetAnnotations(annotations)
	}
	switch stored := stored.(type) {
	case *rbacv1.ClusterRole:
		want, _ := desired.(*rbacv1.ClusterRole)
		stored.Rules, stored.AggregationRule = want.Rules, nil
	case *rbacv1.ClusterRoleBinding:
		want, _ := desired.(*rbacv1.ClusterRoleBinding)
		stored.Subjects = want.Subjects
		return stored.RoleRef == want.RoleRef
	case *corev1.Secret:
		want, _ := desired.(*corev1.Secret)
		stored.Data = want.Data
		return stored.Immutable == nil || !*stored.Immutable
	}
	return true
}
