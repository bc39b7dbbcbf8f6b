// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/istiod-agent/istiod-agent/agent/token"
)

func jwt(header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(header)) + "." + encode([]byte(claims)) + "." + encode([]byte("signature"))
}

const (
	rs256   = `{"alg":"RS256","kid":"a"}`
	account = `{"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:istio-system:istiod","aud":["vault"]}`
)

func TestParse(t *testing.T) {
	t.Parallel()
	key := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte(strings.Repeat("key", 400))}))
	good := jwt(rs256, account)
	for name, test := range map[string]struct {
		content string
		problem string
	}{
		"a token":                     {good, ""},
		"a token with a line end":     {good + "\n", ""},
		"one audience as a string":    {jwt(rs256, strings.Replace(account, `["vault"]`, `"vault"`, 1)), ""},
		"a legacy token":              {jwt(rs256, `{"iss":"kubernetes/serviceaccount","sub":"system:serviceaccount:a:b"}`), ""},
		"nothing":                     {" \n", "is empty"},
		"a private key":               {key, "is no JWT"},
		"a key in a token's clothes":  {"a." + base64.RawURLEncoding.EncodeToString([]byte(key)) + ".c", "is no"},
		"a Vault token":               {"hvs.CAESIJ.x", "is no"},
		"a token with more behind it": {good + "\n" + key, "is no JWT"},
		"two tokens":                  {good + "." + good, "is no JWT"},
		"no signature":                {strings.TrimRight(good, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), "is no JWT"},
		"an unsigned token":           {jwt(`{"alg":"none"}`, account), "is no signed JWT"},
		"a header that is no JSON":    {jwt("RS256", account), "is no signed JWT"},
		"a user's token":              {jwt(rs256, `{"iss":"https://accounts.example.com","sub":"1234","aud":"vault"}`), "not that of a service account"},
		"a subject cut short":         {jwt(rs256, `{"iss":"a","sub":"system:serviceaccount:istiod"}`), "not that of a service account"},
		"a subject in a list":         {jwt(rs256, `{"iss":"a","sub":["system:serviceaccount:a:b"]}`), "not that of a service account"},
		"padding":                     {strings.Replace(good, ".", "==.", 1), "is no JWT"},
		"too large":                   {jwt(rs256, account+strings.Repeat(" ", 16<<10)), "is larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parsed, err := token.Parse([]byte(test.content))
			switch {
			case test.problem == "" && (err != nil || parsed.Raw != strings.TrimSpace(test.content)):
				t.Errorf("want the token, got error %v", err)
			case test.problem != "" && (err == nil || parsed.Raw != "" || !strings.Contains(err.Error(), test.problem)):
				t.Errorf("want %q, got %v", test.problem, err)
			}
		})
	}
}

// A claim of another form leaves the token as it is: Vault, which judges it, may know that form.
func TestPod(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		claim string
		want  token.Pod
	}{
		"a Pod's":            {`{"namespace":"mesh","node":{"name":"a"},"pod":{"name":"istiod-0","uid":"1-2"}}`, token.Pod{Namespace: "mesh", Name: "istiod-0", UID: "1-2"}},
		"nobody's":           {`{"namespace":"mesh"}`, token.Pod{}},
		"without a UID":      {`{"namespace":"mesh","pod":{"name":"istiod-0"}}`, token.Pod{}},
		"of another form":    {`["mesh"]`, token.Pod{}},
		"of another form 2":  {`{"pod":{"name":["a"],"uid":{}}}`, token.Pod{}},
		"null":               {`null`, token.Pod{}},
		"a number for a UID": {`{"pod":{"name":"a","uid":1}}`, token.Pod{}},
	} {
		parsed, err := token.Parse([]byte(jwt(rs256, strings.TrimSuffix(account, "}")+`,"kubernetes.io":`+test.claim+"}")))
		if err != nil || parsed.Pod != test.want {
			t.Errorf("%s: want %v, got %v (%v)", name, test.want, parsed.Pod, err)
		}
	}
	if parsed, err := token.Parse([]byte(jwt(rs256, account))); err != nil || parsed.Pod != (token.Pod{}) {
		t.Errorf("without a claim: got %v (%v)", parsed.Pod, err)
	}
}

func TestIsFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		aud  string
		want bool
	}{
		"that one":               {`["vault"]`, true},
		"another":                {`["istio-ca"]`, false},
		"that one and another's": {`["vault","https://kubernetes.default.svc"]`, false},
		"none":                   {`[]`, false},
	} {
		parsed, err := token.Parse([]byte(jwt(rs256, strings.Replace(account, `["vault"]`, test.aud, 1))))
		if err != nil || parsed.IsFor("vault") != test.want {
			t.Errorf("%s: want %t, got %t (%v)", name, test.want, parsed.IsFor("vault"), err)
		}
	}
}

// Read gives the token below its root, and nothing from elsewhere, whichever way a path or link leads there.
func TestRead(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	root, good := filepath.Join(top, "secrets"), jwt(rs256, account)
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, at string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(root, at)); err != nil {
			t.Fatal(err)
		}
	}
	// As the kubelet lays it out (k8s.io/kubernetes pkg/volume/util, AtomicWriter).
	write(filepath.Join(root, "sa/..2026_11/token"), good)
	link("..2026_11", "sa/..data")
	link("..data/token", "sa/token")
	// A token that is right in itself, in places that it must not be read from.
	write(filepath.Join(top, "cacerts/token"), good)
	link("../../cacerts/token", "sa/relative")
	link(filepath.Join(top, "cacerts/token"), "sa/absolute")
	link("../cacerts", "outside")
	link("/proc/self/root"+filepath.Join(top, "cacerts/token"), "sa/proc")
	write(filepath.Join(root, "sa/key"), "-----BEGIN RSA PRIVATE KEY-----\n")
	if err := syscall.Mkfifo(filepath.Join(root, "sa/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	link("loop", "sa/loop")

	for path, problem := range map[string]string{
		"secrets/sa/token":                "",
		"secrets/sa/../sa/token":          "",
		"secrets/sa/relative":             "leads out",
		"secrets/sa/absolute":             "leads out",
		"secrets/sa/proc":                 "leads out",
		"secrets/outside/token":           "leads out",
		"secrets/sa/../../cacerts/token":  "expected a file below",
		"cacerts/token":                   "expected a file below",
		"secrets-of-another/token":        "expected a file below",
		"secrets":                         "expected a file below",
		"secrets/sa":                      "expected a regular file",
		"secrets/sa/fifo":                 "expected a regular file",
		"secrets/sa/loop":                 "too many levels of symbolic links",
		"secrets/sa/key":                  "is no JWT",
		"secrets/sa/none":                 "no such file",
		"secrets/sa/token\x00/etc/passwd": "invalid argument",
		"secrets/sa/none/../key":          "is no JWT",
	} {
		read, err := token.Read(root, top+"/"+path)
		switch {
		case problem == "" && (err != nil || read.Raw != good):
			t.Errorf("%s: want the token, got %v", path, err)
		case problem != "" && (err == nil || read.Raw != "" || !strings.Contains(err.Error(), problem)):
			t.Errorf("%s: want %q, got %v", path, problem, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(jwt(rs256, account)))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		parsed, err := token.Parse(content)
		if err == nil && (strings.ContainsAny(parsed.Raw, " \r\n\t\x00") || len(parsed.Raw) > 16<<10) {
			t.Error("something that is no token has passed")
		}
		if err != nil && parsed.Raw != "" {
			t.Error("a token and an error")
		}
	})
}
