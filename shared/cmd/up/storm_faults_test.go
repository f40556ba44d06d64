package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// faults are what a storm does to a node, or to what lies between the nodes.
var faults = map[string]func(s *storm, t *testing.T, name string){
	"kill":                       (*storm).killAndBegin,
	"kill a session of":          (*storm).killSession,
	"kill the server of":         (*storm).killServer,
	"stop the standby beside":    (*storm).stopStandby,
	"freeze the standby beside":  (*storm).freezeStandby,
	"cut all connections beside": func(s *storm, _ *testing.T, _ string) { s.proxy.cut() },
	"kill RabbitMQ beside":       (*storm).killBroker,
	"freeze the server of":       (*storm).freeze,
	"set read-only":              (*storm).readOnly,
	"restore in place":           (*storm).restoreInPlace,
	"set another schedule for":   (*storm).tune,
}

// rage injects one fault after the other, for at least d, and at least a third of the kinds: what it does three times
// injects them all. In the end no fault is left.
func (s *storm) rage(t *testing.T, d time.Duration) {
	t.Helper()
	s.proxy.rage()
	until := time.Now().Add(d)
	for i := 0; i < (len(faults)+2)/3 || time.Now().Before(until); i++ {
		if len(s.faults) == 0 {
			s.faults = slices.Sorted(maps.Keys(faults))
			rand.Shuffle(len(s.faults), func(i, j int) { s.faults[i], s.faults[j] = s.faults[j], s.faults[i] })
		}
		fault := s.faults[0]
		s.faults = s.faults[1:]
		name := slices.Sorted(maps.Keys(s.nodes))[rand.N(len(s.nodes))]
		t.Log(fault, name)
		faults[fault](s, t, name)
		s.shopped(t, 1+rand.N(20))
	}
}

func (s *storm) killAndBegin(t *testing.T, name string) {
	s.kill(t, name)
	if name == sales {
		s.serveAlone(t)
	}
	s.begin(t, name)
}

// serveAlone waits until every subscriber says that its source fails, and that it is ready nevertheless.
func (s *storm) serveAlone(t *testing.T) {
	t.Helper()
	for name, addr := range s.subscribers() {
		eventually(t, func() error {
			now, err := statusAt("http://" + addr)
			if err == nil && now.FailingSince.IsZero() && strings.HasPrefix(now.Schedule, "@every ") {
				err = fmt.Errorf("%s does not say that %s fails: %+v", name, sales, now)
			}
			if err == nil {
				_, _, err = get("http://"+addr+"/readyz", "*/*")
			}
			return err
		})
	}
}

func (s *storm) killSession(t *testing.T, name string) {
	s.crash(t, s.nodes[name], `
		select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() order by random() limit 1`)
}

func (s *storm) killBroker(t *testing.T, _ string) {
	if s.broker == nil {
		return
	}
	s.broker.Kill()
	s.shopped(t, 1+rand.N(20))
	s.startBroker(t)
}

func (s *storm) killServer(t *testing.T, name string) {
	n := s.nodes[name]
	if n.server == nil {
		if err := syscall.Kill(s.postmaster(t, n), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		return
	}
	n.server.Stop()
	n.server.Start()
}

// stopStandby ends the synchronous standby of sales for up to 15 s: sales gives up a commit after 10.
func (s *storm) stopStandby(*testing.T, string) {
	s.standby.Stop()
	time.Sleep(rand.N(15 * time.Second))
	s.standby.Start()
}

// freezeStandby lets it confirm nothing, for as long.
func (s *storm) freezeStandby(t *testing.T, _ string) {
	thaw := s.standby.Freeze(t)
	time.Sleep(rand.N(15 * time.Second))
	thaw()
}

// freeze stops all processes of a node's server for up to 12 s, which is longer than anything waits for it.
func (s *storm) freeze(t *testing.T, name string) {
	t.Helper()
	if server := s.nodes[name].server; server != nil {
		thaw := server.Freeze(t)
		time.Sleep(rand.N(12 * time.Second))
		thaw()
		return
	}
	pid := s.postmaster(t, s.nodes[name])
	frozen := []int{pid}
	stop := func(pid int) {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Logf("process %d has ended: %v", pid, err)
		}
	}
	stop(pid) // it starts no further ones
	for pid := range processes(t, filepath.Join(s.nodes[name].dir, s.nodes[name].service)) {
		stop(pid)
		frozen = append(frozen, pid)
	}
	time.Sleep(rand.N(12 * time.Second))
	for _, pid := range frozen {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
}

// readOnly makes a node's database refuse writes for up to 3 s, as after a failover.
func (s *storm) readOnly(t *testing.T, name string) {
	t.Helper()
	s.alter(t, name, "set default_transaction_read_only = on")
	time.Sleep(rand.N(3 * time.Second))
	s.alter(t, name, "reset default_transaction_read_only")
}

// alter changes a setting of a node's database. It ends the sessions that have the old one only where it makes them
// read-only: from a read-only session a node has to find out by itself.
func (s *storm) alter(t *testing.T, name, change string) {
	t.Helper()
	n := s.nodes[name]
	eventually(t, func() error {
		conn, err := s.connect(t, n)
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		for _, sql := range []string{
			"set default_transaction_read_only = off",
			"alter database " + pgx.Identifier{n.service}.Sanitize() + " " + change,
		} {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				return err
			}
		}
		if !strings.HasPrefix(change, "reset") {
			_, err = conn.Exec(t.Context(), `
				select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()`)
		}
		return err
	})
}

