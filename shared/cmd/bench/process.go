package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/freeport"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

const stopTimeout = 15 * time.Second

// terminate lets the end of the command's context end it in good order.
func terminate(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
}

// A process is this program as one of those that it measures.
type process struct {
	addr   string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	ended  chan struct{}
	stderr bytes.Buffer
}

// start starts a process of the kind, and returns when it has written its address. Its environment is the settings alone.
func (b *bench) start(ctx context.Context, kind, of string, settings map[string]string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{ended: make(chan struct{})}
	ctx, p.cancel = context.WithCancel(ctx)
	p.cmd = exec.CommandContext(ctx, self, serveArg, kind, of)
	terminate(p.cmd)
	p.cmd.Stderr = &p.stderr
	p.cmd.Env = []string{"PATH=" + b.env["PATH"], fmt.Sprint(daemon.StopWithParent, "=", os.Getpid())}
	for name, value := range settings {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		p.cancel()
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() {
		_ = p.cmd.Wait() // the exit code says it
		close(p.ended)
	}()
	if err != nil {
		_, stopErr := p.stop()
		return nil, fmt.Errorf("the process %s does not start: %w", kind, errors.Join(err, stopErr))
	}
	p.addr = strings.TrimSpace(line)
	b.atEnd(func() { _, _ = p.stop() })
	return p, nil
}

// stop ends the process and returns the CPU time of its whole life, that of its children included.
func (p *process) stop() (time.Duration, error) {
	p.cancel()
	<-p.ended
	state := p.cmd.ProcessState
	if !state.Success() {
		return 0, fmt.Errorf("the process ended with %v\n%s", state, p.stderr.Bytes())
	}
	return state.UserTime() + state.SystemTime(), nil
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	p.cancel()
}

// died returns when the process has ended by itself.
func (p *process) died(ctx context.Context) error {
	select {
	case <-p.ended:
		return nil
	case <-time.After(patience):
		return errors.New("the process does not crash where it should")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// complaint kills the process, and returns its last words as an error.
func (p *process) complaint() error {
	p.kill()
	return fmt.Errorf("it said: %q", p.stderr.Bytes())
}

func (p *process) sell(ctx context.Context, id uuid.UUID) (committedAt time.Time, err error) {
	err = p.call(ctx, http.MethodPost, shop.SalesPath+id.String(), "", &committedAt)
	return committedAt, err
}

func (p *process) get(ctx context.Context, path string, answer any) error {
	return p.call(ctx, http.MethodGet, path, "", answer)
}

// call decodes the JSON of an answer that is a success. The body of the request is JSON, or empty.
func (p *process) call(ctx context.Context, method, path, body string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.addr+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s: %.200q", req.URL, resp.Status, text)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

// eventually returns when done does, which is asked again and again, or when ctx ends.
func eventually(ctx context.Context, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(watchInterval):
		}
	}
}

const watchInterval = 20 * time.Millisecond

// startSubscriber starts a consumer of the feed at an address, or a relay of it.
func (b *bench) startSubscriber(ctx context.Context, kind, sourceAddr string, db *postgres.DB,
	settings map[string]string) (*process, error) {
	addr, err := freeport.Addr(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]string{shop.Addr: addr, "LOG_LEVEL": "error",
		"FEED_URL_ORDERS": "http://" + sourceAddr + "/feeds/" + order.Feed}
	maps.Copy(all, settings)
	return b.start(ctx, kind, db.Config().ConnString(), all)
}

// caughtUp returns when the subscriber has the source's entries up to position, and fails with its last error.
func (p *process) caughtUp(ctx context.Context, position int64) error {
	return eventually(ctx, func() (bool, error) {
		select {
		case <-p.ended:
			_, err := p.stop()
			return false, errors.Join(errors.New("the subscriber ended"), err)
		default:
		}
		var all []struct {
			Cursor    string  `json:"cursor"`
			LastError *string `json:"last_error"`
		}
		if err := p.get(ctx, "/subscriptions", &all); err != nil || len(all) == 0 {
			return false, nil //nolint:nilerr // it may not have started yet
		}
		if all[0].LastError != nil {
			return false, errors.New(*all[0].LastError)
		}
		cursor, err := feed.ParseCursor(all[0].Cursor)
		return cursor.Position >= position, err
	})
}
