// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/internal/uriconstraints"
)

// uriDomain matches a constraint for URIs (RFC 5280, section 4.2.1.10), in the characters of a trust domain (SPIFFE-ID, section
// 2.1).
var uriDomain = regexp.MustCompile(`^\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*$`)

func (o *CertOptions) validateURIDomains(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[string]bool, len(o.PermittedURIDomains))
	for i, domain := range o.PermittedURIDomains {
		_, notIP := netip.ParseAddr(strings.TrimPrefix(domain, "."))
		switch {
		case seen[domain]:
			errs = append(errs, field.Duplicate(path.Index(i), domain))
		case notIP == nil || !uriDomain.MatchString(domain):
			errs = append(errs, field.Invalid(path.Index(i), domain,
				"expected a trust domain such as cluster.local, or after a dot the domain of several, such as .example.com, in lower case"))
		}
		seen[domain] = true
	}
	return errs
}

// ValidateHosts returns an error for each SPIFFE ID whose trust domain permittedURIDomains excludes; path is the position of the
// options. Invalid IDs have errors of their own.
func (o *CertOptions) ValidateHosts(path *field.Path, hosts []string) field.ErrorList {
	if len(o.PermittedURIDomains) == 0 {
		return nil
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for _, host := range hosts {
		parts := istioIdentity.FindStringSubmatch(host)
		if parts == nil || len(parts[1]) > maxTrustDomain || seen[parts[1]] {
			continue
		}
		seen[parts[1]] = true
		if !uriconstraints.Permit(o.PermittedURIDomains, parts[1]) {
			errs = append(errs, field.Invalid(path.Child("permittedURIDomains"), o.PermittedURIDomains,
				fmt.Sprintf("expected also %s, the trust domain of an istiod: without it, every certificate that istiod signs is rejected", parts[1])))
		}
	}
	return errs
}
