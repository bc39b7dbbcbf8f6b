// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

func TestFields(t *testing.T) {
	must(t, agents.Install(t.Context(), shared))
	namespace := shared.Namespace(t, false)
	mesh, issued, bounce := object(t, guide, namespace), object(t, certificate, namespace), object(t, directive, namespace)
	unknown := map[string]any{"a": []any{int64(1), map[string]any{"b": true}}}
	const vault = "spec.mtlsConfig.shared.intermediateCertificateAuthority.vault"
	for name, sent := range map[string]*unstructured.Unstructured{
		"the guide's VirtualMesh": mesh,
		"a VirtualMesh with all that Gloo Mesh has": with(mesh, map[string]any{
			"spec.globalAccessPolicy": "ENABLED",
			"spec.federation": map[string]any{
				"eastWestIngressGatewaySelectors": []any{map[string]any{"portName": "tls", "destinationSelectors": []any{map[string]any{"kubeServiceMatcher": map[string]any{"labels": map[string]any{"istio": "ingressgateway"}}}}}},
				"selectors":                       []any{map[string]any{"meshes": []any{map[string]any{"name": "a", "namespace": "b"}}, "destinationSelectors": []any{map[string]any{}}}},
				"flatNetwork":                     false, "hostnameSuffix": "global", "tcpKeepalive": map[string]any{"probes": int64(3), "time": "10s"},
			},
			"spec.mtlsConfig.shared.intermediateCertOptions": map[string]any{"ttlDays": int64(30), "rsaKeySizeBytes": int64(2048), "orgName": "Acme", "secretRotationGracePeriodRatio": 0.2},
			vault + ".caBundle":       "YWI=",
			vault + ".namespace":      "admin/mesh",
			vault + ".kubernetesAuth": map[string]any{"role": "istiod", "mountPath": "/v1/auth/kubernetes", "secretTokenKey": "token", "serviceAccountRef": map[string]any{"name": "a", "namespace": "b"}},
		}),
		"a VirtualMesh with roots": with(mesh, map[string]any{
			"spec.mtlsConfig.shared.intermediateCertificateAuthority.trustedRoots": map[string]any{"pem": "-----BEGIN CERTIFICATE-----\n"},
		}),
		"a VirtualMesh with roots in a ConfigMap": with(mesh, map[string]any{
			"spec.mtlsConfig.shared.intermediateCertificateAuthority.trustedRoots": map[string]any{"configMapRef": map[string]any{"name": "mesh-roots", "key": "ca.crt"}},
		}),
		"a VirtualMesh with a token": with(mesh, map[string]any{
			vault + ".kubernetesAuth": nil,
			vault + ".tokenSecretRef": map[string]any{"name": "vault-token", "namespace": "istio-system"},
		}),
		"a VirtualMesh with a JWT": with(mesh, map[string]any{
			vault + ".kubernetesAuth": nil, vault + ".caLocalPath": "/var/run/secrets/ca.crt",
			vault + ".jwtAuth": map[string]any{"role": "istiod", "audience": "vault", "mountPath": "/v1/auth/jwt", "serviceAccountRef": map[string]any{"name": "a"}},
		}),
		"a VirtualMesh with an AppRole": with(mesh, map[string]any{
			vault + ".kubernetesAuth": nil, vault + ".caSecretRef": map[string]any{"name": "vault-ca", "key": "ca.crt"},
			vault + ".appRoleAuth": map[string]any{"roleId": "a", "secretIdSecretRef": map[string]any{"name": "a", "namespace": "b", "key": "c"}, "wrapped": true},
		}),
		"a VirtualMesh with a client certificate": with(mesh, map[string]any{
			vault + ".kubernetesAuth": nil,
			vault + ".certAuth":       map[string]any{"certSecretRef": map[string]any{"name": "a"}, "more": unknown},
		}),
		"a VirtualMesh whose root Gloo Mesh makes": with(mesh, map[string]any{
			"spec.mtlsConfig.shared": map[string]any{"rootCertificateAuthority": map[string]any{"generated": map[string]any{"ttlDays": int64(3650), "rsaKeySizeBytes": int64(8192)}}},
		}),
		"a VirtualMesh whose root is given": with(mesh, map[string]any{
			"spec.mtlsConfig.shared": map[string]any{"rootCertificateAuthority": map[string]any{"secret": map[string]any{"name": "root", "namespace": "gloo-mesh"}}},
		}),
		"a VirtualMesh of limited trust": with(mesh, map[string]any{"spec.mtlsConfig": map[string]any{"limited": map[string]any{}, "autoRestartPods": false}}),
		"a VirtualMesh without trust":    with(mesh, map[string]any{"spec.mtlsConfig": nil}),
		"an empty VirtualMesh":           with(mesh, map[string]any{"spec": map[string]any{}}),
		"fields that nobody knows": with(mesh, map[string]any{
			"spec.more": unknown, "spec.mtlsConfig.more": unknown, "spec.mtlsConfig.shared.more": unknown,
			"spec.mtlsConfig.shared.intermediateCertOptions": map[string]any{"more": unknown}, vault + ".more": unknown, vault + ".kubernetesAuth.more": unknown,
			"spec.mtlsConfig.shared.intermediateCertificateAuthority.more": unknown,
			"spec.meshes": []any{map[string]any{"name": "a", "namespace": "b", "more": unknown}},
		}),
		"an IssuedCertificate": issued,
		"a PodBounceDirective": bounce,
		"a PodBounceDirective with fields that nobody knows": with(bounce, map[string]any{
			"spec.more": unknown, "spec.podsToBounce": []any{map[string]any{"namespace": "a", "more": unknown, "rootCertSync": map[string]any{"more": unknown}}},
		}),
	} {
		t.Run(name, func(t *testing.T) {
			created := sent.DeepCopy()
			must(t, shared.Create(t.Context(), created))
			defer func() { must(t, shared.Delete(t.Context(), created)) }()
			stored := &unstructured.Unstructured{}
			stored.SetGroupVersionKind(sent.GroupVersionKind())
			must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(sent), stored))
			if diff := cmp.Diff(plain(t, sent.Object["spec"]), plain(t, stored.Object["spec"])); diff != "" {
				t.Errorf("(-sent +stored):\n%s", diff)
			}
		})
	}
}

