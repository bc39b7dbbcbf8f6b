// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// AllowedServersVariable is the agent's environment variable that holds AllowedServers, with commas between.
const AllowedServersVariable = "ISTIOD_AGENT_ALLOWED_SERVERS"

const (
	// minTokenSeconds and maxTokenSeconds are the API server's limits of a token's lifetime (validateProjectionSources,
	// pkg/apis/core/validation, Kubernetes 1.37).
	minTokenSeconds = 600
	maxTokenSeconds = 1 << 32
	// maxAllowedServers limits a list in each istiod's Pod.
	maxAllowedServers = 64
	// maxServer is longer than any server's address or audience.
	maxServer = 512
	// maxTag is the length of a tag (OCI distribution specification 1.1). The expression omits it: as many states would
	// take a hundred kilobytes of memory.
	maxTag      = 128
	maxEnv      = 200
	maxDNSNames = 100
	// maxNamespaces limits namespaces, virtualMesh.namespaces and agentRights.namespaces.
	maxNamespaces = 64
	// minLeafDuration exceeds the ten seconds within which a missed change of the CA is noticed.
	minLeafDuration = 30 * time.Second
)

// guideEnv are the variables that the injection always sets.
var guideEnv = []string{"PILOT_CERT_PROVIDER", "POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT"}

// imageReference is the format of an image reference: host, path, tag and digest.
var imageReference = regexp.MustCompile(`^[a-z0-9](?:[a-zA-Z0-9._-]*(?::[0-9]+)?/)?[a-z0-9._/-]*(?::([A-Za-z0-9_][A-Za-z0-9_.-]*))?(?:@sha256:[0-9a-f]{64})?$`)

// serverAddress is the format of a server's address: scheme, host, port and prefix of its paths.
var serverAddress = regexp.MustCompile(`^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?((?:/[^/?#]+)*/?)$`)

// validate returns every mistake in a configuration with defaults.
func (c *InjectionConfiguration) validate() field.ErrorList {
	errs := oneOf(field.NewPath("apiVersion"), c.APIVersion, APIVersion)
	errs = append(errs, oneOf(field.NewPath("kind"), c.Kind, Kind)...)
	errs = append(errs, oneOf(field.NewPath("by"), c.By, ByWebhook, ByPolicy)...)
	errs = append(errs, oneOf(field.NewPath("target"), c.Target, TargetDeployments, TargetPods)...)
	errs = append(errs, oneOf(field.NewPath("sidecar"), c.Sidecar, SidecarContainer, SidecarNative)...)
	errs = append(errs, oneOf(field.NewPath("rollout"), c.Rollout, RolloutManual, RolloutAutomatic)...)
	errs = append(errs, c.Agent.validate(field.NewPath("agent"))...)
	if limit, err := resource.ParseQuantity(c.CACerts.SizeLimit); err != nil || limit.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("cacerts", "sizeLimit"), c.CACerts.SizeLimit, `expected a quantity such as 1Mi, or "0" for none`))
	}
	if c.ClusterName != "" {
		errs = append(errs, subdomain(field.NewPath("clusterName"), c.ClusterName)...)
	}
	errs = append(errs, validateNamespaces(field.NewPath("namespaces"), c.Namespaces, "")...)
	errs = append(errs, c.VirtualMesh.validate(field.NewPath("virtualMesh"), c.Server.Namespace)...)
	errs = append(errs, validateNamespaces(field.NewPath("agentRights", "namespaces"), c.AgentRights.Namespaces, "")...)
	errs = append(errs, c.covered(field.NewPath("agentRights", "namespaces"), c.AgentRights.Namespaces)...)
	errs = append(errs, subdomain(field.NewPath("agentRights", "roleBinding"), c.AgentRights.RoleBinding)...)
	errs = append(errs, c.Server.validate(field.NewPath("server"))...)
	return append(errs, c.covered(field.NewPath("server", "bundleEndpoint", "namespaces"), c.Server.BundleEndpoint.Namespaces)...)
}

// covered requires that the program has rights in these namespaces.
func (c *InjectionConfiguration) covered(path *field.Path, namespaces []string) (errs field.ErrorList) {
	for i, namespace := range namespaces {
		if !c.Covers(namespace) {
			errs = append(errs, field.Invalid(path.Index(i), namespace, "must also be in namespaces, in which the controllers act"))
		}
	}
	return errs
}

// validate leaves mistakes in server.namespace, a default here, to that field.
func (v *VirtualMesh) validate(path *field.Path, server string) field.ErrorList {
	return validateNamespaces(path.Child("namespaces"), v.Namespaces, server)
}

