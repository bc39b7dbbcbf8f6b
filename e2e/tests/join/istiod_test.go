// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/agent/remoteclusters"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// soon shortens the time after which istiod calls a cluster timed out.
const soon = "PILOT_REMOTE_CLUSTER_TIMEOUT"

var roleName = remotes.Use{Reader: "cluster-1", TargetNamespace: namespace}.RoleName()

// synced returns an error unless istiod's metric has a state for cluster-2.
func (s *side) synced(ctx context.Context, state string) error {
	metrics, err := s.istiod.Metrics(ctx)
	want := fmt.Sprintf(`istiod_remote_cluster_sync_status{cluster="cluster-2",cluster_type="remote",status=%q} 1`, state)
	if err == nil && !strings.Contains(metrics, want) {
		err = errors.New("the metrics do not hold " + want)
	}
	return err
}

// What a real istiod does without the right to list Secrets, which docs/multicluster.md describes: it serves the cluster, calls
// it timed out, and completes no change of the remote secret. With the right, it does both.
func TestWithoutSecrets(t *testing.T) {
	root := newRoot()
	env := map[string]string{soon: "3s"}
	first, second := newSide(t, one, "cluster-1", root, env), newSide(t, two, "cluster-2", root, env)
	config := contexts(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two})
	first.service(t, "local", "10.1.0.1")
	second.service(t, "remote", "10.2.0.1")
	run(t, config, joinBoth()...).Wants(t, 0)
	log := func() string { return first.istiod.Process().Output() }
	ctx := t.Context()
	cluster.Eventually(t, "istiod calls cluster-2 timed out", func() error { return first.synced(ctx, "timeout") })
	second.endpoint(t, "remote", "10.2.0.2")
	first.wantServed(t, "cluster-2", "remote", "10.2.0.2")
	observer := remoteclusters.New(first.istiod.MonitoringAddress, logr.Discard())
	go observer.Run(ctx)
	cluster.Eventually(t, "the agent reports that istiod reads cluster-2", func() error {
		latest := observer.Latest()
		if synced, all := latest.Synced(); synced != 1 || all != 1 {
			return fmt.Errorf("%+v", latest)
		}
		return nil
	})

	const replaced, registries = "cluster cluster-2 synced, replacing registry", `Initializing Kubernetes service registry "cluster-2"`
	run(t, config, joinBoth("--renew", "--restart=false")...).Wants(t, 0, "cluster-1: istiod uses the old token until it restarts: kubectl --context=cluster-1 rollout restart -n istio-system deployment/istiod")
	cluster.Eventually(t, "istiod has read the renewed secret", func() error {
		if strings.Count(log(), registries) < 2 {
			return errNotYet
		}
		return first.synced(ctx, "timeout")
	})
	if strings.Contains(log(), replaced) {
		t.Error("istiod completes the change without reading Secrets: it needs no restart any more")
	}

	must(t, two.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reads-secrets"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "istiod-agent-remote-cluster-1"}},
	}))
	t.Cleanup(func() {
		must(t, two.Delete(context.WithoutCancel(ctx), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reads-secrets"}}))
	})
	run(t, config, joinBoth("--renew", "--restart=false")...).Wants(t, 0)
	cluster.Within(t, time.Minute, "istiod completes the change", func() error {
		page, err := first.debug(ctx, "clusterz")
		if err == nil && !strings.Contains(page, `"secretName":"istio-system/istio-remote-secret-cluster-2","syncStatus":"synced"`) || !strings.Contains(log(), replaced) {
			err = fmt.Errorf("clusterz: %s", page)
		}
		return err
	})
	// The metric follows the replaced connection: it cannot tell whether istiod reads the cluster.
	must(t, first.synced(ctx, "closed"))
	run(t, config, both("leave")...).Wants(t, 0)
}

// The setting that should make the Secrets unnecessary ends istiod 1.31: join refuses it.
func TestCrash(t *testing.T) {
	root := newRoot()
	first := newSide(t, one, "cluster-1", root, map[string]string{switchOff: "false"})
	newSide(t, two, "cluster-2", root, nil)
	config := contexts(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two})
	first.deploy(t, map[string]string{"CLUSTER_ID": "cluster-1"}) // so that join does not see it
	run(t, config, joinBoth("--wait=false")...).Wants(t, 0)
	select {
	case <-first.istiod.Process().Exited():
	case <-time.After(time.Minute):
		t.Fatal("istiod runs on: join needs no longer refuse " + switchOff + "=false")
	}
	if log := first.istiod.Process().Output(); !strings.Contains(log, "credentials/kube.(*CredentialsController).HasSynced") {
		t.Errorf("istiod ended for another reason: %.2000s", log[max(0, len(log)-2000):])
	}
	run(t, config, both("leave")...).Wants(t, 0)
}

