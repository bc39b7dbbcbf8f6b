// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Policies with required or allowed parameters depend on what exactly is sent, and Vault's own templates on strings.
func TestWhatIsSent(t *testing.T) {
	hosts := strings.Join(request.Hosts, ",")
	for name, test := range map[string]struct {
		endpoint string
		call     func(*Session) error
		body     map[string]any
	}{
		"log in": {loginEndpoint, nil, map[string]any{"role": "istiod", "jwt": "a.service.account.token"}},
		"generate": {generateEndpoint, func(s *Session) error { _, err := s.Generate(t.Context(), request); return err }, map[string]any{
			"common_name": "Istio", "organization": "Istio", "uri_sans": hosts, "exclude_cn_from_sans": "true",
			"key_type": "ec", "key_bits": "256", "format": "pem", "private_key_format": "pkcs8",
		}},
		"sign": {signEndpoint, func(s *Session) error { _, err := s.Sign(t.Context(), []byte("a request\n"), request); return err }, map[string]any{
			"csr": "a request\n", "common_name": "Istio", "organization": "Istio", "uri_sans": hosts, "exclude_cn_from_sans": "true",
			"max_path_length": "0", "ttl": "129600s", "format": "pem",
		}},
		"sign with name constraints": {signEndpoint, func(s *Session) error {
			limited := request
			limited.PermittedURIDomains = []string{"cluster.local", ".example.com"}
			_, err := s.Sign(t.Context(), []byte("a request\n"), limited)
			return err
		}, map[string]any{
			"csr": "a request\n", "common_name": "Istio", "organization": "Istio", "uri_sans": hosts, "exclude_cn_from_sans": "true",
			"max_path_length": "0", "ttl": "129600s", "format": "pem", "permitted_uri_domains": "cluster.local,.example.com",
		}},
		"delete": {deleteEndpoint, func(s *Session) error { return s.DeleteKey(t.Context(), "some-id") }, nil},
		"close":  {revokeEndpoint, func(s *Session) error { return s.Close(t.Context()) }, map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, good())
			session := login(t, configuration(server.URL))
			if test.call != nil {
				if err := test.call(session); err != nil {
					t.Fatal(err)
				}
			}
			calls := server.received()
			last := calls[len(calls)-1]
			if last.endpoint != test.endpoint || !reflect.DeepEqual(last.body, test.body) {
				t.Errorf("got %s %s, expected %s %v", last.endpoint, last.raw, test.endpoint, test.body)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	for name, test := range map[string]struct {
		config           func(string) Config
		namespace, token string
	}{
		"own login":                  {configuration, "", "own-token"},
		"own login in a namespace":   {configuration, "team/a", "own-token"},
		"kept token":                 {tokenConfiguration, "", "kept-token"},
		"kept token and a namespace": {tokenConfiguration, "team/a", "kept-token"},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, good())
			config := test.config(server.URL)
			config.Namespace = test.namespace
			all(t, login(t, config))
			for _, call := range server.received() {
				token := test.token
				if call.endpoint == loginEndpoint {
					token = ""
				}
				if got := call.header.Get("X-Vault-Token"); got != token {
					t.Errorf("%s: token %q, expected %q", call.endpoint, got, token)
				}
				if got := call.header.Get("X-Vault-Namespace"); got != test.namespace {
					t.Errorf("%s: namespace %q, expected %q", call.endpoint, got, test.namespace)
				}
				if call.header.Get("X-Vault-Request") != "true" {
					t.Errorf("%s: no X-Vault-Request, which Vault Agent can require", call.endpoint)
				}
			}
		})
	}
}

