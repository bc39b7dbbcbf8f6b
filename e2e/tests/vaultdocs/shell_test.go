// SPDX-License-Identifier: Apache-2.0

package vaultdocs_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/istiod-agent/istiod-agent/e2e/tests/vaultdocs"
)

// say returns a shell with one command, which records its arguments and prints the last one.
func say(t *testing.T) (shell *vaultdocs.Shell, calls *[]vaultdocs.Call) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"a": "A\n\n", "b": "B\n\n"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	calls = &[]vaultdocs.Call{}
	return &vaultdocs.Shell{
		Dir:       dir,
		Variables: map[string]string{"NAME": "some thing"},
		Paths:     map[string]string{"/etc/letters": dir},
		Commands: map[string]func(context.Context, vaultdocs.Call) (string, error){
			"say": func(_ context.Context, call vaultdocs.Call) (string, error) {
				*calls = append(*calls, call)
				return strings.Join(call.Arguments, " "), nil
			},
		},
	}, calls
}

// A script means the same as in a shell.
func TestShell(t *testing.T) {
	one := func(arguments ...string) []vaultdocs.Call { return []vaultdocs.Call{{Arguments: arguments}} }
	for name, test := range map[string]struct {
		script string
		want   []vaultdocs.Call
	}{
		"words":          {`say -a=b  /c @d`, one("-a=b", "/c", "@d")},
		"a continuation": {"say a \\\n    b", one("a", "b")},
		"quotes":         {`say x="a b"'c $d'e ""`, one("x=a bc $de", "")},
		"a variable":     {`say "https://$NAME:443"`, one("https://some thing:443")},
		"contents":       {`say x="$(cat a /etc/letters/b)."`, one("x=A\n\nB.")},
		"a heredoc":      {"say - <<EOF\nx \"y\" {\nEOF\nsay b", []vaultdocs.Call{{Arguments: []string{"-"}, Input: "x \"y\" {\n"}, {Arguments: []string{"b"}}}},
		"a pipe":         {"say a | say b", []vaultdocs.Call{{Arguments: []string{"a"}}, {Arguments: []string{"b"}, Input: "a"}}},
		"a redirection":  {"say c d > a\nsay \"$(cat a)\"", []vaultdocs.Call{{Arguments: []string{"c", "d"}}, {Arguments: []string{"c d"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			shell, calls := say(t)
			must(t, shell.Run(t.Context(), test.script))
			if diff := cmp.Diff(test.want, *calls); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// The interpreter rejects unknown syntax.
func TestShellRefuses(t *testing.T) {
	for name, test := range map[string]struct{ script, want string }{
		"another command":            {"tell a", `no command "tell"`},
		"a pipe that goes nowhere":   {"say a |", "nothing follows"},
		"an alternative":             {"say a || say b", "nothing follows"},
		"a pipe after a redirection": {"say a > b | say c", "standard output alone"},
		"several commands":           {"say a; say b", "what a shell makes"},
		"a pattern":                  {"say *", "what a shell makes"},
		"a comment":                  {"say a # b", "what a shell makes"},
		"a variable without quotes":  {"say $NAME", "what a shell makes"},
		"a variable that is not set": {`say "$OTHER"`, "OTHER is not set"},
		"another substitution":       {`say "$(say a)"`, "what a shell makes"},
		"an escape":                  {`say "a\"b"`, "what a shell makes"},
		"an open quote":              {`say "a`, "not closed"},
		"an open heredoc":            {"say - <<EOF\nx", "does not end"},
		"a variable in a heredoc":    {"say - <<EOF\n$NAME\nEOF", "would expand"},
		"a file descriptor":          {"say 2> a", "no blank"},
		"no file":                    {"say >", "nothing follows"},
		"a file that is not there":   {`say "$(cat c)"`, "no such file"},
		"a path of this machine":     {`say "$(cat /etc/hostname)"`, "nothing in the place"},
		"a path out of the folder":   {"say > ../a", "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			shell, _ := say(t)
			if err := shell.Run(t.Context(), test.script); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want %q, got %v", test.want, err)
			}
		})
	}
}

// It rejects unknown parts of Vault's command line before it calls Vault.
func TestVaultRefuses(t *testing.T) {
	for name, script := range map[string]string{
		"another command":          "vault delete pki/cert/ca",
		"no field":                 "vault read pki/cert/ca",
		"parameters and none":      "vault write -f a b=c",
		"a token's other fields":   "vault token create -field=accessor",
		"an unknown flag":          "vault secrets enable -pth=a pki",
		"a flag at the end":        "vault secrets enable pki -path=a",
		"no type":                  "vault auth enable",
		"no duration":              "vault secrets tune -max-lease-ttl=year pki",
		"no data":                  "vault write a",
		"no value":                 "vault write a b",
		"a value twice":            "vault write a b=c b=d",
		"a file that is not there": "vault write a b=@c",
		"a value without input":    "vault write a b=-",
		"a policy in a file":       "vault policy write a b",
		"a policy without text":    "vault policy write a -",
	} {
		t.Run(name, func(t *testing.T) {
			shell, _ := say(t)
			cli := &vaultdocs.CLI{Read: shell.Read} // without a client it would panic
			shell.Commands["vault"] = cli.Run
			if err := shell.Run(t.Context(), script); err == nil {
				t.Error("it was run")
			}
		})
	}
}

// Blocks finds everything on a page that can be run.
func TestBlocks(t *testing.T) {
	got, err := vaultdocs.Blocks("# A\n```\na\n```\ntext, `vault b c` and `vaults`\n## B `x`\n```sh\nb\n# c\n```\n\n```\nd\n```\n")
	must(t, err)
	want := map[string]string{"A 1": "a\n", "vault b c": "vault b c", "B `x` 1": "b\n# c\n", "B `x` 2": "d\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := vaultdocs.Blocks("```\na\n"); err == nil {
		t.Error("a block without an end is taken")
	}
}
