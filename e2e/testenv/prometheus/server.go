// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	configutil "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	promdiscovery "github.com/prometheus/prometheus/discovery"
	_ "github.com/prometheus/prometheus/discovery/kubernetes" // kubernetes_sd_configs
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// Interval of the scrapes, and their time limit.
const Interval = 2 * time.Second

// Server is a Prometheus: it discovers the targets of the chart's monitors at an API server, scrapes them, and answers queries.
// It has no HTTP server.
type Server struct {
	db        *tsdb.DB
	engine    *promql.Engine
	scrapes   *scrape.Manager
	discovery *promdiscovery.Manager
	dir       string
	cancel    context.CancelFunc
	running   sync.WaitGroup

	mu     sync.Mutex
	behind map[string]string // addresses on loopback by those of Pods
	failed []error
}

// Start starts a Prometheus that scrapes the Pods and Services of the chart's monitors, and the API server. The kubeconfig is for
// discovery, cluster for scraping the API server. The caller must call Stop.
func Start(objects *Objects, kubeconfig string, cluster *rest.Config) (*Server, error) {
	ofPods, err := podMonitorJob(&objects.PodMonitor, kubeconfig)
	if err != nil {
		return nil, err
	}
	ofServices, err := serviceMonitorJob(&objects.ServiceMonitor, kubeconfig)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "istiod-agent-prometheus-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, behind: map[string]string{}}
	if err := s.start(object{
		"global":         object{"scrape_interval": Interval.String(), "scrape_timeout": Interval.String()},
		"scrape_configs": []object{ofPods, ofServices, apiserverJob(cluster)},
	}); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// apiserverJob scrapes an API server by its address, since no Service leads to it here.
func apiserverJob(cluster *rest.Config) object {
	return object{
		"job_name": "apiserver", "scheme": "https",
		"tls_config":     object{"ca": string(cluster.CAData), "cert": string(cluster.CertData), "key": string(cluster.KeyData)},
		"static_configs": []object{{"targets": []string{strings.Trim(strings.TrimPrefix(cluster.Host, "https:"), "/")}}},
		// An API server has thousands of series.
		"metric_relabel_configs": []object{keep("apiserver_admission_webhook_.*|process_start_time_seconds", "__name__")},
	}
}

func (s *Server) start(configuration object) error {
	content, err := yaml.Marshal(configuration)
	if err != nil {
		return err
	}
	logger := promslog.NewNopLogger()
	loaded, err := config.Load(string(content), logger)
	if err != nil {
		return err
	}
	if s.db, err = tsdb.Open(s.dir, logger, nil, tsdb.DefaultOptions(), nil); err != nil {
		return err
	}
	s.engine = promql.NewEngine(promql.EngineOpts{
		Logger: logger, MaxSamples: 50_000_000, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true,
		Parser: parser.NewParser(parser.Options{}),
	})

	registry := prometheus.NewRegistry()
	sdMetrics, err := promdiscovery.CreateAndRegisterSDMetrics(registry)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	const update = 100 * time.Millisecond // of new targets; 5 s by default
	s.discovery = promdiscovery.NewManager(ctx, logger, registry, sdMetrics, promdiscovery.Updatert(update))
	if s.scrapes, err = scrape.NewManager(&scrape.Options{
		DiscoveryReloadInterval: model.Duration(update),
		HTTPClientOptions:       []configutil.HTTPClientOption{configutil.WithDialContextFunc(s.dial)},
	}, logger, nil, nil, s.db, registry); err != nil {
		return err
	}
	if err := s.scrapes.ApplyConfig(loaded); err != nil {
		return err
	}
	jobs := map[string]promdiscovery.Configs{}
	for _, job := range loaded.ScrapeConfigs {
		jobs[job.JobName] = job.ServiceDiscoveryConfigs
	}
	if err := s.discovery.ApplyConfig(jobs); err != nil {
		return err
	}
	s.running.Go(func() {
		if err := s.discovery.Run(); err != nil && !errors.Is(err, context.Canceled) {
			s.fail(err)
		}
	})
	s.running.Go(func() { s.fail(s.scrapes.Run(s.discovery.SyncCh())) })
	return nil
}

func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = append(s.failed, err)
}

// Behind makes connections to a Pod's address, HOST:PORT, lead to a program on loopback: the Pods have no network here. An empty
// program stops that.
func (s *Server) Behind(pod, program string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind[pod] = program
}

func (s *Server) dial(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	program := s.behind[address]
	s.mu.Unlock()
	if program == "" {
		if host, _, err := net.SplitHostPort(address); err != nil || host != "127.0.0.1" && host != "localhost" {
			return nil, fmt.Errorf("no program serves %s", address)
		}
		program = address
	}
	return (&net.Dialer{}).DialContext(ctx, network, program)
}

// Targets returns the labels of the targets that are scraped successfully.
func (s *Server) Targets() (healthy []map[string]string) {
	for _, targets := range s.scrapes.TargetsActive() {
		for _, target := range targets {
			if target.Health() == scrape.HealthGood {
				found := target.Labels(labels.NewBuilder(labels.EmptyLabels()))
				healthy = append(healthy, found.Map())
			}
		}
	}
	return healthy
}

// Query evaluates an expression at a time.
func (s *Server) Query(ctx context.Context, expression string, at time.Time) (promql.Vector, error) {
	return rules.EngineQueryFunc(s.engine, s.db)(ctx, expression, at)
}

// QueryRange evaluates an expression in steps.
func (s *Server) QueryRange(ctx context.Context, expression string, from, to time.Time, step time.Duration) (promql.Matrix, error) {
	query, err := s.engine.NewRangeQuery(ctx, s.db, nil, expression, from, to, step)
	if err != nil {
		return nil, err
	}
	defer query.Close()
	matrix, err := query.Exec(ctx).Matrix()
	copied := make(promql.Matrix, len(matrix)) // the query's own memory is used again
	for i, series := range matrix {
		copied[i] = promql.Series{Metric: series.Metric, Floats: append([]promql.FPoint(nil), series.Floats...)}
	}
	return copied, err
}

// Rules loads a PrometheusRule, to be evaluated on what is scraped.
func (s *Server) Rules(rule *Rule) (*Rules, error) {
	return NewRules(rule, Interval, s.Query, s.db, s.dir)
}

// Stop stops scraping and removes all data.
func (s *Server) Stop() error {
	if s.cancel != nil {
		s.scrapes.Stop()
		s.cancel()
		s.running.Wait()
	}
	failed := s.failed
	if s.db != nil {
		failed = append(failed, s.db.Close())
	}
	return errors.Join(append(failed, os.RemoveAll(s.dir))...)
}
