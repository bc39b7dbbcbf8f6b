// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	maxSentence  = 40 // words
	maxParagraph = 90 // words
)

// TestLengths limits the sentences and paragraphs of every page in the repository.
func TestLengths(t *testing.T) {
	files := markdownFiles(t)
	for _, known := range []string{"../README.md", "../CONTRIBUTING.md", "../SECURITY.md", "../charts/istiod-agent/README.md", "../docs/security.md"} {
		if !slices.Contains(files, known) {
			t.Errorf("%s was not read", known)
		}
	}
	for _, file := range files {
		for _, problem := range tooLong(read(t, file)) {
			t.Error(problem)
		}
	}
}

func TestTooLong(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"a sentence of 40 words":              {sentence(40), 0},
		"a sentence of 41 words":              {sentence(41), 1},
		"two sentences of 21 words":           {sentence(21) + " " + sentence(21), 0},
		"the second sentence":                 {sentence(3) + " " + sentence(41), 1},
		"a sentence over two lines":           {strings.Replace(sentence(41), " ", "\n", 20), 1},
		"a paragraph of 90 words":             {sentence(30) + " " + sentence(30) + " " + sentence(30), 0},
		"a paragraph of 91 words":             {sentence(30) + " " + sentence(30) + " " + sentence(31), 1},
		"a list item of 41 words":             {"- short\n- " + sentence(41), 1},
		"list items that are short":           {"Steps:\n\n- " + sentence(30) + "\n- " + sentence(30) + "\n- " + sentence(40), 0},
		"a numbered item of 41 words":         {"1. " + sentence(41), 1},
		"a table cell of 41 words":            {"| a | b |\n|---|---|\n| short | " + sentence(41) + " |", 1},
		"table cells that are short":          {"| a | b |\n|---|---|\n| " + sentence(39) + " | " + sentence(39) + " |", 0},
		"a quotation of 41 words":             {"> " + sentence(41), 1},
		"a heading of 41 words":               {"## " + sentence(41), 1},
		"a code block":                        {"```\n" + sentence(41) + "\n```", 0},
		"a code block of a list item":         {"- a\n\n  ```yaml\n  " + sentence(41) + "\n  ```", 0},
		"text after a code block":             {"```\ncode\n```\n\n" + sentence(41), 1},
		"a comment":                           {"<!-- " + sentence(41) + " -->", 0},
		"inline code is one word":             {"`" + sentence(41) + "` " + sentence(39), 0},
		"inline code is a word":               {"`code` " + sentence(40), 1},
		"inline code with a period at an end": {"`a. b` " + sentence(39) + " " + sentence(3), 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tooLong(page{"page.md", c.text}); len(got) != c.want {
				t.Errorf("got %d problems, want %d: %q", len(got), c.want, got)
			}
		})
	}
}

