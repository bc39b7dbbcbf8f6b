// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPictures requires of each picture that a page shows it, that it is well-formed, has a text for readers who cannot see
// it, a dark form, and loads nothing from elsewhere.
func TestPictures(t *testing.T) {
	pages := ""
	for _, file := range markdownFiles(t) {
		pages += read(t, file).text
	}
	pictures, err := filepath.Glob("pictures/*.svg")
	if err != nil || len(pictures) == 0 {
		t.Fatalf("no pictures: %v", err)
	}
	for _, picture := range pictures {
		if !strings.Contains(pages, picture+")") {
			t.Errorf("no page shows %s", picture)
		}
		content, err := os.ReadFile(picture)
		if err != nil {
			t.Fatal(err)
		}
		elements := map[string]int{}
		decoder := xml.NewDecoder(strings.NewReader(string(content)))
		for {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", picture, err)
			}
			element, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			elements[element.Name.Local]++
			for _, a := range element.Attr {
				if a.Name.Local == "href" || a.Name.Local == "src" {
					t.Errorf("%s loads %s", picture, a.Value)
				}
			}
		}
		if elements["title"] != 1 || elements["desc"] != 1 || elements["script"]+elements["image"]+elements["foreignObject"] > 0 {
			t.Errorf("%s has the elements %v, want a title and a desc, and neither script, image nor foreignObject", picture, elements)
		}
		if !strings.Contains(string(content), "prefers-color-scheme: dark") {
			t.Errorf("%s has no dark form", picture)
		}
	}
}
