// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"testing"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

func remote(name string, state certificatesv1.RemoteClusterState) certificatesv1.RemoteCluster {
	return certificatesv1.RemoteCluster{Name: name, State: state}
}

func TestDecodeClusters(t *testing.T) {
	t.Parallel()
	// What a real istiod answers is in e2e/tests/federation.
	const own = `{"id":"cluster-1","secretName":"","syncStatus":"synced"}`
	for name, test := range map[string]struct {
		answer  string
		want    []certificatesv1.RemoteCluster
		omitted int
		invalid bool
	}{
		"istiod's own cluster alone":          {answer: "[" + own + "]"},
		"none of Istio 1.20":                  {answer: "null"},
		"an empty list":                       {answer: "[]"},
		"each state, in the order of names":   {answer: `[{"id":"d","secretName":"s","syncStatus":"closed"},` + own + `,{"id":"c","secretName":"s","syncStatus":"timeout"},{"id":"b","secretName":"s","syncStatus":"syncing"},{"id":"a","secretName":"s","syncStatus":"synced"}]`, want: []certificatesv1.RemoteCluster{remote("a", "Synced"), remote("b", "Syncing"), remote("c", "TimedOut"), remote("d", "Closed")}},
		"a state of a later Istio":            {answer: `[{"id":"a","secretName":"s","syncStatus":"paused\u001b[2J"}]`, want: []certificatesv1.RemoteCluster{remote("a", "Unknown")}},
		"a name twice":                        {answer: `[{"id":"a","secretName":"s","syncStatus":"synced"},{"id":"a","secretName":"t","syncStatus":"synced"}]`, want: []certificatesv1.RemoteCluster{remote("a", "Synced")}},
		"names that no Secret's key can be":   {answer: `[{"id":"a\u001b[2J","secretName":"s","syncStatus":"synced"},{"id":"","secretName":"s"},{"id":"` + strings.Repeat("a", 254) + `","secretName":"s"}]`, omitted: 3},
		"more clusters than are reported":     {answer: many(certificatesv1.MaxRemoteClusters + 7), want: first(certificatesv1.MaxRemoteClusters), omitted: 7},
		"a cut answer":                        {answer: `[{"id":"a","secretName":"s"`, invalid: true},
		"a list without an end":               {answer: `[{"id":"a","secretName":"s"}`, invalid: true},
		"an object":                           {answer: `{"id":"a"}`, invalid: true},
		"a page of HTML":                      {answer: `<html>`, invalid: true},
		"elements of another type":            {answer: `[1, "a"]`, invalid: true},
		"an answer that nests without an end": {answer: strings.Repeat("[", 100_000), invalid: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := decodeClusters(strings.NewReader(test.answer))
			if test.invalid {
				if !errors.Is(err, errNotReadable) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got.Clusters, test.want) || got.Count != len(test.want)+test.omitted {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// Names of the greatest length are counted, and reported only as far as a status has room for those of all replicas.
func TestLongNames(t *testing.T) {
	t.Parallel()
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf(`{"id":"%s%03d","secretName":"s","syncStatus":"synced"}`, strings.Repeat("a", 250), i))
	}
	got, err := decodeClusters(strings.NewReader("[" + strings.Join(all, ",") + "]"))
	if err != nil || got.Count != 100 || len(got.Clusters) != maxNames/253 {
		t.Errorf("%d of %d clusters, %v", len(got.Clusters), got.Count, err)
	}
}

func many(n int) string {
	all := make([]string, n)
	for i := range all { // backwards
		all[i] = fmt.Sprintf(`{"id":"c%04d","secretName":"s","syncStatus":"synced"}`, n-1-i)
	}
	return "[" + strings.Join(all, ",") + "]"
}

func first(n int) (all []certificatesv1.RemoteCluster) {
	for i := range n {
		all = append(all, remote(fmt.Sprintf("c%04d", i), "Synced"))
	}
	return all
}

func TestCountErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		metrics string
		want    float64 // of cluster "a"
	}{
		"a line":                       {`controller_sync_errors_total{cluster="a"} 5`, 5},
		"of another cluster":           {`controller_sync_errors_total{cluster="b"} 5`, 0},
		"among others":                 {"# HELP x y\n# TYPE controller_sync_errors_total counter\ncontroller_sync_errors_total{cluster=\"b\"} 2\ncontroller_sync_errors_total{cluster=\"a\"} 5\nx 1\n", 5},
		"with more labels":             {`controller_sync_errors_total{scope="x \" cluster=\"b\" \\",cluster="a", other="}"} 5 1764374400000`, 5},
		"another label in the end":     {`controller_sync_errors_total{other_cluster="a",cluster="b"} 5`, 0},
		"the exponent of a large one":  {`controller_sync_errors_total{cluster="a"} 1.5e+06`, 1.5e6},
		"two lines":                    {"controller_sync_errors_total{cluster=\"a\",x=\"1\"} 5\ncontroller_sync_errors_total{cluster=\"a\",x=\"2\"} 6\n", 11},
		"a longer metric's name":       {`controller_sync_errors_total_bucket{cluster="a"} 5`, 0},
		"without a value":              {`controller_sync_errors_total{cluster="a"}`, 0},
		"without an end":               {`controller_sync_errors_total{cluster="a`, 0},
		"without a cluster":            {`controller_sync_errors_total{} 5`, 0},
		"not a number":                 {`controller_sync_errors_total{cluster="a"} NaN`, 0},
		"infinite":                     {`controller_sync_errors_total{cluster="a"} +Inf`, 0},
		"negative":                     {`controller_sync_errors_total{cluster="a"} -1`, 0},
		"after a line of any length":   {strings.Repeat("x", 10*maxLine) + "\ncontroller_sync_errors_total{cluster=\"a\"} 5", 5},
		"in a line of any length":      {strings.Repeat("x", 10*maxLine) + "controller_sync_errors_total{cluster=\"a\"} 5", 0},
		"at the cut of a long line":    {strings.Repeat("x", maxLine) + "controller_sync_errors_total{cluster=\"a\"} 5\n", 0},
		"its own line longer than all": {`controller_sync_errors_total{cluster="a",x="` + strings.Repeat("x", maxLine) + `"} 5`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			counts := map[string]float64{"a": 0}
			if err := countErrors(strings.NewReader(test.metrics), counts); err != nil || len(counts) != 1 || counts["a"] != test.want {
				t.Errorf("got %v, %v", counts, err)
			}
		})
	}
	if err := countErrors(io.MultiReader(strings.NewReader("x 1\n"), failing{}), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the error of a cut answer: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// The largest answer that is read takes no more memory than a small one.
func TestLargeMetrics(t *testing.T) {
	for name, line := range map[string]string{
		"many lines":    "controller_sync_errors_total{cluster=\"b\",x=\"y\"} 5\n",
		"one long line": strings.Repeat("x", 1000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := countErrors(io.LimitReader(&endless{line: line}, maxMetrics), map[string]float64{"a": 0})
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; err != nil || took > 1<<20 {
			t.Errorf("%s: %d bytes, %v", name, took, err)
		}
	}
}

// endless repeats a line.
type endless struct {
	line string
	at   int
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		copied := copy(p[n:], e.line[e.at:])
		n, e.at = n+copied, (e.at+copied)%len(e.line)
	}
	return n, nil
}

func FuzzCountErrors(f *testing.F) {
	f.Add([]byte("controller_sync_errors_total{cluster=\"a\"} 5\n"))
	f.Add([]byte(`controller_sync_errors_total{x="\"",cluster="a",} 5 7`))
	f.Add([]byte(`controller_sync_errors_total{=",="",cluster="`))
	f.Fuzz(func(t *testing.T, metrics []byte) {
		counts := map[string]float64{"a": 0}
		if err := countErrors(bytes.NewReader(metrics), counts); err != nil || len(counts) != 1 || !(counts["a"] >= 0) {
			t.Errorf("got %v, %v", counts, err)
		}
		// Other lines before it change nothing.
		again := map[string]float64{"a": 0}
		if err := countErrors(io.MultiReader(strings.NewReader("# x\ny 1\n"), bytes.NewReader(metrics)), again); err != nil || again["a"] != counts["a"] {
			t.Errorf("got %v after other lines, %v alone; %v", again, counts, err)
		}
	})
}

func FuzzDecodeClusters(f *testing.F) {
	f.Add([]byte(`[{"id":"a","secretName":"s","syncStatus":"synced"}]`))
	f.Add([]byte(`[{"id":"a\n","secretName":"s"},{}]`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, err := decodeClusters(bytes.NewReader(answer))
		if err != nil {
			if !errors.Is(err, errNotReadable) {
				t.Error(err)
			}
			return
		}
		before := ""
		for _, cluster := range got.Clusters {
			if !clusterName.MatchString(cluster.Name) || cluster.Name <= before || cluster.State == "" {
				t.Errorf("got %+v", got)
			}
			before = cluster.Name
		}
		if len(got.Clusters) > certificatesv1.MaxRemoteClusters {
			t.Errorf("got %d clusters", len(got.Clusters))
		}
	})
}

// The errors contain neither a part of the answer nor anything that differs between two attempts: they are in the status.
func TestIstiodsThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	const secret = "hvs.secret"
	served := `[{"id":"a","secretName":"s","syncStatus":"synced"}]`
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, secret, code) }
	}
	for name, test := range map[string]struct {
		clusterz, metrics http.HandlerFunc
		want              string
	}{
		"debug endpoints are off": {clusterz: status(404), want: "istiod does not serve /debug/clusterz on port ADDRESS, as with ENABLE_DEBUG_ON_HTTP=false"},
		"forbidden":               {clusterz: status(403), want: "istiod answers /debug/clusterz on port ADDRESS with status 403"},
		"elsewhere": {clusterz: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+secret+"/", http.StatusFound)
		}, want: "istiod answers /debug/clusterz on port ADDRESS with status 302"},
		"a page": {clusterz: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, secret) }, want: "reading /debug/clusterz on istiod's port ADDRESS: the list of clusters is not as expected"},
		"without an end": {clusterz: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "[")
			for {
				if _, err := fmt.Fprint(w, "{},"); err != nil {
					return
				}
			}
		}, want: "reading /debug/clusterz on istiod's port ADDRESS: the list of clusters is not as expected"},
		"a header without an end": {clusterz: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat(secret, 10_000))
			fmt.Fprint(w, served)
		}, want: "istiod does not answer on its monitoring port ADDRESS: the answer is not HTTP, or incomplete"},
		"no metrics": {metrics: status(404), want: "istiod answers /metrics on port ADDRESS with status 404"},
		"metrics cut": {metrics: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, secret)
		}, want: "reading /metrics on istiod's port ADDRESS: the answer is not HTTP, or incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			if test.clusterz == nil {
				test.clusterz = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, served) }
			}
			mux.HandleFunc("/debug/clusterz", test.clusterz)
			if test.metrics != nil {
				mux.HandleFunc("/metrics", test.metrics)
			}
			server := httptest.NewServer(mux)
			defer server.Close()
			address := server.Listener.Addr().String()
			_, _, err := newIstiod(address).read(t.Context())
			if err == nil || strings.ReplaceAll(err.Error(), address, "ADDRESS") != test.want {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("none at all", func(t *testing.T) {
		t.Parallel()
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = listener.Close()
		_, _, err = newIstiod(listener.Addr().String()).read(t.Context())
		if err == nil || err.Error() != "istiod does not answer on its monitoring port "+listener.Addr().String()+": connect: connection refused" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("none in time", func(t *testing.T) {
		t.Parallel()
		release := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		defer server.Close()
		defer close(release)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := newIstiod(server.Listener.Addr().String()).read(ctx); err == nil {
			t.Error("got no error")
		}
	})
}

// The metrics are read only where there are remote clusters: istiod collects them for each request.
func TestMetricsAreReadForRemoteClustersAlone(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]float64{
		`[{"id":"own","secretName":"","syncStatus":"synced"}]`: 0,
		`[{"id":"a","secretName":"s","syncStatus":"synced"}]`:  5,
	} {
		asked := false
		mux := http.NewServeMux()
		mux.HandleFunc("/debug/clusterz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
		mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
			asked = true
			fmt.Fprint(w, `controller_sync_errors_total{cluster="a"} 5`)
		})
		server := httptest.NewServer(mux)
		_, failures, err := newIstiod(server.Listener.Addr().String()).read(t.Context())
		server.Close()
		if err != nil || failures["a"] != want || asked != (want > 0) {
			t.Errorf("%s: got %v, %v, asked %t", answer, failures, err, asked)
		}
	}
}
