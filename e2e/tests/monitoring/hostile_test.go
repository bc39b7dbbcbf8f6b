// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

// TestHostilePods has Pods that anyone may create in a namespace of their own, and that the PodMonitor selects. Prometheus keeps
// none of another program's metrics from them, reads no more than the limits, and follows no redirect.
func TestHostilePods(t *testing.T) {
	const namespace = "tenant"
	var redirected atomic.Int32
	internal := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { redirected.Add(1) }))
	t.Cleanup(internal.Close)
	answers := map[string]string{
		"forges": "istiod_agent_istiod_confirmed 1\nistiod_agent_webhook_admissions_total{outcome=\"denied\"} NaN\n" +
			"istiod_agent_istiods{state=\"missing\"} 1\napiserver_admission_webhook_rejection_count NaN\nup 1\n",
		"floods": "istiod_agent_istiod_confirmed 1\n" + strings.Repeat("# "+strings.Repeat("x", 1<<10)+"\n", 2<<10),
		"counts": series("istiod_agent_istiod_confirmed{n=\"%d\"} 1\n", 2000),
		"labels": "istiod_agent_istiod_confirmed{x=\"" + strings.Repeat("x", 1000) + "\"} 1\n",
	}
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	must(t, serviceaccount.Ensure(t.Context(), clients, namespace, "default"))
	_, server := startPrometheus(t)
	number := 0
	run := func(name string, answer http.HandlerFunc) {
		program := httptest.NewServer(answer)
		t.Cleanup(program.Close)
		number++
		serve(t, server, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": "istiod"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "istiod-agent", Image: "x"}}},
		}, fmt.Sprintf("10.244.3.%d", number), program)
	}
	for name, answer := range answers {
		run(name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			_, _ = fmt.Fprint(w, answer)
		})
	}
	run("redirects", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, internal.URL+"/metrics", http.StatusFound)
	})

	value := func(expression string) float64 {
		t.Helper()
		found, err := server.Query(t.Context(), expression, time.Now())
		must(t, err)
		if len(found) == 0 {
			return 0
		}
		return found[0].F
	}
	cluster.Eventually(t, "Prometheus has read each Pod", func() error {
		if n := value(`count(up{namespace="tenant"})`); n != 5 {
			return fmt.Errorf("it has read %v", n)
		}
		return nil
	})
	for expression, want := range map[string]float64{
		`up{namespace="tenant", pod="forges"}`:                                  1, // it is read, so that what is missing was left out
		`istiod_agent_istiod_confirmed{namespace="tenant", pod="forges"}`:       1,
		`count({namespace="tenant", __name__=~"istiod_agent_.+|apiserver_.+"})`: 1,
		`sum(up{namespace="tenant", pod=~"floods|counts|labels|redirects"})`:    0,
		`count(up{namespace="tenant", pod=~"floods|counts|labels|redirects"})`:  4,
	} {
		if got := value(expression); got != want {
			t.Errorf("%s is %v, want %v", expression, got, want)
		}
	}
	if n := redirected.Load(); n > 0 {
		t.Errorf("Prometheus has followed a redirect %d times", n)
	}
}

// series is a line for each number.
func series(format string, n int) string {
	var all strings.Builder
	for i := range n {
		_, _ = fmt.Fprintf(&all, format, i)
	}
	return all.String()
}
