// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/metrics"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// asAgent is set in the environment of a process that is the agent; writeMetrics has it write its metrics and end.
const (
	asAgent      = "ISTIOD_AGENT_TEST_MAIN"
	writeMetrics = "metrics"
)

func TestMain(m *testing.M) {
	switch os.Getenv(asAgent) {
	case "":
		os.Exit(m.Run())
	case writeMetrics:
		if err := confine(); err != nil {
			panic(err)
		}
		metrics.New().Write(os.Stdout)
	default:
		main()
	}
}

// program is the agent's, where each user may run it.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, each := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(each, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "istiod-agent")
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// launch runs the agent, as istiod's user where the test is root.
func launch(t *testing.T, mode string, environment []string, arguments ...string) (*exec.Cmd, *buffer) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program(t), arguments...)
	command.Env = append([]string{asAgent + "=" + mode}, environment...)
	output := &buffer{}
	command.Stdout, command.Stderr = output, output
	if os.Geteuid() == 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1337, Gid: 1337}}
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return command, output
}

type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	for tick := time.NewTicker(10 * time.Millisecond); !holds(); {
		select {
		case <-deadline.C:
			t.Fatalf("not within two minutes: %s", what)
		case <-tick.C:
		}
	}
}

// The kernel gives the files in /proc of a process that cannot be dumped to root (proc(5)).
func TestTheProcessCannotBeDumped(t *testing.T) {
	command, output := launch(t, "run", nil, "sidecar", "--spec", "/none", "--port", "0", "--cacerts-dir", t.TempDir(), "--allow-disk")
	eventually(t, "it runs", func() bool { return strings.Contains(output.String(), "Starting") })
	proc := fmt.Sprintf("/proc/%d/", command.Process.Pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 && !strings.Contains(string(status), "Uid:\t1337\t") {
		t.Fatal("it does not run as istiod's user")
	}
	info, err := os.Stat(proc + "environ")
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
		t.Errorf("user %d may read its memory", owner)
	}
	limits, err := os.ReadFile(proc + "limits")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			if fields := strings.Fields(rest); fields[0] != "0" || fields[1] != "0" {
				t.Errorf("core limit %s", rest)
			}
		}
	}
}

func TestMetricsOfAProcessThatCannotBeDumped(t *testing.T) {
	command, output := launch(t, writeMetrics, nil)
	if err := command.Wait(); err != nil {
		t.Fatal(err, output)
	}
	for _, want := range []string{"process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_start_time_seconds ", "go_goroutines "} {
		if !strings.Contains(output.String(), "\n"+want) {
			t.Errorf("there is no %s", want)
		}
	}
	if strings.Contains(output.String(), "ERROR") || strings.Contains(output.String(), "process_resident_memory_bytes 0") {
		t.Error(output)
	}
}

// secretToken and secretJWT are what the fake Vault gives and is given.
const secretToken = "hvs.a-token-that-nobody-may-read"

var secretJWT = func() string {
	encode := base64.RawURLEncoding.EncodeToString
	claims := `{"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:istio-system:istiod","aud":["vault"],"exp":4102444800,` +
		`"kubernetes.io":{"namespace":"istio-system","serviceaccount":{"name":"istiod","uid":"1"}}}`
	return strings.Join([]string{encode([]byte(`{"alg":"RS256","kid":"1"}`)), encode([]byte(claims)), encode([]byte("a signature that nobody may read"))}, ".")
}()

// secure is a Vault over TLS and HTTP/2 that lets everybody log in and denies all else.
type secure struct {
	*httptest.Server
	ca     []byte
	logins atomic.Int32
}

// host is in the certificate of a secure Vault; proxies are not asked for loopback addresses.
const host = "vault.example"

func newSecure(t *testing.T) *secure {
	t.Helper()
	serving := testca.SelfSign(x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{host}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, nil)
	s := &secure{ca: serving.PEM()}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/login") && r.ProtoMajor == 2 {
			s.logins.Add(1)
			_, _ = io.WriteString(w, `{"auth":{"client_token":"`+secretToken+`"}}`)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":["permission denied"]}`)
	}))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{serving.TLS()}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// ask runs an init container until its first failure against a server, whose CA is in the specification if it is given.
func ask(t *testing.T, server string, ca []byte, environment ...string) string {
	t.Helper()
	return askUntil(t, `"reason":"Vault`, server, ca, environment...)
}

