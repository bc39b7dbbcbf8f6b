// SPDX-License-Identifier: Apache-2.0

package uriconstraints_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/testca"
	"github.com/istiod-agent/istiod-agent/internal/uriconstraints"
)

func TestPermit(t *testing.T) {
	for name, test := range map[string]struct {
		constraints []string
		host        string
		want        bool
	}{
		"itself":                        {[]string{"mesh.example"}, "mesh.example", true},
		"itself, in another case":       {[]string{"Mesh.Example"}, "mesh.EXAMPLE", true},
		"one of two":                    {[]string{"other.example", "mesh.example"}, "mesh.example", true},
		"a subdomain of a host":         {[]string{"mesh.example"}, "a.mesh.example", false},
		"a subdomain of a domain":       {[]string{".mesh.example"}, "a.mesh.example", true},
		"two below a domain":            {[]string{".mesh.example"}, "a.b.mesh.example", true},
		"the domain itself":             {[]string{".mesh.example"}, "mesh.example", false},
		"a name that ends with another": {[]string{"mesh.example"}, "amesh.example", false},
		"a longer constraint":           {[]string{".a.mesh.example"}, "mesh.example", false},
		"an empty constraint":           {[]string{""}, "mesh.example", false},
		"a dot":                         {[]string{"."}, "mesh.example", false},
		"no constraint":                 {nil, "mesh.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := uriconstraints.Permit(test.constraints, test.host); got != test.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

// crypto/x509 reads the extension as it was meant, and as it writes it itself.
func TestExtension(t *testing.T) {
	domains := []string{"mesh.example", ".other.example"}
	extension, err := uriconstraints.Extension(domains)
	if err != nil {
		t.Fatal(err)
	}
	written := testca.Authority("mesh")
	written.ExtraExtensions = []pkix.Extension{extension}
	read := testca.SelfSign(written, nil).Certificate
	if !slices.Equal(read.PermittedURIDomains, domains) || !read.PermittedDNSDomainsCritical || len(read.UnhandledCriticalExtensions) > 0 {
		t.Errorf("permits %q", read.PermittedURIDomains)
	}
	ofGo := testca.Authority("mesh")
	ofGo.PermittedURIDomains, ofGo.PermittedDNSDomainsCritical = domains, true
	byID := func(certificate *x509.Certificate) pkix.Extension {
		i := slices.IndexFunc(certificate.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(extension.Id) })
		return certificate.Extensions[i]
	}
	if want := byID(testca.SelfSign(ofGo, nil).Certificate); !slices.Equal(want.Value, extension.Value) {
		t.Errorf("got %x, Go writes %x", extension.Value, want.Value)
	}
}
