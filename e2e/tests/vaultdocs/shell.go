// SPDX-License-Identifier: Apache-2.0

// Package vaultdocs runs the commands of docs/vault.md verbatim against a real Vault whose logins an API server reviews.
//
// A small interpreter replaces Vault's command line, which would link all of Vault into the tests. It knows the shell syntax
// and the commands of the page and rejects everything else, so that what it runs means the same in a real shell.
package vaultdocs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Shell runs scripts. It stops at the first command that fails.
type Shell struct {
	// Dir is where relative paths begin.
	Dir string
	// Variables of the environment. One that is not here is an error.
	Variables map[string]string
	// Paths says where absolute paths are on this machine, files or folders. Others cannot be opened.
	Paths map[string]string
	// Commands by their first word.
	Commands map[string]func(context.Context, Call) (output string, err error)
	// Skip says whether a line is left out, as written.
	Skip func(line string) bool
}

// Call is a command to run.
type Call struct {
	// Arguments are without the command's name.
	Arguments []string
	// Input is the heredoc's text, or what another command writes into a pipe.
	Input string
}

// Run runs the lines of a script one after the other.
func (s *Shell) Run(ctx context.Context, script string) error {
	lines := strings.Split(strings.TrimSpace(script), "\n")
	for len(lines) > 0 {
		line := lines[0]
		lines = lines[1:]
		for strings.HasSuffix(line, `\`) && len(lines) > 0 {
			line = strings.TrimSuffix(line, `\`) + lines[0]
			lines = lines[1:]
		}
		if strings.TrimSpace(line) == "" || s.Skip != nil && s.Skip(line) {
			continue
		}
		rest, err := s.command(ctx, line, lines)
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		lines = rest
	}
	return nil
}

// command runs a command and returns the lines after its heredoc.
func (s *Shell) command(ctx context.Context, line string, following []string) (rest []string, err error) {
	words, err := s.words(line)
	if err != nil {
		return nil, err
	}
	call, name, target := Call{}, "", ""
	for len(words) > 0 {
		switch word := words[0]; {
		case !word.operator && name == "":
			name = word.text
		case !word.operator:
			call.Arguments = append(call.Arguments, word.text)
		case len(words) < 2 || words[1].operator:
			return nil, fmt.Errorf("nothing follows %s", word.text)
		case word.text == "|" && (name == "" || target != ""):
			return nil, errors.New("the test knows a pipe from a command's standard output alone")
		case word.text == "|":
			output, err := s.run(ctx, name, call)
			if err != nil {
				return nil, err
			}
			call, name = Call{Input: output}, ""
		case word.text == ">":
			target, words = words[1].text, words[1:]
		default:
			if call.Input, following, err = heredoc(words[1].text, following); err != nil {
				return nil, err
			}
			words = words[1:]
		}
		words = words[1:]
	}
	output, err := s.run(ctx, name, call)
	if err != nil || target == "" {
		return following, err
	}
	path, err := s.path(target)
	if err != nil {
		return nil, err
	}
	return following, os.WriteFile(path, []byte(output), 0o600)
}

func (s *Shell) run(ctx context.Context, name string, call Call) (string, error) {
	run := s.Commands[name]
	if run == nil {
		return "", fmt.Errorf("the test knows no command %q; teach it, or list it as an exception with the reason", name)
	}
	return run(ctx, call)
}

// heredoc returns the lines up to the delimiter, and those after it.
func heredoc(delimiter string, lines []string) (text string, rest []string, err error) {
	for i, line := range lines {
		if line == delimiter {
			return text, lines[i+1:], nil
		}
		if strings.ContainsAny(line, "$`\\") {
			return "", nil, fmt.Errorf("a shell would expand something in the heredoc's line %q", line)
		}
		text += line + "\n"
	}
	return "", nil, fmt.Errorf("the heredoc does not end with %s", delimiter)
}