// askUntil runs an init container until its output has a text.
func askUntil(t *testing.T, sign, server string, ca []byte, environment ...string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, each := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(each, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	bundle := ""
	if ca != nil {
		bundle = "caBundle: " + base64.StdEncoding.EncodeToString(ca)
	}
	spec := write("spec.yaml", `
apiVersion: certificates.mesh.gloo.solo.io/v1
kind: IssuedCertificate
metadata: {name: istiod, namespace: istio-system}
spec:
  hosts: [spiffe://cluster.local/ns/istio-system/sa/istiod]
  certOptions: {ecKeyCurve: P-256}
  agentCa:
    vault:
      server: `+server+`
      caPath: pki/root/sign-intermediate
      kubernetesAuth: {role: istiod}
      `+bundle+`
`)
	command, output := launch(t, "run", environment, "init-container", "--timeout", "5m", "--log-level", "debug",
		"--spec", spec, "--token-file", write("token", secretJWT), "--token-file-anywhere", "--cacerts-dir", dir, "--allow-disk")
	eventually(t, "an answer or none", func() bool { return strings.Contains(output.String(), sign) })
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err == nil {
		t.Error("it succeeded")
	}
	text := output.String()
	for _, secret := range []string{secretToken, secretJWT, secretJWT[len(secretJWT)-20:]} {
		if strings.Contains(text, secret) {
			t.Errorf("there is a secret in its %d bytes of output", len(text))
			return ""
		}
	}
	return text
}

func TestGODEBUGPrintsNoSecret(t *testing.T) {
	server := newSecure(t)
	text := ask(t, server.URL, server.ca, "GODEBUG=netdns=go,http2debug=2")
	if server.logins.Load() == 0 || !strings.Contains(text, "VaultPolicyDenies") {
		t.Fatalf("it did not log in:\n%s", text)
	}
	if !strings.Contains(text, `"settings":["http2debug"]`) || strings.Contains(text, "Framer") {
		t.Error(text)
	}
}

// What asks for a person is an error line with its cause; what is done, and what is tried again, is not.
func TestLogLevelsOfAFailingRun(t *testing.T) {
	server := newSecure(t)
	levels := map[string]string{}
	for line := range strings.Lines(askUntil(t, `"failures":2`, server.URL, server.ca)) {
		var entry struct{ Level, Msg, Err, Reason string }
		if json.Unmarshal([]byte(line), &entry) != nil { // the last line is for people
			continue
		}
		if before, again := levels[entry.Msg]; again && before == "ERROR" {
			t.Errorf("told twice: %s", line)
		}
		levels[entry.Msg] = entry.Level
		if failure := entry.Reason == "VaultPolicyDenies" && entry.Level != "DEBUG"; failure != (entry.Level == "ERROR") || failure != strings.Contains(entry.Err, "permission denied") {
			t.Errorf("got %s", line)
		}
	}
	for message, want := range map[string]string{
		"Starting": "INFO", "Requesting a CA certificate": "INFO", "Failed to obtain a CA certificate": "ERROR", "Failed again to obtain a CA certificate": "DEBUG",
	} {
		if levels[message] != want {
			t.Errorf("%q has level %q, want %s", message, levels[message], want)
		}
	}
}

// SSL_CERT_FILE has a CA trusted where the specification names none, and only there.
func TestCertificatesOfTheEnvironment(t *testing.T) {
	server, other := newSecure(t), newSecure(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, server.ca, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(file)), 0o755); err != nil {
		t.Fatal(err)
	}
	if text := ask(t, server.URL, nil, "SSL_CERT_FILE="+file); !strings.Contains(text, "VaultPolicyDenies") {
		t.Error(text)
	}
	if text := ask(t, server.URL, nil); !strings.Contains(text, "VaultTLS") {
		t.Error(text)
	}
	logins := server.logins.Load()
	if text := ask(t, server.URL, other.ca, "SSL_CERT_FILE="+file); !strings.Contains(text, "VaultTLS") || server.logins.Load() != logins {
		t.Error(text)
	}
}

// A proxy of the environment passes on what only Vault can read.
func TestProxyOfTheEnvironment(t *testing.T) {
	server := newSecure(t)
	var through buffer
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != host+":443" {
			http.Error(w, "", http.StatusForbidden)
			return
		}
		asked.Add(1)
		out, err := new(net.Dialer).DialContext(context.WithoutCancel(r.Context()), "tcp", server.Listener.Addr().String())
		if err != nil {
			http.Error(w, "", http.StatusBadGateway)
			return
		}
		defer func() { _ = out.Close() }()
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = in.Close() }()
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(out, io.TeeReader(in, &through)) }()
		_, _ = io.Copy(in, io.TeeReader(out, &through))
	}))
	t.Cleanup(proxy.Close)
	text := ask(t, "https://"+host, server.ca, "HTTPS_PROXY="+proxy.URL)
	if asked.Load() == 0 || server.logins.Load() == 0 || !strings.Contains(text, "VaultPolicyDenies") {
		t.Fatalf("it did not log in through the proxy:\n%s", text)
	}
	if read := through.String(); read == "" || strings.Contains(read, secretToken) || strings.Contains(read, secretJWT) {
		t.Error("the proxy has read a secret")
	}
	if text := ask(t, "https://"+host, server.ca, "HTTPS_PROXY=http://somebody:a-password@127.0.0.1:1"); !strings.Contains(text, "the proxy 127.0.0.1:1 (HTTPS_PROXY) cannot be reached: the connection was refused") || strings.Contains(text, "a-password") {
		t.Error(text)
	}
	if text := ask(t, "https://"+host, server.ca, "HTTPS_PROXY="+proxy.URL, "NO_PROXY="+host); !strings.Contains(text, "VaultUnreachable") {
		t.Error(text)
	}
}