// all makes every call, and ends the session.
func all(t *testing.T, s *Session) {
	t.Helper()
	for name, call := range calls(t.Context(), s) {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func calls(ctx context.Context, s *Session) map[string]func() error {
	return map[string]func() error{
		generateEndpoint: func() error { _, err := s.Generate(ctx, request); return err },
		signEndpoint:     func() error { _, err := s.Sign(ctx, []byte("a request"), request); return err },
		chainEndpoint:    func() error { _, err := s.Roots(ctx); return err },
		deleteEndpoint:   func() error { return s.DeleteKey(ctx, "some-id") },
	}
}

func TestOnlyOwnTokensAreRevoked(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		config func(string) Config
		ctx    context.Context
		want   []string
	}{
		"own":                         {configuration, t.Context(), []string{loginEndpoint, revokeEndpoint}},
		"own, the context has ended":  {configuration, ended, []string{loginEndpoint, revokeEndpoint}},
		"kept":                        {tokenConfiguration, t.Context(), nil},
		"kept, the context has ended": {tokenConfiguration, ended, nil},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, good())
			session := login(t, test.config(server.URL))
			for range 2 { // twice is no more than once
				if err := session.Close(test.ctx); err != nil {
					t.Error(err)
				}
			}
			if got := server.endpoints(); !slices.Equal(got, test.want) {
				t.Errorf("got %q, expected %q", got, test.want)
			}
		})
	}
}

// A Pod may be deleted, or its time be over, while Vault signs: the copy of the key must not stay.
func TestAKeyIsDeletedWhenTheContextHasEnded(t *testing.T) {
	server := serve(t, good())
	session := login(t, configuration(server.URL))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := session.DeleteKey(ended, "some-id"); err != nil {
		t.Error(err)
	}
	if got := server.endpoints(); !slices.Equal(got, []string{loginEndpoint, deleteEndpoint}) {
		t.Errorf("got %q", got)
	}
}

func TestNoTokenIsSentAfterClose(t *testing.T) {
	for name, config := range map[string]func(string) Config{"own": configuration, "kept": tokenConfiguration} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, good())
			session := login(t, config(server.URL))
			if err := session.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, _ = session.Roots(t.Context())
			calls := server.received()
			if got := calls[len(calls)-1]; got.endpoint != caEndpoint || got.header.Get("X-Vault-Token") != "" {
				t.Errorf("%s was sent with a token", got.endpoint)
			}
		})
	}
}

func TestARevocationThatFailsIsSaid(t *testing.T) {
	server := serve(t, with(revokeEndpoint, 403, `{"errors":["permission denied"]}`))
	expect(t, login(t, configuration(server.URL)).Close(t.Context()), PolicyDenies, "revoke the login's own token", `"auth/token/revoke-self"`, `"update"`)
}

func TestTokensAreReadAnewForEachLogin(t *testing.T) {
	wrong := errors.New("no such Secret")
	for name, test := range map[string]struct {
		config func(string) Config
		source func(*Config, func(context.Context) (string, error))
		sent   func(received) string
	}{
		"a service account's": {
			configuration,
			func(c *Config, f func(context.Context) (string, error)) { c.Kubernetes.JWT = f },
			func(r received) string { jwt, _ := r.body["jwt"].(string); return jwt },
		},
		"a kept one": {
			tokenConfiguration,
			func(c *Config, f func(context.Context) (string, error)) { c.Token = f },
			func(r received) string { return r.header.Get("X-Vault-Token") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, good())
			config := test.config(server.URL)
			tokens := []string{"first", "second"}
			test.source(&config, func(context.Context) (string, error) {
				if len(tokens) == 0 {
					return "", wrong
				}
				next := tokens[0]
				tokens = tokens[1:]
				return next, nil
			})
			client, err := New(config)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"first", "second"} {
				session, err := client.Login(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if config.Token != nil {
					_ = session.DeleteKey(t.Context(), "some-id")
				}
				calls := server.received()
				if got := test.sent(calls[len(calls)-1]); got != want {
					t.Errorf("sent %q, expected %q", got, want)
				}
			}
			if _, err := client.Login(t.Context()); !errors.Is(err, wrong) {
				t.Errorf("got %v, expected the token's own error", err)
			}
		})
	}
}

