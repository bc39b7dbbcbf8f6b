// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// reviewerAdvice describes configurations of token reviews without an expiring token.
const reviewerAdvice = "write the configuration without token_reviewer_jwt and kubernetes_ca_cert for a Vault in a Pod of this cluster, which then uses the current files of its Pod; " +
	"for a Vault elsewhere use the token of a Secret of type kubernetes.io/service-account-token (docs/vault.md, The login)"

// PodReviewer returns a warning if the existing configuration holds a token_reviewer_jwt: the token of a Pod, as in Gloo Mesh's
// guide, expires with the Pod (since Kubernetes 1.21), and then every login fails. Vault does not show the token itself; likely
// is true where the address of the API server is the Service in the cluster, as in the guide.
func (f *Observed) PodReviewer(auth *Auth) (warning string, likely bool) {
	if hasToken, _ := f.Config["token_reviewer_jwt_set"].(bool); !hasToken || auth == nil {
		return "", false
	}
	host, _ := f.Config["kubernetes_host"].(string)
	return fmt.Sprintf("auth/%s/config holds a token_reviewer_jwt: if it is the token of a Pod, as in Gloo Mesh's guide, every login fails after that Pod is deleted", auth.Mount), isServiceAddress(host)
}

// isServiceAddress reports whether an address of the API server is the Service kubernetes, by name or by IP.
func isServiceAddress(host string) bool {
	address, err := url.Parse(host)
	if err != nil {
		return false
	}
	if address.Hostname() == "kubernetes.default" || strings.HasPrefix(address.Hostname(), "kubernetes.default.svc") {
		return true
	}
	ip, err := netip.ParseAddr(address.Hostname())
	return err == nil && ip.IsPrivate() && address.Port() == "443"
}

// noteExpiry notes the expiry of the reviewer's token (exp claim, RFC 7519, section 4.1.4).
func (w *Desired) noteExpiry() {
	parts := strings.Split(w.Auth.Reviewer.Token, ".")
	if len(parts) != 3 {
		return
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.Expires <= 0 || claims.Expires > maxExpiry {
		return
	}
	w.note("The token in %s expires at %s, or earlier with its Pod, and then every login fails: %s.",
		w.Auth.Reviewer.TokenFile, time.Unix(int64(claims.Expires), 0).UTC().Format(time.RFC3339), reviewerAdvice)
}

// maxExpiry is the end of the year 9999, in seconds since 1970.
const maxExpiry = 253402300799
