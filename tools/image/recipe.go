// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// recipe is what a stage of the Dockerfile says, with its arguments filled in.
type recipe struct {
	files      []file
	labels     map[string]string
	user       string
	entrypoint []string
}

// file is one COPY: root owns it in the image.
type file struct {
	source string // path in the build context
	path   string // absolute path in the image
	mode   fs.FileMode
}

// readRecipe reads one target of a Dockerfile, strictly: a stage from scratch, and only the
// instructions and flags whose meaning is kept here. Anything else is an error, never left out.
func readRecipe(dockerfile io.Reader, target string, args map[string]string) (recipe, error) {
	tree, err := parser.Parse(dockerfile)
	if err != nil {
		return recipe{}, err
	}
	stages, global, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		return recipe{}, err
	}
	if len(global) > 0 {
		return recipe{}, fmt.Errorf("%s: an ARG before the first FROM is not understood here", &global[0])
	}
	index, found := instructions.HasStage(stages, target)
	if !found {
		return recipe{}, fmt.Errorf("there is no stage %q", target)
	}
	stage := stages[index]
	if stage.BaseName != "scratch" || stage.Platform != "" {
		return recipe{}, fmt.Errorf("%s: only FROM scratch is understood here", stage.OrigCmd)
	}

	reader := stageReader{given: args, lex: shell.NewLex(tree.EscapeToken), recipe: recipe{labels: map[string]string{}}}
	for _, command := range stage.Commands {
		if err := reader.read(command); err != nil {
			return recipe{}, fmt.Errorf("%s: %w", command, err)
		}
	}
	return reader.recipe, nil
}

type stageReader struct {
	given  map[string]string // values from the command line
	env    []string          // NAME=value of the ARGs declared so far
	lex    *shell.Lex
	recipe recipe
}

func (r *stageReader) read(command instructions.Command) error {
	if expandable, ok := command.(instructions.SupportsSingleWordExpansion); ok {
		if err := expandable.Expand(r.expand); err != nil {
			return err
		}
	}
	switch command := command.(type) {
	case *instructions.ArgCommand:
		return r.declare(command)
	case *instructions.LabelCommand:
		for _, label := range command.Labels {
			r.recipe.labels[label.Key] = label.Value
		}
	case *instructions.CopyCommand:
		return r.copy(command)
	case *instructions.UserCommand:
		r.recipe.user = command.User
	case *instructions.EntrypointCommand:
		if command.PrependShell {
			return fmt.Errorf(`write it as ["program"]: there is no shell in the image`)
		}
		r.recipe.entrypoint = command.CmdLine
	default:
		return fmt.Errorf("this instruction is not understood here")
	}
	return nil
}

func (r *stageReader) declare(command *instructions.ArgCommand) error {
	for _, arg := range command.Args {
		value, given := r.given[arg.Key]
		switch {
		case given:
		case arg.Value != nil:
			value = *arg.Value
		default:
			return fmt.Errorf("--build-arg %s=… is missing", arg.Key)
		}
		r.env = append(r.env, arg.Key+"="+value)
	}
	return nil
}

func (r *stageReader) copy(command *instructions.CopyCommand) error {
	if command.From != "" || command.Chown != "" || command.Link || command.Parents ||
		len(command.ExcludePatterns) > 0 || len(command.SourceContents) > 0 || len(command.SourcePaths) != 1 {
		return fmt.Errorf("only COPY --chmod=MODE FILE /PATH is understood here")
	}
	mode, err := strconv.ParseUint(command.Chmod, 8, 9)
	if err != nil {
		return fmt.Errorf("--chmod: %w", err)
	}
	r.recipe.files = append(r.recipe.files, file{source: command.SourcePaths[0], path: command.DestPath, mode: fs.FileMode(mode)})
	return nil
}

func (r *stageReader) expand(word string) (string, error) {
	value, undeclared, err := r.lex.ProcessWord(word, shell.EnvsFromSlice(r.env))
	if err != nil {
		return "", err
	}
	for name := range undeclared {
		return "", fmt.Errorf("%s has no ARG", name)
	}
	return value, nil
}