func TestParagraphs(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"lines are joined":              {"a\nb\n\nc", []string{"a b", "c"}},
		"items":                         {"text\n- a\n  b\n- c\n  1. d", []string{"text", "a b", "c", "d"}},
		"a paragraph of an item":        {"- a\n\n  b", []string{"a", "b"}},
		"a dash within a line":          {"a - b", []string{"a - b"}},
		"cells":                         {"| a | b |\n|---|:-:|\n| c | `d \\| e` |", []string{"a", "b", "c", "`d | e`"}},
		"a paragraph between headings":  {"# a\nb\n## c", []string{"a", "b", "c"}},
		"a code block ends a paragraph": {"a\n```\nb\n```\nc", []string{"a", "c"}},
		"a quotation":                   {"> a\n> b", []string{"a b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range (page{"page.md", c.text}).paragraphs() {
				got = append(got, p.text)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSplitSentences(t *testing.T) {
	for text, want := range map[string][]string{
		"One. Two! Three? Four":               {"One.", "Two!", "Three?", "Four"},
		"The end. istiod begins in lowercase": {"The end.", "istiod begins in lowercase"},
		"The end. `code` begins":              {"The end.", "`code` begins"},
		"(In brackets.) Outside":              {"(In brackets.)", "Outside"},
		"**Bold.** Plain":                     {"**Bold.**", "Plain"},
		"Some, e.g. one, i.e. this. Next":     {"Some, e.g. one, i.e. this.", "Next"},
		"Version 1.30 of istio.io. Next":      {"Version 1.30 of istio.io.", "Next"},
		"A colon: no end; nor a semicolon":    {"A colon: no end; nor a semicolon"},
		"Wait… more":                          {"Wait… more"},
	} {
		if got := splitSentences(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestCountWords(t *testing.T) {
	for text, want := range map[string]int{
		"":                                     0,
		"two words":                            2,
		"`kubectl get pods` runs":              2,
		"[the Vault page](vault.md#the-login)": 3,
		"a — dash and an arrow →":              5,
		"**bold** and *slanted*":               3,
		"``a ` b`` c":                          2,
	} {
		if got := countWords(plain(text)); got != want {
			t.Errorf("%q: got %d words, want %d", text, got, want)
		}
	}
}

func sentence(words int) string { return "W" + strings.Repeat(" w", words-1) + "." }

// markdownFiles returns the repository's pages, without what is built or downloaded.
func markdownFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != ".." && (strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"bin", "dist", "node_modules", "testdata"}, entry.Name())):
			return filepath.SkipDir
		case entry.Type().IsRegular() && filepath.Ext(path) == ".md":
			files = append(files, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func tooLong(p page) (problems []string) {
	for _, paragraph := range p.paragraphs() {
		text := plain(paragraph.text)
		if words := countWords(text); words > maxParagraph {
			problems = append(problems, fmt.Sprintf("%s:%d: a paragraph of %d words, at most %d: %.60s…", p.file, paragraph.line, words, maxParagraph, paragraph.text))
		}
		for _, sentence := range splitSentences(text) {
			if words := countWords(sentence); words > maxSentence {
				problems = append(problems, fmt.Sprintf("%s:%d: a sentence of %d words, at most %d: %.60s…", p.file, paragraph.line, words, maxSentence, sentence))
			}
		}
	}
	return problems
}

// paragraph is a paragraph, heading, list item or table cell, with the number of its first line.
type paragraph struct {
	line int
	text string
}

var (
	marker = regexp.MustCompile(`^(?:[-*+]|[0-9]+[.)]) +`)
	rule   = regexp.MustCompile(`^\|[-:| ]+\|$`)
)

// paragraphs reads the Markdown that the pages use: no indented code blocks, no headings by underlining.
func (p page) paragraphs() (found []paragraph) {
	open := false // whether the next line continues the last paragraph
	p.numbered(func(number int, text string) {
		text = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), ">"))
		switch {
		case text == "", strings.HasPrefix(text, "<!--"), rule.MatchString(text):
			open = false
		case strings.HasPrefix(text, "|"):
			open = false
			for _, cell := range cells(text) {
				found = append(found, paragraph{number, cell})
			}
		case strings.HasPrefix(text, "#"):
			open = false
			found = append(found, paragraph{number, strings.TrimSpace(strings.TrimLeft(text, "#"))})
		case marker.MatchString(text):
			open = true
			found = append(found, paragraph{number, marker.ReplaceAllString(text, "")})
		case open:
			found[len(found)-1].text += " " + text
		default:
			open = true
			found = append(found, paragraph{number, text})
		}
	})
	return found
}

// numbered calls for each line, with its number; the lines of code blocks are empty.
func (p page) numbered(call func(number int, line string)) {
	inCode, number := false, 0
	for line := range strings.Lines(p.text) {
		number++
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inCode = !inCode
			line = ""
		} else if inCode {
			line = ""
		}
		call(number, line)
	}
}

// cells returns the cells of a table's row that hold text.
func cells(row string) (found []string) {
	const bar = "\x00" // stands for an escaped one
	for cell := range strings.SplitSeq(strings.ReplaceAll(row, `\|`, bar), "|") {
		if cell = strings.TrimSpace(strings.ReplaceAll(cell, bar, "|")); cell != "" {
			found = append(found, cell)
		}
	}
	return found
}

var (
	inlineCode = regexp.MustCompile("``.+?``|`[^`]+`")
	pageLink   = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
	// A period, or the like, and space after it end a sentence.
	end          = regexp.MustCompile(`[.!?][)*"”]*\s+`)
	abbreviation = regexp.MustCompile(`(?:^|[\s(])(?:e\.g|i\.e|cf|vs)\.$`)
	letters      = regexp.MustCompile(`[\p{L}\p{N}]`)
)

// plain is a text with one word in place of each inline code, and without the targets of links.
func plain(text string) string {
	return pageLink.ReplaceAllString(inlineCode.ReplaceAllString(text, "`code`"), "$1")
}

func splitSentences(text string) (sentences []string) {
	start := 0
	for _, at := range end.FindAllStringIndex(text, -1) {
		if !abbreviation.MatchString(strings.TrimSpace(text[start:at[1]])) {
			sentences = append(sentences, strings.TrimSpace(text[start:at[1]]))
			start = at[1]
		}
	}
	if rest := strings.TrimSpace(text[start:]); rest != "" {
		sentences = append(sentences, rest)
	}
	return sentences
}

// countWords counts what holds a letter or a digit: a dash or an arrow is no word.
func countWords(text string) (words int) {
	for word := range strings.FieldsSeq(text) {
		if letters.MatchString(word) {
			words++
		}
	}
	return words
}
