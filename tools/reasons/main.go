// SPDX-License-Identifier: Apache-2.0

// Reasons writes docs/reasons.md from the comments of the constants that are the reasons, so that the page and the programs
// cannot differ.
//
// A block of constants belongs to the page by a directive in its comment, which names a section:
//
//	// Reasons of …
//	//
//	//reasons:page vault
//	const (
//		// Sealed: Vault is sealed.
//		//
//		// Remedy: `vault operator unseal`.
//		Sealed Kind = "VaultSealed"
//	)
//
// The comment is Markdown, with links as in a page of docs/; as in Go, code is indented by a tab. Its last part, from "Remedy:"
// on, is what a person does. A reason that several packages declare has a comment at one of the declarations.
package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func main() {
	log.SetFlags(0)
	root := flag.String("root", ".", "`directory` of the repository")
	flag.Parse()
	declared, err := read(*root)
	if err != nil {
		log.Fatal(err)
	}
	page, err := render(declared)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*root, "docs", "reasons.md"), []byte(page), 0o644); err != nil { //nolint:gosec // a page for everybody
		log.Fatal(err)
	}
}

// declaration is a constant that is a reason.
type declaration struct {
	// key is its value; section that of its block.
	key, section string
	// doc is its comment without its name; empty where another declaration of the key has it.
	doc string
	// at is its place, for errors.
	at string
}

const directive = "//reasons:page "

// read returns the declarations in the Go files below a directory, by file and line. It skips tests, hidden directories and
// those of other Go modules.
func read(root string) (declared []declaration, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || hasModule(path)):
			return filepath.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path) //nolint:gosec // a file of the repository
		if err != nil || !strings.Contains(string(source), directive) {
			return err
		}
		found, err := parse(path, source)
		declared = append(declared, found...)
		return err
	})
	return declared, err
}

func hasModule(directory string) bool {
	_, err := os.Stat(filepath.Join(directory, "go.mod"))
	return err == nil
}

// parse returns the declarations of a file.
func parse(path string, source []byte) (declared []declaration, err error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, decl := range file.Decls {
		block, ok := decl.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		section := sectionOf(block.Doc)
		if section == "" {
			continue
		}
		for _, spec := range block.Specs {
			value, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			at := files.Position(spec.Pos()).String()
			literal, ok := single(value.Values)
			if !ok {
				return nil, fmt.Errorf("%s: a reason is one string literal", at)
			}
			key, err := strconv.Unquote(literal.Value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", at, err)
			}
			declared = append(declared, declaration{key: key, section: section, doc: strings.TrimPrefix(value.Doc.Text(), value.Names[0].Name+": "), at: at})
		}
	}
	return declared, nil
}

func single(values []ast.Expr) (*ast.BasicLit, bool) {
	if len(values) != 1 {
		return nil, false
	}
	literal, ok := values[0].(*ast.BasicLit)
	return literal, ok && literal.Kind == token.STRING
}

func sectionOf(doc *ast.CommentGroup) string {
	if doc == nil {
		return ""
	}
	for _, line := range doc.List {
		if section, ok := strings.CutPrefix(line.Text, directive); ok {
			return strings.TrimSpace(section)
		}
	}
	return ""
}

// render returns the page. It fails for an unknown section, a key without a comment or with two, and a comment without a remedy.
func render(declared []declaration) (string, error) {
	documented := map[string]declaration{}
	seenIn := map[string][]string{} // the sections of a key
	for _, d := range declared {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == d.section }) {
			return "", fmt.Errorf("%s: there is no section %q", d.at, d.section)
		}
		seenIn[d.key] = append(seenIn[d.key], d.section)
		if d.doc == "" {
			continue
		}
		if other, twice := documented[d.key]; twice {
			return "", fmt.Errorf("%s: %s has a comment at %s too", d.at, d.key, other.at)
		}
		if !strings.Contains(d.doc, remedyMark) {
			return "", fmt.Errorf("%s: the comment of %s has no paragraph that begins with %q", d.at, d.key, strings.TrimSpace(remedyMark))
		}
		documented[d.key] = d
	}
	for _, d := range declared {
		if _, ok := documented[d.key]; !ok {
			return "", fmt.Errorf("%s: %s has no comment", d.at, d.key)
		}
	}

	var page strings.Builder
	page.WriteString(header)
	for _, section := range sections {
		keys := section.keys(documented)
		fmt.Fprintf(&page, "- [%s](#%s): ", section.title, anchor(section.title))
		for i, key := range keys {
			fmt.Fprintf(&page, "%s[%s](#%s)", separator(i), key, anchor(key))
		}
		page.WriteString("\n")
	}
	for _, section := range sections {
		fmt.Fprintf(&page, "\n## %s\n\n%s\n", section.title, section.seen)
		for _, key := range section.keys(documented) {
			meaning, remedy, _ := strings.Cut(markdown(documented[key].doc), remedyMark)
			fmt.Fprintf(&page, "\n### %s\n\n%s\n", key, capitalized(strings.TrimSpace(meaning)))
			for _, other := range sections {
				if other.name != section.name && slices.Contains(seenIn[key], other.name) {
					fmt.Fprintf(&page, "\nAlso a reason of [%s](#%s).\n", other.title, anchor(other.title))
				}
			}
			fmt.Fprintf(&page, "\n**Remedy:** %s\n", strings.TrimSpace(remedy))
		}
	}
	return page.String(), nil
}

const remedyMark = "\nRemedy:"

// keys are those that the section documents, in alphabetical order.
func (s *section) keys(documented map[string]declaration) (keys []string) {
	for key, d := range documented {
		if d.section == s.name {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return keys
}

// markdown returns a comment as Markdown: a paragraph in one line, indented code in a code block.
func markdown(comment string) string {
	var out strings.Builder
	for _, paragraph := range strings.Split(strings.TrimSpace(comment), "\n\n") {
		out.WriteString("\n")
		if strings.HasPrefix(paragraph, "\t") {
			fmt.Fprintf(&out, "```\n%s\n```\n", strings.ReplaceAll(strings.TrimPrefix(paragraph, "\t"), "\n\t", "\n"))
			continue
		}
		for i, line := range strings.Split(paragraph, "\n") {
			switch text := strings.TrimSpace(line); {
			case i == 0:
				out.WriteString(text)
			case strings.HasPrefix(text, "- "):
				out.WriteString("\n" + text)
			default:
				out.WriteString(" " + text)
			}
		}
		out.WriteString("\n")
	}
	return out.String()
}

// capitalized begins with an upper case letter, except for istiod's name, which has none.
func capitalized(text string) string {
	if strings.HasPrefix(text, "istiod") {
		return text
	}
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:]
}

// anchor is the id that GitHub gives a heading of letters, digits and spaces.
func anchor(heading string) string {
	return strings.ReplaceAll(strings.ToLower(strings.ReplaceAll(heading, "'", "")), " ", "-")
}

func separator(i int) string {
	if i == 0 {
		return ""
	}
	return ", "
}