func TestGuide(t *testing.T) {
	must(t, agents.Install(t.Context(), shared))
	namespace := shared.Namespace(t, false)
	applied, err := shared.ServerSideApply(t.Context(), object(t, guide, namespace))
	must(t, err)
	mesh, unknown, errs := networkingv1.FromObject(applied.Object)
	mesh.Spec.SetDefaults()
	warnings, mistakes := mesh.Validate()
	if len(unknown) > 0 || len(errs) > 0 || len(mistakes) > 0 || len(warnings) != 3 {
		t.Errorf("want three warnings (http, the audience, restarts) and nothing else: %q, %v, %v, %q", unknown, errs, mistakes, warnings)
	}

	again, err := shared.ServerSideApply(t.Context(), object(t, guide, namespace))
	must(t, err)
	if again.GetResourceVersion() != applied.GetResourceVersion() {
		t.Error("applied again it has changed")
	}
}

func TestValidation(t *testing.T) {
	must(t, agents.Install(t.Context(), shared))
	namespace := shared.Namespace(t, false)
	mesh, bounce := object(t, guide, namespace), object(t, directive, namespace)
	const (
		shares  = "spec.mtlsConfig.shared"
		ca      = shares + ".intermediateCertificateAuthority"
		vault   = ca + ".vault"
		options = shares + ".intermediateCertOptions"
	)
	type parts = map[string]any
	some := parts{}
	for name, test := range map[string]struct {
		spoiled *unstructured.Unstructured
		want    string
	}{
		"two kinds of trust":       {with(mesh, parts{"spec.mtlsConfig.limited": some}), "spec.mtlsConfig.limited: Forbidden: expected none together with shared"},
		"no kind of trust":         {with(mesh, parts{shares: nil}), shares + ": Required value: expected shared"},
		"two CAs":                  {with(mesh, parts{shares + ".rootCertificateAuthority": some}), shares + ".rootCertificateAuthority: Forbidden: expected none together with intermediateCertificateAuthority"},
		"no CA":                    {with(mesh, parts{ca: nil}), ca + ": Required value: expected the CA"},
		"two roots":                {with(mesh, parts{shares: parts{"rootCertificateAuthority": parts{"generated": some, "secret": some}}}), shares + ".rootCertificateAuthority.secret: Forbidden: expected none together with generated"},
		"a CA that is none":        {with(mesh, parts{vault: nil}), ca + ": Required value: expected the CA that signs the certificates"},
		"no server":                {with(mesh, parts{vault + ".server": nil}), vault + ".server: Required value: expected Vault's address"},
		"an empty server":          {with(mesh, parts{vault + ".server": ""}), vault + ".server: Required value"},
		"no CA path":               {with(mesh, parts{vault + ".caPath": nil}), vault + ".caPath: Required value: expected <mount>/root/sign-intermediate"},
		"no way to log in":         {with(mesh, parts{vault + ".kubernetesAuth": nil}), vault + ".kubernetesAuth: Required value: expected a way to log in to Vault"},
		"two ways to log in":       {with(mesh, parts{vault + ".tokenSecretRef": parts{"name": "a"}}), vault + ": Invalid value: expected one way to log in"},
		"no role":                  {with(mesh, parts{vault + ".kubernetesAuth.role": nil}), vault + ".kubernetesAuth.role: Required value"},
		"two sources of the token": {with(mesh, parts{vault + ".kubernetesAuth.serviceAccountRef": parts{"name": "a"}, vault + ".kubernetesAuth.mountedSaPath": "/a"}), vault + ".kubernetesAuth: Invalid value: expected one source of the token"},
		"a Secret unnamed":         {with(mesh, parts{vault + ".kubernetesAuth": nil, vault + ".tokenSecretRef": some}), vault + ".tokenSecretRef.name: Required value"},
		"a JWT without a role":     {with(mesh, parts{vault + ".kubernetesAuth": nil, vault + ".jwtAuth": parts{"audience": "vault"}}), vault + ".jwtAuth.role: Required value"},
		"a JWT without audience":   {with(mesh, parts{vault + ".kubernetesAuth": nil, vault + ".jwtAuth": parts{"role": "a"}}), vault + ".jwtAuth.audience: Required value: expected the audience"},
		"a JWT of two sources":     {with(mesh, parts{vault + ".kubernetesAuth": nil, vault + ".jwtAuth": parts{"role": "a", "audience": "b", "serviceAccountRef": some, "mountedSaPath": "/a"}}), vault + ".jwtAuth: Invalid value: expected one source of the token"},
		"an AppRole of no id":      {with(mesh, parts{vault + ".kubernetesAuth": nil, vault + ".appRoleAuth": parts{"secretIdLocalPath": "/a"}}), vault + ".appRoleAuth.roleId: Required value"},
		"an AppRole of no secret":  {with(mesh, parts{vault + ".kubernetesAuth": nil, vault + ".appRoleAuth": parts{"roleId": "a"}}), vault + ".appRoleAuth: Invalid value: expected one source of the secret id"},
		"an AppRole of two":        {with(mesh, parts{vault + ".kubernetesAuth": nil, vault + ".appRoleAuth": parts{"roleId": "a", "secretIdLocalPath": "/a", "secretIdSecretRef": some}}), vault + ".appRoleAuth: Invalid value: expected one source of the secret id"},
		"a certificate of nowhere": {with(mesh, parts{vault + ".kubernetesAuth": nil, vault + ".certAuth": some}), vault + ".certAuth: Invalid value: expected one source of the client certificate"},
		"another two logins":       {with(mesh, parts{vault + ".jwtAuth": parts{"role": "a", "audience": "b"}}), vault + ": Invalid value: expected one way to log in"},
		"two of Vault's CAs":       {with(mesh, parts{vault + ".caLocalPath": "/a", vault + ".caSecretRef": some}), vault + ": Invalid value: expected one source of Vault's CA"},
		"an endless path":          {with(mesh, parts{vault + ".caLocalPath": strings.Repeat("a", 1025)}), vault + ".caLocalPath: Too long"},
		"certificates not base64":  {with(mesh, parts{vault + ".caBundle": "-----BEGIN"}), vault + ".caBundle: Invalid value"},
		"no renewal":               {with(mesh, parts{options: parts{"secretRotationGracePeriodRatio": 0.0}}), options + ".secretRotationGracePeriodRatio: Invalid value: expected more than 0 and at most 0.9"},
		"renewal at once":          {with(mesh, parts{options: parts{"secretRotationGracePeriodRatio": int64(1)}}), options + ".secretRotationGracePeriodRatio: Invalid value: expected more than 0 and at most 0.9"},
		"renewal nearly at once":   {with(mesh, parts{options: parts{"secretRotationGracePeriodRatio": 0.91}}), options + ".secretRotationGracePeriodRatio: Invalid value: expected more than 0 and at most 0.9"},
		"roots from nowhere":       {with(mesh, parts{ca + ".trustedRoots": some}), ca + ".trustedRoots: Invalid value: expected one source of the roots"},
		"roots from two places":    {with(mesh, parts{ca + ".trustedRoots": parts{"pem": "a", "configMapRef": some}}), ca + ".trustedRoots: Invalid value: expected one source of the roots"},
		"a thousand roots":         {with(mesh, parts{ca + ".trustedRoots": parts{"pem": strings.Repeat("-----BEGIN CERTIFICATE-----\n", 10_000)}}), ca + ".trustedRoots.pem: Too long"},
		"roots in one word":        {with(mesh, parts{ca + ".trustedRoots": "all"}), ca + ".trustedRoots: Invalid value"},
		"an endless name of roots": {with(mesh, parts{ca + ".trustedRoots": parts{"configMapRef": parts{"name": strings.Repeat("a", 254)}}}), ca + ".trustedRoots.configMapRef.name: Too long"},
		"a ratio of words":         {with(mesh, parts{options: parts{"secretRotationGracePeriodRatio": "0.1"}}), options + ".secretRotationGracePeriodRatio: Invalid value: "},
		"no days":                  {with(mesh, parts{options: parts{"ttlDays": int64(0)}}), options + ".ttlDays: Invalid value: expected 1 to 36500 days"},
		"a negative number":        {with(mesh, parts{options: parts{"ttlDays": int64(-1)}}), options + ".ttlDays: Invalid value: "},
		"too many days":            {with(mesh, parts{options: parts{"ttlDays": int64(36501)}}), options + ".ttlDays: Invalid value: expected 1 to 36500 days"},
		"a key size in bytes":      {with(mesh, parts{options: parts{"rsaKeySizeBytes": int64(512)}}), options + ".rsaKeySizeBytes: Invalid value: expected 2048, 3072 or 4096"},
		"two kinds of key":         {with(mesh, parts{options: parts{"rsaKeySizeBytes": int64(2048), "ecKeyCurve": "P-256"}}), options + ": Invalid value: expected one kind of key"},
		"an unknown curve":         {with(mesh, parts{options: parts{"ecKeyCurve": "P-521"}}), options + `.ecKeyCurve: Unsupported value: "P-521"`},
		"too many URI domains":     {with(mesh, parts{options: parts{"permittedURIDomains": slices.Repeat([]any{"a"}, 21)}}), options + ".permittedURIDomains: Too many"},
		"a URI domain of capitals": {with(mesh, parts{options: parts{"permittedURIDomains": []any{"a", "B"}}}), options + ".permittedURIDomains[1]: Invalid value"},
		"an endless URI domain":    {with(mesh, parts{options: parts{"permittedURIDomains": []any{strings.Repeat("a", 255)}}}), options + ".permittedURIDomains[0]: Too long"},
		"a mesh unnamed":           {with(mesh, parts{"spec.meshes": []any{parts{"namespace": "a"}}}), "spec.meshes[0].name: Required value"},
		"a mesh of no name":        {with(mesh, parts{"spec.meshes": []any{parts{"name": "a"}, parts{"name": ""}}}), "spec.meshes[1].name: Invalid value"},
		"meshes in one line":       {with(mesh, parts{"spec.meshes": "a"}), "spec.meshes: Invalid value"},
		"restarts in words":        {with(mesh, parts{"spec.mtlsConfig.autoRestartPods": "yes"}), "spec.mtlsConfig.autoRestartPods: Invalid value"},
		"federation in one word":   {with(mesh, parts{"spec.federation": "all"}), "spec.federation: Invalid value"},
		"pods of every namespace":  {with(bounce, parts{"spec.podsToBounce": []any{parts{"labels": some}}}), "spec.podsToBounce[0].namespace: Required value"},
		"pods of no namespace":     {with(bounce, parts{"spec.podsToBounce": []any{parts{"namespace": ""}}}), "spec.podsToBounce[0].namespace: Invalid value"},
		"replicas below nothing":   {with(bounce, parts{"spec.podsToBounce": []any{parts{"namespace": "a", "waitForReplicas": int64(-1)}}}), "spec.podsToBounce[0].waitForReplicas: Invalid value"},
	} {
		t.Run(name, func(t *testing.T) {
			err := shared.Create(t.Context(), test.spoiled, client.DryRunAll)
			if !apierrors.IsInvalid(err) {
				t.Fatalf("want a refusal, got: %v", err)
			}
			if got := causes(err); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, test.want) }) {
				t.Errorf("nothing begins with %s:\n%s", test.want, strings.Join(got, "\n"))
			}
		})
	}
}

