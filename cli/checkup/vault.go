// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/vaultside"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// checkVault checks the Vault of each VirtualMesh from this machine.
func (f *flags) checkVault(ctx context.Context, contextName string, facts *clusterFacts, given *networkingv1.VirtualMesh) []finding {
	if given != nil {
		return vaultLines(ctx, f.Timeout, given, true, facts, "kubectl istiod-agent vault -f "+shell.Quote(f.filename))
	}
	var lines []finding
	for i := range facts.Meshes.Value {
		mesh := valid(&facts.Meshes.Value[i])
		if mesh != nil && !facts.ignores(&facts.Meshes.Value[i]) {
			lines = append(lines, vaultLines(ctx, f.Timeout, mesh, false, facts,
				"kubectl istiod-agent vault "+shell.Quote(mesh.Name)+" -n "+shell.Quote(mesh.Namespace)+" --context="+shell.Quote(contextName)+f.Arguments())...)
		}
	}
	if len(lines) == 0 {
		return []finding{{levelUnknown, "Vault, from this machine", "no valid VirtualMesh in the cluster names a Vault", "name a VirtualMesh by -f virtual-mesh.yaml"}}
	}
	return lines
}

// valid returns nil for a VirtualMesh without a Vault or with mistakes, which have their own line.
func valid(object *unstructured.Unstructured) *networkingv1.VirtualMesh {
	mesh, _, errs := networkingv1.FromObject(object.Object)
	mesh.Spec.SetDefaults()
	if _, more := mesh.Validate(); len(errs)+len(more) > 0 || mesh.Spec.IntermediateCA() == nil || mesh.Spec.IntermediateCA().Vault == nil {
		return nil
	}
	return mesh
}

// vaultLines checks the Vault of a VirtualMesh. fromFile is true for a VirtualMesh given by -f.
func vaultLines(ctx context.Context, timeout time.Duration, mesh *networkingv1.VirtualMesh, fromFile bool, facts *clusterFacts, command string) []finding {
	subject := "Vault of VirtualMesh " + mesh.Namespace + "/" + mesh.Name + ", from this machine"
	vault, err := vaultside.Connect(mesh, fromFile, timeout)
	if err != nil {
		return []finding{{levelUnknown, subject, err.Error(), "correct the environment variables VAULT_*"}}
	}
	version, err := vault.Health(ctx)
	if err != nil {
		return []finding{{levelFail, subject, err.Error(), "set VAULT_ADDR to an address that this machine can reach, for example by kubectl port-forward; istiod's Pods may reach the server anyway"}}
	}
	lines := []finding{{levelOK, subject, fmt.Sprintf("%s answers, %s, unsealed", vault.Address(), version), ""}}
	if err := vault.CheckToken(); err != nil {
		return append(lines, finding{levelWarn, subject, "the login, the policies and the mounts were not checked: " + err.Error(), "export the missing variable and check again"})
	}
	options, flags := vaultOptions(facts)
	desired, err := vaultside.NewDesired(mesh, options)
	if err != nil {
		return append(lines, finding{levelUnknown, subject, err.Error(), "correct the VirtualMesh"})
	}
	found, err := vault.Read(ctx, desired)
	if err != nil {
		return append(lines, finding{levelUnknown, subject, err.Error(), "export a VAULT_TOKEN with permission to read it"})
	}
	differences, err := desired.Differences(found)
	if err != nil {
		return append(lines, finding{levelFail, subject, err.Error(), "correct the VirtualMesh"})
	}
	if warning, likely := found.PodReviewer(desired.Auth); likely {
		lines = append(lines, finding{levelWarn, subject, warning, "in Vault's Pod: vault write auth/" + desired.Auth.Mount + "/config kubernetes_host=" + shell.Quote(fmt.Sprint(found.Config["kubernetes_host"])) + ", without token_reviewer_jwt and kubernetes_ca_cert"})
	}
	compared := "the role, the policies, the mounts and their longest lease are as required"
	if desired.Auth != nil && desired.Auth.Assumed {
		differences = slices.DeleteFunc(differences, desired.OfAssumedRole)
		compared = "the mounts and their longest lease are as required; the role was not compared, because the VirtualMesh does not name it: set --role of kubectl istiod-agent vault"
	}
	for _, difference := range differences {
		lines = append(lines, vaultLine(subject, difference, command+flags))
	}
	if len(differences) == 0 {
		lines = append(lines, finding{levelOK, subject, compared, ""})
	}
	return lines
}

// vaultOptions returns what Vault must permit for the istiods of a cluster, and the flags of kubectl istiod-agent vault for it.
func vaultOptions(facts *clusterFacts) (vaultside.Options, string) {
	options := vaultside.Options{SkipAuthConfig: true}
	var domains []string
	for _, istiod := range facts.Istiods.Value {
		if exempt(istiod) {
			continue
		}
		options.ServiceAccounts = append(options.ServiceAccounts, istiod.ServiceAccount)
		options.Namespaces = append(options.Namespaces, istiod.Namespace)
		domains = append(domains, trustDomains(facts.Certificates.Value, istiod)...)
	}
	var flags strings.Builder
	for _, account := range compacted(options.ServiceAccounts, vaultside.DefaultServiceAccount) {
		flags.WriteString(" --service-account=" + shell.Quote(account))
	}
	for _, namespace := range compacted(options.Namespaces, vaultside.DefaultNamespace) {
		flags.WriteString(" --istiod-namespace=" + shell.Quote(namespace))
	}
	// A policy of the command has one trust domain; of several, none is better than the default.
	if found := compacted(domains, istio.DefaultTrustDomain); len(found) == 1 {
		options.TrustDomain = found[0]
		flags.WriteString(" --trust-domain=" + shell.Quote(found[0]))
	}
	return options, flags.String()
}

// trustDomains returns those of an istiod's identities in the IssuedCertificates of its namespace.
func trustDomains(certificates []unstructured.Unstructured, istiod istiodState) (domains []string) {
	for i := range certificates {
		hosts, _, _ := unstructured.NestedStringSlice(certificates[i].Object, "spec", "hosts")
		for _, identity := range istio.Identities(hosts) {
			if certificates[i].GetNamespace() == istiod.Namespace && identity.Namespace == istiod.Namespace && identity.ServiceAccount == istiod.ServiceAccount {
				domains = append(domains, identity.TrustDomain)
			}
		}
	}
	return domains
}

// vaultLine fails where istiod gets no certificate, and warns of other differences.
func vaultLine(subject string, difference vaultside.Difference, command string) finding {
	switch difference.Kind {
	case vaultside.Missing:
		if difference.Unused {
			return finding{levelWarn, subject, difference.What + " does not exist, and the role names other policies", command + " --dry-run"}
		}
		return finding{levelFail, subject, difference.What + " does not exist", command + " --apply"}
	case vaultside.Manual:
		return finding{levelFail, subject, difference.What + " has no CA to sign with", difference.Lines[1]}
	default:
		changed := slices.DeleteFunc(slices.Clone(difference.Lines), func(line string) bool { return strings.HasPrefix(line, " ") })
		detail := difference.What + " differs"
		if len(changed) <= 4 {
			detail += ": " + strings.Join(changed, ", ")
		}
		return finding{levelWarn, subject, detail, command + " --dry-run"}
	}
}

// compacted returns the values for a flag; none if they are its default.
func compacted(values []string, byDefault string) []string {
	values = slices.Compact(slices.Sorted(slices.Values(values)))
	if len(values) == 0 || len(values) == 1 && values[0] == byDefault {
		return nil
	}
	return values
}
