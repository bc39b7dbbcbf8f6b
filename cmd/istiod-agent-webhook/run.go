// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/controllers/accounts"
	"github.com/istiod-agent/istiod-agent/controllers/injections"
	"github.com/istiod-agent/istiod-agent/controllers/istiods"
	"github.com/istiod-agent/istiod-agent/controllers/meshes"
	"github.com/istiod-agent/istiod-agent/controllers/reports"
	"github.com/istiod-agent/istiod-agent/controllers/restarts"
	"github.com/istiod-agent/istiod-agent/controllers/scope"
	"github.com/istiod-agent/istiod-agent/internal/agentrights"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/serve"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// shutdownTimeout bounds how long admissions in flight may take to finish: the API server waits five seconds for each.
const shutdownTimeout = 20 * time.Second

// run wires the program and serves until the context ends.
func run(ctx context.Context, config *v1alpha1.InjectionConfiguration, cluster *rest.Config) error {
	cluster = rest.CopyConfig(cluster)
	cluster.QPS = -1                  // no limit of our own, of client-go's 5 requests a second: the API server has a fairer one (priority and fairness)
	cluster.DisableCompression = true // the API server is near, and what it answers is short: unpacking takes more memory than it saves
	// What a CRD of Gloo Mesh's drops of a status is said once, not at each write.
	cluster.WarningHandlerWithContext = ctrllog.NewKubeAPIWarningLogger(ctrllog.KubeAPIWarningLoggerOptions{Deduplicate: true})
	injector, err := patches.New(config)
	if err != nil {
		return err
	}
	parameter, err := policy.Parameter(injector, config.Server.Namespace, config.Server.Injection)
	if err != nil {
		return err
	}
	server := config.Server
	admission, err := newTLS(server.ClientCA)
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(cluster, options(config, injector))
	if err != nil {
		return fmt.Errorf("setting up: %w", err)
	}

	istiodReconciler := istiods.New(mgr, injector, config)
	// Where the program gives the rights itself, they come with the istiod.
	runsIstiod := func(ctx context.Context, namespace, account string) bool {
		granted := config.AgentRights.Covers(namespace) && account != istio.DefaultServiceAccount
		return !granted && istiodReconciler.RunsAs(ctx, namespace, account)
	}
	var reviewer client.Writer = mgr.GetClient()
	if !config.Everywhere() {
		reviewer = agentrights.Local(reviewer)
	}
	rights := webhook.NewRights(reviewer, runsIstiod, ctrl.Log.WithName("admission"))
	istiodReconciler.Lacking = rights.Warning
	var listeners []listener
	ready := injections.Ready(mgr.GetAPIReader(), parameter)
	if config.By == v1alpha1.ByWebhook {
		var port listener
		if port, ready, err = setupAdmission(mgr, config, injector, rights, admission); err != nil {
			return err
		}
		listeners = append(listeners, port)
	}
	if server.BundleEndpoint.Enabled() {
		port, err := setupBundle(mgr, server.BundleEndpoint)
		if err != nil {
			return err
		}
		listeners = append(listeners, port)
	}
	if err := istiodReconciler.SetupWithManager(mgr); err != nil {
		return err
	}
	if err := scope.Setup(mgr, config); err != nil {
		return err
	}
	if err := accounts.Setup(mgr, config.AgentRights, injector.Target()); err != nil {
		return err
	}
	if err := controllers.WhenInstalled(mgr, []schema.GroupVersionKind{parameter.GroupVersionKind()}, func(log logr.Logger, missing schema.GroupKind) {
		if config.By == v1alpha1.ByPolicy {
			log.Error(nil, "No istiod can be stored until the CRD exists: upgrade the chart, which installs it", "missing", missing.String())
		} else {
			log.Info("The Injection is not kept until its CRD exists: only injection.by=policy needs it", "missing", missing.String())
		}
	}, func(context.Context) error { return injections.Setup(mgr, parameter) }); err != nil {
		return err
	}
	if err := controllers.WhenInstalled(mgr, meshes.Kinds, func(log logr.Logger, missing schema.GroupKind) {
		log.Error(nil, "VirtualMeshes are ignored until their CRDs exist: set crds.install=true, or let Gloo Mesh install them", "missing", missing.String())
	}, func(ctx context.Context) error {
		mayRestart := restarts.NewRights(mgr.GetClient(), config.Namespaces)
		return errors.Join(meshes.Setup(ctx, mgr, config, injector.Target(), mayRestart), reports.Setup(mgr), restarts.Setup(ctx, mgr, mayRestart, config.Namespaces))
	}); err != nil {
		return err
	}
	var once sync.Once
	serving := func(r *http.Request) error {
		err := ready(r)
		if err == nil {
			once.Do(started)
		}
		return err
	}
	ctrl.Log.Info("Starting", "by", config.By, "target", config.Target, "sidecar", config.Sidecar, "image", config.Agent.Image, "injection", injector.Digest())
	return serveAll(ctx, mgr, append(listeners,
		listener{server.HealthPort, &serve.Server{Handler: health(serving), Connections: otherConnections}},
		listener{server.MetricsPort, &serve.Server{Handler: metricsHandler(), Connections: otherConnections}},
	), server.BindAddress)
}

func options(config *v1alpha1.InjectionConfiguration, injector *patches.Injector) ctrl.Options {
	server := config.Server
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, admissionregistrationv1.AddToScheme, authorizationv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // the API types are compiled in
		}
	}
	byObject := istiods.CacheByObject(injector.Target(), config.Namespaces)
	maps.Copy(byObject, meshes.CacheByObject())
	maps.Copy(byObject, reports.CacheByObject())
	serves := config.By == v1alpha1.ByWebhook
	selfManaged := serves && server.ServingCertificate.Source == v1alpha1.CertificateSelfManaged
	if selfManaged || serves && server.ServingCertificate.CABundle != "" {
		byObject[&admissionregistrationv1.MutatingWebhookConfiguration{}] = cache.ByObject{
			Field: fields.OneTermEqualSelector("metadata.name", server.WebhookConfiguration),
		}
	}
	if selfManaged {
		byObject[&corev1.Secret{}] = cache.ByObject{Namespaces: map[string]cache.Config{
			server.Namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", server.ServingCertificate.SecretName)},
		}}
	}
	return ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			ByObject:         byObject,
			DefaultTransform: meshes.Transform(config.VirtualMesh),
		},
		NewCache: scope.NewCache(config),
		Client:   client.Options{Cache: &client.CacheOptions{Unstructured: true}},

		LeaderElection:                *server.LeaderElection,
		LeaderElectionID:              "istiod-agent-webhook",
		LeaderElectionNamespace:       server.Namespace,
		LeaderElectionReleaseOnCancel: true,

		// listeners.go serves these, within bounds that the manager's own servers do not have.
		HealthProbeBindAddress:  "0",
		Metrics:                 metricsserver.Options{BindAddress: "0"},
		GracefulShutdownTimeout: new(shutdownTimeout),
	}
}
