// SPDX-License-Identifier: Apache-2.0

package manifests_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/istiod-agent/istiod-agent/cli"
	"github.com/istiod-agent/istiod-agent/cli/clitest"
)

func TestAnErrorLeavesNothingHalfWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.yaml")
	empty := filepath.Join(dir, "empty")
	clitest.Write(t, filepath.Join(empty, "notes.txt"), "")
	tests := map[string]struct {
		text string
		args []string
		want []string
	}{
		"denied after one that is not":     {istiod + "---" + refused, []string{"-f", "-"}, []string{"standard input, document 2: deployment/istiod-other: NoIstiodContainer: cannot inject: expected a container called \"discovery\" or one that mounts /etc/cacerts", "found containers pilot"}},
		"denied in a check":                {refused, []string{"-f", "-", "--check"}, []string{"deployment/istiod-other: NoIstiodContainer: "}},
		"a missing file after a good one":  {istiod, []string{"-f", "-", "-f", missing}, []string{missing, "no such file or directory"}},
		"a directory with no manifest":     {"", []string{"-f", empty}, []string{empty, "has no .yaml, .yml or .json file"}},
		"not YAML, after a good document":  {istiod + "---\n{\n", []string{"-f", "-"}, []string{"standard input, document 2: not YAML: "}},
		"binary":                           {"\x00\xff", []string{"-f", "-"}, []string{"standard input: not YAML: "}},
		"a key given twice in istiod":      {strings.Replace(istiod, "      volumes:\n", "      volumes: []\n      volumes:\n", 1), []string{"-f", "-"}, []string{`key "volumes" already set in map`}},
		"documents that nothing separates": {istiod + "...\na: b\n", []string{"-f", "-"}, []string{"standard input: not YAML: ", "did not find expected <document start>"}},
		"old Macintosh line ends":          {"a: b\r---\rc: d\r", []string{"-f", "-"}, []string{`standard input: holds several documents; start each with a line "---"`}},
		"no file named":                    {"", nil, []string{`required flag(s) "filename" not set`}},
		"an unknown format":                {istiod, []string{"-f", "-", "-o", "xml"}, []string{`--output: expected yaml, json or patch, got "xml"`}},
		"an unknown flag":                  {istiod, []string{"-f", "-", "--force"}, []string{"unknown flag: --force"}},
		"a file without -f":                {istiod, []string{"istiod.yaml", "-f", "-"}, []string{`unknown command "istiod.yaml"`}},
		"a missing configuration":          {istiod, []string{"-f", "-", "--config", missing}, []string{"--config: ", missing, "no such file or directory"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := clitest.Run(t, test.text, append([]string{"inject"}, test.args...)...)
			if got.Err == nil || got.Stdout != "" {
				t.Fatalf("error %v, output %q", got.Err, got.Stdout)
			}
			for _, words := range test.want {
				if !strings.Contains(got.Err.Error(), words) {
					t.Errorf("the error does not say %q: %v", words, got.Err)
				}
			}
		})
	}
}

func TestABadConfigurationIsAnsweredWithAllItsMistakes(t *testing.T) {
	t.Parallel()
	config := clitest.Write(t, filepath.Join(t.TempDir(), "injection.yaml"), "apiVersion: config.istiod-agent.io/v1alpha1\nkind: InjectionConfiguration\ntarget: pod\nagent: {imagePullPolicy: Maybe}\n")
	got := clitest.Run(t, istiod, "inject", "-f", "-", "--config", config)
	if got.Err == nil || got.Stdout != "" {
		t.Fatalf("error %v, output %q", got.Err, got.Stdout)
	}
	for _, words := range []string{config, "target: Unsupported value", "agent.imagePullPolicy: Unsupported value"} {
		if !strings.Contains(got.Err.Error(), words) {
			t.Errorf("the error does not say %q: %v", words, got.Err)
		}
	}
}

func TestAConfigurationIsFollowed(t *testing.T) {
	t.Parallel()
	config := clitest.Write(t, filepath.Join(t.TempDir(), "injection.yaml"), "apiVersion: config.istiod-agent.io/v1alpha1\nkind: InjectionConfiguration\nagent: {image: example.com/agent:v9}\n")
	out := clitest.Run(t, istiod, "inject", "-f", "-", "--config", config).Succeeds(t)
	if strings.Count(out, "image: example.com/agent:v9\n") != 2 {
		t.Errorf("the image is not in both containers:\n%s", out)
	}
}

func TestAnInputThatBreaksOffIsAnError(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	var stdout bytes.Buffer
	cmd := cli.NewCommand()
	cmd.SetArgs([]string{"inject", "-f", "-"})
	cmd.SetIn(iotest.ErrReader(broken))
	cmd.SetOut(&stdout)
	cmd.SetErr(&bytes.Buffer{})
	if err := cmd.Execute(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "standard input") || stdout.Len() > 0 {
		t.Errorf("error %v, output %q", err, stdout.String())
	}
}

// Nothing that stands in the place of a manifest hangs the command or fills the memory.
func TestOnlyFilesOfBoundedSizeAreRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	large, folder := filepath.Join(dir, "large.yaml"), filepath.Join(dir, "folder")
	clitest.Write(t, large, "")
	clitest.Write(t, filepath.Join(folder, "a.yaml"), service)
	for _, err := range []error{os.Truncate(large, 33<<20), syscall.Mkfifo(filepath.Join(folder, "b.yaml"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	half := clitest.Write(t, filepath.Join(dir, "half.yaml"), strings.Repeat("# "+strings.Repeat("a", 1<<20)+"\n", 17))
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a pipe in a folder":          {[]string{"inject", "-f", folder}, "b.yaml: expected a regular file"},
		"a device":                    {[]string{"inject", "-f", "/dev/zero"}, "/dev/zero: expected a regular file"},
		"an endless standard input":   {[]string{"inject", "-f", "-"}, "reading standard input: expected at most 33554432 bytes"},
		"a large file":                {[]string{"uninject", "-f", large}, "large.yaml: expected at most 33554432 bytes"},
		"two that are large together": {[]string{"inject", "-f", half, "-f", half}, "expected at most 33554432 bytes of manifests in total"},
		"a configuration":             {[]string{"inject", "-f", large, "--config", large}, "expected at most 1048576 bytes"},
		"a configuration from a pipe": {[]string{"inject", "-f", large, "--config", filepath.Join(folder, "b.yaml")}, "expected a regular file"},
		"a VirtualMesh":               {[]string{"vault", "-f", "-"}, "reading standard input: expected at most"},
		"a VirtualMesh from a device": {[]string{"check", "--vault", "-f", "/dev/zero"}, "expected a regular file"},
		"a root":                      {[]string{"verify", "--root", large, "--kubeconfig", filepath.Join(dir, "gone")}, "expected at most 1048576 bytes"},
		"a CA":                        {[]string{"vault", "--dry-run", "-f", "../../config/samples/virtualmesh.yaml", "--kubernetes-ca-file", "/dev/zero"}, "expected a regular file"},
	} {
		var out bytes.Buffer
		if code := cli.Run(t.Context(), test.args, zero, &out, &out); code == 0 || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: exit code %d, %s", name, code, &out)
		}
	}
}
