// SPDX-License-Identifier: Apache-2.0

package client

import (
	"strings"
	"testing"
)

func TestSigner(t *testing.T) {
	for name, test := range map[string]struct{ path, clean, mount, refused string }{
		"root":                             {"pki/root/sign-intermediate", "pki/root/sign-intermediate", "pki", ""},
		"slashes around":                   {"/pki/root/sign-intermediate/", "pki/root/sign-intermediate", "pki", ""},
		"with /v1/":                        {"/v1/pki/root/sign-intermediate", "pki/root/sign-intermediate", "pki", ""},
		"with v1/":                         {"v1/pki/root/sign-intermediate", "pki/root/sign-intermediate", "pki", ""},
		"nested mount":                     {"a/b/pki/root/sign-intermediate", "a/b/pki/root/sign-intermediate", "a/b/pki", ""},
		"an issuer":                        {"pki/issuer/default/sign-intermediate", "pki/issuer/default/sign-intermediate", "pki", ""},
		"an issuer of a nested mount":      {"/v1/a/pki/issuer/2b9c/sign-intermediate", "a/pki/issuer/2b9c/sign-intermediate", "a/pki", ""},
		"an issuer named root":             {"pki/issuer/root/sign-intermediate", "pki/issuer/root/sign-intermediate", "pki", ""},
		"a mount named root":               {"root/root/sign-intermediate", "root/root/sign-intermediate", "root", ""},
		"a mount named issuer":             {"issuer/root/sign-intermediate", "issuer/root/sign-intermediate", "issuer", ""},
		"a mount named sign":               {"sign/root/sign-intermediate", "sign/root/sign-intermediate", "sign", ""},
		"a mount named v1 behind /v1/":     {"/v1/v1/root/sign-intermediate", "v1/root/sign-intermediate", "v1", ""},
		"empty":                            {"", "", "", "expected <mount>/root/sign-intermediate"},
		"slashes only":                     {"///", "", "", "expected <mount>/root/sign-intermediate"},
		"no mount":                         {"root/sign-intermediate", "", "", "expected <mount>/root/sign-intermediate"},
		"no mount behind /v1/":             {"/v1/root/sign-intermediate", "", "", "expected <mount>/root/sign-intermediate"},
		"an issuer without mount":          {"issuer/default/sign-intermediate", "", "", "expected <mount>/root/sign-intermediate"},
		"an issuer without name":           {"pki/issuer/sign-intermediate", "", "", "<mount>/issuer/<issuer>/sign-intermediate"},
		"an issuer with an empty name":     {"pki/issuer//sign-intermediate", "", "", "<mount>/issuer/<issuer>/sign-intermediate"},
		"leaf certificates":                {"pki/sign/istio", "", "", `"pki/sign/istio" signs leaf certificates; expected <mount>/root/sign-intermediate`},
		"leaf certificates of an issuer":   {"pki/issuer/default/sign/istio", "", "", "signs leaf certificates"},
		"leaf certificates behind /v1/":    {"/v1/pki/sign/istio", "", "", "signs leaf certificates"},
		"leaf certificates and their keys": {"pki/issue/istio", "", "", "expected <mount>/root/sign-intermediate"},
		"something behind":                 {"pki/root/sign-intermediate/more", "", "", "expected <mount>/root/sign-intermediate"},
		"self-issued":                      {"pki/root/sign-self-issued", "", "", "expected <mount>/root/sign-intermediate"},
	} {
		t.Run(name, func(t *testing.T) {
			clean, mount, err := signer(test.path)
			same(t, clean, test.clean, mount, test.mount, err, test.refused)
		})
	}
}

func TestGenerator(t *testing.T) {
	for name, test := range map[string]struct{ path, clean, mount, refused string }{
		"exported":            {"pki/intermediate/generate/exported", "pki/intermediate/generate/exported", "pki", ""},
		"since 1.11":          {"pki/issuers/generate/intermediate/exported", "pki/issuers/generate/intermediate/exported", "pki", ""},
		"with /v1/":           {"/v1/pki/intermediate/generate/exported/", "pki/intermediate/generate/exported", "pki", ""},
		"nested mount":        {"a/b/intermediate/generate/exported", "a/b/intermediate/generate/exported", "a/b", ""},
		"keys that stay":      {"pki/intermediate/generate/internal", "", "", "expected <mount>/intermediate/generate/exported"},
		"an existing key":     {"pki/intermediate/generate/existing", "", "", "expected <mount>/intermediate/generate/exported"},
		"a root":              {"pki/root/generate/exported", "", "", "expected <mount>/intermediate/generate/exported"},
		"no mount":            {"intermediate/generate/exported", "", "", "expected <mount>/intermediate/generate/exported"},
		"no mount, with /v1/": {"/v1/intermediate/generate/exported", "", "", "or <mount>/issuers/generate/intermediate/exported"},
		"leaf certificates":   {"pki/issue/istio", "", "", `CSR path "pki/issue/istio"`},
	} {
		t.Run(name, func(t *testing.T) {
			clean, mount, err := generator(test.path)
			same(t, clean, test.clean, mount, test.mount, err, test.refused)
		})
	}
}

func same(t *testing.T, clean, wantClean, mount, wantMount string, err error, refused string) {
	t.Helper()
	if clean != wantClean || mount != wantMount {
		t.Errorf("got %q and mount %q, expected %q and %q", clean, mount, wantClean, wantMount)
	}
	if (err != nil) != (refused != "") || err != nil && !strings.Contains(err.Error(), refused) {
		t.Errorf("got %v, expected %q", err, refused)
	}
}

func TestLoginPath(t *testing.T) {
	for mount, want := range map[string]string{
		"kubernetes":               "auth/kubernetes/login",
		"auth/kubernetes":          "auth/kubernetes/login",
		"/auth/kubernetes/":        "auth/kubernetes/login",
		"/v1/auth/kubernetes":      "auth/kubernetes/login",
		"v1/auth/kubernetes/":      "auth/kubernetes/login",
		"/v1/auth/clusters/eu/one": "auth/clusters/eu/one/login",
		"authority":                "auth/authority/login",
	} {
		if got := loginPath(mount); got != want {
			t.Errorf("%q: got %q, expected %q", mount, got, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"no CA path":            {func(c *Config) { c.CAPath = "" }, "CA path"},
		"a CSR path of no keys": {func(c *Config) { c.CSRPath = "pki/intermediate/generate/internal" }, "CSR path"},
		"a bundle without PEM":  {func(c *Config) { c.CABundle = []byte("no certificate") }, "no certificate in PEM"},
		"no login":              {func(c *Config) { c.Kubernetes = nil }, "one way to log in"},
		"two logins":            {func(c *Config) { c.Token = given("kept-token") }, "one way to log in"},
	} {
		t.Run(name, func(t *testing.T) {
			config := configuration("https://vault.example")
			test.change(&config)
			if _, err := New(config); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, expected %q", err, test.says)
			}
		})
	}
}

func TestNewTakesNoCSRPath(t *testing.T) {
	config := configuration("https://vault.example")
	config.CSRPath = ""
	if _, err := New(config); err != nil {
		t.Error(err)
	}
}
