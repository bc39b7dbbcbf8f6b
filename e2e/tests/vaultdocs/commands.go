// SPDX-License-Identifier: Apache-2.0

package vaultdocs

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// CLI does what Vault's command line does with the same arguments (command/*.go in Vault). Flags must come first, as there.
type CLI struct {
	Client *api.Client
	// Read gives a file's content.
	Read func(name string) (string, error)
	// Pod is what Vault reads in its own Pod where a configuration of the login leaves it out; here it runs in none.
	Pod map[string]string
	// Warning is called with each warning of Vault's, which its command line shows.
	Warning func(string)
}

// Run runs a command and returns its standard output, if the page uses it.
func (c *CLI) Run(ctx context.Context, call Call) (string, error) {
	for command, run := range map[string]func(context.Context, Call) (string, error){
		"auth enable":     c.authEnable,
		"auth tune":       c.authTune,
		"read":            c.read,
		"token create":    c.tokenCreate,
		"policy write":    c.policyWrite,
		"secrets disable": c.secretsDisable,
		"secrets enable":  c.secretsEnable,
		"secrets tune":    c.secretsTune,
		"write":           c.write,
	} {
		words := strings.Fields(command)
		if n := len(words); len(call.Arguments) >= n && slices.Equal(call.Arguments[:n], words) {
			call.Arguments = call.Arguments[n:]
			return run(ctx, call)
		}
	}
	return "", errors.New("the test knows no such command of Vault's")
}

// parse returns the arguments after the flags: as many as want, or at least -want if it is negative.
func parse(flags *flag.FlagSet, arguments []string, want int) ([]string, error) {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if n := flags.NArg(); n != want && (want >= 0 || n < -want) {
		return nil, fmt.Errorf("%d arguments after the flags, want %d", n, want)
	}
	return flags.Args(), nil
}

func newFlags() *flag.FlagSet { return flag.NewFlagSet("vault", flag.ContinueOnError) }

// enable parses the common arguments of `auth enable` and `secrets enable`.
func enable(call Call) (path, kind string, err error) {
	flags := newFlags()
	flags.StringVar(&path, "path", "", "")
	arguments, err := parse(flags, call.Arguments, 1)
	if err != nil {
		return "", "", err
	}
	kind = arguments[0]
	if path == "" {
		path = kind
	}
	return path, kind, nil
}

func (c *CLI) authEnable(ctx context.Context, call Call) (string, error) {
	path, kind, err := enable(call)
	if err != nil {
		return "", err
	}
	return "", c.Client.Sys().EnableAuthWithOptionsWithContext(ctx, path, &api.EnableAuthOptions{Type: kind})
}

func (c *CLI) authTune(ctx context.Context, call Call) (string, error) {
	flags := newFlags()
	disable := flags.Bool("user-lockout-disable", false, "")
	arguments, err := parse(flags, call.Arguments, 1)
	if err != nil {
		return "", err
	}
	_, err = c.Client.Logical().WriteWithContext(ctx, "sys/auth/"+arguments[0]+"/tune", map[string]any{"user_lockout_config": map[string]any{"lockout_disable": *disable}})
	return "", err
}

func (c *CLI) read(ctx context.Context, call Call) (string, error) {
	flags := newFlags()
	field := flags.String("field", "", "")
	arguments, err := parse(flags, call.Arguments, 1)
	if err != nil {
		return "", err
	}
	if *field == "" {
		return "", errors.New("the test takes one field alone")
	}
	answer, err := c.Client.Logical().ReadWithContext(ctx, arguments[0])
	if err != nil {
		return "", err
	}
	if answer == nil || answer.Data[*field] == nil {
		return "", fmt.Errorf("field %q is not in the answer", *field)
	}
	return fmt.Sprint(answer.Data[*field]), nil
}

func (c *CLI) tokenCreate(ctx context.Context, call Call) (string, error) {
	flags := newFlags()
	request := &api.TokenCreateRequest{}
	flags.BoolVar(&request.NoParent, "orphan", false, "")
	flags.StringVar(&request.Period, "period", "", "")
	policy, field := flags.String("policy", "", ""), flags.String("field", "", "")
	if _, err := parse(flags, call.Arguments, 0); err != nil {
		return "", err
	}
	if *field != "token" {
		return "", fmt.Errorf("the test knows no field %q", *field)
	}
	request.Policies = []string{*policy}
	answer, err := c.Client.Auth().Token().CreateWithContext(ctx, request)
	if err != nil {
		return "", err
	}
	return answer.Auth.ClientToken, nil
}

func (c *CLI) secretsEnable(ctx context.Context, call Call) (string, error) {
	path, kind, err := enable(call)
	if err != nil {
		return "", err
	}
	return "", c.Client.Sys().MountWithContext(ctx, path, &api.MountInput{Type: kind})
}

func (c *CLI) secretsDisable(ctx context.Context, call Call) (string, error) {
	arguments, err := parse(newFlags(), call.Arguments, 1)
	if err != nil {
		return "", err
	}
	return "", c.Client.Sys().UnmountWithContext(ctx, arguments[0])
}

func (c *CLI) secretsTune(ctx context.Context, call Call) (string, error) {
	flags := newFlags()
	longest := flags.Duration("max-lease-ttl", 0, "")
	arguments, err := parse(flags, call.Arguments, 1)
	if err != nil {
		return "", err
	}
	return "", c.Client.Sys().TuneMountAllowNilWithContext(ctx, arguments[0], api.TuneMountConfigInput{MaxLeaseTTL: new(longest.String())})
}

