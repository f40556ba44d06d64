package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/dev/topology"
)

func (c *crew) stopEach(t *testing.T) {
	buyer, earlier := uuid.New(), len(c.replay(t))
	for i, s := range c.withDatabase() {
		written := len(c.up.text(t))
		signal := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i%2]
		if err := syscall.Kill(c.pid(t, s.name, "lock"), signal); err != nil {
			t.Fatal(err)
		}
		c.up.saysAfter(t, written, s.name+" has died: ", s.name+" is gone again")
		c.onMap(t, s.name, topology.Down)
		if s.name != sales {
			c.buy(t, buyer)
		}
		c.othersAnswer(t, s.name)
		c.startAsTold(t, c.up, s.name)
		c.up.saysAfter(t, written, s.name+" is back: ")
		c.onMap(t, s.name, topology.Up)
	}
	if bought := len(c.copied(t)) - earlier; bought != len(c.withDatabase())-1 {
		t.Errorf("%d cars were bought", bought)
	}
}

func (c *crew) freeze(t *testing.T) {
	c.signalServer(t, customersApp, syscall.SIGSTOP)
	c.onMap(t, customersApp, topology.NotReady)
	c.othersAnswer(t, customersApp)

	// A shopper who cannot sign up buys as a guest, and signs up later.
	ctx, cancel := context.WithCancel(t.Context())
	talk, err := os.Create(filepath.Join(t.TempDir(), "talk"))
	if err != nil {
		t.Fatal(err)
	}
	defer talk.Close()
	sold := len(c.replay(t))
	shoppers := newShoppers(c.url(sales), c.url(customersApp), t.TempDir(), 600, newConsole(talk, nil))
	var shopping sync.WaitGroup
	shopping.Go(func() { shoppers.run(ctx) })
	eventually(t, func() error {
		if now := len(c.replay(t)); now < sold+10 {
			return fmt.Errorf("the shoppers bought %d times", now-sold)
		}
		return nil
	})
	c.signalServer(t, customersApp, syscall.SIGCONT)
	c.onMap(t, customersApp, topology.Up)
	eventually(t, func() error {
		text, err := os.ReadFile(talk.Name())
		for _, says := range []string{"the shoppers buy as guests: ", "customers is back, the shoppers go on"} {
			if err == nil && strings.Count(string(text), says) != 1 {
				err = fmt.Errorf("the shoppers do not say once %q:\n%s", says, text)
			}
		}
		return err
	})
	cancel()
	shopping.Wait()
	c.copied(t)
	c.caughtUp(t, customer.Feed)
}

// othersAnswer wants pages of every kind of all services but one, which the map knows to be away.
func (c *crew) othersAnswer(t *testing.T, away string) {
	t.Helper()
	pages := 0
	for name, base := range c.sites() {
		if name == away {
			continue
		}
		if name != "map" {
			c.onMap(t, name, topology.Up)
		}
		c.crawl(t, base, 2, func(url string, status int, body []byte) {
			pages++
			if status >= http.StatusInternalServerError || strings.TrimPrefix(url, base) == "/" && status != http.StatusOK {
				t.Errorf("without %s, %s answers %d\n%s", away, url, status, body)
			}
		})
	}
	t.Logf("without %s there are %d answers", away, pages)
}

// startAsTold starts a service that has died by the command that up prints.
func (b *bench) startAsTold(t *testing.T, up *process, name string) *process {
	t.Helper()
	args := ""
	for _, s := range b.services {
		if s.name == name {
			args = strings.Join(s.args, " ")
		}
	}
	printed := regexp.MustCompile(`(?m)^up +\|   (.*go run ` + regexp.QuoteMeta(args) + `)$`)
	eventually(t, func() error {
		if !printed.MatchString(up.text(t)) {
			return fmt.Errorf("up does not say how to start %s", name)
		}
		return nil
	})
	sh := exec.Command("sh", "-c", printed.FindStringSubmatch(up.text(t))[1])
	sh.Dir = cmp.Or(up.Dir, "/") // where up runs in the project's folder, it does not say cd
	sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := b.start(t, sh)
	b.all.Cleanup(func() { _ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL) }) // before sh: it may have ended in good order
	return p
}

// signalServer sends a signal to all processes of a service's server.
func (b *bench) signalServer(t *testing.T, service string, signal syscall.Signal) {
	t.Helper()
	server := b.pid(t, service, "data", "postmaster.pid")
	out, err := exec.Command("ps", "-axo", "pid=,ppid=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		var pid, parent int
		if _, err := fmt.Sscan(line, &pid, &parent); err == nil && (pid == server || parent == server) {
			_ = syscall.Kill(pid, signal) // it may have ended
		}
	}
}

// onMap waits until the map shows a service as it is.
func (b *bench) onMap(t *testing.T, name, status string) {
	t.Helper()
	eventually(t, func() error {
		var all []topology.State
		if err := getJSON(fmt.Sprintf("http://localhost:%d/api/services", mapPort+b.offset), &all); err != nil {
			return err
		}
		for _, s := range all {
			if s.Name == name && s.Status == status {
				return nil
			}
		}
		return fmt.Errorf("the map says %+v", all)
	})
}
