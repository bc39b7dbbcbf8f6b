// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	rbacv1 "k8s.io/api/rbac/v1"
	k8syaml "sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

// The rights are exactly those that the configuration needs.
func TestRights(t *testing.T) {
	everywhere := []string{
		"namespaces: list watch",
		"virtualmeshes.networking.mesh.gloo.solo.io: list watch",
		"virtualmeshes/status.networking.mesh.gloo.solo.io: patch",
		"deployments.apps: list watch patch",
		"pods: get list watch",
		"issuedcertificates.certificates.mesh.gloo.solo.io: list watch create patch delete",
		"podbouncedirectives.certificates.mesh.gloo.solo.io: get list watch create patch delete",
		"podbouncedirectives/status.certificates.mesh.gloo.solo.io: patch",
		"issuedcertificates/status.certificates.mesh.gloo.solo.io: patch",
		"configmaps istio: list watch",
		"configmaps istio-ca-root-cert: get",
		"events.events.k8s.io: create patch",
		"subjectaccessreviews.authorization.k8s.io: create",
	}
	keepBundle := "mutatingwebhookconfigurations.admissionregistration.k8s.io istiod-agent: get list watch patch"
	readBundle := "mutatingwebhookconfigurations.admissionregistration.k8s.io istiod-agent: get"
	restart := []string{"deployments,statefulsets,daemonsets.apps: get patch", "replicasets.apps: get", "pods/eviction: create"}
	injection := []string{"injections.istiod-agent.io: create", "injections.istiod-agent.io istiod-agent: list watch update"}
	readInjection := "injections.istiod-agent.io istiod-agent: get"
	checked := []string{
		"mutatingadmissionpolicies.admissionregistration.k8s.io istiod-agent: get",
		"mutatingadmissionpolicybindings.admissionregistration.k8s.io istiod-agent.needs-injection.istiod-agent-system.istiod-agent: get",
		"validatingadmissionpolicies,validatingadmissionpolicybindings.admissionregistration.k8s.io istiod-agent-decision,istiod-agent-warnings: get",
	}
	secret := []string{"secrets: create", "secrets istiod-agent-webhook-ca: list watch update"}
	lease := []string{"leases.coordination.k8s.io: create", "leases.coordination.k8s.io istiod-agent-webhook: get update", "events: create"}

	for name, test := range map[string]struct {
		values        helm.Values
		cluster, role []string
	}{
		"default":     {nil, with(everywhere, keepBundle), with(secret, lease...)},
		"restarts":    {helm.Values{"restarts": helm.Values{"enabled": true}}, with(everywhere, append(restart, keepBundle)...), with(secret, lease...)},
		"pods":        {helm.Values{"injection": helm.Values{"target": "pods"}}, with(everywhere, keepBundle), with(secret, lease...)},
		"certificate": {helm.Values{"servingCertificate": helm.Values{"source": "cert-manager"}}, with(everywhere, readBundle), lease},
		"no leader":   {helm.Values{"server": helm.Values{"leaderElection": false}}, with(everywhere, keepBundle), secret},
		"policy":      {helm.Values{"injection": helm.Values{"by": "policy"}}, with(everywhere, checked...), with([]string{readInjection}, lease...)},
		"no writes":   {helm.Values{"injection": helm.Values{"injectExisting": false}}, with(without(everywhere, "deployments.apps: list watch patch", "deployments.apps: list watch"), keepBundle), with(secret, lease...)},
		"automatic":   {helm.Values{"injection": helm.Values{"injectExisting": false, "rollout": "automatic"}}, with(everywhere, keepBundle), with(secret, lease...)},
		"neither": {helm.Values{
			"server":             helm.Values{"leaderElection": false},
			"servingCertificate": helm.Values{"source": "secret", "secret": helm.Values{"name": "x"}},
		}, with(everywhere, readBundle), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, standard, test.values)
			if diff := cmp.Diff(test.cluster, rules(typed[rbacv1.ClusterRole](t, r.one(t, "ClusterRole")).Rules)); diff != "" {
				t.Errorf("ClusterRole (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(with(injection, test.role...), rules(typed[rbacv1.Role](t, r.objects["Role istiod-agent-webhook"]).Rules)); diff != "" {
				t.Errorf("Role (-want +got):\n%s", diff)
			}
		})
	}
}