func (c *CLI) policyWrite(ctx context.Context, call Call) (string, error) {
	arguments, err := parse(newFlags(), call.Arguments, 2)
	if err != nil {
		return "", err
	}
	if arguments[1] != "-" || call.Input == "" {
		return "", errors.New("the test takes a policy from a heredoc alone")
	}
	return "", c.Client.Sys().PutPolicyWithContext(ctx, arguments[0], call.Input)
}

func (c *CLI) write(ctx context.Context, call Call) (string, error) {
	flags := newFlags()
	field := flags.String("field", "", "")
	format := flags.String("format", "table", "")
	force := flags.Bool("f", false, "") // without parameters
	wrapTTL := flags.String("wrap-ttl", "", "")
	arguments, err := parse(flags, call.Arguments, -1)
	if err != nil {
		return "", err
	}
	if *force != (len(arguments) == 1) {
		return "", errors.New("expected -f without parameters, or parameters without -f")
	}
	data := map[string]any{}
	for _, argument := range arguments[1:] {
		key, value, ok := strings.Cut(argument, "=")
		switch _, twice := data[key]; {
		case !ok || twice || value == "-" && call.Input == "" || strings.HasPrefix(value, `\`):
			return "", fmt.Errorf("the test does not know what Vault makes of %q", argument)
		case value == "-":
			value = call.Input
		case strings.HasPrefix(value, "@"):
			if value, err = c.Read(value[1:]); err != nil {
				return "", err
			}
		}
		data[key] = value
	}
	if data["kubernetes_host"] != nil {
		for key, value := range c.Pod {
			if data[key] == nil {
				data[key] = value
			}
		}
	}
	if err := c.known(ctx, arguments[0], data); err != nil {
		return "", err
	}
	client := c.Client
	if *wrapTTL != "" {
		if client, err = c.Client.Clone(); err != nil {
			return "", err
		}
		client.SetToken(c.Client.Token())
		client.SetWrappingLookupFunc(func(string, string) string { return *wrapTTL })
	}
	answer, err := client.Logical().WriteWithContext(ctx, arguments[0], data)
	if err != nil {
		return "", err
	}
	if *wrapTTL != "" && *field == "wrapping_token" && answer != nil && answer.WrapInfo != nil {
		return answer.WrapInfo.Token, nil
	}
	if answer != nil {
		for _, warning := range answer.Warnings {
			c.Warning(warning)
		}
	}
	switch {
	case *field != "":
		if answer == nil || answer.Data[*field] == nil {
			return "", fmt.Errorf("field %q is not in the answer", *field)
		}
		return fmt.Sprint(answer.Data[*field]), nil // no newline where it does not go to a terminal
	case *format == "json":
		text, err := json.MarshalIndent(answer, "", "  ")
		return string(text) + "\n", err
	case *format == "table":
		return "", nil
	}
	return "", fmt.Errorf("the test does not know the format %q", *format)
}

// known rejects parameters that a path does not have according to `vault path-help`: Vault ignores them, often without a
// warning.
func (c *CLI) known(ctx context.Context, path string, data map[string]any) error {
	help, err := c.Client.HelpWithContext(ctx, path)
	if err != nil {
		return err
	}
	for key := range data {
		if !strings.Contains(help.Help, "\n    "+key+" (") {
			return fmt.Errorf("parameter %q is none that Vault knows there", key)
		}
	}
	return nil
}

// External runs a program in the shell's folder.
func (s *Shell) External(ctx context.Context, program string, environment []string, call Call) (string, error) {
	var arguments []string
	for _, argument := range call.Arguments {
		arguments = append(arguments, s.located(argument))
	}
	command := exec.CommandContext(ctx, program, arguments...)
	command.Dir, command.Env, command.Stdin = s.Dir, environment, strings.NewReader(call.Input)
	var output, failure bytes.Buffer
	command.Stdout, command.Stderr = &output, &failure
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%w:\n%s%s", err, &output, &failure)
	}
	return output.String(), nil
}

// OpenSSL runs openssl, or does what the page's two commands do in Go if openssl is not installed.
func (s *Shell) OpenSSL(ctx context.Context, call Call) (string, error) {
	if program, err := exec.LookPath("openssl"); err == nil {
		return s.External(ctx, program, os.Environ(), call)
	}
	switch arguments := strings.Join(call.Arguments, " "); arguments {
	case "req -new -newkey rsa:4096 -x509 -sha256 -days 3650 -nodes -out root-cert.pem -keyout root-key.pem -subj /O=my-org":
		root, err := vaultserver.GuideRoot()
		if err != nil {
			return "", err
		}
		return "", errors.Join(
			os.WriteFile(filepath.Join(s.Dir, "root-cert.pem"), root.Certificate, 0o600),
			os.WriteFile(filepath.Join(s.Dir, "root-key.pem"), root.Key, 0o600),
		)
	case "verify -CAfile root-cert.pem /dev/shm/cacerts/ca-cert.pem":
		certificate, err := s.certificate("/dev/shm/cacerts/ca-cert.pem")
		if err != nil {
			return "", err
		}
		root, err := s.certificate("root-cert.pem")
		if err != nil {
			return "", err
		}
		roots := x509.NewCertPool()
		roots.AddCert(root)
		_, err = certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return "", err
	}
	return "", errors.New("there is no openssl here, and the test has nothing of its own for this command")
}

// certificate reads the first certificate of a file.
func (s *Shell) certificate(name string) (*x509.Certificate, error) {
	content, err := s.Read(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(content))
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", name)
	}
	return x509.ParseCertificate(block.Bytes)
}
