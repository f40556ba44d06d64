package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 15 * time.Second // less than the 20 s after which up itself is killed
)

type company struct {
	root, dir string // absolute
	dataDir   string // DATA_DIR of the services: dir, or "" for their default
	env       map[string]string
	out       *console
	services  []service

	portOffset int
	verbose    bool
}

// run starts all services, and returns when all have stopped: because ctx was cancelled, or because all died.
func (c *company) run(ctx context.Context, ordersPerMinute int) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	ready, change := make(chan service), make(chan int)
	for _, s := range c.services {
		running.Go(func() { c.keep(ctx, s, ready, change) })
	}
	alive, answering := len(c.services), 0
	var waiting startup
	for _, s := range c.services {
		waiting.add(s.name)
	}
	started := c.out.progress(waiting.text)
	defer started()
	for {
		select {
		case s := <-ready:
			waiting.done(s.name)
			if answering++; answering == len(c.services) {
				started()
				c.welcome()
			}
			if s.name == sales && ordersPerMinute > 0 {
				shoppers := newShoppers(s.url(), c.url(customersApp), c.dir, ordersPerMinute, c.out)
				running.Go(func() { shoppers.run(ctx) })
			}
		case n := <-change:
			if n < 0 {
				started()
			}
			if alive += n; alive == 0 {
				return errors.New("no service is left")
			}
		case <-ctx.Done():
			started()
			c.out.line(self, "stopping")
			stopped := c.out.progress(func() string { return "stopping" })
			running.Wait()
			stopped()
			c.out.line(self, "everything has stopped")
			return nil
		}
	}
}

// A startup is the names of the services that are not ready yet.
type startup struct {
	mu    sync.Mutex
	all   int
	names []string
}

func (s *startup) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.names = s.all+1, append(s.names, name)
}

func (s *startup) done(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return n == name })
}

func (s *startup) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d of %d ready, waiting for %s", s.all-len(s.names), s.all, strings.Join(s.names, ", "))
}

// logDir is the folder of the services' logs.
func (c *company) logDir() string { return filepath.Join(c.dir, "log") }

// output returns what takes the lines of a service: all for its log, which starts over with each start of up, and for
// the console what matters of them, or all with --verbose.
func (c *company) output(name string) *source {
	out := &source{console: c.out, name: name}
	path := filepath.Join(c.logDir(), name+".log")
	_ = os.Rename(path, path+".1")
	var err error
	if out.log, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		c.out.warnOnce(fmt.Sprintf("the log of %s is printed here: %v", name, err))
	}
	if !c.verbose && err == nil {
		out.events = newEvents(func(text string) { c.out.write(name, []byte(text)) }, c.out.warnOnce)
	}
	return out
}

func (c *company) url(name string) string {
	for _, s := range c.services {
		if s.name == name {
			return s.url()
		}
	}
	return ""
}

func (c *company) welcome() {
	c.out.line(self, "everything is up: buy a car at %s, follow it on the map, and stop with Ctrl-C", c.services[0].url())
	if c.portOffset != 0 {
		c.out.line(self, "operate it: SERVICES=%s go run ./subscribers status", c.listed())
	}
	for _, line := range c.closed() {
		c.out.line(self, "%s", line)
	}
}

// closed returns what to tell the user if ACCESS=closed.
func (c *company) closed() (lines []string) {
	if c.env["ACCESS"] != "closed" {
		return nil
	}
	if c.env["TOKENS"] == "" && c.env["TOKENS_FILE"] == "" {
		lines = append(lines, "access is closed, and nobody can log in: `go run ./sales-feed token --operator NAME` makes a token; list it in TOKENS or TOKENS_FILE")
	} else {
		lines = append(lines, "access is closed: the map and each service ask for the token of an operator, one that TOKENS or TOKENS_FILE lists")
	}
	if c.env["FEED_TOKEN"] == "" {
		lines = append(lines, "FEED_TOKEN is not set, and the services cannot copy each other's feeds: set it to a token, a reader's of all feeds, that TOKENS or TOKENS_FILE lists")
	}
	return lines
}

// keep runs one service until ctx is cancelled. If the service dies before, keep reports that, and watches for one that
// is started by hand. It sends to change -1 when the service dies and 1 when it answers again.
func (c *company) keep(ctx context.Context, s service, ready chan<- service, change chan<- int) {
	cmd := exec.Command(filepath.Join(c.dir, "bin", filepath.Base(s.args[0])), s.args[1:]...)
	cmd.Dir = c.root
	cmd.Env = c.environ(s)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in the terminal must reach up only
	out := c.output(s.name)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // where a process that it started holds its output open
	err := cmd.Start()
	exited := make(chan struct{})
	if err == nil {
		alive, died := context.WithCancel(ctx)
		go func() {
			_ = cmd.Wait()
			out.flush()
			_ = out.log.Close()
			died()
			close(exited)
		}()
		go c.awaitReady(alive, s, ready)
	} else {
		c.out.line(self, "%s: %v", s.name, err)
		close(exited)
	}

	select {
	case <-exited:
	case <-ctx.Done():
		c.stop(s, cmd, exited)
		return
	}
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		c.out.line(self, "%s has died: %v. The others go on. To start it again, in another terminal:", s.name, cmd.ProcessState)
		c.out.line(self, "  %s", c.byHand(s))
	}
	tell(ctx, change, -1)
	c.watch(ctx, s, change)
}

func tell[T any](ctx context.Context, to chan<- T, what T) {
	select {
	case to <- what:
	case <-ctx.Done():
	}
}

// stop asks the service to end. If it does not in time, stop kills it with its process group.
func (c *company) stop(s service, cmd *exec.Cmd, exited <-chan struct{}) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(stopTimeout):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		c.out.line(self, "%s had to be killed: it did not stop within %v", s.name, stopTimeout)
	}
}

// awaitReady reports when the service is ready. It reports a late one, and waits on.
func (c *company) awaitReady(ctx context.Context, s service, ready chan<- service) {
	late := time.After(readyTimeout)
	for !isReady(ctx, s) {
		select {
		case <-ctx.Done():
			return
		case <-late:
			c.out.line(self, "%s is not ready after %v; its log, %s, may say why. The others go on", s.name, readyTimeout, filepath.Join(c.logDir(), s.name+".log"))
		case <-time.After(100 * time.Millisecond):
		}
	}
	c.out.line(self, "%s is ready: %s  %s", s.name, s.url(), s.text)
	tell(ctx, ready, s)
}

// watch reports when a service that died answers again, and when that one ends.
func (c *company) watch(ctx context.Context, s service, change chan<- int) {
	back := false
	for {
		select {
		case <-ctx.Done():
			if back {
				c.out.line(self, "%s was started by hand and is left running", s.name)
			}
			return
		case <-time.After(time.Second):
		}
		now := isReady(ctx, s)
		switch {
		case ctx.Err() != nil || now == back:
			continue
		case now:
			c.out.line(self, "%s is back: %s", s.name, s.url())
			tell(ctx, change, 1)
		default:
			c.out.line(self, "%s is gone again", s.name)
			tell(ctx, change, -1)
		}
		back = now
	}
}

func isReady(ctx context.Context, s service) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if s.name == broker { // RabbitMQ is up when it listens
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr)
		return err == nil && conn.Close() == nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url()+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
