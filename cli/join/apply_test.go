// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"reflect"
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
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

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
