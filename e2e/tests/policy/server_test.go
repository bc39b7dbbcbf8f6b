// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// plain is a namespace that is not labelled.
const plain = "plain"

// server is a real API server with the definition of the parameter, and the webhook's handlers behind HTTPS.
type server struct {
	client.Client
	plane *controlplane.ControlPlane
	paths *http.ServeMux
	hooks *httptest.Server
	named sets.Set[string] // by accounts
}

func startServer(t *testing.T) *server {
	t.Helper()
	log.SetLogger(logr.Discard())
	plane, err := controlplane.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	plane.Config.QPS, plane.Config.WarningHandlerWithContext = -1, heard{}
	c, err := client.New(plane.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Client: c, plane: plane, paths: http.NewServeMux()}
	s.hooks = httptest.NewTLSServer(webhook.Bounded(s.paths))
	t.Cleanup(s.hooks.Close)
	s.namespace(t, plain, nil)
	s.namespace(t, "istiod-agent-system", nil)
	return s
}

// heard keeps the warnings of a request in the list that its context carries.
type heard struct{}

type warningsKey struct{}

func (heard) HandleWarningHeaderWithContext(ctx context.Context, _ int, _ string, text string) {
	if to, ok := ctx.Value(warningsKey{}).(*[]string); ok {
		_, own, found := strings.Cut(text, "istiod-agent: ") // behind the policy's name
		if found {
			*to = append(*to, "istiod-agent: "+own)
		}
	}
}

// namespace with the service accounts that istiods name.
func (s *server) namespace(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	objects := []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}}
	for account := range s.accounts(t) {
		objects = append(objects, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: account}})
	}
	s.mustCreate(t, objects...)
}

// accounts are those that the inputs name: without them, the API server takes no Pod.
func (s *server) accounts(t *testing.T) sets.Set[string] {
	t.Helper()
	if s.named == nil {
		s.named = sets.New("default")
		all, _ := inputs(t)
		for _, o := range all {
			_, spec := podOf(o)
			if name, ok := spec["serviceAccountName"].(string); ok && name != "" {
				s.named.Insert(name)
			}
		}
	}
	return s.named
}

func (s *server) mustCreate(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := s.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

// only narrows a selector to some namespaces.
func only(selector *metav1.LabelSelector, namespaces ...string) {
	selector.MatchExpressions = append(selector.MatchExpressions,
		metav1.LabelSelectorRequirement{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: namespaces})
}

func (s *server) optedIn(t *testing.T, namespace string) {
	t.Helper()
	s.namespace(t, namespace, map[string]string{patches.InjectionLabel: patches.InjectionEnabled})
}

// install the policies of a configuration under a name, for some namespaces.
func (s *server) install(t *testing.T, name string, config *v1alpha1.InjectionConfiguration, namespaces ...string) *policy.Policy {
	t.Helper()
	p, err := policy.New(config, policy.Names{Policy: name})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*admissionv1.MatchResources{p.Mutating.Spec.MatchConstraints, p.Validating.Spec.MatchConstraints, p.Warning.Spec.MatchConstraints} {
		only(m.NamespaceSelector, namespaces...)
	}
	s.mustCreate(t, p.Definition)
	eventually(t, "the parameter is stored", func() error {
		return client.IgnoreAlreadyExists(s.Create(t.Context(), p.Parameter.DeepCopy()))
	})
	s.mustCreate(t, p.Mutating, p.MutatingBinding, p.Validating, p.ValidatingBinding, p.Warning, p.WarningBinding)
	return p
}

// serve the webhook of a configuration for some namespaces, as the chart registers it.
func (s *server) serve(t *testing.T, name string, engine *patches.Injector, namespaces ...string) {
	t.Helper()
	webhook.Register(below{s.paths, "/" + name}, engine, v1alpha1.VirtualMesh{}, nil, logr.Discard())
	root, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	chart, err := loader.Load(filepath.Join(root, "charts", "istiod-agent"))
	if err != nil {
		t.Fatal(err)
	}
	target := strings.ToLower(string(engine.Target())) + "s"
	rendered, err := helm.Render(t.Context(), helm.Release{Name: "istiod-agent", Namespace: "istiod-agent-system"}, chart, helm.Values{"injection": helm.Values{"target": target}})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := manifest.Parse([]byte(rendered))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "MutatingWebhookConfiguration" })
	var configuration admissionv1.MutatingWebhookConfiguration
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(objects[i].Object, &configuration); err != nil {
		t.Fatal(err)
	}
	hook := configuration.Webhooks[0]
	only(hook.NamespaceSelector, namespaces...)
	s.register(t, name, hook, "/"+name+*hook.ClientConfig.Service.Path)
}