// causes returns the causes of a rejection, each with its field and without the quoted value.
func causes(err error) []string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	var all []string
	for _, cause := range status.Status().Details.Causes {
		kind, rest, _ := strings.Cut(cause.Message, ": ")
		if _, expectation, found := strings.Cut(rest, "expected "); found && kind == "Invalid value" {
			rest = "expected " + expectation
		}
		all = append(all, cause.Field+": "+strings.TrimSuffix(kind+": "+rest, ": "))
	}
	return all
}

// Controllers and agents write the status, people the specification, and neither changes the other.
func TestStatus(t *testing.T) {
	must(t, agents.Install(t.Context(), shared))
	ctx, namespace := t.Context(), shared.Namespace(t, false)
	scheme := runtime.NewScheme()
	must(t, networkingv1.AddToScheme(scheme))
	must(t, certificatesv1.AddToScheme(scheme))
	typed, err := client.New(shared.Plane.Config, client.Options{Scheme: scheme})
	must(t, err)

	_, err = shared.ServerSideApply(ctx, with(object(t, guide, namespace), map[string]any{"status": map[string]any{"state": "ACCEPTED"}}))
	must(t, err)
	mesh := &networkingv1.VirtualMesh{}
	key := client.ObjectKey{Namespace: namespace, Name: "virtual-mesh"}
	must(t, typed.Get(ctx, key, mesh))
	if mesh.Status.State != "" || mesh.Generation != 1 {
		t.Errorf("a status is taken from somebody who writes a specification: %+v of generation %d", mesh.Status, mesh.Generation)
	}
	want := networkingv1.VirtualMeshStatus{
		ObservedGeneration: 1, State: networkingv1.Failed, Errors: []string{"first", "second"},
		Meshes: map[string]networkingv1.MeshStatus{
			mesh.Spec.Meshes[0].Key(): {
				State: networkingv1.Failed, Errors: []string{"first"}, Warnings: []string{"http"}, Message: "waits", AcceptanceOrder: 1,
				IssuedCertificate:  &networkingv1.StatusRef{Name: "a", Namespace: "b"},
				PodBounceDirective: &networkingv1.StatusRef{Name: "a", Namespace: "b"}, CertificateState: certificatesv1.Requested,
			},
			mesh.Spec.Meshes[1].Key(): {State: networkingv1.Pending, Message: "is another cluster's"},
		},
		NotActedOn: mesh.Spec.NotActedOn(),
		Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Waiting", Message: "waits", LastTransitionTime: metav1.Unix(1, 0)}},
	}
	mesh.Status, mesh.Spec.Meshes = want, nil
	must(t, typed.Status().Update(ctx, mesh))
	must(t, typed.Get(ctx, key, mesh))
	if diff := cmp.Diff(plain(t, want), plain(t, mesh.Status)); diff != "" {
		t.Errorf("(-written +stored):\n%s", diff)
	}
	if len(mesh.Spec.Meshes) != 2 || mesh.Generation != 1 {
		t.Errorf("writing the status has changed the specification: %+v of generation %d", mesh.Spec, mesh.Generation)
	}
	mesh.Status.State = "DONE"
	if err := typed.Status().Update(ctx, mesh); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "status.state: Unsupported value") {
		t.Errorf("want a refusal of a state that is none, got: %v", err)
	}

	// What the public implementation writes besides is kept.
	unknown := object(t, guide, namespace)
	must(t, shared.Get(ctx, key, unknown))
	must(t, unstructured.SetNestedField(unknown.Object, map[string]any{"a.b.": map[string]any{"state": "ACCEPTED"}}, "status", "destinations"))
	must(t, shared.Status().Update(ctx, unknown))
	if _, found, _ := unstructured.NestedMap(unknown.Object, "status", "destinations"); !found {
		t.Error("the status of destinations is gone")
	}

	bounce := object(t, directive, namespace)
	must(t, shared.Create(ctx, bounce))
	stored := &certificatesv1.PodBounceDirective{}
	must(t, typed.Get(ctx, client.ObjectKeyFromObject(bounce), stored))
	stored.Status.PodsBounced = []certificatesv1.BouncedPodSet{{BouncedPods: []string{"a", "b"}}, {}}
	must(t, typed.Status().Update(ctx, stored))
	if len(stored.Status.PodsBounced) != 2 || stored.Generation != 1 {
		t.Errorf("got %+v of generation %d", stored.Status, stored.Generation)
	}
}