// Files and Secrets often end in a line's end; no header can hold one.
func TestKeptTokensAreTrimmedAndChecked(t *testing.T) {
	for name, test := range map[string]struct {
		token string
		sent  bool
	}{
		"plain":        {"kept-token", true},
		"a line's end": {"kept-token\n", true},
		"two lines":    {"kept-token\nand another", false},
		"none":         {"", false},
		"spaces":       {" \n", false},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, good())
			config := tokenConfiguration(server.URL)
			config.Token = given(test.token)
			client, err := New(config)
			if err != nil {
				t.Fatal(err)
			}
			session, err := client.Login(t.Context())
			if !test.sent {
				expect(t, err, BadConfiguration, "the token is empty or contains characters that no Vault token has")
				if strings.Contains(err.Error(), "kept-token") {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := session.DeleteKey(t.Context(), "some-id"); err != nil {
				t.Error(err)
			}
			if got := server.received()[0].header.Get("X-Vault-Token"); got != "kept-token" {
				t.Errorf("sent %q", got)
			}
		})
	}
}

func TestGenerate(t *testing.T) {
	for name, test := range map[string]struct {
		data string
		want Generated
	}{
		"all":            {`"csr":"R","private_key":"K","key_id":"I"`, Generated{[]byte("R\n"), []byte("K\n"), "I"}},
		"no copy":        {`"csr":"R","private_key":"K"`, Generated{[]byte("R\n"), []byte("K\n"), ""}},
		"spaces around":  {`"csr":"\nR\n\n","private_key":" K ","key_id":" I\n"`, Generated{[]byte("R\n"), []byte("K\n"), "I"}},
		"more than that": {`"csr":"R","private_key":"K","private_key_type":"ec","warnings":null`, Generated{[]byte("R\n"), []byte("K\n"), ""}},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, with(generateEndpoint, 200, `{"data":{`+test.data+`}}`))
			got, err := login(t, configuration(server.URL)).Generate(t.Context(), request)
			if err != nil || !reflect.DeepEqual(*got, test.want) {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}

func TestSign(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		want   Signed
	}{
		"all":                            {`{"data":{"certificate":"C","issuing_ca":"I","ca_chain":["C","I"]}}`, Signed{[]byte("C\n"), []byte("I\n"), [][]byte{[]byte("C\n"), []byte("I\n")}, nil}},
		"no more than the certificate":   {`{"data":{"certificate":"C"}}`, Signed{Certificate: []byte("C\n")}},
		"a chain of other things":        {`{"data":{"certificate":"C","ca_chain":[1,null,"","I"]}}`, Signed{Certificate: []byte("C\n"), Chain: [][]byte{[]byte("I\n")}}},
		"a chain that is none":           {`{"data":{"certificate":"C","ca_chain":"I"}}`, Signed{Certificate: []byte("C\n")}},
		"a warning":                      {`{"data":{"certificate":"C"},"warnings":["TTL of \"9000h\" is longer than permitted maxTTL"]}`, Signed{Certificate: []byte("C\n"), Warnings: []string{`TTL of "9000h" is longer than permitted maxTTL`}}},
		"a warning with a secret":        {`{"data":{"certificate":"C"},"warnings":["beware of hvs.CAESIJlU02LQZq6"]}`, Signed{Certificate: []byte("C\n")}},
		"warnings of what was asked for": {`{"data":{"certificate":"C"},"warnings":["Max path length of the signed certificate is zero. This certificate cannot be used to issue intermediate CA certificates.","no authority information access is set"]}`, Signed{Certificate: []byte("C\n")}},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, with(signEndpoint, 200, test.answer))
			got, err := login(t, configuration(server.URL)).Sign(t.Context(), []byte("a request"), request)
			if err != nil || !reflect.DeepEqual(*got, test.want) {
				t.Errorf("got %+v, %v; expected %+v", got, err, test.want)
			}
		})
	}
}