// With rbac.namespaces, Roles have the rights that the ClusterRole has otherwise.
func TestRightsInNamedNamespaces(t *testing.T) {
	values := func(more helm.Values) helm.Values {
		all := helm.Values{
			"rbac":          helm.Values{"namespaces": []any{"istio-system", "mesh"}},
			"virtualMesh":   helm.Values{"namespaces": []any{"gloo-mesh", standard.Namespace}},
			"istiodSidecar": helm.Values{"serviceAccounts": []any{helm.Values{"name": "istiod", "namespace": "other"}}},
		}
		maps.Copy(all, more)
		return all
	}
	perNamespace := func(deployments string, more ...string) []string {
		return append([]string{
			deployments, "pods: get list watch",
			"issuedcertificates.certificates.mesh.gloo.solo.io: list watch create patch delete",
			"podbouncedirectives.certificates.mesh.gloo.solo.io: get list watch create patch delete",
			"podbouncedirectives/status.certificates.mesh.gloo.solo.io: patch",
			"issuedcertificates/status.certificates.mesh.gloo.solo.io: patch",
			"configmaps istio: list watch", "configmaps istio-ca-root-cert: get",
			"events.events.k8s.io: create patch", "localsubjectaccessreviews.authorization.k8s.io: create",
		}, more...)
	}
	written, read := "deployments.apps: list watch patch", "deployments.apps: list watch"
	keepBundle := "mutatingwebhookconfigurations.admissionregistration.k8s.io istiod-agent: get list watch patch"
	for name, test := range map[string]struct {
		values        helm.Values
		cluster, each []string
	}{
		"default":  {nil, []string{"namespaces: list watch", keepBundle}, perNamespace(written)},
		"restarts": {helm.Values{"restarts": helm.Values{"enabled": true}}, []string{"namespaces: list watch", keepBundle}, perNamespace(written, "deployments,statefulsets,daemonsets.apps: get patch", "replicasets.apps: get", "pods/eviction: create")},
		"policy, no writes": {helm.Values{"injection": helm.Values{"by": "policy", "injectExisting": false}}, []string{
			"namespaces: list watch",
			"mutatingadmissionpolicies.admissionregistration.k8s.io istiod-agent: get",
			"mutatingadmissionpolicybindings.admissionregistration.k8s.io istiod-agent.needs-injection.istiod-agent-system.istiod-agent: get",
			"validatingadmissionpolicies,validatingadmissionpolicybindings.admissionregistration.k8s.io istiod-agent-decision,istiod-agent-warnings: get",
		}, perNamespace(read)},
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, standard, values(test.values))
			if diff := cmp.Diff(test.cluster, rules(typed[rbacv1.ClusterRole](t, r.one(t, "ClusterRole")).Rules)); diff != "" {
				t.Errorf("ClusterRole (-want +got):\n%s", diff)
			}
			meshes := []string{
				"virtualmeshes.networking.mesh.gloo.solo.io: list watch", "virtualmeshes/status.networking.mesh.gloo.solo.io: patch",
				"events.events.k8s.io: create patch",
			}
			want := map[string][]string{
				"istio-system/istiod-agent.controllers": test.each, "mesh/istiod-agent.controllers": test.each,
				"gloo-mesh/istiod-agent.virtualmeshes": meshes, standard.Namespace + "/istiod-agent.virtualmeshes": meshes,
			}
			got := rightsOfTheWebhook(t, r)
			delete(got, standard.Namespace+"/istiod-agent-webhook") // TestRights
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Roles (-want +got):\n%s", diff)
			}
		})
	}
}

