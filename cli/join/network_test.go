// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

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