func TestSignNeedsNoCSRPath(t *testing.T) {
	server := serve(t, good())
	config := configuration(server.URL)
	config.CSRPath = ""
	if _, err := login(t, config).Sign(t.Context(), []byte("a request"), request); err != nil {
		t.Error(err)
	}
}

func TestAnswersWithoutAField(t *testing.T) {
	for name, test := range map[string]struct {
		endpoint, body, says string
	}{
		"login, nothing":            {loginEndpoint, ``, "auth.client_token"},
		"login, no auth":            {loginEndpoint, `{"data":{}}`, "auth.client_token"},
		"login, no token":           {loginEndpoint, `{"auth":{"accessor":"a"}}`, "auth.client_token"},
		"login, an empty token":     {loginEndpoint, `{"auth":{"client_token":""}}`, "auth.client_token"},
		"generate, nothing":         {generateEndpoint, ``, "data.csr"},
		"generate, no data":         {generateEndpoint, `{"data":null}`, "data.csr"},
		"generate, no request":      {generateEndpoint, `{"data":{"private_key":"K"}}`, "data.csr"},
		"generate, no key":          {generateEndpoint, `{"data":{"csr":"R","private_key":" \n"}}`, "data.private_key"},
		"generate, a key of bits":   {generateEndpoint, `{"data":{"csr":"R","private_key":1}}`, "data.private_key"},
		"sign, nothing":             {signEndpoint, ``, "data.certificate"},
		"sign, no certificate":      {signEndpoint, `{"data":{"issuing_ca":"I"}}`, "data.certificate"},
		"sign, a list of them":      {signEndpoint, `{"data":{"certificate":["C"]}}`, "data.certificate"},
		"login, a token of lines":   {loginEndpoint, `{"auth":{"client_token":"a\nb"}}`, "auth.client_token"},
		"an answer that is wrapped": {signEndpoint, `{"wrap_info":{"token":"t"}}`, "is wrapped"},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, with(test.endpoint, 200, test.body))
			client, err := New(configuration(server.URL))
			if err != nil {
				t.Fatal(err)
			}
			session, err := client.Login(t.Context())
			if test.endpoint != loginEndpoint {
				if err != nil {
					t.Fatal(err)
				}
				err = calls(t.Context(), session)[test.endpoint]()
			}
			_, path, _ := strings.Cut(test.endpoint, "/v1/")
			expect(t, err, BadAnswer, test.says, path)
		})
	}
}