func TestPrinterColumns(t *testing.T) {
	must(t, agents.Install(t.Context(), shared))
	ctx, namespace := t.Context(), shared.Namespace(t, false)
	mesh := object(t, guide, namespace)
	must(t, shared.Create(ctx, mesh))
	must(t, unstructured.SetNestedField(mesh.Object, map[string]any{"state": "INVALID", "errors": []any{"spec.meshes: no", "another"}}, "status"))
	must(t, shared.Status().Update(ctx, mesh))
	bounce := object(t, directive, namespace)
	must(t, shared.Create(ctx, bounce))
	must(t, unstructured.SetNestedField(bounce.Object, map[string]any{
		"state": "RESTARTING", "set": "gateways", "remaining": int64(7), "message": "gateways: waiting for a Pod",
	}, "status"))
	must(t, shared.Status().Update(ctx, bounce))
	issued := object(t, certificate, namespace)
	must(t, shared.Create(ctx, issued))
	must(t, unstructured.SetNestedField(issued.Object, map[string]any{
		"state": "FINISHED", "notAfter": "2027-01-01T00:00:00Z", "root": "fc6b512f9e95", "rootNotAfter": "2036-01-01T00:00:00Z",
		"conditions": []any{
			map[string]any{"type": "Confirmed", "status": "False", "reason": "NotConfirmed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
			map[string]any{"type": "Ready", "status": "True", "reason": "Published", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
		},
	}, "status"))
	must(t, shared.Status().Update(ctx, issued))

	for resource, want := range map[string]map[string]any{
		"networking.mesh.gloo.solo.io/v1/namespaces/" + namespace + "/virtualmeshes": {
			"Name": "virtual-mesh", "State": "INVALID", "Vault": "http://vault.vault:8200", "Issuer": nil, "Error": "spec.meshes: no",
		},
		"certificates.mesh.gloo.solo.io/v1/namespaces/" + namespace + "/issuedcertificates": {
			"Name": "istiod-istio-system-cluster-1", "Ready": "True", "State": "FINISHED", "Ends": "2027-01-01T00:00:00Z",
			"Root": "fc6b512f9e95", "Root-Ends": "2036-01-01T00:00:00Z", "Error": nil,
		},
		"certificates.mesh.gloo.solo.io/v1/namespaces/" + namespace + "/podbouncedirectives": {
			"Name": "istiod-istio-system-cluster-1", "State": "RESTARTING", "Set": "gateways", "Remaining": float64(7), "Message": "gateways: waiting for a Pod",
		},
	} {
		var table metav1.Table
		must(t, json.Unmarshal(get(t, "/apis/"+resource, "application/json;as=Table;v=v1;g=meta.k8s.io"), &table))
		if len(table.Rows) != 1 {
			t.Fatalf("%s: there are %d rows", resource, len(table.Rows))
		}
		got := map[string]any{}
		for i, column := range table.ColumnDefinitions {
			if column.Name != "Age" && column.Name != "Created At" {
				got[column.Name] = table.Rows[0].Cells[i]
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", resource, diff)
		}
	}
}

// `kubectl explain` describes each field.
func TestExplain(t *testing.T) {
	must(t, agents.Install(t.Context(), shared))
	for group, kinds := range map[string][]string{
		"networking.mesh.gloo.solo.io":   {"VirtualMesh"},
		"certificates.mesh.gloo.solo.io": {"IssuedCertificate", "PodBounceDirective"},
	} {
		reversed := strings.Split(group, ".")
		slices.Reverse(reversed)
		for _, kind := range kinds {
			name := strings.Join(reversed, ".") + ".v1." + kind
			cluster.Eventually(t, name+" is published", func() error {
				var document struct {
					Components struct {
						Schemas map[string]map[string]any `json:"schemas"`
					} `json:"components"`
				}
				if err := json.Unmarshal(get(t, "/openapi/v3/apis/"+group+"/v1", "application/json"), &document); err != nil {
					return err
				}
				schema, found := document.Components.Schemas[name]
				if !found {
					return errors.New("there are only " + strings.Join(slices.Sorted(maps.Keys(document.Components.Schemas)), ", "))
				}
				if fields := wantDescriptions(t, kind, schema); fields < 10 {
					t.Errorf("%s has only %d fields", kind, fields)
				}
				return nil
			})
		}
	}
}

// wantDescriptions expects a description of each field below a schema, and returns their number.
func wantDescriptions(t *testing.T, path string, schema map[string]any) int {
	t.Helper()
	fields := 0
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		fields++
		below := property.(map[string]any)
		if description, _ := below["description"].(string); len(description) < 10 && name != "metadata" { // that is the API server's
			t.Errorf("%s.%s is explained as %q", path, name, description)
		}
		fields += wantDescriptions(t, path+"."+name, below)
	}
	for _, of := range []string{"items", "additionalProperties"} {
		if below, ok := schema[of].(map[string]any); ok {
			fields += wantDescriptions(t, path+"[]", below)
		}
	}
	return fields
}

func get(t *testing.T, path, accept string) []byte {
	t.Helper()
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	answer, err := clients.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", accept).DoRaw(t.Context())
	must(t, err)
	return answer
}

func TestResourceNames(t *testing.T) {
	must(t, agents.Install(t.Context(), shared))
	for _, resource := range []struct{ mapping, want string }{
		{mapping: "VirtualMesh", want: networkingv1.VirtualMeshes.Resource},
		{mapping: "IssuedCertificate", want: certificatesv1.IssuedCertificates.Resource},
		{mapping: "PodBounceDirective", want: certificatesv1.PodBounceDirectives.Resource},
	} {
		kind := certificatesv1.GroupVersion.WithKind(resource.mapping).GroupKind()
		if resource.mapping == networkingv1.Kind {
			kind = networkingv1.GroupVersion.WithKind(resource.mapping).GroupKind()
		}
		mapping, err := shared.RESTMapper().RESTMapping(kind, "v1")
		must(t, err)
		if mapping.Resource.Resource != resource.want || mapping.Scope.Name() != meta.RESTScopeNameNamespace {
			t.Errorf("got %+v", mapping)
		}
	}
}
