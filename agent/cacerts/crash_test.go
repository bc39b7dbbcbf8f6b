// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// publishForever is set in the environment of the process that is killed. It runs in a folder with the answers and the directory.
const publishForever = "CACERTS_TEST_PUBLISH"

func TestMain(m *testing.M) {
	if os.Getenv(publishForever) != "" {
		fmt.Fprintln(os.Stderr, publish())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func publish() error {
	content, err := os.ReadFile("answers")
	if err != nil {
		return err
	}
	var answers []Issued
	if err := json.Unmarshal(content, &answers); err != nil {
		return err
	}
	var sets []*Set
	for _, answer := range answers {
		set, err := Verify(answer, requested())
		if err != nil {
			return err
		}
		sets = append(sets, set)
	}
	d, err := Open("cacerts", true)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for i := 0; ; i++ {
		set := *sets[i%len(sets)] // which keeps its key
		if err := d.Publish(&set, nil); err != nil {
			return err
		}
	}
}

// Killed at any instant, the directory holds one complete, matching set, and the next agent goes on.
func TestKilledAtAnyInstant(t *testing.T) {
	kills := 3000
	if testing.Short() {
		kills = 100
	}
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = t.TempDir()
	}
	what, err := os.MkdirTemp(base, "istiod-agent-crash-") //nolint:usetesting // in memory, where there is such a place
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(what) })
	h := newHierarchy(t)
	var answers []Issued
	known := map[string]bool{}
	for range 3 {
		certificate := sign(t, requestedCA(), newKey(t, h.signed.key.Curve), h.root)
		answers = append(answers, Issued{Key: keyPEM(t, certificate.key), Certificate: certPEM(certificate), IssuingCA: certPEM(h.root)})
		known[(&Set{certificate: certificate.Certificate}).SerialNumber()] = true
	}
	content, err := json.Marshal(answers)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(what, "answers"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(what, "cacerts")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for range kills {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), publishForever+"=1")
		child.Dir = what
		child.Stderr = os.Stderr
		stdout, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		ready, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil || ready != "ready\n" {
			t.Fatalf("%q, %v", ready, err)
		}
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // the instant is the point
		_ = child.Process.Kill()
		_ = child.Wait()

		set, err := read(dir)
		if os.IsNotExist(err) && len(seen) == 0 {
			continue // killed before the first was published
		}
		if err != nil {
			t.Fatalf("after %d kills istiod would read: %v", len(seen), err)
		}
		if err := set.verify(now); err != nil || !known[set.SerialNumber()] {
			t.Fatalf("istiod would read a set that is none of those published: %v", err)
		}
		seen[set.SerialNumber()]++
	}
	if len(seen) < 2 {
		t.Errorf("the kills found only %d of the sets", len(seen))
	}
}
