package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// A reader is the command of one, which is run again and again.
type reader struct {
	ctx     context.Context
	command []string
	once    bool // prove ends with the first test that fails
}

// runLimit is how long a run of the command may take.
const runLimit = time.Minute

// Prove runs a reader against a source that misbehaves, and compares its copy with what the source has. The command
// copies the feed until its copy is up to date, keeps it in a file, and writes it to stdout as lines of JSON with `id`,
// `version` and `entity`. In its arguments, URL stands for the feed's URL, and DIR for a folder that is there for the
// next run, too. If it cannot copy the feed, it ends with another exit code than 0. Prove writes the results as TAP
// version 14, and returns how many tests failed.
func Prove(ctx context.Context, command []string, out io.Writer) (failed int, err error) {
	return (&reader{ctx: ctx, command: command}).prove(out, func(string) bool { return true })
}

// prove runs the tests whose names are wanted.
func (r *reader) prove(out io.Writer, wanted func(name string) bool) (failed int, err error) {
	all := slices.Clone(tests)
	all = append(all, compactionTests...)
	all = append(all, snapshotTests()...)
	for _, f := range faults {
		all = append(all,
			test{f.name + ", from the start", func(c *copying) error { return c.survives(&f, false) }},
			test{f.name + ", later", func(c *copying) error { return c.survives(&f, true) }})
	}
	all = slices.DeleteFunc(all, func(t test) bool { return !wanted(t.name) })
	results := begin(out, len(all))
	for _, t := range all {
		err := r.against(t.run)
		if r.ctx.Err() != nil {
			return results.broken, context.Cause(r.ctx)
		}
		if results.report(t.name, err); r.once && results.broken > 0 {
			break
		}
	}
	return results.broken, nil
}

// A copying is one copy of one source.
type copying struct {
	*reader
	*source
	server *httptest.Server
	dir    string
	erased map[int]bool
	path   string // of the feed
}

// against runs a test with a source and a folder of its own.
func (r *reader) against(test func(c *copying) error) error {
	dir, err := os.MkdirTemp("", "prove-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := newSource()
	server := httptest.NewServer(s)
	defer server.Close()
	return test(&copying{r, s, server, dir, map[int]bool{}, "/feeds/entities"})
}

// start returns the command as it is run.
func (c *copying) start(ctx context.Context) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	args := make([]string, len(c.command))
	for i, arg := range c.command {
		args[i] = strings.NewReplacer("URL", c.server.URL+c.path, "DIR", c.dir).Replace(arg)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	return cmd, &stdout, &stderr
}

// A runError means that the command ended with another exit code than 0.
type runError struct{ error }

// run runs the command, and returns its copy.
func (c *copying) run() (map[string]row, error) {
	ctx, cancel := context.WithTimeout(c.ctx, runLimit)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c.mu.Lock()
	c.tooOften = func() { stop(errors.New("the reader asks again and again")) }
	c.mu.Unlock()
	cmd, stdout, stderr := c.start(ctx)
	if err := cmd.Run(); errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, fmt.Errorf("the reader has not ended within %s", runLimit)
	} else if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	} else if err != nil {
		return nil, runError{fmt.Errorf("%w: %s", err, tail(stderr.String()))}
	}
	rows := map[string]row{}
	for line := range strings.Lines(stdout.String()) {
		var v struct {
			ID      string          `json:"id"`
			Version int64           `json:"version"`
			Entity  json.RawMessage `json:"entity"`
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			return nil, fmt.Errorf("a line of the copy is no JSON: %w", err)
		}
		id := strings.TrimPrefix(v.ID, "urn:uuid:")
		if _, twice := rows[id]; twice {
			return nil, fmt.Errorf("the copy has %s twice", id)
		}
		rows[id] = row{v.Version, normal(v.Entity)}
	}
	return rows, nil
}

func tail(text string) string { return text[max(0, len(text)-500):] }

// equal runs the command, and returns an error unless the copy is what the source has.
func (c *copying) equal() error {
	rows, err := c.run()
	if err != nil {
		return err
	}
	want := c.truth(c.erased)
	for id, w := range want {
		if got, has := rows[id]; !has {
			return fmt.Errorf("the copy lacks %s; it has %d entities of %d", id, len(rows), len(want))
		} else if got != w {
			return fmt.Errorf("the copy has version %d of %s, %.200s, the source version %d, %.200s", got.version, id, got.entity, w.version, w.entity)
		}
	}
	for id := range rows {
		if _, has := want[id]; !has {
			return fmt.Errorf("the copy has %s, which the source does not have; it has %d entities for %d", id, len(rows), len(want))
		}
	}
	return nil
}

// survives runs the command while the fault lasts and afterwards. begun says that there is a copy before.
func (c *copying) survives(f *fault, begun bool) error {
	c.put(1, 2, 3, 4, 5, 6, 7, 8, 3, 4)
	c.remove(5)
	if begun {
		if err := c.equal(); err != nil {
			return fmt.Errorf("before: %w", err)
		}
		c.put(2, 9, 10)
		c.remove(6)
		c.put(5, 11)
	}
	return c.outlasts(f)
}

// outlasts runs the command while the fault lasts and afterwards.
func (c *copying) outlasts(f *fault) error {
	c.setFault(f)
	if err := c.equalOrFails(); err != nil {
		return fmt.Errorf("meanwhile: %w", err)
	}
	c.setFault(nil)
	if err := c.equal(); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	return nil
}

// equalOrFails runs the command, which may fail. If it does not, equalOrFails is as equal.
func (c *copying) equalOrFails() error {
	if err := c.equal(); err != nil && !errors.As(err, new(runError)) {
		return err
	}
	return nil
}