// rightsOfTheWebhook are the rules that RoleBindings grant the webhook, by namespace and name of the Role.
func rightsOfTheWebhook(t *testing.T, r rendered) map[string][]string {
	t.Helper()
	var roles, bindings []string
	got := map[string][]string{}
	for document := range strings.SplitSeq(r.text, "\n---\n") {
		var object rbacv1.Role
		if err := k8syaml.Unmarshal([]byte(document), &object); err != nil || object.Kind != "Role" && object.Kind != "RoleBinding" {
			continue
		}
		key := object.Namespace + "/" + object.Name
		if object.Kind == "Role" {
			roles = append(roles, key)
			got[key] = rules(object.Rules)
			continue
		}
		var binding rbacv1.RoleBinding
		if err := k8syaml.Unmarshal([]byte(document), &binding); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(binding.Subjects, func(s rbacv1.Subject) bool {
			return s.Name == "istiod-agent-webhook" && s.Namespace == standard.Namespace
		}) {
			bindings = append(bindings, binding.Namespace+"/"+binding.RoleRef.Name)
		}
	}
	for _, key := range roles {
		if !slices.Contains(bindings, key) {
			delete(got, key) // another's
		}
	}
	return got
}

// Each service account of istiod gets the agent's rights in its own namespace only.
func TestAgentRights(t *testing.T) {
	rights := func(more ...string) []string {
		return append([]string{
			"issuedcertificates.certificates.mesh.gloo.solo.io: get list watch",
			"issuedcertificates/status.certificates.mesh.gloo.solo.io: patch",
			"events.events.k8s.io: create",
			"configmaps istio-ca-root-cert: get",
		}, more...)
	}
	type accounts = []any
	for name, test := range map[string]struct {
		sidecar helm.Values
		want    map[string][]string // by Role, namespace/name
	}{
		"today's and the guide's": {nil, map[string][]string{
			"istio-system/istiod-agent-istiod":                 rights(),
			"istio-system/istiod-agent-istiod-service-account": rights(),
			"istio-system/istiod-agent.webhook":                {"configmaps: get"},
		}},
		"an account that requests tokens": {
			helm.Values{"serviceAccounts": accounts{helm.Values{"name": "istiod", "namespace": "istio-system", "requestTokens": true}}},
			map[string][]string{
				"istio-system/istiod-agent-istiod":  rights("serviceaccounts/token istiod: create"),
				"istio-system/istiod-agent.webhook": {"configmaps: get"},
			},
		},
		"a revision with a token": {
			helm.Values{"serviceAccounts": accounts{helm.Values{"name": "istiod-canary", "namespace": "mesh", "tokenSecret": "vault"}}},
			map[string][]string{
				"mesh/istiod-agent-istiod-canary": rights("secrets vault: get"),
				"mesh/istiod-agent.webhook":       {"configmaps: get"},
			},
		},
		"an account with an AppRole": {
			helm.Values{"serviceAccounts": accounts{helm.Values{"name": "istiod", "namespace": "mesh", "vaultSecrets": []any{"vault-approle", "vault-ca"}}}},
			map[string][]string{
				"mesh/istiod-agent-istiod":  rights("secrets vault-approle,vault-ca: get"),
				"mesh/istiod-agent.webhook": {"configmaps: get"},
			},
		},
		"an account that reads roots": {
			helm.Values{"serviceAccounts": accounts{helm.Values{"name": "istiod", "namespace": "mesh", "rootsConfigMap": "mesh-roots"}}},
			map[string][]string{
				"mesh/istiod-agent-istiod":  rights("configmaps mesh-roots: get"),
				"mesh/istiod-agent.webhook": {"configmaps: get"},
			},
		},
		"requests to cert-manager": {
			helm.Values{"certManager": true, "serviceAccounts": accounts{helm.Values{"name": "istiod", "namespace": "mesh"}}, "namespaces": []any{"mesh"}},
			map[string][]string{
				"mesh/istiod-agent-istiod":  rights("certificaterequests.cert-manager.io: create get list watch delete"),
				"mesh/istiod-agent.istiods": rights("certificaterequests.cert-manager.io: create get list watch delete"),
				"mesh/istiod-agent.webhook": {
					"configmaps: get",
					"rolebindings.rbac.authorization.k8s.io istiod-agent.istiods: get patch",
					"roles.rbac.authorization.k8s.io istiod-agent.istiods: bind",
				},
			},
		},
		"every istiod of a namespace": {
			helm.Values{"serviceAccounts": accounts{}, "namespaces": []any{"mesh"}},
			map[string][]string{
				"mesh/istiod-agent.istiods": rights(),
				"mesh/istiod-agent.webhook": {
					"configmaps: get",
					"rolebindings.rbac.authorization.k8s.io istiod-agent.istiods: get patch",
					"roles.rbac.authorization.k8s.io istiod-agent.istiods: bind",
				},
			},
		},
		"none": {helm.Values{"createRoleBinding": false, "namespaces": []any{"mesh"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			values := helm.Values{}
			if test.sidecar != nil {
				values["istiodSidecar"] = test.sidecar
			}
			got := map[string][]string{}
			r := render(t, standard, values)
			for _, object := range r.objects {
				if object.GetKind() != "Role" || object.GetNamespace() == standard.Namespace {
					continue
				}
				role := typed[rbacv1.Role](t, object)
				got[role.Namespace+"/"+role.Name] = rules(role.Rules)
				binding := typed[rbacv1.RoleBinding](t, r.objects["RoleBinding "+role.Name])
				account, namespace := strings.TrimPrefix(role.Name, "istiod-agent-"), role.Namespace
				switch role.Name {
				case "istiod-agent.istiods": // the webhook keeps the subjects, and an upgrade must leave them
					if binding.Subjects != nil || binding.RoleRef.Name != role.Name || binding.Namespace != role.Namespace {
						t.Errorf("%s is bound by %+v to %+v", role.Name, binding.RoleRef, binding.Subjects)
					}
					continue
				case "istiod-agent.webhook":
					account, namespace = "istiod-agent-webhook", standard.Namespace
				}
				if binding.Namespace != role.Namespace || binding.RoleRef.Name != role.Name ||
					len(binding.Subjects) != 1 || binding.Subjects[0].Name != account || binding.Subjects[0].Namespace != namespace {
					t.Errorf("%s is bound by %+v to %+v", role.Name, binding.RoleRef, binding.Subjects)
				}
			}
			if len(got) != len(test.want) || len(got) > 0 && !cmp.Equal(test.want, got) {
				t.Errorf("(-want +got):\n%s", cmp.Diff(test.want, got))
			}
		})
	}
}

// Kubernetes' roles (admin, edit, view) get no rights on this project's kinds.
func TestAggregatedRights(t *testing.T) {
	renderExamples(t, func(t *testing.T, r rendered) {
		for key, object := range r.objects {
			for label := range object.GetLabels() {
				if strings.Contains(label, "aggregate-to-") {
					t.Errorf("%s has label %s", key, label)
				}
			}
		}
	})
}

func with(some []string, more ...string) []string {
	return append(append([]string{}, some...), more...)
}

// without replaces one of some.
func without(some []string, one, by string) []string {
	all := slices.Clone(some)
	all[slices.Index(all, one)] = by
	return all
}

// rules in one line each.
func rules(rules []rbacv1.PolicyRule) []string {
	var lines []string
	for _, rule := range rules {
		line := strings.TrimSuffix(strings.Join(rule.Resources, ",")+"."+strings.Join(rule.APIGroups, ","), ".")
		if len(rule.ResourceNames) > 0 {
			line += " " + strings.Join(rule.ResourceNames, ",")
		}
		lines = append(lines, fmt.Sprintf("%s: %s", line, strings.Join(rule.Verbs, " ")))
	}
	return lines
}

// Each rule has a comment with its purpose and the effect of its absence. Two rules with one purpose may share it.
func TestRightsExplained(t *testing.T) {
	renderExamples(t, func(t *testing.T, r rendered) {
		for document := range strings.SplitSeq(r.text, "\n---\n") {
			if !strings.Contains(document, "\nkind: Role\n") && !strings.Contains(document, "\nkind: ClusterRole\n") {
				continue
			}
			var role struct {
				Kind  string      `yaml:"kind"`
				Rules []yaml.Node `yaml:"rules"`
			}
			if err := yaml.Unmarshal([]byte(document), &role); err != nil || len(role.Rules) == 0 {
				t.Fatalf("%s: %v", role.Kind, err)
			}
			var explained string
			for _, rule := range role.Rules {
				resource := rule.Content[3].Content[0].Value
				if rule.HeadComment == "" && resource != explained {
					t.Errorf("%s: nothing says what the rule for %s is for", role.Kind, resource)
				}
				if rule.HeadComment != "" && !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(rule.HeadComment, "#", " ")), " "), " Without ") {
					t.Errorf("%s: nothing says what happens without the rule for %s", role.Kind, resource)
				}
				explained = resource
			}
		}
	})
}
