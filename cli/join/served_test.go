// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

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
