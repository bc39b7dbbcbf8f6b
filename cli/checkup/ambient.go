// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// ambientState is the part of ambient mode that istiod's CA can break.
type ambientState struct {
	// Limited are the specifications with name constraints, by kind and name.
	Limited []string
	// Ztunnels are the DaemonSets of ztunnel, as namespace/name.
	Ztunnels fact[[]string]
}

// readAmbient returns nil where no specification has name constraints.
func readAmbient(ctx context.Context, reader client.Reader, facts *clusterFacts) *ambientState {
	var limited []string
	add := func(objects []unstructured.Unstructured, kind string, path ...string) {
		for i := range objects {
			if domains, _, _ := unstructured.NestedSlice(objects[i].Object, append(path, "permittedURIDomains")...); len(domains) > 0 {
				limited = append(limited, kind+" "+objects[i].GetNamespace()+"/"+objects[i].GetName())
			}
		}
	}
	meshes := slices.DeleteFunc(slices.Clone(facts.Meshes.Value), func(mesh unstructured.Unstructured) bool { return facts.ignores(&mesh) })
	add(meshes, "VirtualMesh", "spec", "mtlsConfig", "shared", "intermediateCertOptions")
	if len(limited) == 0 { // else they are the VirtualMeshes'
		add(facts.Certificates.Value, "IssuedCertificate", "spec", "certOptions")
	}
	if len(limited) == 0 {
		return nil
	}
	return &ambientState{Limited: limited, Ztunnels: factOf(readZtunnels(ctx, reader))}
}

// readZtunnels finds them by their Pods' label (Istio manifests/charts/ztunnel/templates/daemonset.yaml).
func readZtunnels(ctx context.Context, reader client.Reader) (found []string, err error) {
	all, err := list(ctx, reader, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))
	for i := range all {
		if app, _, _ := unstructured.NestedString(all[i].Object, "spec", "selector", "matchLabels", "app"); app == "ztunnel" {
			found = append(found, all[i].GetNamespace()+"/"+all[i].GetName())
		}
	}
	return found, err
}

// ambient adds name constraints that ztunnel would reject all of istiod's certificates for.
func (d *decision) ambient() {
	state := d.facts.Ambient
	if state == nil {
		return
	}
	const subject = "name constraints"
	switch ztunnels := state.Ztunnels; {
	case ztunnels.Err != nil:
		d.unknown(subject, "looking for ztunnel", "list", "daemonsets", ztunnels.Err)
	case len(ztunnels.Value) > 0:
		d.add(levelFail, subject, terminal.Names(state.Limited, maxNames)+" limits istiod's CA by permittedURIDomains, and ztunnel ("+strings.Join(ztunnels.Value, ", ")+
			") from Istio 1.29.3 rejects all certificates below such a CA: no workload in ambient mode can connect", "remove permittedURIDomains (docs/ca-sources.md)")
	default:
		d.add(levelOK, subject, "limit istiod's CA to its trust domains; there is no ztunnel, which would reject them", "")
	}
}