// word is an argument, expanded, or one of the operators >, << and |.
type word struct {
	text     string
	operator bool
}

var (
	blank    = regexp.MustCompile(`^[ \t]+`)
	operator = regexp.MustCompile(`^(<<|>|\|)`)
	// plain holds no character that means something to a shell.
	plain    = regexp.MustCompile(`^[A-Za-z0-9./_:=@,%+-]+`)
	single   = regexp.MustCompile(`^'([^']*)'`)
	literal  = regexp.MustCompile("^[^\"$`\\\\]+")
	variable = regexp.MustCompile(`^\$([A-Za-z_][A-Za-z0-9_]*)`)
	contents = regexp.MustCompile(`^\$\(cat ([A-Za-z0-9./_ -]+)\)`)
)

// words splits a line and expands double quotes.
func (s *Shell) words(line string) (words []word, err error) {
	inside := false // of a word, which may be of several parts
	for line != "" {
		var part string
		isOperator := false
		switch {
		case blank.MatchString(line):
			line, inside = blank.ReplaceAllString(line, ""), false
			continue
		case operator.MatchString(line):
			if inside { // a number before it would be a file descriptor
				return nil, fmt.Errorf("no blank before %q", line)
			}
			part, isOperator = operator.FindString(line), true
			line = line[len(part):]
		case plain.MatchString(line):
			part = plain.FindString(line)
			line = line[len(part):]
		case single.MatchString(line):
			match := single.FindStringSubmatch(line)
			part, line = match[1], line[len(match[0]):]
		case line[0] == '"':
			if part, line, err = s.quoted(line[1:]); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the test does not know what a shell makes of %q", line)
		}
		if inside {
			words[len(words)-1].text += part
		} else {
			words = append(words, word{part, isOperator})
		}
		inside = !isOperator
	}
	return words, nil
}

// quoted reads up to the closing double quote and returns the rest.
func (s *Shell) quoted(line string) (text, rest string, err error) {
	for line != "" {
		switch {
		case line[0] == '"':
			return text, line[1:], nil
		case literal.MatchString(line):
			part := literal.FindString(line)
			text, line = text+part, line[len(part):]
		case variable.MatchString(line):
			match := variable.FindStringSubmatch(line)
			value, ok := s.Variables[match[1]]
			if !ok {
				return "", "", fmt.Errorf("variable %s is not set", match[1])
			}
			text, line = text+value, line[len(match[0]):]
		case contents.MatchString(line):
			match := contents.FindStringSubmatch(line)
			var output strings.Builder
			for name := range strings.FieldsSeq(match[1]) {
				content, err := s.Read(name)
				if err != nil {
					return "", "", err
				}
				output.WriteString(content)
			}
			text, line = text+strings.TrimRight(output.String(), "\n"), line[len(match[0]):]
		default:
			return "", "", fmt.Errorf("the test does not know what a shell makes of %q", line)
		}
	}
	return "", "", errors.New("a quote is not closed")
}

// Read returns the content of a file in the shell.
func (s *Shell) Read(name string) (string, error) {
	path, err := s.path(name)
	if err != nil {
		return "", err
	}
	content, err := os.ReadFile(path)
	return string(content), err
}

// path returns the path of a file on this machine.
func (s *Shell) path(name string) (string, error) {
	if !filepath.IsAbs(name) {
		if !filepath.IsLocal(name) {
			return "", fmt.Errorf("%s is outside of the test's folder", name)
		}
		return filepath.Join(s.Dir, name), nil
	}
	path := s.located(name)
	if path == name {
		return "", fmt.Errorf("the test has nothing in the place of %s", name)
	}
	return path, nil
}

// located replaces an absolute path in or below one of Paths.
func (s *Shell) located(name string) string {
	for folder, path := range s.Paths {
		if below, ok := strings.CutPrefix(name, folder); ok && (below == "" || below[0] == '/') {
			return path + below
		}
	}
	return name
}
