// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// response is an IstioCertificateResponse.
func response(chain ...string) []byte {
	var message []byte
	for _, each := range chain {
		message = protowire.AppendTag(message, fieldChain, protowire.BytesType)
		message = protowire.AppendString(message, each)
	}
	return message
}

func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// What istiod may answer, and what a person is told of it.
func TestCalls(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status, message string // the trailers
		body            []byte
		asHeaders       bool
		want, err       string
	}{
		"a message":            {status: "0", body: frame([]byte("hello")), want: "hello"},
		"an empty message":     {status: "0", body: frame(nil)},
		"a refusal":            {status: "16", message: "request authenticate failure%3A no token", err: `gRPC status "16": request authenticate failure: no token`},
		"a refusal at once":    {status: "7", message: "no", asHeaders: true, err: `gRPC status "7": no`},
		"no trailers":          {body: frame([]byte("hello")), err: `istiod returned 200 OK, gRPC status ""`},
		"nothing":              {status: "0", err: "not one gRPC message"},
		"a part of a frame":    {status: "0", body: frame([]byte("hello"))[:7], err: "not one gRPC message"},
		"two messages":         {status: "0", body: append(frame([]byte("a")), frame([]byte("b"))...), err: "not one gRPC message"},
		"a compressed message": {status: "0", body: append([]byte{1}, frame([]byte("a"))[1:]...), err: "not one gRPC message"},
		"more than is read":    {status: "0", body: frame(bytes.Repeat([]byte("a"), 2<<20)), err: "istiod"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked *http.Request
			var received []byte
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
				asked = request
				received, _ = io.ReadAll(request.Body)
				prefix := http.TrailerPrefix
				if test.asHeaders {
					prefix = ""
				}
				w.Header().Set("Content-Type", "application/grpc")
				if test.status != "" {
					w.Header().Set(prefix+"Grpc-Status", test.status)
					w.Header().Set(prefix+"Grpc-Message", test.message)
				}
				_, _ = w.Write(test.body)
			}))
			server.EnableHTTP2 = true
			server.StartTLS()
			defer server.Close()
			got, err := call(t.Context(), server.Client().Transport, server.Listener.Addr().String(), []byte("question"), "token")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil || string(got) != test.want {
				t.Errorf("got %q, %v", got, err)
			}
			if asked.URL.Path != csrMethod || asked.Header.Get("Authorization") != "Bearer token" || asked.Header.Get("TE") != "trailers" || asked.ProtoMajor != 2 {
				t.Errorf("asked %s %s with %v", asked.Proto, asked.URL, asked.Header)
			}
			if !bytes.Equal(received, frame([]byte("question"))) {
				t.Errorf("it was asked %q", received)
			}
		})
	}
}

// An error is printed, and one of istiod's may be of any length.
func TestObtainBoundsErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		bytes int
		read  bool
	}{
		"a long message":     {32 << 10, true},
		"a message too long": {128 << 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Grpc-Status", "16")
				w.Header().Set("Grpc-Message", strings.Repeat("a", test.bytes))
			}))
			server.EnableHTTP2 = true
			server.StartTLS()
			defer server.Close()
			_, err := Obtain(t.Context(), Request{
				Dial: func(ctx context.Context) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
				},
				ServerName: "example.com", Trusted: pemcerts.Encode(server.Certificate()), Token: "token",
			})
			if err == nil || strings.HasPrefix(err.Error(), `istiod returned 200 OK, gRPC status "16": aaaa`) != test.read || len(err.Error()) > bounded.MaxMessage {
				t.Errorf("got %.200v", err)
			}
		})
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 7)
	for name, test := range map[string]struct {
		message []byte
		want    []string
		err     string
	}{
		"a chain":               {response("a", "b", "c"), []string{"a", "b", "c"}, ""},
		"with an unknown field": {append(append([]byte{}, unknown...), response("a", "b")...), []string{"a", "b"}, ""},
		"nothing":               {nil, nil, "no certificate chain"},
		"one certificate":       {response("a"), nil, "no certificate chain"},
		"cut off":               {response("a", "b")[:5], nil, "is not an IstioCertificateResponse"},
		"a broken tag":          {[]byte{0xff}, nil, "is not an IstioCertificateResponse"},
		"a broken field":        {unknown[:1], nil, "is not an IstioCertificateResponse"},
		"a chain of numbers":    {protowire.AppendVarint(protowire.AppendTag(nil, fieldChain, protowire.VarintType), 7), nil, "no certificate chain"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := decode(test.message)
			switch {
			case test.err == "" && (err != nil || strings.Join(got, ",") != strings.Join(test.want, ",")):
				t.Errorf("got %q, %v", got, err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("got %q, %v, want %s", got, err, test.err)
			}
		})
	}
}

// Whatever istiod answers, it is a workload's certificate or an error.
func FuzzAnswer(f *testing.F) {
	f.Add(response("a", "b"))
	f.Add(response("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x"))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		chain, err := decode(message)
		if err != nil {
			return
		}
		if len(chain) < 2 {
			t.Fatalf("a chain of %d", len(chain))
		}
		if w, err := newWorkload(key, chain); err == nil && len(w.certificate.Certificate) == 0 {
			t.Error("there is no certificate")
		}
	})
}