func (s *server) register(t *testing.T, name string, hook admissionv1.MutatingWebhook, path string) {
	t.Helper()
	hook.ClientConfig = admissionv1.WebhookClientConfig{
		URL:      new(s.hooks.URL + path),
		CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.hooks.Certificate().Raw}),
	}
	s.mustCreate(t, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionv1.MutatingWebhook{hook}})
}

// below registers handlers below a path.
type below struct {
	*http.ServeMux
	prefix string
}

func (b below) Register(path string, handler http.Handler) { b.Handle(b.prefix+path, handler) }

// inForce waits until an istiod without a container of istiod's is refused, with words about the reason, and one with it is
// injected.
func (s *server) inForce(t *testing.T, namespace string, kind patches.Kind, istiod object) {
	t.Helper()
	eventually(t, "the injection of "+namespace+" is in force", func() error {
		odd := as(kind, istiod)
		odd["metadata"].(object)["annotations"] = object{patches.InjectKey: "no"}
		got := s.create(t.Context(), namespace, odd)
		if got.err != nil {
			return got.err
		}
		if _, spec := podOf(got.object); len(agentsIn(spec)) == 0 || len(got.warnings) == 0 {
			return fmt.Errorf("%s is not injected, or without a warning", kind)
		}
		bad := as(kind, istiod)
		_, spec := podOf(bad)
		for _, c := range spec["containers"].(items) {
			c.(object)["name"], c.(object)["volumeMounts"] = "other", nil
		}
		if got := s.create(t.Context(), namespace, bad); got.reason() != string(patches.NoIstiodContainer) {
			return fmt.Errorf("no istiod: %w", got.err)
		}
		return nil
	})
}

func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		last = condition()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}

// admitted is the API server's answer to a request.
type admitted struct {
	object   object // as it would be stored, without what the API server alone sets; nil if it is refused
	warnings []string
	err      error
}

// reason of a refusal by this project; "" for none.
func (a admitted) reason() string {
	var status apierrors.APIStatus
	if !errors.As(a.err, &status) {
		return ""
	}
	reason, _, _ := strings.Cut(a.refusal(), ": ")
	return reason
}

// refusal in this project's words.
func (a admitted) refusal() string {
	if a.err == nil {
		return ""
	}
	_, words, _ := strings.Cut(a.err.Error(), "istiod-agent: ")
	return words
}

// create an object in a namespace by a dry run.
func (s *server) create(ctx context.Context, namespace string, o object) admitted {
	u := &unstructured.Unstructured{Object: copied(o)}
	u.SetNamespace(namespace)
	return s.send(ctx, u, func(ctx context.Context) error { return s.Create(ctx, u, client.DryRunAll) })
}

func (s *server) send(ctx context.Context, u *unstructured.Unstructured, request func(ctx context.Context) error) (a admitted) {
	if a.err = request(context.WithValue(ctx, warningsKey{}, &a.warnings)); a.err != nil {
		return a
	}
	a.object = copied(u.Object)
	meta := a.object["metadata"].(object)
	for _, field := range []string{"uid", "creationTimestamp", "managedFields", "generation", "resourceVersion", "namespace"} {
		delete(meta, field)
	}
	delete(a.object, "status")
	a.object = sansTokenVolume(a.object)
	return a
}

// sansTokenVolume gives the volume of a Pod's token, which the API server names at random, one name.
func sansTokenVolume(o object) object {
	_, spec := podOf(o)
	volumes, _ := spec["volumes"].(items)
	text := string(must(json.Marshal(o)))
	for _, v := range volumes {
		if name, _ := v.(object)["name"].(string); strings.HasPrefix(name, "kube-api-access-") {
			text = strings.ReplaceAll(text, name, "kube-api-access-x")
		}
	}
	return parsed(text).(object)
}
