// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
)

// leaks holds the outputs that a secret may leak to, and the known secrets.
type leaks struct {
	mu       sync.Mutex
	commands []*exec.Cmd
	texts    map[string]string
	secrets  map[string]string
}

// secretLike matches Vault tokens, JWTs, PEM, and encoded bodies.
var secretLike = regexp.MustCompile(`\bhv[sbr]\.|eyJ[A-Za-z0-9_-]{10}|-----BEGIN|PRIVATE KEY|[A-Za-z0-9+/=]{65,}`)

// Command is the Pod's. Its output is searched after the test.
func (s *setting) Command(ctx context.Context, arguments ...string) *exec.Cmd {
	command := s.Pod.Command(ctx, arguments...)
	s.leaks.mu.Lock()
	defer s.leaks.mu.Unlock()
	s.leaks.commands = append(s.leaks.commands, command)
	return command
}

// Init is the Pod's. Its output is searched after the test, for the published key as well.
func (s *setting) Init(ctx context.Context, arguments ...string) (string, error) {
	output, err := s.Command(ctx, append([]string{"init-container"}, arguments...)...).CombinedOutput()
	s.knowKey()
	if err != nil {
		return string(output), fmt.Errorf("init-container: %w:\n%s", err, output)
	}
	return string(output), nil
}

// sidecar starts a sidecar that ends with the test.
func (s *setting) sidecar(t *testing.T, arguments ...string) *agents.Sidecar {
	t.Helper()
	sidecar, err := s.Sidecar(t.Context(), arguments...)
	must(t, err)
	t.Cleanup(func() {
		metrics, err := sidecar.Get(context.Background(), "/metrics")
		s.wrote("/metrics", metrics)
		s.knowKey()
		err = errors.Join(err, sidecar.Stop(10*time.Second))
		s.wrote("the sidecar", sidecar.Output())
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(sidecar.Output())
		}
	})
	return sidecar
}

// wrote adds an output.
func (s *setting) wrote(where, text string) {
	s.leaks.mu.Lock()
	defer s.leaks.mu.Unlock()
	if s.leaks.texts == nil {
		s.leaks.texts = map[string]string{}
	}
	s.leaks.texts[where] += text
}

// know adds a secret.
func (s *setting) know(what, secret string) {
	s.leaks.mu.Lock()
	defer s.leaks.mu.Unlock()
	if s.leaks.secrets == nil {
		s.leaks.secrets = map[string]string{}
	}
	s.leaks.secrets[secret] = what
}

// knows reports whether a secret is known.
func (s *setting) knows(what string) bool {
	s.leaks.mu.Lock()
	defer s.leaks.mu.Unlock()
	for secret, each := range s.leaks.secrets {
		if secret != "" && each == what {
			return true
		}
	}
	return false
}

// knowKey adds the published key, if there is one.
func (s *setting) knowKey() {
	key, err := os.ReadFile(filepath.Join(s.CACerts, "ca-key.pem"))
	if err != nil {
		return
	}
	s.know("the CA key", encoded(string(key)))
}

// encoded returns the base64 text of PEM on one line.
func encoded(pem string) string {
	var body strings.Builder
	for line := range strings.Lines(pem) {
		if !strings.HasPrefix(line, "-----") {
			body.WriteString(strings.TrimSpace(line))
		}
	}
	return body.String()
}

// learn adds the token and the key of one of Vault's answers.
func (s *setting) learn(answer []byte) {
	var secrets struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
		Data struct {
			Key string `json:"private_key"`
		} `json:"data"`
	}
	if json.Unmarshal(answer, &secrets) == nil {
		s.know("a login's token", secrets.Auth.Token)
		s.know("a key that Vault made", encoded(secrets.Data.Key))
	}
}

// noSecrets expects no secret in any output: of the programs, in Events, in the status, in the metrics.
func (s *setting) noSecrets(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	var events eventsv1.EventList
	must(t, shared.List(ctx, &events, client.InNamespace(s.Namespace)))
	for _, event := range events.Items {
		event.ManagedFields = nil // hashes and names of fields
		s.wroteJSON(t, "an event", event)
	}
	stored := s.Certificate(s.server, nil)
	if err := shared.Get(ctx, client.ObjectKeyFromObject(stored), stored); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
	s.wroteJSON(t, "the status", stored.Object["status"])
	token, err := os.ReadFile(s.TokenFile)
	must(t, err)
	s.know("the service account's token", strings.TrimSpace(string(token)))
	s.know("Vault's root token", s.vault.RootToken)
	s.knowKey()

	for _, command := range s.leaks.commands {
		if output, ok := command.Stdout.(fmt.Stringer); ok { // else it was not started
			s.wrote(strings.Join(command.Args[1:], " "), output.String())
		}
	}
	for where, text := range s.leaks.texts {
		for _, found := range leaked(text, s.leaks.secrets) {
			t.Errorf("in what %s wrote: %s", where, found)
		}
	}
}

func (s *setting) wroteJSON(t *testing.T, where string, object any) {
	t.Helper()
	text, err := json.Marshal(object)
	must(t, err)
	s.wrote(where, string(text))
}

// leaked returns the secrets in a text and what looks like one, truncated.
func leaked(text string, secrets map[string]string) (found []string) {
	for line := range strings.Lines(text) {
		if like := secretLike.FindString(line); like != "" {
			found = append(found, fmt.Sprintf("%.16q… looks like a secret, in: %.120s", like, line))
		}
	}
	// A key that is broken into lines, also escaped ones, is one all the same.
	joined := strings.NewReplacer("\n", "", "\r", "", `\n`, "", " ", "").Replace(text)
	const piece = 32
	for secret, what := range secrets {
		if secret == "" {
			continue
		}
		for i := 0; i == 0 || i+piece <= len(secret); i++ {
			if strings.Contains(joined, secret[i:min(i+piece, len(secret))]) {
				found = append(found, fmt.Sprintf("%s, from its byte %d on", what, i))
				break
			}
		}
	}
	return found
}

// The search for secrets finds them.
func TestLeakDetection(t *testing.T) {
	t.Parallel()
	secret := "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for name, test := range map[string]struct {
		text string
		want int
	}{
		"nothing":           {"level=INFO msg=\"all is well\" serial=3f:aa:01\n", 0},
		"a token of Vault":  {"denied for hvs.CAESIJ\n", 1},
		"a JWT":             {"sent eyJhbGciOiJSUzI1NiIs\n", 1},
		"PEM":               {"it holds -----BEGIN CERTIFICATE-----\n", 1},
		"a piece":           {"it is " + secret[20:52] + ".\n", 1},
		"less than a piece": {"it is " + secret[20:51] + ".\n", 0},
		"a broken piece":    {`it is ` + secret[:20] + `\n` + secret[20:40], 1},
	} {
		if found := leaked(test.text, map[string]string{secret: "the secret", "": "none"}); len(found) != test.want {
			t.Errorf("%s: %q", name, found)
		}
	}
}
