// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// answering is a network on which one answer is given to every call but the login.
type answering struct {
	status int
	body   []byte
}

func (a answering) RoundTrip(request *http.Request) (*http.Response, error) {
	status, body := a.status, a.body
	if strings.HasSuffix(request.URL.Path, "/login") && !bytes.HasPrefix(body, []byte("login")) {
		status, body = 200, []byte(`{"auth":{"client_token":"own-token"}}`)
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(bytes.TrimPrefix(body, []byte("login")))), Request: request,
	}, nil
}

func FuzzAnswers(f *testing.F) {
	statuses := []int{200, 204, 307, 400, 403, 404, 412, 429, 500, 503}
	for _, answer := range good() {
		f.Add(uint8(0), []byte(answer.body))
	}
	for _, body := range []string{
		"", "null", "[]", "{", `{"errors":["Vault is sealed"]}`, `{"errors":[],"more":1}`, `{"errors":{},"more":1}`, `{"data":{"certificate":["C"],"ca_chain":{}}}`,
		`{"data":{"csr":" ","private_key":"\n"}}`, `{"data":{"certificate":"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"}}`,
		`login{"auth":{"client_token":"a\u0000b"}}`, `login{"auth":null}`, `{"data":{"ca_chain":[null,1,"C"]},"warnings":["",null]}`,
	} {
		for i := range statuses {
			f.Add(uint8(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		client, err := New(configuration("http://vault.example"))
		if err != nil {
			t.Fatal(err)
		}
		client.transport.RegisterProtocol("http", answering{statuses[int(which)%len(statuses)], body})
		ctx := t.Context()
		session, err := client.Login(ctx)
		mustExplain(t, err)
		if err != nil {
			return
		}
		generated, err := session.Generate(ctx, request)
		mustExplain(t, err)
		if err == nil && (len(bytes.TrimSpace(generated.CSR)) == 0 || len(bytes.TrimSpace(generated.Key)) == 0) {
			t.Errorf("no error, and got %+v", generated)
		}
		signed, err := session.Sign(ctx, []byte("a request"), request)
		mustExplain(t, err)
		if err == nil && len(bytes.TrimSpace(signed.Certificate)) == 0 {
			t.Errorf("no error, and got %+v", signed)
		}
		roots, err := session.Roots(ctx)
		mustExplain(t, err)
		if err == nil && len(roots) == 0 {
			t.Error("no error, and no root")
		}
		mustExplain(t, session.DeleteKey(ctx, "some-id"))
		mustExplain(t, session.Close(ctx))
	})
}

func mustExplain(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind == "" || e.Call == "" {
		t.Errorf("%T %v is not explained", err, err)
	}
}
