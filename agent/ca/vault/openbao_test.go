// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// OpenBao, and Vault before 1.17, do not say whether a token is unknown or lacks a right. One that could look itself up before is
// of no use any more, which is a problem before the next renewal; another one perhaps never could.
func TestOpenBaoTokenEnds(t *testing.T) {
	t.Parallel()
	valid := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if valid {
			_, _ = io.WriteString(w, `{"data":{"ttl":86400,"creation_ttl":86400,"renewable":false,"type":"service","num_uses":0}}`)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)
	}))
	t.Cleanup(server.Close)
	values := map[string][]byte{"token": []byte("s.A1b2C3d4E5f6G7h8I9j0K1l2")}
	source, errs := New(options(&requests{secret: values}), &certificatesv1.VaultCA{
		Server: server.URL, CAPath: "pki/root/sign-intermediate", TokenSecretRef: &certificatesv1.ObjectRef{Name: "vault-token"},
	})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	user, now := source.(ca.TokenUser), time.Now()
	if found := user.CheckToken(t.Context(), now); !found.Known || found.NotAfter.IsZero() {
		t.Fatalf("a valid token: %+v", found)
	}
	valid = false
	for range 2 {
		found := user.CheckToken(t.Context(), now)
		if found.Reason != string(client.NotAuthorized) || !strings.Contains(found.Problem, "accepted before and is refused now") || found.Next > time.Minute || strings.Contains(found.Problem, "A1b2") {
			t.Errorf("a token that has ended: %+v", found)
		}
	}
	values["token"] = []byte("s.another0another0another0")
	if found := user.CheckToken(t.Context(), now); found.Reason != string(client.PolicyDenies) || found.Problem != "" || found.Info == "" {
		t.Errorf("another token, which may not look itself up: %+v", found)
	}
}
