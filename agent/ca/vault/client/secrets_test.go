// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// None of these is one; they have the shapes of what must not be told.
const (
	secretToken = "hvs.CAESIJlU02LQZq6markerXtokenYofZnoVault0123456789"
	secretJWT   = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtYXJrZXIifQ.c2lnbmF0dXJlLW9mLW5vYm9keS1hdC1hbGw"
	secretKey   = "-----BEGIN PRIVATE KEY-----\nbWFya2VyIG9mIGEga2V5IHRoYXQgaXMgbm9uZSwgbGluZSBvbmU\nbWFya2VyLCBsaW5lIHR3bw==\n-----END PRIVATE KEY-----\n"
)

// withoutSecrets wants no twelve characters of any secret, nor of one's lines, in a message.
func withoutSecrets(t *testing.T, message string) {
	t.Helper()
	for _, secret := range []string{secretToken, secretJWT, secretKey} {
		for i := range len(secret) - 11 {
			if piece := secret[i : i+12]; strings.Contains(message, piece) {
				t.Fatalf("%q of a secret is in %q", piece, message)
			}
		}
	}
}

func TestNoErrorHoldsASecret(t *testing.T) {
	bodies := map[string]string{}
	for kind, secret := range map[string]string{"token": secretToken, "JWT": secretJWT, "key": secretKey} {
		s := quoted(secret)
		bodies[kind+" alone"] = secret
		bodies[kind+" as the error"] = `{"errors":[` + s + `]}`
		bodies[kind+" in the error"] = `{"errors":[` + quoted("permission denied for "+secret+", sorry") + `]}`
		bodies[kind+" in an error of lines"] = `{"errors":[` + quoted("1 error occurred:\n\t* "+secret+"\n\n") + `]}`
		bodies[kind+" in the second error"] = `{"errors":["no",` + s + `]}`
		bodies[kind+" behind a long text"] = `{"errors":[` + quoted(strings.Repeat("word ", 38)+secret) + `]}`
		bodies[kind+" in words that count"] = `{"errors":[` + quoted("Vault is sealed, invalid role name, namespace not authorized, audience: "+secret) + `]}`
		bodies[kind+" in an error and data"] = `{"errors":[` + s + `],"more":` + s + `}`
		bodies[kind+" as the data"] = `{"data":` + s + `}`
		bodies[kind+" in the data"] = `{"data":{"private_key":` + s + `,"other":` + s + `}}`
		bodies[kind+" in the auth"] = `{"auth":{"accessor":` + s + `}}`
		bodies[kind+" as a field's name"] = `{` + s + `:{}}`
		bodies[kind+" as a warning"] = `{"warnings":[` + s + `]}`
		bodies[kind+" in truncated JSON"] = `{"data":{"private_key":` + s
		bodies[kind+" in a page"] = `<html>` + secret + `</html>`
	}
	statuses := []int{200, 204, 300, 302, 307, 400, 401, 403, 404, 405, 412, 418, 429, 500, 501, 502, 503, 504}
	for _, endpoint := range []string{loginEndpoint, generateEndpoint, signEndpoint, chainEndpoint, deleteEndpoint, revokeEndpoint} {
		t.Run(endpoint, func(t *testing.T) {
			var status int
			var body string
			inner := &fake{}
			server := start(t, func(w http.ResponseWriter, r *http.Request) {
				at := r.Method + " " + r.URL.Path
				if at != endpoint && (endpoint != chainEndpoint || at != caEndpoint) {
					inner.handler(good()).ServeHTTP(w, r)
					return
				}
				w.Header().Set("X-Vault-Token", secretToken)
				w.Header().Set("X-Vault-Namespace", secretJWT)
				w.Header().Set("Set-Cookie", "session="+secretToken)
				w.Header().Set("Location", "/"+secretToken+"?jwt="+secretJWT)
				w.Header().Set("Www-Authenticate", "Bearer "+secretJWT)
				w.WriteHeader(status)
				if status != 204 {
					_, _ = io.WriteString(w, body)
				}
			}, nil)
			config := configuration(server.URL)
			config.Kubernetes.JWT = given(secretJWT)
			for name, content := range bodies {
				for _, status = range statuses {
					body = content
					err := try(t.Context(), config, endpoint)
					if err == nil {
						continue
					}
					for _, message := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
						withoutSecrets(t, message)
					}
					if t.Failed() {
						t.Fatalf("%s, status %d", name, status)
					}
				}
			}
		})
	}
}

func TestNoWarningHoldsASecret(t *testing.T) {
	for kind, secret := range map[string]string{"token": secretToken, "JWT": secretJWT, "key": secretKey} {
		t.Run(kind, func(t *testing.T) {
			body := `{"data":{"certificate":"C"},"warnings":["harmless",` + quoted("beware of "+secret) + `]}`
			signed, err := login(t, configuration(serve(t, with(signEndpoint, 200, body)).URL)).Sign(t.Context(), nil, request)
			if err != nil || len(signed.Warnings) != 1 || signed.Warnings[0] != "harmless" {
				t.Errorf("got %+v, %v", signed, err)
			}
		})
	}
}

func TestWarningsAreFew(t *testing.T) {
	body := `{"data":{"certificate":"C"},"warnings":["beware"` + strings.Repeat(`,"beware"`, 1000) + `]}`
	signed, err := login(t, configuration(serve(t, with(signEndpoint, 200, body)).URL)).Sign(t.Context(), nil, request)
	if err != nil || len(signed.Warnings) != maxWarnings {
		t.Errorf("%d warnings, %v", len(signed.Warnings), err)
	}
}

func TestQuotable(t *testing.T) {
	for name, test := range map[string]struct {
		words, want string
		ok          bool
	}{
		"words":            {"common name Istio not allowed by this role", "common name Istio not allowed by this role", true},
		"lines":            {"1 error occurred:\n\t* no\n\n", "1 error occurred: * no", true},
		"nothing":          {" \n", "", false},
		"a host":           {"hosts.example.com is not allowed", "hosts.example.com is not allowed", true},
		"a SPIFFE ID":      {"spiffe://cluster.local/ns/istio-system/sa/istiod", "spiffe://cluster.local/ns/istio-system/sa/istiod", true},
		"a serial number":  {"serial 0a:1b:2c:3d:4e:5f:60:71:82:93:a4:b5:c6:d7", "serial 0a:1b:2c:3d:4e:5f:60:71:82:93:a4:b5:c6:d7", true},
		"a service token":  {"hvs.CAESIJlU02", "", false},
		"a batch token":    {"token=hvb.CAESIJlU02", "", false},
		"a recovery token": {"(hvr.CAESIJlU02)", "", false},
		"an old token":     {"for s.iyNUhq8Ov4hIAx6snw5mB2nL", "", false},
		"a JWT":            {"a eyJhbGciOiJSUzI1NiJ9", "", false},
		"PEM":              {"a -----BEGIN RSA PRIVATE KEY----- b", "", false},
		"long base64":      {strings.Repeat("aB3/", 10), "", false},
		"long hexadecimal": {strings.Repeat("0f", 20), "", false},
		"a UUID":           {"6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", true},
		"controls":         {"a\x1b[2J\u202eb", "a [2J b", true},
		"many runes":       {strings.Repeat("é ", 150), strings.Repeat("é ", 100) + "…", true},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := quotable(test.words); got != test.want || ok != test.ok {
				t.Errorf("got %q, %v; expected %q, %v", got, ok, test.want, test.ok)
			}
		})
	}
}