// restoreInPlace makes a subscriber's database what it was some orders ago, under the running service. What the source
// has lost is another matter: see TestStorm.
func (s *storm) restoreInPlace(t *testing.T, name string) {
	t.Helper()
	if name == sales {
		return
	}
	backup := s.dumpNode(t, name)
	s.shopped(t, 1+rand.N(20))
	s.restoreNode(t, name, backup)
}

// dumpNode returns the archive that pg_dump makes of a node's database.
func (s *storm) dumpNode(t *testing.T, name string) (archive []byte) {
	t.Helper()
	eventually(t, func() (err error) {
		archive, err = s.client(t, name, "pg_dump", nil, "--format=custom")
		return err
	})
	return archive
}

// restoreNode makes a node's database what the archive says.
func (s *storm) restoreNode(t *testing.T, name string, archive []byte) {
	t.Helper()
	eventually(t, func() error {
		_, err := s.client(t, name, "pg_restore", archive, "--clean", "--if-exists", "--single-transaction")
		return err
	})
}

// client runs one of PostgreSQL's client programs on a node's database.
func (s *storm) client(t *testing.T, name, program string, stdin []byte, args ...string) ([]byte, error) {
	t.Helper()
	conn, err := s.connect(t, s.nodes[name])
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.Background())
	var folder string
	if err := conn.QueryRow(t.Context(), `select setting from pg_config where name = 'BINDIR'`).Scan(&folder); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(folder, program), append(args, "--dbname="+conn.Config().ConnString())...)
	cmd.Stdin = bytes.NewReader(stdin)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s of %s: %w\n%s", program, name, err, complaint.Bytes())
	}
	return out, err
}

// tune sets a schedule at random, or takes away the one that was set.
func (s *storm) tune(t *testing.T, name string) {
	t.Helper()
	if name == sales {
		return
	}
	settings := []string{
		`{"schedule": "@every 1s"}`, `{"schedule": "@every 3s", "wait": "0s"}`, `{"schedule": "*/2 * * * * *", "page_size": 3}`,
		`{"schedule": "@every 5s", "wait": "2s"}`, `{"schedule": "*/15 8-18 * * MON-FRI", "wait": "5s"}`, `{"schedule": "*/15 8-18 * * 1-5"}`, "",
	}
	s.set(t, name, settings[rand.N(len(settings))])
}

// set sets a node's schedule; "" is as the environment says.
func (s *storm) set(t *testing.T, name, settings string) {
	t.Helper()
	method := http.MethodPut
	if settings == "" {
		method = http.MethodDelete
	}
	eventually(t, func() error {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.nodes[name].addr+"/subscriptions/orders/schedule", strings.NewReader(settings))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %s at %s: %s", method, settings, name, resp.Status)
		}
		return nil
	})
}

// calm ends what could still be in force of the faults.
func (s *storm) calm(t *testing.T) {
	t.Helper()
	s.proxy.calm()
	for name := range s.nodes {
		if name != sales {
			s.set(t, name, "")
		}
	}
}

// postmaster returns the process id of a node's server.
func (s *storm) postmaster(t *testing.T, n *node) (pid int) {
	t.Helper()
	eventually(t, func() error {
		text, err := os.ReadFile(filepath.Join(n.dir, n.service, "data", "postmaster.pid"))
		if err == nil {
			first, _, _ := strings.Cut(string(text), "\n")
			pid, err = strconv.Atoi(first)
		}
		return err
	})
	return pid
}