// istiod asks for every right of the account, and for no other than listing Secrets.
func TestRights(t *testing.T) {
	root := newRoot()
	env := map[string]string{soon: "3s", "ENABLE_MCS_SERVICE_DISCOVERY": "true", "ENABLE_MCS_HOST": "true"}
	first, second := newSide(t, one, "cluster-1", root, env), newSide(t, two, "cluster-2", root, env)
	config := contexts(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two})
	first.service(t, "local", "10.1.0.1")
	second.service(t, "remote", "10.2.0.1")
	for name, version := range map[string]string{"gateways.gateway.networking.k8s.io": "v1", "serviceexports.multicluster.x-k8s.io": "v1alpha1", "serviceimports.multicluster.x-k8s.io": "v1alpha1"} {
		second.crd(t, name, version)
	}
	run(t, config, joinBoth()...).Wants(t, 0)
	if refused := first.refused(t, 0, "secrets"); !slices.Equal(refused, []string{"secrets"}) {
		t.Errorf("with all rights, istiod is refused %v", refused)
	}
	ctx := t.Context()
	secret := first.secret(t, "istio-remote-secret-cluster-2")
	rules := remotes.Rules([]string{"istio"})
	for _, rule := range each(rules) {
		role := &rbacv1.ClusterRole{}
		must(t, two.Get(ctx, client.ObjectKey{Name: roleName}, role))
		role.Rules = slices.DeleteFunc(each(rules), func(other rbacv1.PolicyRule) bool { return reflect.DeepEqual(rule, other) })
		must(t, two.Update(ctx, role))
		cluster.Eventually(t, "the rule does not count any more", func() error { return second.allowed(ctx, rule, false) })
		must(t, first.Delete(ctx, secret.DeepCopy()))
		// istiod handles one remote secret after the other, and waits for the one before for up to 30 seconds.
		cluster.Within(t, 2*time.Minute, "istiod has forgotten cluster-2", func() error {
			metrics, err := first.istiod.Metrics(ctx)
			if err == nil && !strings.Contains(metrics, `istiod_managed_clusters{cluster_type="remote"} 0`) {
				err = errNotYet
			}
			return err
		})
		from := len(first.istiod.Process().Output())
		secret.ResourceVersion, secret.UID = "", ""
		must(t, first.Create(ctx, secret))
		for _, resource := range rule.Resources {
			first.refused(t, from, resource)
		}
	}
	run(t, config, both("leave")...).Wants(t, 0)
}

// each returns a rule for each resource.
func each(rules []rbacv1.PolicyRule) (single []rbacv1.PolicyRule) {
	for _, rule := range rules {
		for _, resource := range rule.Resources {
			one := rule
			one.Resources = []string{resource}
			single = append(single, one)
		}
	}
	return single
}

// refused waits until istiod's log, from an offset, holds a refused list of a resource, and returns all resources that are refused.
func (s *side) refused(t *testing.T, from int, resource string) (resources []string) {
	t.Helper()
	cluster.Eventually(t, "istiod asks for "+resource, func() error {
		resources = nil
		for line := range strings.Lines(s.istiod.Process().Output()[from:]) {
			if _, rest, found := strings.Cut(line, `istiod-agent-remote-cluster-1" cannot list resource "`); found {
				name, _, _ := strings.Cut(rest, `"`)
				resources = append(resources, name)
			}
		}
		slices.Sort(resources)
		resources = slices.Compact(resources)
		if !slices.Contains(resources, resource) {
			return fmt.Errorf("it is refused %v", resources)
		}
		return nil
	})
	return resources
}

// allowed returns an error unless the account has, or does not have, every right of a rule.
func (s *side) allowed(ctx context.Context, rule rbacv1.PolicyRule, want bool) error {
	for _, resource := range rule.Resources {
		attributes := &authorizationv1.ResourceAttributes{Verb: "list", Group: rule.APIGroups[0], Resource: resource}
		if len(rule.ResourceNames) > 0 {
			attributes.Name, attributes.Namespace = rule.ResourceNames[0], namespace
		}
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + namespace + ":istiod-agent-remote-cluster-1", ResourceAttributes: attributes,
		}}
		if err := s.Create(ctx, review); err != nil {
			return err
		}
		if review.Status.Allowed != want {
			return fmt.Errorf("list %s: %t", resource, review.Status.Allowed)
		}
	}
	return nil
}

// crd creates a definition without a schema.
func (s *side) crd(t *testing.T, name, version string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	plural, group, _ := strings.Cut(name, ".")
	kind := map[string]string{"gateways": "Gateway", "serviceexports": "ServiceExport", "serviceimports": "ServiceImport"}[plural]
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": name, "annotations": map[string]any{
			"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs", "gateway.networking.k8s.io/bundle-version": "v1.4.0", "gateway.networking.k8s.io/channel": "standard",
		}},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced", "names": map[string]any{"plural": plural, "singular": strings.ToLower(kind), "kind": kind, "listKind": kind + "List"},
			"versions": []any{map[string]any{"name": version, "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
		},
	}}
	must(t, s.Create(ctx, object))
	t.Cleanup(func() { must(t, s.Delete(ctx, object)) })
}