func TestRoots(t *testing.T) {
	one, two, three := certificate("one"), certificate("two"), certificate("three")
	data := func(content string) reply { return reply{200, `{"data":{` + content + `}}`} }
	denied := reply{403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`}
	for name, test := range map[string]struct {
		chain, ca reply
		want      []string
	}{
		"several in one text":     {data(`"certificate":` + quoted(one+two)), data(`"certificate":` + quoted(three)), []string{one, two, three}},
		"no line's end":           {data(`"certificate":` + quoted(strings.TrimSpace(one+two))), data(`"certificate":""`), []string{one, two}},
		"a list, too":             {data(`"certificate":` + quoted(one) + `,"ca_chain":[` + quoted(two) + `,` + quoted(three) + `]`), data(`"certificate":""`), []string{one, two, three}},
		"each once":               {data(`"certificate":` + quoted(one+two+one)), data(`"certificate":` + quoted(two)), []string{one, two}},
		"words between":           {data(`"certificate":` + quoted("issuer:\n"+one+"root:\n"+two)), data(``), []string{one, two}},
		"other kinds of PEM":      {data(`"certificate":` + quoted("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"+one)), data(``), []string{one}},
		"only the second allowed": {denied, data(`"certificate":` + quoted(one)), []string{one}},
		"only the first allowed":  {data(`"certificate":` + quoted(one)), denied, []string{one}},
		"the first is no path":    {reply{404, ""}, data(`"certificate":` + quoted(one)), []string{one}},
	} {
		t.Run(name, func(t *testing.T) {
			answers := good()
			answers[chainEndpoint], answers[caEndpoint] = test.chain, test.ca
			found, err := login(t, configuration(serve(t, answers).URL)).Roots(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, each := range found {
				got = append(got, string(each))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, expected %q", got, test.want)
			}
		})
	}
}

// An issuer that is named has a chain of its own, which the mount's default says nothing of.
func TestRootsOfAnIssuer(t *testing.T) {
	one, two, three := certificate("one"), certificate("two"), certificate("three")
	for caPath, want := range map[string][]string{
		"pki/issuer/next/sign-intermediate": {one, two},
		"pki/issuer/root/sign-intermediate": {two},
		"pki/root/sign-intermediate":        {three},
	} {
		answers := good()
		answers["GET /v1/pki/issuer/next/json"] = reply{200, `{"data":{"certificate":` + quoted(one) + `,"ca_chain":[` + quoted(one) + `,` + quoted(two) + `]}}`}
		answers["GET /v1/pki/issuer/root/json"] = reply{200, `{"data":{"ca_chain":[` + quoted(two) + `]}}`}
		answers[chainEndpoint], answers[caEndpoint] = reply{200, `{"data":{"certificate":` + quoted(three) + `}}`}, reply{200, `{"data":{"certificate":` + quoted(three) + `}}`}
		config := configuration(serve(t, answers).URL)
		config.CAPath = caPath
		found, err := login(t, config).Roots(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := string(bytes.Join(found, nil)); got != strings.Join(want, "") {
			t.Errorf("%s: got %q", caPath, got)
		}
	}
	config := configuration(serve(t, good()).URL)
	config.CAPath = "pki/issuer/gone/sign-intermediate"
	_, err := login(t, config).Roots(t.Context())
	expect(t, err, PathMissing, "pki/issuer/gone/json")
}

func TestRootsThatAreNone(t *testing.T) {
	for name, test := range map[string]struct {
		answer reply
		kind   Kind
		says   string
	}{
		"both denied":   {reply{403, `{"errors":["permission denied"]}`}, PolicyDenies, `path "pki/cert/ca_chain" { capabilities = ["read"] }`},
		"no such path":  {reply{404, `{"errors":[]}`}, PathMissing, "pki/cert/ca_chain"},
		"an empty text": {reply{200, `{"data":{"certificate":""}}`}, BadAnswer, "it has no certificate"},
		"no PEM":        {reply{200, `{"data":{"certificate":"one"}}`}, BadAnswer, "it has no certificate"},
		"no data":       {reply{200, `{"data":null}`}, BadAnswer, "it has no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			answers := good()
			answers[chainEndpoint], answers[caEndpoint] = test.answer, test.answer
			_, err := login(t, configuration(serve(t, answers).URL)).Roots(t.Context())
			expect(t, err, test.kind, test.says)
		})
	}
}

// The signer's chain is at the signer's mount, a key's copy at the mount that made it.
func TestMountsOfTheirOwn(t *testing.T) {
	server := serve(t, map[string]reply{
		loginEndpoint:                                           {200, `{"auth":{"client_token":"own-token"}}`},
		"GET /v1/a/signer/issuer/x/json":                        {200, `{"data":{"certificate":` + quoted(certificate("one")) + `}}`},
		"DELETE /v1/b/keys/key/some-id":                         {204, ""},
		"PUT /v1/a/signer/issuer/x/sign-intermediate":           {200, `{"data":{"certificate":"C"}}`},
		"PUT /v1/b/keys/issuers/generate/intermediate/exported": {200, `{"data":{"csr":"R","private_key":"K"}}`},
		revokeEndpoint:                                          {204, ""},
	})
	config := configuration(server.URL)
	config.CAPath, config.CSRPath = "/v1/a/signer/issuer/x/sign-intermediate", "/v1/b/keys/issuers/generate/intermediate/exported"
	all(t, login(t, config))
}