func validateNamespaces(path *field.Path, namespaces []string, valid string) field.ErrorList {
	if len(namespaces) > maxNamespaces {
		return field.ErrorList{field.TooMany(path, len(namespaces), maxNamespaces)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, namespace := range namespaces {
		if namespace != valid || namespace == "" {
			errs = append(errs, invalid(path.Index(i), namespace, validation.IsDNS1123Label(namespace))...)
		}
		if seen.Has(namespace) {
			errs = append(errs, field.Duplicate(path.Index(i), namespace))
		}
		seen.Insert(namespace)
	}
	return errs
}

func (a *Agent) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if parts := imageReference.FindStringSubmatch(a.Image); parts == nil || len(parts[1]) > maxTag {
		errs = append(errs, field.Invalid(path.Child("image"), a.Image, "expected an image reference such as registry.example.com/istiod-agent:v1.0.0"))
	}
	errs = append(errs, oneOf(path.Child("imagePullPolicy"), a.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, validateEnv(path.Child("env"), a.Env)...)
	if len(a.AllowedServers) > 0 && slices.ContainsFunc(a.Env, func(e corev1.EnvVar) bool { return e.Name == AllowedServersVariable }) {
		errs = append(errs, field.Forbidden(path.Child("env"), "expected no "+AllowedServersVariable+" together with allowedServers"))
	}
	if len(a.AllowedServers) > maxAllowedServers {
		errs = append(errs, field.TooMany(path.Child("allowedServers"), len(a.AllowedServers), maxAllowedServers))
	}
	for i, server := range a.AllowedServers {
		if parts := serverAddress.FindStringSubmatch(server); parts == nil || !certificatesv1.IsServerPrefix(parts[3]) || len(server) > maxServer {
			errs = append(errs, field.Invalid(path.Child("allowedServers").Index(i), server, "expected https://<host>[:<port>][/<prefix>], such as https://vault.example.com:8200"))
		}
	}
	errs = append(errs, a.VaultToken.validate(path.Child("vaultToken"))...)
	return append(errs, validateResources(path.Child("resources"), a.Resources)...)
}

func (t *VaultToken) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(t.Audience) > maxServer || strings.ContainsFunc(t.Audience, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		errs = append(errs, field.Invalid(path.Child("audience"), t.Audience, "expected a name or a URL without spaces, such as vault"))
	}
	seconds := t.ExpirationSeconds
	switch {
	case seconds == nil:
	case t.Audience == "":
		errs = append(errs, field.Forbidden(path.Child("expirationSeconds"), "expected none without an audience: no token is projected"))
	case *seconds < minTokenSeconds || *seconds > maxTokenSeconds:
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *seconds, fmt.Sprintf("expected %d to %d", minTokenSeconds, maxTokenSeconds)))
	}
	return errs
}

func validateEnv(path *field.Path, env []corev1.EnvVar) field.ErrorList {
	if len(env) > maxEnv {
		return field.ErrorList{field.TooMany(path, len(env), maxEnv)}
	}
	var errs field.ErrorList
	seen := sets.New(guideEnv...)
	for i, variable := range env {
		name := path.Index(i).Child("name")
		errs = append(errs, invalid(name, variable.Name, validation.IsEnvVarName(variable.Name))...)
		if seen.Has(variable.Name) {
			errs = append(errs, field.Duplicate(name, variable.Name))
		}
		seen.Insert(variable.Name)
		if variable.ValueFrom != nil {
			errs = append(errs, validateSource(path.Index(i), variable)...)
		}
	}
	return errs
}

// validateSource is the API server's validateEnvVarValueFrom (pkg/apis/core/validation, Kubernetes 1.37).
func validateSource(path *field.Path, variable corev1.EnvVar) field.ErrorList {
	from, named := variable.ValueFrom, 0
	for _, set := range []bool{from.FieldRef != nil, from.ResourceFieldRef != nil, from.ConfigMapKeyRef != nil, from.SecretKeyRef != nil, from.FileKeyRef != nil} {
		if set {
			named++
		}
	}
	var errs field.ErrorList
	if variable.Value != "" {
		errs = append(errs, field.Forbidden(path.Child("valueFrom"), "may not be set together with value"))
	}
	if named != 1 {
		errs = append(errs, field.Forbidden(path.Child("valueFrom"), fmt.Sprintf("must name one source, and names %d", named)))
	}
	return errs
}

func validateResources(path *field.Path, resources *corev1.ResourceRequirements) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name string
		of   corev1.ResourceList
	}{{"limits", resources.Limits}, {"requests", resources.Requests}} {
		for _, name := range sets.List(sets.KeySet(list.of)) {
			quantity, at := list.of[name], path.Child(list.name).Key(string(name))
			if quantity.Sign() < 0 {
				errs = append(errs, field.Invalid(at, quantity.String(), "must not be negative"))
			}
			// An API server rounds up, and what it stores would never be as rendered.
			if rounded := quantity.DeepCopy(); !rounded.RoundUp(resource.Milli) {
				errs = append(errs, field.Invalid(at, quantity.String(), "must not be finer than a thousandth"))
			}
		}
	}
	for _, name := range sets.List(sets.KeySet(resources.Requests)) {
		request := resources.Requests[name]
		if limit, ok := resources.Limits[name]; ok && request.Cmp(limit) > 0 {
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(name)), request.String(), "must not be more than the limit of "+limit.String()))
		}
	}
	if len(resources.Claims) > 0 {
		errs = append(errs, field.Forbidden(path.Child("claims"), "the agent takes no resource claims"))
	}
	return errs
}

