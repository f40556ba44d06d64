package main

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

func TestKilled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	kill := func(t *testing.T, p *process) {
		t.Helper()
		if err := p.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.nothingRuns(t)
	}
	t.Run("up, while it starts", func(t *testing.T) {
		up := b.startUp(t)
		eventually(t, func() error {
			if unfinished, _ := filepath.Glob(filepath.Join(b.dir, "*", "initdb-*", "base")); len(unfinished) > 0 {
				return nil
			}
			if !up.running() {
				t.Fatal("up has ended")
			}
			return errors.New("no initdb runs")
		})
		kill(t, up)
	})
	t.Run("go run, with what was left of it", func(t *testing.T) {
		up := b.goRunUp(t, "--orders-per-minute", "600")
		up.says(t, "everything is up")
		b.allRun(t)
		kill(t, up)
	})
}