func (s *Server) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.BindAddress != "" {
		if _, err := netip.ParseAddr(s.BindAddress); err != nil {
			errs = append(errs, field.Invalid(path.Child("bindAddress"), s.BindAddress, "expected an IP address such as 127.0.0.1"))
		}
	}
	if s.ClientCA != "" && !filepath.IsAbs(s.ClientCA) {
		errs = append(errs, field.Invalid(path.Child("clientCA"), s.ClientCA, "expected the absolute path of a PEM file"))
	}
	taken := map[int32]string{}
	type port struct {
		path   *field.Path
		number int32
	}
	ports := []port{{path.Child("port"), s.Port}, {path.Child("healthPort"), s.HealthPort}, {path.Child("metricsPort"), s.MetricsPort}}
	if bundle := path.Child("bundleEndpoint"); s.BundleEndpoint.Enabled() {
		ports = append(ports, port{bundle.Child("port"), s.BundleEndpoint.Port})
		errs = append(errs, s.BundleEndpoint.validate(bundle)...)
	}
	for _, port := range ports {
		errs = append(errs, invalid(port.path, port.number, validation.IsValidPortNum(int(port.number)))...)
		if other, ok := taken[port.number]; ok {
			errs = append(errs, field.Invalid(port.path, port.number, "is already the "+other))
		}
		taken[port.number] = strings.TrimPrefix(port.path.String(), path.String()+".")
	}
	errs = append(errs, invalid(path.Child("namespace"), s.Namespace, validation.IsDNS1123Label(s.Namespace))...)
	errs = append(errs, subdomain(path.Child("webhookConfiguration"), s.WebhookConfiguration)...)
	errs = append(errs, subdomain(path.Child("injection"), s.Injection)...)
	return append(errs, s.ServingCertificate.validate(path.Child("servingCertificate"))...)
}

func (b *BundleEndpoint) validate(path *field.Path) field.ErrorList {
	errs := validateNamespaces(path.Child("namespaces"), b.Namespaces, "")
	if !filepath.IsAbs(b.Directory) {
		errs = append(errs, field.Invalid(path.Child("directory"), b.Directory, "expected an absolute path"))
	}
	return errs
}

func (s *ServingCertificate) validate(path *field.Path) field.ErrorList {
	errs := oneOf(path.Child("source"), s.Source, CertificateSelfManaged, CertificateCertManager, CertificateSecret)
	if len(s.DNSNames) > maxDNSNames {
		return append(errs, field.TooMany(path.Child("dnsNames"), len(s.DNSNames), maxDNSNames))
	}
	for i, name := range s.DNSNames {
		errs = append(errs, subdomain(path.Child("dnsNames").Index(i), name)...)
	}
	errs = append(errs, subdomain(path.Child("secretName"), s.SecretName)...)
	if !filepath.IsAbs(s.Directory) {
		errs = append(errs, field.Invalid(path.Child("directory"), s.Directory, "expected an absolute path"))
	}
	switch {
	case s.CABundle == "":
	case s.Source != CertificateSecret:
		errs = append(errs, field.Forbidden(path.Child("caBundle"), fmt.Sprintf("only with source %s: with %s something else keeps the caBundle", CertificateSecret, s.Source)))
	case !filepath.IsAbs(s.CABundle):
		errs = append(errs, field.Invalid(path.Child("caBundle"), s.CABundle, "expected the absolute path of a PEM file"))
	}

	ca, caErrs := duration(path.Child("caDuration"), s.CADuration)
	leaf, leafErrs := duration(path.Child("leafDuration"), s.LeafDuration)
	errs = append(append(errs, caErrs...), leafErrs...)
	if len(caErrs)+len(leafErrs) > 0 {
		return errs
	}
	if leaf < minLeafDuration {
		errs = append(errs, field.Invalid(path.Child("leafDuration"), s.LeafDuration, "must be at least "+minLeafDuration.String()))
	}
	if ca <= leaf {
		errs = append(errs, field.Invalid(path.Child("caDuration"), s.CADuration, "must be longer than leafDuration, "+s.LeafDuration))
	}
	return errs
}

func oneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	if value == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("expected %q", allowed[0]))}
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

func subdomain(path *field.Path, name string) field.ErrorList {
	return invalid(path, name, validation.IsDNS1123Subdomain(name))
}

func invalid(path *field.Path, value any, problems []string) (errs field.ErrorList) {
	for _, problem := range problems {
		errs = append(errs, field.Invalid(path, value, problem))
	}
	return errs
}

func duration(path *field.Path, value string) (time.Duration, field.ErrorList) {
	parsed, err := time.ParseDuration(value)
	if err != nil || parsed <= 0 {
		return 0, field.ErrorList{field.Invalid(path, value, "expected a duration such as 168h or 90m")}
	}
	return parsed, nil
}
